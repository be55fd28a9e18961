"""Models of the Hub, on a stand-in for it: pushed with a card, downloaded at one commit, found again without a network, never executed."""

import hashlib
import io
import json
import re
import shutil
import sys
import time
import zipfile

import jax
import numpy as np
import pytest
import yaml
from hub_server import Hub
from networks import quick_compiles  # noqa: F401
from PIL import Image

from drsn_jax.cli.main import main
from drsn_jax.interop.hub import make_card
from drsn_jax.system.errors import InputError
from drsn_jax.weights.compact import read_compact
from drsn_jax.weights.hub import download_model
from drsn_jax.weights.shipped import find_model

constants = pytest.importorskip("huggingface_hub.constants", reason="models of the Hub: pip install 'drsn-jax[hub]'")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Start the Hub with a logged-in user and an empty cache."""
    server = Hub()
    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", server.token)
    yield server
    server.close()


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".json", ".npz", ".md")}


def test_a_model_is_pushed_with_its_card_and_restores_with_and_without_a_network(hub, tmp_path, photograph, capsys):
    photo = tmp_path / "photo.png"
    Image.fromarray(photograph[:40, :56]).save(photo)
    assert main(["push", "--model=small", "--repo=ada/deblur", "--message=first"]) == 0
    [(commit, stored)] = hub.repos["ada/deblur"]
    assert f"drsn-jax restore --model=hf://ada/deblur@{commit} PHOTO" in capsys.readouterr().out
    assert stored == files_of(find_model("small"))
    assert main(["restore", "--model=hf://ada/deblur", str(photo)]) == 0
    assert f"is at commit {commit}; --model=hf://ada/deblur@{commit} always gives this one" in capsys.readouterr().err
    assert main(["restore", "--model=small", f"--output={tmp_path / 'ours.png'}", str(photo)]) == 0
    np.testing.assert_array_equal(Image.open(tmp_path / "photo.restored.png"), Image.open(tmp_path / "ours.png"))

    hub.commit("ada/deblur", {"compact.json": b"{}"})
    asked = len(hub.requests)
    pinned = download_model(f"hf://ada/deblur@{commit}")
    assert (pinned.name, len(hub.requests)) == (commit, asked), "a commit that is here is not asked for"
    assert find_model(f"hf://ada/deblur@{commit}") == pinned
    hub.close()
    assert download_model("hf://ada/deblur") == pinned, "without a network it is what was there the last time"


def refused(address, match):
    with pytest.raises(InputError, match=match) as caught:
        download_model(address)
    assert "\n" not in str(caught.value)


def test_what_is_not_there(hub, capsys, monkeypatch):
    hub.commit("ada/other", {"config.json": b"{}", "model.py": b"raise SystemExit"})
    refused("hf://ada", r"hf://ada is not the address of a model; write hf://owner/name")
    refused("hf://ada/none", r"hf://ada/none does not exist or is private; .*HF_TOKEN")
    refused("hf://ada/other@v9", r"hf://ada/other@v9: there is no such revision")
    refused("hf://ada/other", r"hf://ada/other holds no model of drsn-jax \(it has no compact\.json\)")
    assert not any("model.py" in request for request in hub.requests), "only the files of a model are downloaded"
    hub.close()
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # huggingface_hub tries again for 23 s
    refused("hf://ada/new", r"hf://ada/new cannot be reached")
    refused(f"hf://ada/new@{'0' * 40}", r"cannot be reached")
    assert main(["restore", "--model=hf://ada/new", "--nonsense", "photo.jpg"]) == 2
    assert "unrecognized arguments: --nonsense" in capsys.readouterr().err


def test_pushing_without_an_account_is_one_line(hub, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert main(["push", "--model=small", "--repo=ada/deblur"]) == 2
    err = capsys.readouterr().err
    assert re.search(r"drsn-jax: hf://ada/deblur was refused .*; log in with `hf auth login`, or set HF_TOKEN\.\n", err)
    assert err.count("\n") == 1
    assert main(["push", "--model=small", "--repo=deblur"]) == 2
    assert "--repo=deblur is not the name of a repository; write owner/name" in capsys.readouterr().err
    (tmp_path / "m.onnx").touch()
    assert main(["push", f"--model={tmp_path / 'm.onnx'}", "--repo=ada/deblur"]) == 2
    assert "is a file; give the workdir" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert main(["push", "--model=small", "--repo=ada/deblur"]) == 2
    assert "pip install 'drsn-jax[hub]'" in capsys.readouterr().err
    assert hub.repos == {}


def test_cards(tmp_path):
    """The shipped ones have the Hub's header. A model without a card gets one, a card without a header the header."""
    for name in ("small", "base"):
        card = make_card(find_model(name), repo="ada/deblur")
        assert card == (find_model(name) / "README.md").read_text()
        header = yaml.safe_load(card.split("---\n")[1])
        assert header["license"] == "apache-2.0"
        assert (header["library_name"], header["pipeline_tag"]) == ("drsn-jax", "image-to-image")
    bare = shutil.copytree(find_model("small"), tmp_path / "bare", ignore=shutil.ignore_patterns("README.md"))
    card = make_card(bare, repo="ada/deblur", licence="mit")
    assert yaml.safe_load(card.split("---\n")[1])["license"] == "mit"
    assert f": {sum(leaf.size for leaf in jax.tree.leaves(read_compact(bare).fields['ema_params'])):,} parameters" in card
    assert "--model=hf://ada/deblur photo.jpg" in card
    (bare / "README.md").write_text("# Mine\n")
    assert make_card(bare, repo="ada/deblur").endswith("---\n\n# Mine\n")


def packed(compression):
    buffer, numbers = io.BytesIO(), io.BytesIO()
    np.save(numbers, np.zeros(9, np.float16))
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.writestr("ema_params/a.npy", numbers.getvalue())
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("pieces", "match"),
    [
        ({"../secret.npz": "0"}, "is not a name of a piece"),
        ({"/etc/hosts": "0"}, "is not a name of a piece"),
        (None, "weights-0.npz is compressed"),
    ],
)
def test_a_foreign_model_reads_no_other_files_and_fills_no_memory(pieces, match, tmp_path):
    (tmp_path / "weights-0.npz").write_bytes(packed(zipfile.ZIP_DEFLATED))
    pieces = pieces or {"weights-0.npz": hashlib.sha256((tmp_path / "weights-0.npz").read_bytes()).hexdigest()}
    description = {"format": "drsn-jax compact model", "version": 1, "step": 1, "pieces": pieces, "empty": [], "config": {}}
    (tmp_path / "compact.json").write_text(json.dumps(description))
    with pytest.raises(InputError, match=match):
        read_compact(tmp_path)

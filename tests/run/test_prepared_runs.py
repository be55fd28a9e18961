"""Prepared data sets by name, from `prepare` through training to evaluation: the same figures as from the folders they were made of."""

import json

import pytest
import tiny
from PIL import Image

from drsn_jax.cli.main import main

pytest.importorskip("tensorflow_datasets", reason="prepared data sets are stored by tfds (pip install 'drsn-jax[data]')")
pytest.importorskip("array_record", reason="prepared data sets are read by array_record (pip install 'drsn-jax[data]')")


@pytest.fixture
def gopro(tmp_path, photograph):
    return tiny.write_gopro(tmp_path / "gopro", photograph)


@pytest.fixture
def prepared(gopro, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "sets"))
    assert main(["prepare", "pairs", f"--source={gopro}", "--name=own"]) == 0
    return "deblurring_pairs/own"


@pytest.mark.parametrize("data", ["pairs", pytest.param("resident", marks=pytest.mark.soak)])
def test_training_sees_the_same_batches_as_from_the_folder(data, gopro, prepared, tmp_path):
    losses = []
    for place in (gopro, prepared):
        workdir = tmp_path / f"run{len(losses)}"
        changes = {"train_dir": place, "eval_dir": place, "eval_every_steps": 2, "batch_size": 8, "num_train_steps": 2}
        assert main(tiny.train_arguments(workdir, data=data, **changes)) == 0
        losses.append((tiny.losses(workdir), [line["eval/psnr"] for line in tiny.read_metrics(workdir) if "eval/psnr" in line]))
    assert losses[0] == losses[1]
    assert len(losses[0][1]) == 1


def test_evaluation_by_name_is_that_of_the_folder(gopro, prepared, tmp_path_factory, photograph, tmp_path):
    model = tiny.trained(tmp_path_factory, photograph)
    by_name = ["evaluate", f"--model={model}", f"--data={prepared}:train", f"--output={tmp_path / 'name'}", "--panels=0"]
    by_folder = ["evaluate", f"--model={model}", f"--blurred={gopro}", f"--sharp={gopro}", f"--output={tmp_path / 'folder'}", "--panels=0"]
    assert [main(by_name), main(by_folder)] == [0, 0]
    first, second = (json.loads((tmp_path / kind / "metrics.json").read_text()) for kind in ("name", "folder"))
    assert [image["scores"] for image in first["per_image"]] == [image["scores"] for image in second["per_image"]]
    assert first["data"] == "deblurring_pairs/own:train"
    assert "deblurring_pairs/own:train" in (tmp_path / "name" / "report.html").read_text()


def test_koehler_by_name_is_scored_by_its_own_protocol(photograph, tmp_path, tmp_path_factory, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "sets"))
    source = tmp_path / "koehler"
    for scene in (1, 2):
        for folder, name in (("blur", f"Blurry{scene}_1"), ("gt_jpeg", f"GroundTruth{scene}")):
            (source / folder).mkdir(parents=True, exist_ok=True)
            top = 40 * scene + 3 * (folder == "blur")
            Image.fromarray(photograph[top : top + 192, 100:292]).save(source / folder / f"{name}.png")
    assert main(["prepare", "koehler", f"--source={source}", "--allow-incomplete"]) == 0
    model = tiny.trained(tmp_path_factory, photograph)
    assert main(["evaluate", f"--model={model}", "--data=koehler", f"--output={tmp_path / 'out'}", "--panels=0"]) == 0
    summary = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (summary["protocol"], summary["images"]) == ("koehler_single", 2)
    assert summary["input"]["psnr"] > summary["input"]["psnr_unaligned"], "three rows of shift are registered"


def test_koehlers_skipped_frame_counts_in_no_way_of_reading(photograph, tmp_path, tmp_path_factory, monkeypatch):
    """Frame 30 of scene 1, trajectory 3 is the blurred image itself here: it would score 100 dB."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "sets"))
    blurred, truth = photograph[100:292, 100:292], photograph[140:332, 60:252]
    files = {"BlurryImages/Blurry1_3": blurred, **{f"Image1/Kernel3/GroundTruth1_3_{k}": truth for k in (1, 2)}}
    files["Image1/Kernel3/GroundTruth1_3_30"] = blurred
    for name, image in files.items():
        (tmp_path / "koehler" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / "koehler" / f"{name}.png")
    assert main(["prepare", "koehler", f"--source={tmp_path / 'koehler'}", "--allow-incomplete"]) == 0
    model = tiny.trained(tmp_path_factory, photograph)
    folders = [f"--blurred={tmp_path / 'koehler' / 'BlurryImages'}", f"--sharp={tmp_path / 'koehler' / 'Image1'}", "--protocol=koehler"]
    for name, arguments in (("sets", ["--data=koehler"]), ("folders", folders)):
        assert main(["evaluate", f"--model={model}", f"--output={tmp_path / 'out' / name}", "--panels=0", *arguments]) == 0
    stored, plain = (json.loads((tmp_path / "out" / name / "metrics.json").read_text()) for name in ("sets", "folders"))
    assert stored["input"] == plain["input"]
    assert (stored["input"]["frames"], stored["input"]["psnr"] < 30) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data=deblurring_pairs/own:test"], "train"),
        (["--data=deblurring_pears/own"], "deblurring_pairs"),
        (["--data=gopro:test"], "drsn-jax prepare gopro"),
        (["--data=deblurring_pairs/own:train", "--protocol=koehler"], "use full"),
    ],
)
def test_mistakes_name_what_there_is(arguments, message, prepared, tmp_path_factory, photograph, tmp_path, capsys):
    model = tiny.trained(tmp_path_factory, photograph)
    capsys.readouterr()
    assert main(["evaluate", f"--model={model}", f"--output={tmp_path / 'out'}", *arguments]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_training_on_a_set_that_is_not_prepared_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "sets"))
    assert main(tiny.train_arguments(tmp_path / "run", data="resident", train_dir="gopro:train", batch_size=8)) == 2
    assert "drsn-jax prepare gopro" in capsys.readouterr().err


def test_lais_nonuniform_images_are_shown_beside_sharp_ones_but_not_compared(photograph, tmp_path, tmp_path_factory, monkeypatch):
    """Its truth is not, pixel for pixel, what the camera saw (SPEC section 3)."""
    pytest.importorskip("pywt", reason="the noise estimate needs PyWavelets (pip install 'drsn-jax[noreference]')")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "sets"))
    for folder, name in (("nonuniform", "natural_01_gyro_01"), ("ground_truth", "natural_01")):
        (tmp_path / "lai" / folder).mkdir(parents=True)
        Image.fromarray(photograph[100:148, 100:164]).save(tmp_path / "lai" / folder / f"{name}.png")
    assert main(["prepare", "lai", "--part=nonuniform", f"--source={tmp_path / 'lai'}", "--allow-incomplete"]) == 0
    model = tiny.trained(tmp_path_factory, photograph)
    assert main(["evaluate", f"--model={model}", "--data=lai/nonuniform", f"--output={tmp_path / 'out'}"]) == 0
    summary = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert (summary["protocol"], set(summary["input"])) == ("noreference", {"blur_effect", "noise_sigma"})
    with Image.open(tmp_path / "out" / summary["panels"][0]) as panel:
        assert panel.width > 3 * 64

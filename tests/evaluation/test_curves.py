"""Pictures of a training and of thresholds: which figures are drawn, and that a map is where the thresholds are."""

import io
import json
from functools import partial

import jax
import numpy as np
import pytest
import tiny
from networks import draw_variables, images
from PIL import Image

from drsn_jax.cli.main import main
from drsn_jax.evaluation.curves import draw_training, read_records
from drsn_jax.evaluation.thresholds import crop_middle, draw_maps, map_thresholds, removed_shares
from drsn_jax.models.generator import Generator
from drsn_jax.models.shrinkage import THRESHOLDS
from drsn_jax.system.errors import InputError

pytest.importorskip("matplotlib", reason="pip install 'drsn-jax[plot]'")
RECORDS = [
    {"step": step, "generator/pixel": 1 / step, "critic/sharp": 0.1 * step, "critic/restored": 0.0}
    | {"generator/threshold": 0.1, "generator/threshold/block1": 0.2, "generator/threshold/block2": 0.0}
    | ({"eval/psnr": 20.0 + step, "eval/psnr_input": 20.0, "eval/noise_0.001/psnr": 19.0 + step} if step == 4 else {})
    for step in (2, 4)
]


def texts(svg):
    """Return the words in an SVG, which matplotlib writes as comments beside their glyphs."""
    return [line.strip().removeprefix("<!-- ").removesuffix(" -->") for line in svg.decode().splitlines() if "<!--" in line]


def test_the_curves_of_a_training_are_named():
    words = texts(draw_training(RECORDS, title="runs/demo", file_format="svg"))
    assert {"runs/demo", "step", "pixel (first 0.5)", "D(sharp)", "D(restored)", "block1", "block2", "mean of all"} <= set(words)
    assert {"restored, no noise", "input, no noise", "restored, noise variance 0.001"} <= set(words)
    assert "input, noise variance 0.001" not in words, "it was not logged"


def test_panels_without_figures_are_left_out():
    alone = [{"step": 1, "generator/pixel": 0.5}, {"step": 2, "generator/pixel": 0.4}]
    words = texts(draw_training(alone, title="t", file_format="svg"))
    assert "critic's mean score" not in words
    assert "loss / its first value" in words
    one, four = (Image.open(io.BytesIO(draw_training(records, title="t"))) for records in (alone, RECORDS))
    assert one.height < four.height
    with pytest.raises(InputError, match="neither losses nor scores"):
        draw_training([{"step": 1, "learning_rate": 1.0}], title="t")


def test_a_line_that_was_cut_off_is_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with pytest.raises(InputError, match="--workdir"):
        read_records(path)
    path.write_text('{"step": 1}\n{"step": 2, "gener')
    assert read_records(path) == [{"step": 1}]
    path.write_text("")
    with pytest.raises(InputError, match="no figures yet"):
        read_records(path)


@pytest.fixture(scope="module")
def network():
    generator = Generator(trunk="unet", widths=(4, 6, 8), num_blocks=1, norm="none")
    return generator, draw_variables(generator, images(1, 16, 24))


def test_shares_are_those_of_the_thresholds_that_the_blocks_sow(network):
    generator, variables = network
    image = images(1, 16, 24, seed=3)
    shares = removed_shares(generator, variables, image[0])  # without jit, which would sort the blocks by name
    _, sown = jax.eval_shape(partial(generator.apply, mutable=[THRESHOLDS]), variables, image)
    assert list(shares) == ["encoder0_block1", "encoder1_block1", "encoder2_block1", "decoder1_block1", "decoder0_block1"]
    assert set(shares) == set(sown[THRESHOLDS])
    assert [share.shape for share in shares.values()] == [(16, 24), (8, 12), (4, 6), (8, 12), (16, 24)]
    # A block whose thresholds are all but nothing removes nothing; one whose are nearly the mean magnitude removes about half.
    for bias, low, high in ((-30.0, 0.0, 0.02), (30.0, 0.3, 0.8)):
        changed = jax.tree_util.tree_map_with_path(
            lambda path, leaf, bias=bias: np.full_like(leaf, bias) if path[-2].key == "dense2" and path[-1].key == "bias" else leaf,
            variables,
        )
        means = [float(share.mean()) for share in removed_shares(generator, changed, image[0]).values()]
        assert all(low <= mean <= high for mean in means), means


def test_maps_keep_the_networks_order_and_odd_sizes(network):
    generator, variables = network
    image = np.random.default_rng(0).integers(0, 256, (18, 27, 3), np.uint8)
    shares = map_thresholds(generator, variables, image)
    assert next(iter(shares)) == "encoder0_block1"
    assert shares["encoder0_block1"].shape == (16, 24)
    assert any("encoder2_block1: " in word for word in texts(draw_maps(image, shares, title="t", file_format="svg")))
    with pytest.raises(InputError, match="4x4 or more"):
        map_thresholds(generator, variables, image[:3])
    plain = generator.clone(shrinkage=False)
    plain_variables = draw_variables(plain, images(1, 16, 24))
    with pytest.raises(InputError, match="no thresholds"):
        map_thresholds(plain, plain_variables, image)
    assert crop_middle(np.zeros((2000, 30, 3), np.uint8)).shape == (1024, 30, 3)


def test_the_command_draws_both_kinds(tmp_path_factory, photograph, tmp_path, capsys):
    workdir = tiny.trained(tmp_path_factory, photograph)
    assert main(["plot", str(workdir), f"--output={tmp_path / 'curves.svg'}"]) == 0
    words = texts((tmp_path / "curves.svg").read_bytes())
    assert {"D(sharp)", "restored, no noise", "mean of all"} <= set(words)
    assert [word for word in words if word.startswith(("encoder", "block"))], "thresholds by block"
    keys = {key for line in (workdir / "metrics.jsonl").read_text().splitlines() for key in json.loads(line)}
    assert any(key.startswith("generator/threshold/") for key in keys)
    photo = tmp_path / "photo.png"
    Image.fromarray(photograph[:40, :48]).save(photo)
    assert main(["plot", str(workdir), f"--image={photo}"]) == 0
    Image.open(tmp_path / "photo.thresholds.png").verify()
    capsys.readouterr()
    assert main(["plot", str(workdir), f"--image={photo}"]) == 2
    assert "already exists" in capsys.readouterr().err
    assert main(["plot", str(workdir), "--output=curves.bmp"]) == 2
    assert "png, svg, pdf" in capsys.readouterr().err
    assert main(["plot", str(tmp_path)]) == 2
    assert "--workdir of a training" in capsys.readouterr().err

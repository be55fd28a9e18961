"""The study of tiles' thresholds: passes that read and replace thresholds, figures of seams, and the command on one small pair."""

import numpy as np
import pytest
from networks import draw_variables, images, quick_compiles, write_model  # noqa: F401
from PIL import Image

from drsn_jax.models.generator import Generator
from drsn_jax.weights.model import Model
from tile_thresholds.__main__ import main
from tile_thresholds.figures import blended, compare, deviations, measure_seams
from tile_thresholds.passes import (
    HALF,
    MEAN,
    OWN,
    QUARTER,
    WAYS,
    WHOLE,
    Passes,
    make_passes,
    mean_thresholds,
    restore_in_ways,
    restore_whole,
)
from tile_thresholds.report import read_rows

TILE, OVERLAP = 128, 112  # a quarter of the overlap, 28 pixels, is more than one block at quarter resolution sees


@pytest.fixture(scope="module")
def passes() -> Passes:
    generator = Generator(trunk="quarter", widths=(4, 6, 8), num_blocks=1, norm="none")
    variables = draw_variables(generator, images(1, 16, 16))
    return make_passes(Model(lambda image: image, generator.stride, {}, {}, apply_fn=generator.apply, variables=variables))


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    """Flat on the left and busy on the right, so that tiles have unlike thresholds."""
    busy = np.random.default_rng(0).integers(0, 256, (128, 160, 3)).astype(np.uint8)
    busy[:, :60] = 90
    return busy


@pytest.fixture(scope="module")
def study(passes, image):
    return restore_in_ways(image, passes=passes, whole=restore_whole(image, passes=passes), tile=TILE, overlap=OVERLAP)


def test_an_image_with_its_own_thresholds_is_restored_as_usual_and_with_others_not(passes):
    values = np.asarray(images(1, 32, 48))
    restored, thresholds = passes.capture_fn(values)
    assert [(block, value.shape) for block, value in thresholds.items()] == [("block1", (1, 8))]
    np.testing.assert_allclose(passes.inject_fn(values, thresholds), restored, atol=1e-6)
    doubled = {block: 2 * value for block, value in thresholds.items()}
    assert np.abs(passes.inject_fn(values, doubled) - restored).max() > 1e-3


def test_with_thresholds_of_the_whole_image_tiles_equal_the_whole_result_and_with_their_own_they_do_not(study):
    assert set(study.tiled) == set(WAYS)
    assert len(study.of_tiles) == 3
    np.testing.assert_allclose(study.tiled[WHOLE], study.whole, atol=1e-5)
    for way in (OWN, MEAN, HALF, QUARTER):
        assert np.abs(study.tiled[way] - study.whole).max() > 1e-3, way


def test_thresholds_of_the_ways(study):
    assert study.of_ways[WHOLE] is study.thresholds
    expected = np.mean([tile["block1"] for tile in study.of_tiles], 0)
    np.testing.assert_allclose(study.of_ways[MEAN]["block1"], expected, rtol=1e-6)
    assert deviations([study.thresholds], study.thresholds) == {"block1": 0}
    assert deviations(study.of_tiles, study.thresholds)["block1"] > 0.02
    doubled = {"block1": 2 * study.thresholds["block1"]}
    assert deviations([study.thresholds, doubled], study.thresholds)["block1"] == pytest.approx(0.5)
    assert mean_thresholds([study.thresholds, doubled])["block1"] == pytest.approx(1.5 * np.asarray(study.thresholds["block1"]))


def test_an_image_of_one_tile_has_the_thresholds_of_the_whole(passes, image):
    whole = restore_whole(image, passes=passes)
    one = restore_in_ways(image, passes=passes, whole=whole, tile=160, ways=(OWN, MEAN))
    for tiled in one.tiled.values():
        np.testing.assert_allclose(tiled, one.whole, atol=1e-6)


def test_a_step_between_tiles_is_found_at_the_blend_zone_and_nowhere_else(rng):
    zone = blended(320, tile=192, overlap=64)  # tiles at 0 and 128; the outer quarter of their 64 common pixels has one tile
    assert np.flatnonzero(zone).tolist() == list(range(144, 176))
    whole = np.full((128, 320, 3), 0.5)
    whole[:64] += rng.normal(0, 0.1, (64, 320, 3))
    tiled = whole.copy()
    tiled[:64, 160:] += 3 / 255
    tiled[64:, 160:] += 1 / 255
    seams = measure_seams(tiled, whole, tile=192, overlap=64)
    assert (seams.step, seams.largest_step) == pytest.approx((2, 3))
    assert seams.largest_flat_step == pytest.approx(1), "the upper half is busy"
    elsewhere = seams.step_elsewhere, seams.largest_step_elsewhere, seams.largest_flat_step_elsewhere
    assert elsewhere == pytest.approx((0, 0, 0), abs=1e-9)
    assert seams.rms_blended == pytest.approx(2.5**0.5)
    turned = measure_seams(tiled.swapaxes(0, 1), whole.swapaxes(0, 1), tile=192, overlap=64)
    assert turned._asdict() == pytest.approx(seams._asdict(), abs=1e-9)
    assert np.isnan(measure_seams(tiled, whole, tile=320, overlap=64).step), "no seam in one tile"


def test_differences_are_counted_in_levels():
    whole = np.zeros((2, 2, 3), np.float32)
    tiled = whole.copy()
    tiled[0, 0, 0] = 3 / 255
    assert compare(tiled, whole) == {"mean_levels": 0.25, "most_levels": 3.0, "changed": pytest.approx(1 / 12)}


def test_the_command_writes_a_row_for_each_way_and_a_table(tmp_path, image, capsys):
    for side in ("blur", "sharp"):
        (tmp_path / "pairs" / side).mkdir(parents=True)
        Image.fromarray(image).save(tmp_path / "pairs" / side / "1.png")
    model = write_model(tmp_path / "model")
    arguments = [f"--pairs={tmp_path / 'pairs'}", f"--output={tmp_path / 'rows.jsonl'}", f"--model={model}", f"--save={tmp_path / 'out'}"]
    assert main([*arguments, "--tiles=96", "--overlap=32"]) == 0
    rows = read_rows(tmp_path / "rows.jsonl")
    assert [row["way"] for row in rows] == list(WAYS)
    assert all(0 < row["psnr"] < 100 and 0 <= row["changed"] <= 1 for row in rows)
    assert len(list((tmp_path / "out").iterdir())) == len(WAYS) + 1
    table = capsys.readouterr().out.splitlines()
    assert len(table) == 2 + len(WAYS)
    assert len({line.count("|") for line in table}) == 1
    assert main([*arguments, "--tiles=95"]) == 2
    assert "Tile size 95 is not a positive multiple" in capsys.readouterr().err

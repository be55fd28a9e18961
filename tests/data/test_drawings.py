"""Sheets of text and lines: reproducible, varied and legible, and with the configured share of a batch."""

import jax
import numpy as np
import pytest
import tiny
from PIL import Image, ImageDraw, ImageFont

from drsn_jax.config.files import load_config
from drsn_jax.data.synthesis import drawings
from drsn_jax.data.synthesis.bank import make_bank
from drsn_jax.data.synthesis.camera_shake import BlurRecipe
from drsn_jax.data.synthesis.resident import make_batch_fn
from drsn_jax.run.data import open_data
from drsn_jax.run.images import draw_run_sheets
from drsn_jax.system.errors import InputError
from drsn_jax.training.sharding import make_mesh

QUIET = BlurRecipe(length=(0.0, 0.0), saturation=0.0, noise_variance=(0.0, 0.0))


@pytest.fixture(scope="module")
def sheets():
    return drawings.draw_sheets(number=6, side=160, seed=3)


def test_a_sheet_depends_on_the_seed_and_its_number_alone(sheets):
    assert {(sheet.shape, sheet.dtype.name) for sheet in sheets} == {((160, 160, 3), "uint8")}
    again = drawings.draw_sheets(number=2, side=160, seed=3)
    assert all(np.array_equal(a, b) for a, b in zip(again, sheets, strict=False))
    assert not np.array_equal(drawings.draw_sheets(number=1, side=160, seed=4)[0], sheets[0])
    assert len({sheet.tobytes() for sheet in sheets}) == 6


def test_sheets_hold_edges_of_strong_contrast_and_flat_ground(sheets):
    for sheet in sheets:
        steps = np.abs(np.diff(sheet.astype(int), axis=1)).max(-1)
        assert (steps > 60).mean() > 0.005, "something is drawn on it"
        assert (steps <= 1).mean() > 0.3, "on a ground"
    colours = np.concatenate([sheet.reshape(-1, 3)[::50] for sheet in sheets]).astype(int)
    assert (np.ptp(colours, axis=1) > 60).mean() > 0.05
    assert (np.ptp(colours, axis=1) < 30).mean() > 0.05, "in colour and in grey"


def test_words_are_written_in_the_fonts_that_are_given(monkeypatch, tmp_path):
    pytest.importorskip("matplotlib", reason="its package carries fonts")
    from matplotlib import get_data_path

    fonts = drawings.list_fonts(tiny.Path(get_data_path()) / "fonts" / "ttf")
    assert len(fonts) > 5
    used, load = [], ImageFont.truetype
    monkeypatch.setattr(ImageFont, "truetype", lambda font, size: used.append(font) or load(font, size))
    monkeypatch.setattr(ImageFont, "load_default", lambda size: pytest.fail("Pillow's own font"))
    drawings.draw_sheets(number=3, side=96, fonts=fonts)
    assert set(used) <= set(fonts)
    assert len(set(used)) > 3
    with pytest.raises(InputError, match=r"contains no fonts; .*omit --config.text_fonts"):
        drawings.list_fonts(tmp_path)
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    with pytest.raises(InputError, match=r"broken\.ttf cannot be opened as a font"):
        drawings.list_fonts(tmp_path)


def test_letters_are_drawn_and_not_only_lines(monkeypatch):
    written, text = [], ImageDraw.ImageDraw.text
    monkeypatch.setattr(
        ImageDraw.ImageDraw, "text", lambda self, at, words, *a, **k: written.append(words) or text(self, at, words, *a, **k)
    )
    drawings.draw_sheets(number=3, side=96)
    letters = "".join(written).replace(" ", "")
    assert len(letters) > 200
    assert {"e", "T", "1"} & set(letters) == {"e", "T", "1"}


@pytest.mark.parametrize("candidates", [1, 4])
def test_the_share_of_drawings_is_kept_whatever_their_size_and_detail(candidates, rng):
    """The share of a large, detailed sheet beside a small, flat photograph depends on neither size nor detail."""
    drawing = rng.integers(100, 256, (90, 90, 3), dtype=np.uint8)
    bank = make_bank([np.zeros((20, 20, 3), np.uint8), drawing], names=["photograph", "drawing"], crop_size=8, drawn=1)
    batch_fn = jax.jit(make_batch_fn(batch_size=400, crop_size=8, recipe=QUIET, drawn_share=0.25, candidates=candidates))
    sharp = np.asarray(batch_fn(bank, jax.random.key(0))["sharp"])
    drawn = (sharp > -0.9).any((1, 2, 3))
    assert drawn.mean() == pytest.approx(0.25, abs=0.07)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Write black photographs, and replace the drawings by two white sheets."""
    white = [np.full((64, 64, 3), 255, np.uint8)] * 2
    monkeypatch.setattr(drawings, "draw_sheets", lambda **options: white)
    for name, number in (("photos", 2), ("clip", 3)):
        (tmp_path / name).mkdir()
        for i in range(number):
            Image.new("RGB", (48, 48)).save(tmp_path / name / f"{i}.png")
    changes = {"data": "photos", "train_dir": tmp_path / "photos", "hold_out_every": 2, "noise_variance": "0,0", "blur_length": "0,0"}
    changes |= {"batch_size": 16, "crop_size": 16, "frames_dir": tmp_path / "clip", "frames_averaged": "1,3"}
    return lambda **more: open_data(load_config("default", tiny.options(**changes | more)), mesh=make_mesh())


def test_text_is_a_share_of_the_whole_batch_beside_a_clip(run):
    data = run(text_share=0.5, frames_share=0.5)
    assert data.num_images == 1
    assert "1 photographs, blurred there" in data.description
    assert "2 sheets of text and lines" in data.description
    sharp = np.asarray(next(iter(data.stream_fn(0, 1)))["sharp"])
    assert sorted(sharp[:, 0, 0, 0]) == [-1] * 8 + [1] * 8, "all rows except those of the clip"


def test_a_share_that_there_is_no_room_for_is_refused_before_anything_is_read(run, monkeypatch):
    monkeypatch.setattr("drsn_jax.run.data.read_resident_images", lambda *a, **k: pytest.fail("read"))
    with pytest.raises(InputError, match=r"text_share=0.6 and frames_share=0.5 are more than a whole batch; use --config.text_share=0.5"):
        run(text_share=0.6, frames_share=0.5)


def test_sheets_of_a_run_are_as_large_as_its_crops_and_of_its_seed(monkeypatch):
    asked = {}
    monkeypatch.setattr(drawings, "draw_sheets", lambda **options: asked.update(options) or [])
    config = load_config("demo", ["--config.text_share=0.1", "--config.seed=5"])
    assert draw_run_sheets(config, crop_size=600) == {}
    assert asked == {"number": drawings.SHEETS, "side": 600, "seed": 5, "fonts": ()}
    asked.clear()
    draw_run_sheets(config | {"text_share": 0.0}, crop_size=600)
    draw_run_sheets(config | {"data": "resident"}, crop_size=600)
    assert not asked

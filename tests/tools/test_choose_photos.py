"""The choice of photographs: lists of names, the sharpest of frames in a row, copies and sheets."""

import numpy as np
import pytest
from PIL import Image, ImageFilter

from choose_photos import COLUMNS, LABEL, ROWS, TILE, main
from drsn_jax.data.images.sharpness import measure_sharpness


@pytest.fixture
def photos(tmp_path, rng):
    """Six photographs, of which the second and the sixth alone are sharp."""
    (tmp_path / "photos" / "trip").mkdir(parents=True)
    for i in range(6):
        image = Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8))
        image = image if i in (1, 5) else image.filter(ImageFilter.GaussianBlur(2))
        image.save(tmp_path / "photos" / ("trip" if i == 5 else "") / f"{i}.png")
    return tmp_path / "photos"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_a_list_names_is_left_out_and_the_rest_copied_as_it_is(photos, tmp_path, capsys):
    (tmp_path / "soft.txt").write_text("# soft\n0.png\n\n3.png  # sky\n")
    (tmp_path / "doubt.txt").write_text("trip/5.png\n")
    lists = [str(tmp_path / name) for name in ("soft.txt", "doubt.txt")]
    assert main([str(photos), "--leave-out", *lists, f"--copy={tmp_path / 'out'}", "--prefix=x_"]) == 0
    assert capsys.readouterr().out == "3 images\n"
    assert names(tmp_path / "out") == ["x_1.png", "x_2.png", "x_4.png"]
    assert (tmp_path / "out" / "x_4.png").read_bytes() == (photos / "4.png").read_bytes()


def test_of_each_few_in_a_row_the_sharpest(photos, tmp_path):
    assert main([str(photos), "--sharpest-of=3", f"--copy={tmp_path / 'out'}"]) == 0
    assert names(tmp_path / "out") == ["1.png", "5.png"]


def test_sharpness_falls_with_blur(rng):
    image = Image.fromarray(rng.integers(0, 256, (24, 32, 3), np.uint8))
    values = [measure_sharpness(np.asarray(image.filter(ImageFilter.GaussianBlur(radius)))) for radius in (0, 0.5, 1, 2)]
    assert values == sorted(values, reverse=True)
    assert measure_sharpness(np.full((9, 9, 3), 7, np.uint8)) == 0


def test_sheets_show_every_image(photos, tmp_path, capsys):
    for i in range(COLUMNS * ROWS - 5):
        Image.new("RGB", (20, 20), "red").save(photos / f"{100 + i}.png")
    assert main([str(photos), f"--sheet={tmp_path / 'sheet.png'}"]) == 0
    assert "sheet-02.png" in capsys.readouterr().out
    with Image.open(tmp_path / "sheet-01.png") as first, Image.open(tmp_path / "sheet-02.png") as second:
        assert first.size == second.size == (COLUMNS * TILE, ROWS * (TILE + LABEL))
        corner = np.asarray(second)[:200, :TILE]
        assert np.ptp(corner) > 100, "the last one, in the first place"
        assert not np.asarray(second)[:, TILE:].any()


def test_mistakes_are_one_line(photos, tmp_path, capsys):
    (tmp_path / "list.txt").write_text("7.png\n")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "0.png").write_bytes(b"another")
    for arguments, words in (
        ([str(tmp_path / "nowhere")], "nowhere holds no images"),
        ([str(photos), f"--leave-out={tmp_path / 'list.txt'}"], "1 names of the lists are not there (7.png)"),
        ([str(photos), f"--leave-out={tmp_path / 'none.txt'}"], "none.txt cannot be read as a list"),
        ([str(photos), "--sharpest-of=0"], "--sharpest-of=0"),
        ([str(photos), f"--copy={tmp_path / 'out'}"], "0.png is there already and is another image"),
    ):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1

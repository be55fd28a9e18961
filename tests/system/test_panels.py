"""Panels by their pixels: what stands where, what is framed, what is enlarged."""

import numpy as np
import pytest
from PIL import Image

from drsn_jax.data.pairs.folders import find_pairs
from drsn_jax.evaluation.validation import write_samples
from drsn_jax.system.errors import InputError
from drsn_jax.system.panels import find_changed_box, make_panel, save_png, stack_panels

LABELS = ["blurred", "restored", "sharp"]


def is_red(pixels):
    return (pixels[..., 0] > 200) & (pixels[..., 1:] < 60).all(axis=-1)


@pytest.fixture
def images():
    """Three grey images of 120x180, the second changed in a patch by the upper-left."""
    blurred = np.full((120, 180, 3), 90, np.uint8)
    restored, sharp = blurred.copy(), np.full_like(blurred, 160)
    restored[20:40, 30:60] = 140
    return [blurred, restored, sharp]


def split(panel):
    """Split into the label strip and the three columns, by the size of the images."""
    strip, body = panel[:-120], panel[-120:]
    gap = (panel.shape[1] - 3 * 180) // 2
    return strip, [body[:, i * (180 + gap) :][:, :180] for i in range(3)]


def test_images_stand_side_by_side_unchanged(images):
    _, columns = split(make_panel(images, labels=LABELS))
    for column, image in zip(columns, images, strict=True):
        np.testing.assert_array_equal(column, image)


def test_labels_are_written_over_their_images(images):
    strip, _ = split(make_panel(images, labels=["blurred", "", "sharp"]))
    assert 8 <= len(strip) <= 40
    gap = (strip.shape[1] - 3 * 180) // 2
    inked = [(strip[:, i * (180 + gap) :][:, :180] < 128).any() for i in range(3)]
    assert inked == [True, False, True]


def test_long_labels_shrink_to_fit(images):
    strip, _ = split(make_panel(images, labels=["a label as long as this line of text", "x", "x"]))
    dark = np.flatnonzero((strip[:, :180] < 128).any(axis=(0, 2)))
    assert dark.min() > 0
    assert dark.max() < 179


def test_the_changed_window_is_found(images):
    top, left, height, width = find_changed_box(images[0], images[1])
    assert (height, width) == (20, 30)
    assert (top, left) == (20, 30)


def test_the_window_keeps_clear_of_its_enlargement(images):
    blurred, restored, _ = images
    restored[100:, 150:] = 255  # the strongest change lies where the enlargement will be
    top, left, height, width = find_changed_box(blurred, restored)
    assert top + height <= 120 * 0.58 or left + width <= 180 * 0.58


@pytest.mark.parametrize("zoom_box", ["auto", (20, 30, 20, 30)])
def test_the_box_is_framed_and_enlarged_in_every_image(images, zoom_box):
    images[2][20:40, 30:45] = (0, 0, 250)
    _, columns = split(make_panel(images, labels=LABELS, zoom_box=zoom_box))
    for column in columns:
        frame = is_red(column[20:40, 30:60])
        assert frame[0].all()
        assert frame[-1].all()
        assert frame[:, 0].all()
        assert frame[:, -1].all()
        assert not frame[2:-2, 2:-2].any()
    inset = columns[2][-49:-2, -73:-2]  # 42 % of each side
    assert (inset[:, :30] == (0, 0, 250)).all(), "the left half of the box is blue, so the left half of the inset is"
    assert (inset[:, -30:] == 160).all()
    assert is_red(columns[0][-1, -60:]).all()
    assert is_red(columns[0][-40:, -1]).all()


def test_no_box_no_red(images):
    assert not is_red(make_panel(images, labels=LABELS)).any()


@pytest.mark.parametrize("box", [(-1, 0, 10, 10), (0, 0, 0, 10), (115, 0, 10, 10), (0, 175, 10, 10)])
def test_boxes_outside_are_refused(images, box):
    with pytest.raises(InputError, match="does not lie inside"):
        make_panel(images, labels=LABELS, zoom_box=box)


def test_what_does_not_fit_together_is_refused(images):
    with pytest.raises(ValueError, match="2 labels"):
        make_panel(images, labels=LABELS[:2])
    with pytest.raises(ValueError, match="one shape"):
        make_panel([images[0], images[1][1:], images[2]], labels=LABELS)
    with pytest.raises(ValueError, match="no panels"):
        stack_panels([])


def test_tiny_images_can_be_drawn():
    tiny = np.zeros((11, 11, 3), np.uint8)
    assert make_panel([tiny, tiny], labels=["a", "b"], zoom_box="auto").shape[1] >= 22


def test_rows_are_stacked_and_padded(images):
    wide, narrow = make_panel(images, labels=LABELS), make_panel(images[:1], labels=LABELS[:1])
    stacked = stack_panels([wide, narrow])
    assert stacked.shape == (len(wide) + len(narrow), wide.shape[1], 3)
    np.testing.assert_array_equal(stacked[len(wide) :, : narrow.shape[1]], narrow)
    assert (stacked[len(wide) :, narrow.shape[1] :] == 255).all()


def test_png_is_saved_exactly_and_alone(images, tmp_path):
    target = tmp_path / "new" / "panel.png"
    save_png(images[1], target)
    save_png(images[2], target)
    np.testing.assert_array_equal(np.asarray(Image.open(target)), images[2])
    assert [path.name for path in target.parent.iterdir()] == ["panel.png"]


def test_a_failed_save_leaves_the_old_file(images, tmp_path, monkeypatch):
    target = tmp_path / "panel.png"
    save_png(images[1], target)

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        save_png(images[2], target)
    np.testing.assert_array_equal(np.asarray(Image.open(target)), images[1])
    assert len(list(tmp_path.iterdir())) == 1


def test_samples_become_files_of_pairs_and_stay_as_they_are(images, tmp_path):
    samples = [("cat-01-9px", images[0], images[2]), ("cat-02-10px", images[1], images[2])]
    assert write_samples(samples[:1], tmp_path) == tmp_path
    first = tmp_path / "blur" / "cat-01-9px.png"
    before = first.stat()
    write_samples(samples, tmp_path)
    assert (first.stat().st_mtime_ns, first.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    pairs = find_pairs(tmp_path)
    assert [pair.name for pair in pairs] == [name for name, _, _ in samples]
    for pair, (_, blurred, sharp) in zip(pairs, samples, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(pair.blurred)), blurred)
        np.testing.assert_array_equal(np.asarray(Image.open(pair.sharp)), sharp)

"""Boxes and labels by their pixels: where the blue is, where the red is, that nothing leaves the image."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drsn_jax.evaluation.detection.boxes import draw_detections, make_detection_panel
from drsn_jax.evaluation.detection.detections import Detection


def detection(*box, name="person", confidence=0.87):
    return Detection(box, 0, name, confidence)


def is_blue(pixels):
    return (pixels[..., 2] > 220) & (pixels[..., :2] < 100).all(axis=-1)


def is_red(pixels):
    return (pixels[..., 0] > 180) & (pixels[..., 1:] < 60).all(axis=-1)


def extent(mask):
    """First and last column, first and last row of what is set."""
    rows, columns = np.nonzero(mask)
    return columns.min(), columns.max(), rows.min(), rows.max()


@pytest.fixture
def grey():
    return np.full((200, 300, 3), 128, np.uint8)


def test_the_frame_lies_on_the_edge_of_the_box(grey):
    drawn = draw_detections(grey, [detection(100, 80, 180, 160)])
    assert extent(is_blue(drawn)) == (100, 179, 80, 159)
    np.testing.assert_array_equal(drawn[90:150, 110:170], grey[90:150, 110:170])
    assert (grey == 128).all()


def test_the_label_stands_over_the_upper_left_corner(grey):
    left, right, top, bottom = extent(is_red(draw_detections(grey, [detection(100, 80, 180, 160)])))
    assert 100 <= left <= 106
    assert right < 180
    assert 60 < top < bottom < 82


@pytest.mark.parametrize("box", [(0, 0, 60, 60), (250, 0, 300, 200), (299, 199, 300, 200), (0, 190, 300, 200)])
def test_labels_stay_inside_the_image(grey, box):
    """As much ink as in the middle: nothing is cut."""
    whole = is_red(draw_detections(grey, [detection(100, 80, 180, 160)])).sum()
    assert is_red(draw_detections(grey, [detection(*box)])).sum() == pytest.approx(whole, rel=0.12)


def test_labels_of_neighbours_do_not_cover_each_other(grey):
    """Boxes in one place, whose labels would lie on one another: the ink of all of them is there."""
    boxes = [(100, 80, 180, 160), (104, 82, 184, 162), (108, 78, 188, 158)]
    alone = is_red(draw_detections(grey, [detection(*boxes[0])])).sum()
    together = is_red(draw_detections(grey, [detection(*box) for box in boxes])).sum()
    assert together == pytest.approx(3 * alone, rel=0.05)


def test_no_objects_no_change(grey):
    np.testing.assert_array_equal(draw_detections(grey, []), grey)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 40), st.integers(1, 40), st.lists(st.tuples(*[st.floats(-5, 60)] * 4), max_size=3))
def test_images_and_boxes_of_any_size(height, width, boxes):
    image = np.full((height, width, 3), 9, np.uint8)
    drawn = draw_detections(image, [detection(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in boxes])
    assert (drawn.shape, drawn.dtype) == (image.shape, np.uint8)


def test_a_panel_has_every_version_with_its_boxes(grey):
    found = [[], [detection(20, 40, 90, 120)], [detection(20, 40, 90, 120), detection(180, 60, 280, 190)]]
    panel = make_detection_panel([grey, grey, grey], found)
    columns = [panel[-200:, start : start + 300] for start in (0, (panel.shape[1] - 300) // 2, panel.shape[1] - 300)]
    for column, detections in zip(columns, found, strict=True):
        np.testing.assert_array_equal(column, draw_detections(grey, detections))


def test_the_labels_of_a_panel_count(grey, monkeypatch):
    labels = []

    def watch(images, **options):
        labels.extend(options["labels"])
        return images[0]

    monkeypatch.setattr("drsn_jax.evaluation.detection.boxes.make_panel", watch)
    make_detection_panel([grey] * 3, [[detection(1, 1, 9, 9)], [], [detection(1, 1, 9, 9)] * 3])
    assert labels == ["blurred: 1 object", "restored: 0 objects", "sharp: 3 objects"]
    with pytest.raises(ValueError, match="zip"):
        make_detection_panel([grey], [[], []], names=("blurred", "sharp"))

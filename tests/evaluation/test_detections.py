"""Overlap, suppression and matching against the same statements in plain Python; counts, recall and confidence by hand."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drsn_jax.evaluation.detection.detections import (
    Detection,
    box_iou,
    compare_detections,
    match_detections,
    summarise_detections,
    suppress_overlaps,
)

NAMES = ("person", "backpack")
corners = st.integers(0, 12)  # few values: boxes that touch, coincide, hold one another or are empty come up often
boxes = st.tuples(corners, corners, corners, corners).map(lambda c: (min(c[:2]), min(c[2:]), max(c[:2]), max(c[2:])))
objects = st.builds(
    lambda box, label, percent: Detection(box, label, NAMES[label], percent / 100), boxes, st.integers(0, 1), st.integers(0, 100)
)
lists = st.lists(objects, max_size=12)


def detection(*box, label=0, confidence=0.9):
    return Detection(box, label, NAMES[label], confidence)


def plain_iou(a, b):
    """By counting the unit squares that lie in both and in either."""
    squares = [{(x, y) for x in range(box[0], box[2]) for y in range(box[1], box[3])} for box in (a, b)]
    either = squares[0] | squares[1]
    return len(squares[0] & squares[1]) / len(either) if either else 0.0


def as_arrays(found):
    return (
        np.array([x.box for x in found], float).reshape(-1, 4),
        np.array([x.label for x in found], int),
        np.array([x.confidence for x in found], float),
    )


@given(st.lists(boxes, max_size=6), st.lists(boxes, max_size=6))
def test_overlap_of_boxes(first, second):
    found = box_iou(np.array(first, float).reshape(-1, 4), np.array(second, float).reshape(-1, 4))
    assert found.shape == (len(first), len(second))
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            assert found[i, j] == pytest.approx(plain_iou(a, b))


@given(lists, st.sampled_from([0.0, 0.3, 0.5, 1.0]))
def test_suppression(found, iou):
    """Going from the surest to the least sure, one stays where no kept one of its class overlaps it by more."""
    kept = []
    for index in sorted(range(len(found)), key=lambda i: (-found[i].confidence, i)):
        rivals = [found[i] for i in kept if found[i].label == found[index].label]
        if all(plain_iou(rival.box, found[index].box) <= iou for rival in rivals):
            kept.append(index)
    assert suppress_overlaps(*as_arrays(found), iou=iou).tolist() == kept


@given(lists, lists)
def test_matching(sharp, other):
    """Each is used once, with one of its class, of an overlap of a half; nothing is left that could be matched."""
    pairs = match_detections(sharp, other)
    assert len({i for i, _ in pairs}) == len({j for _, j in pairs}) == len(pairs)
    for i, j in pairs:
        assert sharp[i].label == other[j].label
        assert plain_iou(sharp[i].box, other[j].box) >= 0.5
    free = [(a, b) for i, a in enumerate(sharp) for j, b in enumerate(other) if i not in dict(pairs) and j not in {j for _, j in pairs}]
    assert not any(a.label == b.label and plain_iou(a.box, b.box) >= 0.5 for a, b in free)


def test_the_surest_chooses_first_and_takes_the_best():
    sharp = [detection(0, 0, 10, 10), detection(0, 2, 10, 12)]
    unsure, sure = detection(0, 0, 10, 9, confidence=0.4), detection(0, 0, 10, 10, confidence=0.8)
    assert match_detections(sharp, [unsure, sure]) == [(0, 1), (1, 0)]
    assert match_detections(sharp[:1], [unsure, sure]) == [(0, 1)]


def test_a_half_is_enough():
    assert match_detections([detection(0, 0, 10, 10)], [detection(0, 0, 10, 5)]) == [(0, 0)]
    assert match_detections([detection(0, 0, 10, 10)], [detection(0, 0, 10, 4.99)]) == []


def test_the_figure_of_the_paper():
    """Figure 6: five people and a backpack in the sharp image, three people in the blurred one; here with one that is none."""
    sharp = [detection(20 * i, 0, 20 * i + 10, 30) for i in range(5)] + [detection(3, 5, 9, 12, label=1, confidence=0.6)]
    blurred = [detection(20 * i, 1, 20 * i + 10, 30, confidence=0.5 + i / 10) for i in range(3)] + [
        detection(70, 70, 90, 90, confidence=0.3)
    ]
    assert compare_detections(sharp, blurred) == {
        "count": 4,
        "objects": {"person": 4},
        "sharp_count": 6,
        "matched": 3,
        "recall": pytest.approx(3 / 6),
        "share_matched": pytest.approx(3 / 4),
        "mean_confidence": pytest.approx((0.5 + 0.6 + 0.7 + 0.3) / 4),
        "mean_confidence_matched": pytest.approx(0.6),
    }
    assert compare_detections(sharp, sharp)["objects"] == {"person": 5, "backpack": 1}


def test_nothing_found_divides_nothing():
    empty = {"count": 0, "objects": {}, "sharp_count": 0, "matched": 0, "recall": None, "share_matched": None}
    assert compare_detections([], []) == {**empty, "mean_confidence": None, "mean_confidence_matched": None}
    assert compare_detections([detection(0, 0, 5, 5)], [])["recall"] == 0.0
    alone = compare_detections([], [detection(0, 0, 5, 5)])
    assert (alone["recall"], alone["share_matched"], alone["mean_confidence"]) == (None, 0.0, 0.9)


def test_every_object_weighs_the_same_in_a_summary():
    """One image of one object, found; one of four, of which one is found: 2 of 5, not the mean of 1 and 1/4."""
    crowd = [detection(20 * i, 0, 20 * i + 10, 30) for i in range(4)]
    images = [
        {"sharp": crowd[:1], "blurred": [crowd[0]._replace(confidence=0.5)], "restored": crowd[:1]},
        {"sharp": crowd, "blurred": [crowd[2]._replace(confidence=0.7)], "restored": crowd},
        {"sharp": [], "blurred": [], "restored": crowd[:1]},
    ]
    summary = json.loads(json.dumps(summarise_detections(images)))
    assert (summary["images"], summary["images_with_objects"], summary["note"]) == (3, 2, None)
    blurred, restored, sharp = (summary["versions"][version] for version in ("blurred", "restored", "sharp"))
    assert (blurred["count"], blurred["sharp_count"], blurred["recall"]) == (2, 5, pytest.approx(0.4))
    assert blurred["mean_confidence"] == pytest.approx(0.6)
    assert (restored["recall"], restored["share_matched"]) == (1.0, pytest.approx(5 / 6))
    assert (sharp["recall"], sharp["share_matched"], sharp["count"]) == (1.0, 1.0, 5)


@given(lists)
def test_the_sharp_image_finds_itself(found):
    kept = [found[i] for i in suppress_overlaps(*as_arrays(found), iou=0.45) if math.prod(np.subtract(found[i].box[2:], found[i].box[:2]))]
    assert compare_detections(kept, kept)["matched"] == len(kept)


def test_no_objects_anywhere_are_said_in_words():
    summary = summarise_detections([{"sharp": [], "blurred": [detection(0, 0, 5, 5)]}])
    assert summary["versions"]["blurred"]["recall"] is None
    assert "no object in any sharp image" in summary["note"]
    assert summarise_detections([]) == {"images": 0, "images_with_objects": 0, "match_iou": 0.5, "note": summary["note"], "versions": {}}


def test_versions_are_the_same_for_all_images():
    with pytest.raises(ValueError, match="same versions"):
        summarise_detections([{"sharp": [], "blurred": []}, {"sharp": []}])
    with pytest.raises(ValueError, match="sharp"):
        summarise_detections([{"blurred": []}])

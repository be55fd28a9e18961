"""Detections in blurred and restored images, compared with those in the sharp ones (Jiang & Liu, 5.2, Figure 6)."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

SHARP = "sharp"
MATCH_IOU = 0.5
"""Boxes of one class with at least this overlap are the same object, as in PASCAL VOC and COCO's AP50."""


class Detection(NamedTuple):
    """One object: its box in pixels of the image (left, top, right, bottom), its class, and the detector's confidence in [0, 1]."""

    box: tuple[float, float, float, float]
    label: int
    name: str
    confidence: float


def box_iou(first: Float[np.ndarray, "n 4"], second: Float[np.ndarray, "m 4"]) -> Float[np.ndarray, "n m"]:
    """Compute the intersection over union of every box (left, top, right, bottom) with every other, in [0, 1]; 0 if both are empty."""
    first, second = first[:, None, :], second[None, :, :]
    sides = np.minimum(first[..., 2:], second[..., 2:]) - np.maximum(first[..., :2], second[..., :2])
    shared = np.maximum(sides, 0).prod(axis=-1)
    areas = ((box[..., 2:] - box[..., :2]).prod(axis=-1) for box in (first, second))
    union = sum(areas) - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def suppress_overlaps(
    boxes: Float[np.ndarray, "n 4"], labels: Int[np.ndarray, " n"], confidences: Float[np.ndarray, " n"], *, iou: float
) -> Int[np.ndarray, " kept"]:
    """Suppress non-maxima by class. Returns the indices of the kept boxes, by falling confidence.

    A box is dropped if a more confident kept box of its class overlaps it by more than `iou`.
    """
    waiting = np.argsort(-confidences, kind="stable")
    kept = []
    while len(waiting):
        best, waiting = waiting[0], waiting[1:]
        kept.append(best)
        overlaps = box_iou(boxes[best][None], boxes[waiting])[0] > iou
        waiting = waiting[~(overlaps & (labels[waiting] == labels[best]))]
    return np.array(kept, np.intp)


def match_detections(sharp: Sequence[Detection], other: Sequence[Detection]) -> list[tuple[int, int]]:
    """Return pairs of indices (in sharp, in other) of the same object: same class, IoU of at least `MATCH_IOU`, each used once.

    Greedy: in order of falling confidence each detection of `other` takes the free one of the sharp image with the largest overlap.
    """
    overlaps = box_iou(_boxes(sharp), _boxes(other))
    overlaps = np.where(_labels(sharp)[:, None] == _labels(other)[None, :], overlaps, 0.0)
    pairs = []
    for index in np.argsort([-detection.confidence for detection in other], kind="stable"):
        if len(sharp) and overlaps[:, index].max() >= MATCH_IOU:
            found = int(overlaps[:, index].argmax())
            overlaps[found] = 0.0
            pairs.append((found, int(index)))
    return pairs


def compare_detections(sharp: Sequence[Detection], other: Sequence[Detection]) -> dict[str, Any]:
    """Compare one image's detections with those in its sharp version, ready for JSON.

    - `count` and `objects` (by name): the detections.
    - `sharp_count` and `matched`: the objects of the sharp image, and those of them that were detected again.
    - `recall` = matched / sharp_count.
    - `share_matched` = matched / count, a precision if the sharp image's detections count as ground truth.
    - `mean_confidence` of all and `mean_confidence_matched` of the matched.

    A value is None if its denominator is 0.
    """
    return _compare([(sharp, other)])


def summarise_detections(images: Sequence[Mapping[str, Sequence[Detection]]]) -> dict[str, Any]:
    """Summarise all images, ready for JSON: `versions` has the values of `compare_detections` over the objects of all images.

    Each image maps its versions (blurred, restored, compared methods, sharp) to their detections. Recall is the sum of matched objects
    over the sum of objects in the sharp images, so that every object has the same weight. `note` explains a missing recall.
    Raises ValueError if the versions of images differ, or none is called sharp.
    """
    versions = list(images[0]) if images else []
    if (images and SHARP not in versions) or any(set(image) != set(versions) for image in images):
        raise ValueError(f"Every image needs the same versions, one of them {SHARP!r}; got {[sorted(image) for image in images]}.")
    with_objects = sum(bool(image[SHARP]) for image in images)
    return {
        "images": len(images),
        "images_with_objects": with_objects,
        "match_iou": MATCH_IOU,
        "note": None if with_objects else "The detector found no object in any sharp image, so there is no recall.",
        "versions": {version: _compare([(image[SHARP], image[version]) for image in images]) for version in versions},
    }


def _compare(images: Sequence[tuple[Sequence[Detection], Sequence[Detection]]]) -> dict[str, Any]:
    found = [detection for _, other in images for detection in other]
    matched = [other[index] for sharp, other in images for _, index in match_detections(sharp, other)]
    sharp_count = sum(len(sharp) for sharp, _ in images)
    return {
        "count": len(found),
        "objects": dict(Counter(detection.name for detection in found).most_common()),
        "sharp_count": sharp_count,
        "matched": len(matched),
        "recall": _ratio(len(matched), sharp_count),
        "share_matched": _ratio(len(matched), len(found)),
        "mean_confidence": _ratio(sum(detection.confidence for detection in found), len(found)),
        "mean_confidence_matched": _ratio(sum(detection.confidence for detection in matched), len(matched)),
    }


def _ratio(part: int | float, whole: int) -> float | None:
    return part / whole if whole else None


def _boxes(detections: Sequence[Detection]) -> Float[np.ndarray, "n 4"]:
    return np.array([detection.box for detection in detections], np.float64).reshape(-1, 4)


def _labels(detections: Sequence[Detection]) -> Int[np.ndarray, " n"]:
    return np.array([detection.label for detection in detections], np.int64)

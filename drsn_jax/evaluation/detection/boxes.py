"""Pictures of detections: blue boxes, red labels at their upper-left corners (Jiang & Liu, section 5.2, Figure 6)."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from drsn_jax.evaluation.detection.detections import Detection
from drsn_jax.system.panels import make_panel

Pixels = UInt8[np.ndarray, "_ _ 3"]  # [h w 3]; panels differ in size from their images
Box = tuple[float, float, float, float]  # left, top, right, bottom

_BLUE, _RED, _WHITE = (30, 60, 255), (220, 0, 0), (255, 255, 255)


def draw_detections(image: Pixels, detections: Sequence[Detection]) -> Pixels:
    """Copy a uint8 image with a blue box around every object and a red label 'person 0.87', the most confident on top.

    Labels stand above their boxes, or below the upper edge if there is no room or a more confident label is there. A
    thin white edge keeps them legible on any background.
    """
    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    surest_first = sorted(detections, key=lambda detection: -detection.confidence)
    line = max(1, round(min(image.shape[:2]) / 240))
    for detection in reversed(surest_first):
        draw.rectangle(_corners(detection, image), outline=_BLUE, width=line)
    taken: list[Box] = []
    for detection in surest_first:  # after all boxes, so that no line crosses a label
        taken.append(_draw_label(draw, detection, image, taken))
    return np.asarray(picture)


def make_detection_panel(
    images: Sequence[Pixels], detections: Sequence[Sequence[Detection]], *, names: Sequence[str] = ("blurred", "restored", "sharp")
) -> Pixels:
    """Place versions of one image with their boxes side by side, each under its name and count: 'blurred: 3 objects'; uint8 in and out.

    Raises ValueError if the numbers of images, detections and names differ, or the sizes of the images.
    """
    labels = [f"{name}: {len(found)} object{'s' * (len(found) != 1)}" for name, found in zip(names, detections, strict=True)]
    drawn = [draw_detections(image, found) for image, found in zip(images, detections, strict=True)]
    return make_panel(drawn, labels=labels, zoom_box=None)


def _corners(detection: Detection, image: Pixels) -> tuple[int, int, int, int]:
    """Return the first and last column and row of the box's frame, inside the image."""
    left, top, right, bottom = (round(side) for side in detection.box)
    left, top = min(max(left, 0), image.shape[1] - 1), min(max(top, 0), image.shape[0] - 1)
    return left, top, min(max(right - 1, left), image.shape[1] - 1), min(max(bottom - 1, top), image.shape[0] - 1)


def _draw_label(draw: ImageDraw.ImageDraw, detection: Detection, image: Pixels, taken: Sequence[Box]) -> Box:
    """Write one label where it overlaps none of `taken`, and return its place."""
    size = max(9, round(min(image.shape[:2]) / 30))
    font, edge, text = ImageFont.load_default(size), max(1, size // 10), f"{detection.name} {detection.confidence:.2f}"
    width, height = draw.textlength(text, font=font) + 2 * edge, size * 1.2
    left, top, *_ = _corners(detection, image)
    x, above = max(0.0, min(left, image.shape[1] - width)), top - height
    rows = [above + shift * height for shift in sorted(range(-8, 9), key=lambda shift: (abs(shift), -shift))]
    places = [(float(x), y, x + width, y + height) for y in rows if 0 <= y <= image.shape[0] - height]
    free = (place for place in places if not any(_overlap(place, other) for other in taken))
    place = next(free, places[0] if places else (float(x), 0.0, x + width, height))  # for an image lower than a label
    draw.text((place[0] + edge, place[1]), text, fill=_RED, font=font, stroke_width=edge, stroke_fill=_WHITE)
    return place


def _overlap(first: Box, second: Box) -> bool:
    return all(first[axis] < second[axis + 2] and second[axis] < first[axis + 2] for axis in (0, 1))

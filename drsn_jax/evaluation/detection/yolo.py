"""Inputs and outputs of detectors of the YOLO family: letterboxes, rows of numbers, names of classes. Numpy and Pillow only."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

STRIDES = (8, 16, 32)
"""Pixels between the cells of the three grids of both families."""

COCO_NAMES = (
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light", "fire hydrant", "stop sign"),
    *("parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "backpack"),
    *("umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove"),
    *("skateboard", "surfboard", "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple"),
    *("sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed"),
    *("dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink"),
    *("refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush"),
)

_GREY = 114  # padding of both families
_MAX_LOG_SIDE = 20.0  # of a box in cells: beyond any image, without overflow


class Letterbox(NamedTuple):
    """An image of height x width pixels, resized to fitted_height x fitted_width at (top, left) of a canvas."""

    height: int
    width: int
    fitted_height: int
    fitted_width: int
    top: int
    left: int


def fit_letterbox(height: int, width: int, *, canvas: tuple[int, int], centred: bool) -> Letterbox:
    """Fit height x width pixels into `canvas` (height, width) as large as possible, with the aspect ratio kept.

    `centred` is Ultralytics' way: sides rounded, half of the padding on each side, an odd pixel below or right. Otherwise YOLOX's: sides
    rounded down, the image in the upper-left corner.
    """
    scale = min(canvas[0] / height, canvas[1] / width)
    whole = round if centred else int
    fitted_height, fitted_width = max(1, whole(height * scale)), max(1, whole(width * scale))
    top, left = ((canvas[0] - fitted_height) // 2, (canvas[1] - fitted_width) // 2) if centred else (0, 0)
    return Letterbox(height, width, fitted_height, fitted_width, top, left)


def draw_letterbox(image: UInt8[np.ndarray, "h w 3"], fit: Letterbox, *, canvas: tuple[int, int]) -> UInt8[np.ndarray, "H W 3"]:
    """Draw the image on grey. Bilinear without antialiasing, as OpenCV in the training of detectors; Pillow's `resize` would smooth."""
    size, scales = (fit.fitted_width, fit.fitted_height), (fit.width / fit.fitted_width, 0, 0, 0, fit.height / fit.fitted_height, 0)
    fitted = Image.fromarray(image).transform(size, Image.Transform.AFFINE, scales, Image.Resampling.BILINEAR)
    drawn = np.full((*canvas, 3), _GREY, np.uint8)
    drawn[fit.top : fit.top + fit.fitted_height, fit.left : fit.left + fit.fitted_width] = np.asarray(fitted)
    return drawn


def to_canvas(boxes: Float[np.ndarray, "n 4"], fit: Letterbox) -> Float[np.ndarray, "n 4"]:
    """Convert boxes (left, top, right, bottom) from pixels of the image to pixels of the canvas."""
    return boxes * _scales(fit) + (fit.left, fit.top) * 2


def to_image(boxes: Float[np.ndarray, "n 4"], fit: Letterbox) -> Float[np.ndarray, "n 4"]:
    """Convert boxes (left, top, right, bottom) from pixels of the canvas to pixels of the image, clipped to it."""
    mapped = (boxes - (fit.left, fit.top) * 2) / _scales(fit)
    return np.clip(mapped, 0, (fit.width, fit.height) * 2)


def count_cells(size: tuple[int, int]) -> int:
    """Count the cells of all grids over a canvas of (height, width)."""
    return sum((size[0] // stride) * (size[1] // stride) for stride in STRIDES)


def decode_yolox(rows: Float[np.ndarray, "n c"], size: tuple[int, int]) -> tuple[Float[np.ndarray, "n 4"], Float[np.ndarray, "n k"]]:
    """Decode boxes (left, top, right, bottom) on a canvas of `size` (height, width), and scores by class.

    Each row has the centre's offset from its cell and the logarithms of width and height, in cells; objectness; classes. The rows
    follow the cells of the three grids, one grid after the other, row by row.
    """
    cells, steps = [], []
    for stride in STRIDES:
        y, x = np.mgrid[: size[0] // stride, : size[1] // stride]
        cells.append(np.stack([x.ravel(), y.ravel()], axis=1))
        steps.append(np.full((x.size, 1), stride))
    rows, step = rows.astype(np.float64), np.concatenate(steps)
    centres = (rows[:, :2] + np.concatenate(cells)) * step
    sides = np.exp(np.minimum(rows[:, 2:4], _MAX_LOG_SIDE)) * step
    return _corners(centres, sides), rows[:, 4:5] * rows[:, 5:]


def decode_yolov8(columns: Float[np.ndarray, "c n"], size: tuple[int, int]) -> tuple[Float[np.ndarray, "n 4"], Float[np.ndarray, "n k"]]:
    """Decode the same from columns of centre, width and height in pixels of the canvas, above the scores; `size` is unused."""
    rows = columns.T.astype(np.float64)
    return _corners(rows[:, :2], rows[:, 2:4]), rows[:, 4:]


def _corners(centres: Float[np.ndarray, "n 2"], sides: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 4"]:
    return np.concatenate([centres - sides / 2, centres + sides / 2], axis=1)


def _scales(fit: Letterbox) -> Float[np.ndarray, " 4"]:
    # Scales of each axis separately: rounding to whole pixels makes them differ slightly, most in narrow images.
    return np.array([fit.fitted_width / fit.width, fit.fitted_height / fit.height] * 2)

"""Comparison pictures: labelled images side by side, a red box and its enlargement in a corner (Jiang & Liu, section 5)."""

import io
from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from drsn_jax.system.errors import InputError
from drsn_jax.system.files import write_atomically
from drsn_jax.system.paths import AnyPath

Pixels = UInt8[np.ndarray, "_ _ 3"]  # [h w 3]; panels and insets differ in size from their images
Box = tuple[int, int, int, int]
"""Top, left, height, width in pixels."""

_RED, _WHITE, _BLACK = (230, 20, 20), (255, 255, 255), (20, 20, 20)
_BOX_SHARE = 1 / 6  # of each side of the image, for the automatic box
_INSET_SHARE = 0.42  # of each side of the image: the maximum size of the enlargement


def make_panel(images: Sequence[Pixels], *, labels: Sequence[str], zoom_box: Literal["auto"] | Box | None = None) -> Pixels:
    """Place images of one size side by side, each under its label; uint8 in and out.

    The usual order is blurred, restored, sharp. `zoom_box` (top, left, height, width) is framed in red in every image and enlarged in its
    lower-right corner. 'auto' selects the window where the first two images differ most. Raises ValueError if the number of labels or the
    shapes of the images do not match. Raises InputError if the box does not lie inside the images.
    """
    if not images or len(images) != len(labels):
        raise ValueError(f"A panel needs a label for each image; got {len(images)} images and {len(labels)} labels.")
    shapes = {image.shape for image in images}
    if len(shapes) != 1:
        raise ValueError(f"The images of a panel must have one shape; got {sorted(shapes)}.")
    box = find_changed_box(images[0], images[1]) if zoom_box == "auto" else zoom_box
    if box is not None:
        check_box(box, (images[0].shape[0], images[0].shape[1]))
    columns = [_draw_column(image, label, box) for image, label in zip(images, labels, strict=True)]
    gap = np.full((columns[0].shape[0], _line(images[0]) * 2, 3), 255, np.uint8)
    parts = [part for column in columns for part in (column, gap)]
    return np.concatenate(parts[:-1], axis=1)


def stack_panels(rows: Sequence[Pixels]) -> Pixels:
    """Stack panels vertically; narrower ones are padded with white on the right. Raises ValueError for an empty list."""
    if not rows:
        raise ValueError("There are no panels to stack.")
    width = max(row.shape[1] for row in rows)
    return np.concatenate([np.pad(row, ((0, 0), (0, width - row.shape[1]), (0, 0)), constant_values=255) for row in rows])


def save_png(array: Pixels, path: AnyPath) -> None:
    """Write uint8 [h w 3] as a PNG file, whole or not at all. Raises OSError if the place cannot be written."""
    write_atomically(path, encode_png(array))


def encode_png(array: Pixels) -> bytes:
    """Encode uint8 [h w 3] as the bytes of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="png")
    return buffer.getvalue()


def find_changed_box(blurred: Pixels, restored: Pixels) -> Box:
    """Find the window (a sixth of each side) with the largest mean |restored - blurred| that the enlargement does not cover."""
    change = np.abs(restored.astype(np.float64) - blurred).mean(axis=-1)
    height, width = change.shape
    box_height, box_width = max(1, round(height * _BOX_SHARE)), max(1, round(width * _BOX_SHARE))
    means = _window_sums(change, box_height, box_width)
    inset_height, inset_width = _inset_size((0, 0, box_height, box_width), restored)
    margin = 2 * _line(restored)
    hidden_rows = np.arange(means.shape[0]) + box_height > height - inset_height - margin
    hidden_columns = np.arange(means.shape[1]) + box_width > width - inset_width - margin
    hidden = hidden_rows[:, None] & hidden_columns[None, :]
    means = np.where(hidden, -1.0, means)  # in tiny images all windows are covered: take the first
    top, left = np.unravel_index(np.argmax(means), means.shape)
    return int(top), int(left), box_height, box_width


def _window_sums(values: Float[np.ndarray, "h w"], height: int, width: int) -> Float[np.ndarray, "H W"]:
    """Sum over every window, by a summed-area table."""
    table = np.pad(values.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    return table[height:, width:] - table[:-height, width:] - table[height:, :-width] + table[:-height, :-width]


def check_box(box: Box, size: tuple[int, int]) -> None:
    """Raise InputError if a box does not lie inside an image of `size` (height, width)."""
    (top, left, height, width), (rows, columns) = box, size
    if top < 0 or left < 0 or height < 1 or width < 1 or top + height > rows or left + width > columns:
        raise InputError(
            f"The zoom box (top {top}, left {left}, height {height}, width {width}) does not lie inside the image of "
            f"{rows} rows and {columns} columns. Choose a box inside it."
        )


def _line(image: Pixels) -> int:
    """Return the frame width in pixels, which grows with the image."""
    return max(1, round(min(image.shape[:2]) / 200))


def _inset_size(box: Box, image: Pixels) -> tuple[int, int]:
    """Return height and width of the enlargement: the shape of the box, as large as `_INSET_SHARE` allows."""
    rows, columns = image.shape[:2]
    scale = _INSET_SHARE * min(rows / box[2], columns / box[3])
    return max(1, round(box[2] * scale)), max(1, round(box[3] * scale))


def _draw_column(image: Pixels, label: str, box: Box | None) -> Pixels:
    picture = Image.fromarray(image)
    if box is not None:
        _draw_inset(picture, image, box)
    return np.concatenate([_draw_label(label, image), np.asarray(picture)])


def _draw_inset(picture: Image.Image, image: Pixels, box: Box) -> None:
    (top, left, height, width), line = box, _line(image)
    inset_height, inset_width = _inset_size(box, image)
    # Nearest neighbour for growing: the enlargement shows the pixels themselves, not an interpolation of them.
    detail = Image.fromarray(image[top : top + height, left : left + width]).resize((inset_width, inset_height), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(picture)
    draw.rectangle((left, top, left + width - 1, top + height - 1), outline=_RED, width=line)
    corner = (image.shape[1] - inset_width - line, image.shape[0] - inset_height - line)
    draw.rectangle((corner[0] - line, corner[1] - line, image.shape[1], image.shape[0]), fill=_RED)  # the uncovered rim is the frame
    picture.paste(detail, corner)


def _draw_label(label: str, image: Pixels) -> Pixels:
    """Draw a white strip with the label in the middle; the font shrinks to the width."""
    size = max(10, round(min(image.shape[:2]) / 24))
    strip = Image.new("RGB", (image.shape[1], round(size * 1.6)), _WHITE)
    draw = ImageDraw.Draw(strip)
    length = draw.textlength(label, font=ImageFont.load_default(size))
    fitting = max(6.0, min(size, size * 0.96 * image.shape[1] / max(length, 1.0)))
    draw.text((image.shape[1] / 2, strip.height / 2), label, fill=_BLACK, font=ImageFont.load_default(fitting), anchor="mm")
    return np.asarray(strip)

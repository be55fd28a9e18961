"""Images of different sizes on the device as uint8, on one sheet. Windows are cut from it as slices of rows.

Nothing is padded or cut before training. A pixel's address is the place of its image on the sheet, and its row and column there. Each
number fits into 32 bits, for a sheet of any size.
"""

from collections.abc import Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Int, UInt8

from drsn_jax.data.pairs.crops import half_of_memory
from drsn_jax.system.errors import InputError

_WIDEST = 8  # times the widest image: narrow images are placed side by side


@struct.dataclass
class Bank:
    """Images on a sheet. `channels` is 1 (masks), 3 (sharp photographs, frames) or 6 (blurred and sharp).

    The channels of a pixel are adjacent in a row of the sheet: on a TPU an axis of three would be padded to 128.
    """

    pixels: UInt8[Array, "rows columns"]
    tops: Int[Array, " images"]  # of each image on the sheet, in pixels
    lefts: Int[Array, " images"]
    heights: Int[Array, " images"]
    widths: Int[Array, " images"]
    channels: int = struct.field(pytree_node=False)
    drawn: int = struct.field(pytree_node=False, default=0)  # number of drawings; these are the last images


def make_bank(images: Sequence[UInt8[np.ndarray, "_ _ c"]], *, names: Iterable[str], crop_size: int, drawn: int = 0) -> Bank:
    """Place images [h w 3], or pairs [h w 6] (blurred, sharp), on a sheet, the tallest first. The order of the images is kept.

    The last `drawn` images are drawings. Raises InputError if there are no images, if they do not fit into memory, or if one is smaller
    than the crop. The message then has its name.
    """
    if not images:
        raise InputError("There are no training images; give a folder of photographs or pairs (--config.train_dir=DIR).")
    for name, image in zip(names, images, strict=True):
        if (side := min(image.shape[:2])) < crop_size:
            raise InputError(
                f"{name} is {image.shape[1]}x{image.shape[0]}, smaller than the crop of {crop_size};"
                f" use --config.crop_size={side // 16 * 16 or side} or less (also in --config.stages), or remove it."
            )
    sizes, channels = [(image.shape[0], image.shape[1]) for image in images], images[0].shape[-1]
    check_room(sum(height * width for height, width in sizes), channels=channels)
    rows, columns, places = _choose_sheet(sizes)
    pixels = np.zeros((rows, columns * channels), np.uint8)
    for image, (top, left), (height, width) in zip(images, places, sizes, strict=True):
        pixels[top : top + height, left * channels : (left + width) * channels] = image.reshape(height, width * channels)
    tops, lefts, heights, widths = (np.array(values, np.int32) for values in (*zip(*places, strict=True), *zip(*sizes, strict=True)))
    return Bank(*map(jnp.asarray, (pixels, tops, lefts, heights, widths)), channels=channels, drawn=drawn)


def check_room(pixels: int, *, channels: int) -> None:
    """Raise InputError for images that need more than half of this machine's memory: the sheet is a second copy of them."""
    needed, limit = pixels * channels, half_of_memory()
    if needed > limit:
        raise InputError(
            f"{pixels / 1e6:.0f} megapixels take {needed / 1e9:.3g} GB, and half of this machine's memory is {limit / 1e9:.3g} GB."
            " Use fewer or smaller images, or --config.data=pairs (tf.data)."
        )


def cut(
    bank: Bank, image: Int[Array, ""], row: Int[Array, ""], column: Int[Array, ""], *, height: int, width: int
) -> UInt8[Array, "h w c"]:
    """Cut height x width pixels of an image, starting at row and column. All must be inside the image."""
    start = (bank.tops[image] + row, (bank.lefts[image] + column) * bank.channels)
    return jax.lax.dynamic_slice(bank.pixels, start, (height, width * bank.channels)).reshape(height, width, bank.channels)


def cut_mirrored(bank: Bank, image: Int[Array, ""], row: Int[Array, ""], column: Int[Array, ""], *, side: int) -> UInt8[Array, "s s c"]:
    """Cut a square that starts at row and column, which may be negative. Parts outside the image are mirrored, repeatedly if needed."""
    (high, wide), (rows, columns) = bank.pixels.shape, ([], [])
    wide //= bank.channels
    window = (min(side, high), min(side, wide))
    starts = []
    for kept, first, at, size, most, extent in (
        (rows, row, bank.tops[image], bank.heights[image], window[0], high),
        (columns, column, bank.lefts[image], bank.widths[image], window[1], wide),
    ):
        # Mirrored pixels are in the square moved into the image, or in the whole image if that is smaller.
        start = jnp.minimum(at + jnp.clip(first, 0, jnp.maximum(size - side, 0)), extent - most)
        kept.append(at + _mirror(first + jnp.arange(side), size) - start)
        starts.append(start)
    start = (starts[0], starts[1] * bank.channels)
    found = jax.lax.dynamic_slice(bank.pixels, start, (window[0], window[1] * bank.channels)).reshape(*window, bank.channels)
    return found[rows[0]][:, columns[0]]


def _mirror(index: jax.Array, size: jax.Array) -> jax.Array:
    """Reflect indices outside 0 to size - 1 back inside, repeatedly if needed."""
    period = jnp.maximum(2 * size - 2, 1)
    index = jnp.abs(index) % period
    return jnp.minimum(index, period - index)


def _choose_sheet(sizes: Sequence[tuple[int, int]]) -> tuple[int, int, list[tuple[int, int]]]:
    """Choose the smallest of a few sheets. Returns its rows and columns, and (top, left) of each image."""
    widest = max(width for _, width in sizes)
    sheets = ((times * widest, *_place(sizes, columns=times * widest)) for times in range(1, min(_WIDEST, len(sizes)) + 1))
    columns, rows, places = min(sheets, key=lambda sheet: sheet[0] * sheet[1])
    return rows, columns, places


def _place(sizes: Sequence[tuple[int, int]], *, columns: int) -> tuple[int, list[tuple[int, int]]]:
    """Place images in strips from left to right, the tallest first. Returns the number of rows, and (top, left) of each image."""
    places, top, left, strip = [(0, 0)] * len(sizes), 0, 0, 0
    for i in sorted(range(len(sizes)), key=lambda i: -sizes[i][0]):
        height, width = sizes[i]
        if left + width > columns:
            top, left, strip = top + strip, 0, 0
        places[i] = (top, left)
        left, strip = left + width, max(strip, height)
    return top + strip, places

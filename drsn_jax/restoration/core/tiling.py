"""Restoration of an image of any size: reflect padding for small ones, blended tiles for large ones.

The generator's threshold branches average over their whole input. So the thresholds of a tile depend on its own content, not on the whole
image. Those of the whole image are no better, and a cheaper pass over a smaller copy is worse: -0.01 and -0.2 dB on ten frames of
1280x720 (docs/experiments/tile-thresholds.md). The blend hides the small differences between neighbours: 0.07 levels of 255 in flat places.
An image that fits in one tile is never split, and with `tile=None` none is.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, UInt8

from drsn_jax.models.inference import padded_size
from drsn_jax.system.errors import InputError

EVALUATION_TILE = 1280
"""Pixels. In evaluations a frame of 1280x720 is one tile, so that its thresholds depend on the whole frame."""


def restore_array(
    image: Float[np.ndarray, "h w 3"], *, predict_fn: Callable, stride: int, tile: int | None = 768, overlap: int = 64
) -> Float[np.ndarray, "h w 3"]:
    """Restore one image with values in [0, 1], of any size from 1x1 up; the result is float32 in [0, 1].

    `predict_fn` maps float32 [1 h w 3] in [-1, 1] to the same shape, h and w multiples of `stride`. An axis of up to `tile`
    pixels is reflect-padded at its end to a multiple of `stride` (at least four) and cropped back. A longer one is cut into
    tiles of exactly `tile` pixels (the last moved inwards), so one image costs one compilation. There are no seams if `predict_fn` only
    depends on `overlap // 4` pixels around; wider dependences are blended by `tile_weights`. With `tile=None` no axis is cut.
    Memory on the host: the image, one float32 result of its padded size and one tile; on the device: one tile through the network.
    Raises InputError for an image of another shape, sizes `check_tile` refuses, or a network that returns infinities or NaN.
    """
    if image.ndim != 3 or image.shape[-1] != 3 or image.size == 0:
        raise InputError(f"An image of shape {image.shape} cannot be restored; give an array [h w 3] with at least one pixel.")
    return restore_arrays(image[None], predict_fn=predict_fn, stride=stride, tile=tile, overlap=overlap)[0]


def restore_arrays(
    images: Float[np.ndarray, "b h w 3"], *, predict_fn: Callable, stride: int, tile: int | None = 768, overlap: int = 64
) -> Float[np.ndarray, "b h w 3"]:
    """Restore images of one size together, each as `restore_array` does; `predict_fn` gets all of them, [b h w 3]."""
    check_tile(stride=stride, tile=tile, overlap=overlap)
    height, width = images.shape[1:3]
    sizes = [padded_size(size, stride=stride, tile=tile) for size in (height, width)]
    pads = ((0, 0), (0, sizes[0] - height), (0, sizes[1] - width), (0, 0))
    padded = np.pad(images, pads, mode="reflect") if sizes != [height, width] else images
    if tile is None or max(height, width) <= tile:
        restored = _predict(padded, predict_fn)
    else:
        restored = _blend_tiles(padded, predict_fn, tile=tile, overlap=overlap)
    if not np.isfinite(restored).all():
        raise InputError("The network returned values that are not finite; the weights are damaged or do not fit, try another checkpoint.")
    restored = restored[:, :height, :width]
    return np.clip(restored, 0, 1, out=restored)


def restore_uint8(
    image: UInt8[np.ndarray, "*b h w 3"], *, predict_fn: Callable, stride: int, tile: int | None = 768, overlap: int = 64
) -> UInt8[np.ndarray, "*b h w 3"]:
    """Restore an 8-bit image, or several of one size, as `restore_array` does; clipped and rounded half to even, never truncated."""
    scaled = image.astype(np.float32) / np.float32(255)
    restore = restore_array if image.ndim == 3 else restore_arrays
    restored = restore(scaled, predict_fn=predict_fn, stride=stride, tile=tile, overlap=overlap)
    return to_uint8(restored)


def to_uint8(image: Float[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
    """Convert values in [0, 1] to levels of 255, rounded half to even, never truncated."""
    return np.rint(image * np.float32(255)).astype(np.uint8)


def check_tile(*, stride: int, tile: int | None, overlap: int) -> None:
    """Raise InputError unless there is no `tile`, or it is a positive multiple of `stride` and `overlap` is in [0, tile)."""
    if tile is None:
        return
    if tile <= 0 or tile % stride:
        nearest = max(stride, round(tile / stride) * stride)
        raise InputError(f"Tile size {tile} is not a positive multiple of the network's stride {stride}; use {nearest} (--tile={nearest}).")
    if not 0 <= overlap < tile:
        raise InputError(f"Overlap {overlap} is not between 0 and the tile size {tile} minus 1; use {tile // 12} (--overlap={tile // 12}).")


def tile_starts(length: int, *, tile: int, overlap: int) -> list[int]:
    """Return the first pixels of the tiles that cover an axis of `length` pixels; neighbours share at least `overlap` of them."""
    if length <= tile:
        return [0]
    return [*range(0, length - tile, tile - overlap), length - tile]


def tile_weights(length: int, *, tile: int, overlap: int) -> Float[np.ndarray, "tiles size"]:
    """Return the blending weight in [0, 1] of every tile over its own pixels along one axis; the weights of each pixel sum to one.

    Over the shared pixels the weight is zero for a quarter of `overlap`, then a raised cosine, then one. The outer quarter is unused,
    because there a convolution sees the tile's edge instead of the image. The ends of the axis are not faded.
    """
    starts = tile_starts(length, tile=tile, overlap=overlap)
    size = min(tile, length)
    margin = overlap // 4
    position = (np.arange(size) + 0.5 - margin) / max(overlap - 2 * margin, 1)
    ramp = np.sin(np.pi / 2 * np.clip(position, 0, 1)) ** 2 if overlap else np.ones(size)
    weights = np.ones((len(starts), size))
    weights[1:] *= ramp
    weights[:-1] *= ramp[::-1]
    total = np.zeros(length)
    for start, weight in zip(starts, weights, strict=True):
        total[start : start + size] += weight
    for start, weight in zip(starts, weights, strict=True):
        weight /= total[start : start + size]
    return weights


def _predict(patches: np.ndarray, predict_fn: Callable) -> Float[np.ndarray, "b h w 3"]:
    blurred = (patches * 2 - 1).astype(np.float32)
    restored = np.asarray(predict_fn(blurred), dtype=np.float32)
    if restored.shape != blurred.shape:
        raise ValueError(f"predict_fn returned shape {restored.shape} for {blurred.shape}; it must keep the shape.")
    return (restored + 1) / 2


def _blend_tiles(images: np.ndarray, predict_fn: Callable, *, tile: int, overlap: int) -> Float[np.ndarray, "b h w 3"]:
    height, width = images.shape[1:3]
    rows, columns = (tile_starts(size, tile=tile, overlap=overlap) for size in (height, width))
    row_weights, column_weights = (tile_weights(size, tile=tile, overlap=overlap) for size in (height, width))
    blended = np.zeros(images.shape, np.float32)
    for row, row_weight in zip(rows, row_weights, strict=True):
        for column, column_weight in zip(columns, column_weights, strict=True):
            window = slice(None), slice(row, row + len(row_weight)), slice(column, column + len(column_weight))
            weight = (row_weight[:, None, None] * column_weight[:, None]).astype(np.float32)
            blended[window] += weight * _predict(images[window], predict_fn)
    return blended

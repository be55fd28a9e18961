"""The figures of the study: quality, difference from the whole restoration, seams, and spread of the thresholds.

Differences are in levels of 255. The blend zone of an axis is the pixels where two tiles or more have a weight above zero.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, UInt8

from drsn_jax.ops.metrics import psnr, ssim_gaussian
from drsn_jax.restoration.core.tiling import tile_starts, tile_weights, to_uint8

SQUARE = 16  # pixels: the side of the squares that steps compare
FLAT = 2.0  # levels: the standard deviation below which a square is flat, so that a step would show
Image = Float[np.ndarray, "h w 3"]
_score = jax.jit(lambda restored, sharp: (psnr(restored, sharp), ssim_gaussian(restored, sharp)))


class Seams(NamedTuple):
    """The difference of a tiled result from the whole one, at seams and elsewhere, in levels.

    A step is the change of the difference's mean from the square of 16x16 pixels on one side of a blend zone to the one on the other side.
    Elsewhere it is the same over the same distance inside one tile. A flat step is one between squares that are flat in the whole result.
    """

    rms_blended: float
    rms_elsewhere: float
    step: float
    step_elsewhere: float
    largest_step: float
    largest_step_elsewhere: float
    largest_flat_step: float
    largest_flat_step_elsewhere: float


class _Steps(NamedTuple):
    """The size of steps, and whether they are between flat squares, by square and channel."""

    size: Float[np.ndarray, " n"]
    flat: Bool[np.ndarray, " n"]


def score(restored: Float[np.ndarray, "h w 3"], sharp: UInt8[np.ndarray, "h w 3"]) -> dict[str, float]:
    """PSNR in dB and Gaussian SSIM of a result in [0, 1], rounded to 8 bits."""
    return {name: float(value) for name, value in zip(("psnr", "ssim"), _score(to_uint8(restored), sharp), strict=True)}


def compare(tiled: Float[np.ndarray, "h w 3"], whole: Float[np.ndarray, "h w 3"]) -> dict[str, float]:
    """The mean and largest difference in levels, and the share of samples that differ, of two results rounded to 8 bits."""
    levels = np.abs(to_uint8(tiled).astype(int) - to_uint8(whole))
    return {"mean_levels": float(levels.mean()), "most_levels": float(levels.max()), "changed": float((levels > 0).mean())}


def measure_seams(tiled: Image, whole: Image, *, tile: int, overlap: int) -> Seams:
    """Measure two results in [0, 1], of which one was restored in tiles of these sizes. NaN where there is no such place."""
    difference, levels = (tiled - whole) * 255, whole * 255
    rows, columns = (blended(size, tile=tile, overlap=overlap) for size in whole.shape[:2])
    zone = rows[:, None] | columns
    rms_blended, rms_elsewhere = (_mean(difference[mask] ** 2) ** 0.5 for mask in (zone, ~zone))
    across = _steps(difference, levels, columns), _steps(difference.swapaxes(0, 1), levels.swapaxes(0, 1), rows)
    at, inside = (_join(steps) for steps in zip(*across, strict=True))
    means, largest = ([figure(steps.size) for steps in (at, inside)] for figure in (_mean, _largest))
    return Seams(rms_blended, rms_elsewhere, *means, *largest, *(_largest(steps.size[steps.flat]) for steps in (at, inside)))


def blended(length: int, *, tile: int, overlap: int) -> Bool[np.ndarray, " length"]:
    """Mark the pixels of an axis where two tiles or more have a weight above zero."""
    count = np.zeros(length, int)
    starts, weights = tile_starts(length, tile=tile, overlap=overlap), tile_weights(length, tile=tile, overlap=overlap)
    for start, weight in zip(starts, weights, strict=True):
        count[start : start + len(weight)] += weight > 0
    return count > 1


def _steps(difference: Image, levels: Image, zone: Bool[np.ndarray, " w"]) -> tuple[_Steps, _Steps]:
    """Steps along the columns: over each zone, and over the same distance without a zone in it."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], zone, [False]]).astype(int))).reshape(-1, 2)
    if not len(edges):
        return _join([]), _join([])
    width, gap = len(zone), int((edges[:, 1] - edges[:, 0]).min())
    span = 2 * SQUARE + gap
    at = [(first - SQUARE, end) for first, end in edges if first >= SQUARE and end + SQUARE <= width]
    inside = [(start, start + SQUARE + gap) for start in range(0, width - span + 1, SQUARE) if not zone[start : start + span].any()]
    return _join([_step(difference, levels, *places) for places in at]), _join([_step(difference, levels, *places) for places in inside])


def _step(difference: Image, levels: Image, first: int, second: int) -> _Steps:
    """The steps between the squares that begin at two columns."""
    changes = _squares(difference, second).mean((1, 2)) - _squares(difference, first).mean((1, 2))
    deviation = np.maximum(_squares(levels, first).std((1, 2)), _squares(levels, second).std((1, 2)))
    return _Steps(np.abs(changes).ravel(), (deviation < FLAT).ravel())


def _squares(image: Image, start: int) -> Float[np.ndarray, "n s s 3"]:
    height = image.shape[0] // SQUARE * SQUARE
    return image[:height, start : start + SQUARE].reshape(-1, SQUARE, SQUARE, 3)


def _join(steps: Sequence[_Steps]) -> _Steps:
    sizes, flats = ([getattr(each, name) for each in steps] for name in _Steps._fields)
    return _Steps(np.concatenate([np.zeros(0), *sizes]), np.concatenate([np.zeros(0, bool), *flats]))


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else float("nan")


def _largest(values: np.ndarray) -> float:
    return float(values.max()) if values.size else float("nan")


def deviations(found: Iterable[Mapping[str, Any]], whole: Mapping[str, Any]) -> dict[str, float]:
    """Return by block the mean absolute difference of thresholds from those of the whole image, relative to their mean.

    The mean is over channels, and over the tiles if each has its own.
    """
    found = list(found)
    return {
        block: float(np.mean([np.abs(np.asarray(each[block]) - np.asarray(values)).mean() for each in found]) / np.mean(values))
        for block, values in whole.items()
    }

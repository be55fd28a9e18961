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
Difference = Float[np.ndarray, "h w 3"]
_score = jax.jit(lambda restored, sharp: (psnr(restored, sharp), ssim_gaussian(restored, sharp)))


class Seams(NamedTuple):
    """The difference of a tiled result from the whole one, at seams and elsewhere, in levels.

    A step is the change of the difference's mean from the square of 16x16 pixels on one side of a blend zone to the one on the other side.
    Elsewhere it is the same over the same distance inside one tile.
    """

    rms_blended: float
    rms_elsewhere: float
    step: float
    step_elsewhere: float
    largest_step: float
    largest_step_elsewhere: float


def score(restored: Float[np.ndarray, "h w 3"], sharp: UInt8[np.ndarray, "h w 3"]) -> dict[str, float]:
    """PSNR in dB and Gaussian SSIM of a result in [0, 1], rounded to 8 bits."""
    return {name: float(value) for name, value in zip(("psnr", "ssim"), _score(to_uint8(restored), sharp), strict=True)}


def compare(tiled: Float[np.ndarray, "h w 3"], whole: Float[np.ndarray, "h w 3"]) -> dict[str, float]:
    """The mean and largest difference in levels, and the share of samples that differ, of two results rounded to 8 bits."""
    levels = np.abs(to_uint8(tiled).astype(int) - to_uint8(whole))
    return {"mean_levels": float(levels.mean()), "most_levels": float(levels.max()), "changed": float((levels > 0).mean())}


def measure_seams(difference: Difference, *, tile: int, overlap: int) -> Seams:
    """Measure a difference in levels, whose image was cut into tiles of these sizes. NaN where there is no such place."""
    rows, columns = (blended(size, tile=tile, overlap=overlap) for size in difference.shape[:2])
    zone = rows[:, None] | columns
    at_zones, elsewhere = [], []
    for turned, along in ((difference, columns), (difference.swapaxes(0, 1), rows)):
        at_zone, inside = _steps(turned, along)
        at_zones.append(at_zone)
        elsewhere.append(inside)
    at, inside = np.concatenate(at_zones), np.concatenate(elsewhere)
    rms_blended, rms_elsewhere = (_mean(difference[mask] ** 2) ** 0.5 for mask in (zone, ~zone))
    return Seams(rms_blended, rms_elsewhere, _mean(at), _mean(inside), _largest(at), _largest(inside))


def blended(length: int, *, tile: int, overlap: int) -> Bool[np.ndarray, " length"]:
    """Mark the pixels of an axis where two tiles or more have a weight above zero."""
    count = np.zeros(length, int)
    starts, weights = tile_starts(length, tile=tile, overlap=overlap), tile_weights(length, tile=tile, overlap=overlap)
    for start, weight in zip(starts, weights, strict=True):
        count[start : start + len(weight)] += weight > 0
    return count > 1


def _steps(difference: Difference, zone: Bool[np.ndarray, " w"]) -> tuple[np.ndarray, np.ndarray]:
    """Steps along the columns, of all squares and channels: over each zone, and over the same distance without a zone in it."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], zone, [False]]).astype(int))).reshape(-1, 2)
    if not len(edges):
        return np.zeros(0), np.zeros(0)
    height, width = (size // SQUARE * SQUARE for size in difference.shape[:2])
    bands = difference[:height].reshape(height // SQUARE, SQUARE, *difference.shape[1:]).mean(1)
    at = [_step(bands, first - SQUARE, end) for first, end in edges if first >= SQUARE and end + SQUARE <= difference.shape[1]]
    gap = int((edges[:, 1] - edges[:, 0]).min())
    starts = range(0, width - 2 * SQUARE - gap + 1, SQUARE)
    inside = [_step(bands, start, start + SQUARE + gap) for start in starts if not zone[start : start + 2 * SQUARE + gap].any()]
    return _join(at), _join(inside)


def _step(bands: Float[np.ndarray, "n w 3"], first: int, second: int) -> Float[np.ndarray, "n 3"]:
    """The change of the mean between the squares that begin at two columns."""
    means = (bands[:, start : start + SQUARE].mean(1) for start in (second, first))
    return np.abs(np.subtract(*means))


def _join(steps: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.zeros(0), *(step.ravel() for step in steps)])


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

"""Flicker of a video before and after restoring."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

BLOCK = 32  # pixels a side: large enough that motion within a block hardly changes its mean
_LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32) * 255  # BT.709


class Change(NamedTuple):
    """The mean change of a block's figure between consecutive frames, over blocks and frames, in levels of 255.

    `before` and `after` are for the blurred and the restored video, including motion; `added` is for their difference, where motion
    cancels.
    """

    before: float
    after: float
    added: float


class Flicker(NamedTuple):
    """The changes of brightness (the mean of a block) and of detail (its standard deviation)."""

    brightness: Change
    detail: Change


class FlickerMeter:
    """A meter of the flicker that restoring adds to a video, frame by frame. It keeps only one figure per block of each frame.

    Let m(t) be the mean luminance of a block of 32x32 pixels in frame t of the blurred video, and M(t) that of the restored video.
    Luminance has BT.709 weights and is gamma-encoded, from 0 to 255. Means over all blocks and all pairs of consecutive frames:

    - `before`: |m(t+1) - m(t)|
    - `after`: |M(t+1) - M(t)|
    - `added`: |(M - m)(t+1) - (M - m)(t)|

    Motion, cuts and changing light are in both videos and hardly affect `added`. A network that treats all frames alike adds nothing, even
    if it brightens them all. For detail, the standard deviations within the block, s and S, replace m and M. A sharper video has larger
    ones, so motion changes them more, and `added` is above 0 even without flicker. Margins that do not fill a block are ignored, unless the
    frame is smaller than one.
    """

    def __init__(self):
        """Start without a measurement."""
        self._last: np.ndarray | None = None
        self._sum, self._pairs = np.zeros((2, 3)), 0

    def add(self, blurred: Float[np.ndarray, "h w 3"], restored: Float[np.ndarray, "h w 3"]) -> None:
        """Add the next frame, in [0, 1]; all have one size."""
        before, after = _measure_blocks(blurred), _measure_blocks(restored)
        figures = np.stack([before, after, after - before], axis=1)  # [2 3 blocks]
        if self._last is not None:
            self._sum += np.abs(figures - self._last).mean(axis=-1)
            self._pairs += 1
        self._last = figures

    def result(self) -> Flicker | None:
        """Return the means so far; None before the second frame."""
        if not self._pairs:
            return None
        return Flicker(*(Change(*(float(value) for value in row)) for row in self._sum / self._pairs))


def _measure_blocks(image: np.ndarray) -> Float[np.ndarray, "2 blocks"]:
    """Measure the mean and the standard deviation of the luminance of each block."""
    height, width = (min(BLOCK, size) for size in image.shape[:2])
    rows, columns = image.shape[0] // height, image.shape[1] // width
    luma = image[: rows * height, : columns * width] @ _LUMA
    blocks = luma.reshape(rows, height, columns, width)
    return np.stack([blocks.mean(axis=(1, 3), dtype=np.float64).ravel(), blocks.std(axis=(1, 3), dtype=np.float64).ravel()])

"""Flicker of a video before and after it was restored."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

BLOCK = 32  # pixels a side: large enough that what moves within a block does not change its mean by much
_LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32) * 255  # BT.709


class Change(NamedTuple):
    """What a figure of a block changes by from frame to frame, mean over blocks and pairs of frames, in levels of 255.

    `before` and `after` are of the blurred and of the restored video, with what moves in them; `added` is of their difference, from
    which that is gone.
    """

    before: float
    after: float
    added: float


class Flicker(NamedTuple):
    """The changes of brightness (the mean of a block) and of detail (its standard deviation)."""

    brightness: Change
    detail: Change


class FlickerMeter:
    """Measures the flicker that restoring adds to a video, frame by frame; of each frame only one figure a block is kept.

    With m(t) the mean luminance (BT.709 weights, gamma as it is, 0 to 255) of a block of 32x32 pixels in frame t of the blurred video and
    M(t) in the restored one: `before` is the mean of |m(t+1) - m(t)| over all blocks and all pairs of consecutive frames, `after` that of
    |M(t+1) - M(t)|, `added` that of |(M - m)(t+1) - (M - m)(t)|. Moving things, cuts and changing light are in both videos and so hardly
    in `added`; a network that treats all frames alike adds nothing, even if it brightens them all. For detail, s and S, the standard
    deviations within the block, take the place of m and M: a sharper video has larger ones, so that movement changes them by more, and
    `added` is above 0 then even where nothing pulses. Margins that fill no block are left out, unless the frame is smaller than one.
    """

    def __init__(self):
        """Nothing is measured yet."""
        self._last: np.ndarray | None = None
        self._sum, self._pairs = np.zeros((2, 3)), 0

    def add(self, blurred: Float[np.ndarray, "h w 3"], restored: Float[np.ndarray, "h w 3"]) -> None:
        """The next frame, in [0, 1]; all of one size."""
        before, after = _measure_blocks(blurred), _measure_blocks(restored)
        figures = np.stack([before, after, after - before], axis=1)  # [2 3 blocks]
        if self._last is not None:
            self._sum += np.abs(figures - self._last).mean(axis=-1)
            self._pairs += 1
        self._last = figures

    def result(self) -> Flicker | None:
        """The means so far; None before the second frame."""
        if not self._pairs:
            return None
        return Flicker(*(Change(*(float(value) for value in row)) for row in self._sum / self._pairs))


def _measure_blocks(image: np.ndarray) -> Float[np.ndarray, "2 blocks"]:
    """The mean and the standard deviation of the luminance of each block."""
    height, width = (min(BLOCK, size) for size in image.shape[:2])
    rows, columns = image.shape[0] // height, image.shape[1] // width
    luma = image[: rows * height, : columns * width] @ _LUMA
    blocks = luma.reshape(rows, height, columns, width)
    return np.stack([blocks.mean(axis=(1, 3), dtype=np.float64).ravel(), blocks.std(axis=(1, 3), dtype=np.float64).ravel()])

"""The choice of frames to average: motion of the picture, cuts between shots, and the resulting windows."""

import hashlib
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from PIL import Image

from drsn_jax.data.making.averaging import Window
from drsn_jax.data.making.video import Frame

NEIGHBOURS = 6  # differences on each side that define the usual level: a quarter of a second at 25 frames a second
_FLOOR = 1.0  # grey levels: smaller differences are noise of a still scene


class Motion(NamedTuple):
    """The differences of each frame of a source from earlier ones, on a small grey image. Grey levels, squared except for `levels`."""

    lag: int
    block: int  # full-size pixels per pixel of the grey image
    levels: list[float]  # mean absolute difference from the frame before
    squares: list[float]  # mean squared difference from the frame before
    lagged: list[float]  # the same from `lag` frames before
    slopes: list[float]  # mean squared difference between neighbouring pixels
    gaps: list[bool]  # frames are missing before this one
    pts: list[int | None]  # time stamps, if they rise


def measure_motion(frames: Iterable[Frame], *, lag: int) -> Motion:
    """Measure all frames of a source, reduced to about 180 pixels on the shorter side; keeps `lag` small frames in memory."""
    motion, newest = Motion(lag, 1, *([] for _ in range(6))), None
    recent: deque[np.ndarray] = deque(maxlen=lag)
    for frame in frames:
        motion = motion._replace(block=max(1, round(min(frame.pixels.shape[:2]) / 180)))
        grey = np.asarray(Image.fromarray(frame.pixels).convert("L").convert("F").reduce(motion.block))
        change, lagged = (grey - recent[i] if recent else np.zeros_like(grey) for i in (-1, 0))
        slopes = [np.square(np.diff(grey, axis=axis)).mean() for axis in (0, 1) if grey.shape[axis] > 1]
        rises = frame.pts is not None and (newest is None or frame.pts > newest)  # otherwise a time stamp does not identify a frame
        newest = frame.pts if rises else newest
        values = (np.abs(change).mean(), np.square(change).mean(), np.square(lagged).mean(), np.mean(slopes or 0.0))
        for entries, value in zip(motion[2:6], values, strict=True):
            entries.append(float(value))
        motion.gaps.append(frame.gap)
        motion.pts.append(frame.pts if rises else None)
        recent.append(grey)
    return motion


def travelled(motion: Motion, first: int, n: int) -> float:
    """Estimate the motion of the picture in pixels over `n` > `motion.lag` frames from number `first` on: the length of the blur.

    Let v be a small shift between frames, s the variance of the noise, and g the image's mean squared slope. Then the mean squared
    difference of two frames k apart is 2 s + (k v)^2 g. The difference between k = lag and k = 1 removes the noise and gives v. Large
    shifts, compared with the structures of the picture, are underestimated, so this only distinguishes motion from rest. With a lag of 1
    noise counts as motion.
    """
    near, far = np.mean(motion.squares[first + 1 : first + n]), np.mean(motion.lagged[first + motion.lag : first + n])
    excess = (far - near) / (motion.lag**2 - 1) if motion.lag > 1 else near
    slope = max(float(np.mean(motion.slopes[first : first + n])), 0.25)  # avoids a division by zero for a blank picture
    return round(float(motion.block * (n - 1) * np.sqrt(max(excess, 0.0) / slope)), 3)


def find_cuts(levels: Sequence[float], *, threshold: float) -> list[int]:
    """Find the frames that start a new shot: their difference exceeds `threshold` times the usual one.

    The usual difference is the larger of two medians, of the `NEIGHBOURS` differences before and after, at least 1 grey level. A median
    ignores the cut itself and another one near by. The larger one avoids false cuts where a camera starts or stops moving. On the real clip
    of 299 frames the ratio is at most 1.6; that of a hard cut is usually above 5. A slow dissolve is not found.
    """
    cuts = []
    for frame in range(1, len(levels)):
        before, after = levels[max(1, frame - NEIGHBOURS) : frame], levels[frame + 1 : frame + 1 + NEIGHBOURS]
        ordinary = max([_FLOOR, *(float(np.median(side)) for side in (before, after) if len(side))])
        if levels[frame] > threshold * ordinary:
            cuts.append(frame)
    return cuts


class Choice(NamedTuple):
    """The chosen windows, the number of static ones that were skipped (and the largest motion among them), and the cuts."""

    windows: list[Window]
    static: int
    most_static: float
    cuts: list[int]


def choose_windows(
    motion: Motion,
    *,
    frames: tuple[int, int],
    stride: int | None,
    cut_threshold: float,
    min_motion: float,
    exclude: Sequence[tuple[int, int]],
    seed: int,
    scene: str,
) -> Choice:
    """Choose windows of `frames[0]` to `frames[1]` frames; the number is drawn for each from (seed, scene, first frame).

    A window starts where the last one ended, or `stride` frames after its start. None contains a cut, missing frames, or a frame of
    `exclude` (ranges with both ends, 1 is the first frame). After these a new window starts. Windows with less than `min_motion` pixels of
    motion (see `travelled`) are static. `motion` needs a lag below `frames[0]`.
    """
    cuts = find_cuts(motion.levels, threshold=cut_threshold)
    out = {frame - 1 for low, high in exclude for frame in range(low, min(high, len(motion.levels)) + 1)}
    breaks = {*cuts, *(frame for frame, gap in enumerate(motion.gaps) if gap), *out, *(frame + 1 for frame in out)}
    edges = sorted({0, len(motion.levels), *breaks} - {len(motion.levels) + 1})
    windows: list[Window] = []
    for start, end in pairwise(edges):
        while start not in out and end - start >= frames[0]:
            n = min(_draw(frames, f"{seed}/{scene}/{start}"), end - start)
            windows.append(Window(start, n, travelled(motion, start, n), motion.pts[start]))
            start += stride or n
    moving = [window for window in windows if window.motion >= min_motion]
    still = [window.motion for window in windows if window.motion < min_motion]
    return Choice(moving, len(still), max(still, default=0.0), cuts)


def _draw(frames: tuple[int, int], name: str) -> int:
    """Draw a whole number from the range, the same for the same name on every machine."""
    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    return frames[0] + number % (frames[1] - frames[0] + 1)

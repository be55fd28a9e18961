"""Blur by GoPro's method (Nah, Kim and Lee, CVPR 2017): the mean light of consecutive frames.

Checked on the raw clip GOPR0477_11_00 and on published averages of it. A pair called `st_frame-s_n_avg-8` is the mean of frames s to s + 7
with a gamma of 2.2, at 49.0 to 49.2 dB. Frame 0 is the first. One of four pairs is the plain mean, at 49.4 dB. The sharp frame is s + 4.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from drsn_jax.data.making.video import Frame
from drsn_jax.system.errors import InputError


class Response(NamedTuple):
    """A camera's response: the light of each 8-bit value, in any unit, and the light half-way (in values) to the next one."""

    light: Float[np.ndarray, " 256"]
    edges: Float[np.ndarray, " 255"]


def gamma_response(gamma: float) -> Response:
    """Return light = value^gamma; 2.2 is GoPro's, 1 averages the values themselves. Raises `InputError` unless 0 < gamma <= 10."""
    if not 0 < gamma <= 10:
        raise InputError(f"gamma={gamma} is out of range; use 2.2, or 1 to average the values directly (allowed: above 0, up to 10)")
    return Response(np.arange(256.0) ** gamma, (np.arange(255.0) + 0.5) ** gamma)


def read_response(path: Path) -> Response:
    """Read a response of 256 increasing numbers, the light of values 0 to 255, from a .npy or text file (commas, spaces or lines between).

    Raises `InputError` if the file is missing, unreadable, or has other content.
    """
    needed = "a response is 256 increasing numbers, the light of the values 0 to 255 (.npy, or .csv)"
    try:
        text = "" if path.suffix.lower() == ".npy" else path.read_text().replace(",", " ")
        light = np.array(text.split(), np.float64) if text else np.load(path, allow_pickle=False).astype(np.float64).ravel()
    except (OSError, ValueError, EOFError) as error:  # UnicodeDecodeError is a ValueError
        raise InputError(f"{path} cannot be read as numbers ({' '.join(str(error).split())}); {needed}") from error
    if light.shape != (256,) or not np.isfinite(light).all() or not (np.diff(light) > 0).all():
        steps = "" if len(light) != 256 else ", not all finite and increasing"
        raise InputError(f"{path} holds {len(light)} numbers{steps}; {needed}")
    return Response(light, (light[1:] + light[:-1]) / 2)


def average_frames(frames: Sequence[UInt8[np.ndarray, "h w 3"]], response: Response) -> UInt8[np.ndarray, "h w 3"]:
    """Return the value for the mean light of the frames, rounded to 0..255: ((1/n) sum s^2.2)^(1/2.2) for gamma 2.2."""
    total = response.light[frames[0]]
    for frame in frames[1:]:
        total += response.light[frame]
    return np.searchsorted(response.edges * len(frames), total).astype(np.uint8)


class Window(NamedTuple):
    """Frames `first` to `first + n - 1`, their motion in pixels, and the time stamp of `first`. Frame 0 is the first of the source."""

    first: int
    n: int
    motion: float
    pts: int | None

    @property
    def sharp(self) -> int:
        """The centre frame; for even n the later of the two, as in GoPro's pairs."""
        return self.first + self.n // 2


def average_windows(
    frames: Iterable[Frame], windows: Sequence[Window], *, response: Response, first: int = 0
) -> Iterator[tuple[Window, UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w 3"]]]:
    """Yield (window, blurred, sharp) for each window. Frames are read once, from number `first` on, and kept only while needed.

    Raises `InputError` if the frames end before the windows do.
    """
    waiting, begun = deque(sorted(windows)), []
    held: dict[int, UInt8[np.ndarray, "h w 3"]] = {}
    for number, frame in enumerate(frames, start=first):
        while waiting and waiting[0].first <= number:
            begun.append(waiting.popleft())
        held[number] = frame.pixels
        for window in [window for window in begun if window.first + window.n == number + 1]:
            begun.remove(window)
            blurred = average_frames([held[number] for number in range(window.first, window.first + window.n)], response)
            yield window, blurred, held[window.sharp]
        if not begun and not waiting:
            return
        oldest = min((window.first for window in begun), default=number + 1)
        held = {i: pixels for i, pixels in held.items() if i >= oldest}
    if begun or waiting:
        raise InputError("The frames end before the chosen windows, because the source has changed; make the pairs again (--overwrite)")

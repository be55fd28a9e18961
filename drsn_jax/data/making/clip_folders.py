"""Folders of frames, read for the device with their gaps, their motion and their soft frames."""

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, UInt8
from scipy import ndimage

from drsn_jax.data.images.bad_images import BadImages
from drsn_jax.data.images.listing import list_images
from drsn_jax.data.images.rgb import read_rgb
from drsn_jax.data.images.sharpness import measure_sharpness
from drsn_jax.data.making.video import Frame
from drsn_jax.data.making.windows import measure_motion, travelled
from drsn_jax.data.synthesis.clips import Clip, make_clip, window_numbers
from drsn_jax.system.errors import InputError

_NEIGHBOURS = 4  # frames on each side: of seven inserted between two, each has a filmed one this near
_LAG = 2  # frames: motion grows with the distance between two frames, noise does not


class Folder(NamedTuple):
    """The frames of one folder in order, all of one size. `following` is as in `Clip`, `speed` in pixels per frame."""

    path: Path
    frames: list[UInt8[np.ndarray, "h w 3"]]
    following: Int[np.ndarray, " n"]
    sharp: Bool[np.ndarray, " n"] | None
    speed: float


def read_clips(
    folders: Sequence[Path],
    *,
    crop_size: int,
    averaged: tuple[int, int] = (1, 1),
    odd: bool = False,
    sharpness: float = 0.0,
    bad_images_fn: Callable[[int], BadImages] | None = None,
) -> tuple[Clip, dict[str, float]]:
    """Read folders of frames with numbered names (000001.jpg ...). Returns the clip, and each folder's share of all windows.

    A folder that contains only folders is replaced by these. A missing number is a gap, and no average extends over a gap. `bad_images_fn`
    gets the number of frames; a damaged frame that it skips is a gap too. With several folders, the probability of a window is
    proportional to its folder's motion per frame. The share of a folder is then its total motion, for any frame rate. With `sharpness`,
    windows are excluded if their middle frame is soft (`find_sharp`).

    Raises InputError if there are no frames, if names have no number, or if frames differ in size or are smaller than the crop. Raises it
    also if a folder has no window for one of the numbers of frames to average.
    """
    numbers = window_numbers(averaged, odd=odd)
    found = [(folder, _number_frames(folder)) for folder in _expand(folders)]
    total = sum(len(numbered) for _, numbered in found)
    bad_images = bad_images_fn(total) if bad_images_fn else BadImages(total, what="frames", skip=False)
    read = [_read_folder(*one, crop_size=crop_size, sharpness=sharpness, bad_images=bad_images, move=len(found) > 1) for one in found]
    for folder in read:
        _check_windows(folder, numbers, sharpness=sharpness)
    speeds = _relative([folder.speed for folder in read])
    frames = [frame for folder in read for frame in folder.frames]
    following = np.concatenate([folder.following for folder in read])
    weights = np.repeat(np.array(speeds, np.float32), [len(folder.frames) for folder in read]) if len(read) > 1 else None
    sharp = np.concatenate([folder.sharp for folder in read if folder.sharp is not None]) if sharpness else None
    return make_clip(frames, following, weights=weights, sharp=sharp), _shares(read, speeds)


def _expand(folders: Sequence[Path]) -> list[Path]:
    """Return the folders of frames: each folder itself, or the folders in it if it has no frames."""
    expanded = []
    for folder in folders:
        if folder.is_dir() and not list_images(folder, deep=False):
            inner = sorted({path.parent for path in list_images(folder)})
            expanded += inner or [folder]
        else:
            expanded.append(folder)
    return expanded


def _number_frames(folder: Path) -> list[tuple[Path, int]]:
    """Return path and number of every frame of a folder."""
    paths = list_images(folder, deep=False) if folder.is_dir() else []
    numbers = [int(found.group()) if (found := re.search(r"\d+(?=\D*$)", path.stem)) else None for path in paths]
    if not paths or None in numbers:
        raise InputError(f"{folder} contains no frames with numbered names, such as 000001.jpg; give a folder of a clip's frames.")
    return [(path, number) for path, number in zip(paths, numbers, strict=True) if number is not None]


def _read_folder(
    folder: Path, numbered: list[tuple[Path, int]], *, crop_size: int, sharpness: float, bad_images: BadImages, move: bool
) -> Folder:
    read = [(path, number, bad_images.read(str(path), partial(read_rgb, path))) for path, number in numbered]
    kept = [(path, number, image) for path, number, image in read if image is not None]
    if not kept:
        raise InputError(f"No frame of {folder} can be read; give a folder of a clip's frames.")
    size = kept[0][2].shape
    for path, _, image in kept:
        if image.shape != size or min(image.shape[:2]) < crop_size:
            raise InputError(
                f"{path} is {image.shape[1]}x{image.shape[0]}. Frames must have the size of the first ({size[1]}x{size[0]})"
                f" and be at least as large as the crop of {crop_size} (--config.crop_size). Remove this one, or use a smaller crop."
            )
    frames, following = [image for _, _, image in kept], np.ones(len(kept), np.int32)
    for i in range(len(kept) - 2, -1, -1):
        if kept[i + 1][1] == kept[i][1] + 1:
            following[i] += following[i + 1]
    sharp = find_sharp([measure_sharpness(frame) for frame in frames], share=sharpness) if sharpness else None
    return Folder(folder, frames, following, sharp, measure_speed(frames, following) if move else 1.0)


def find_sharp(sharpness: Sequence[float], *, share: float) -> Bool[np.ndarray, " n"]:
    """Mark the frames that have at least `share` of the clip's median sharpness, and of the largest among four frames on each side.

    The median excludes frames of a fast motion of the whole view. The neighbours exclude frames that were computed instead of filmed, for
    any amount of detail in this part of the clip.
    """
    measured = np.array(sharpness)
    near = ndimage.maximum_filter1d(measured, 2 * _NEIGHBOURS + 1, mode="nearest")
    return (measured >= share * np.median(measured)) & (measured >= share * near)


def measure_speed(frames: Sequence[UInt8[np.ndarray, "h w 3"]], following: Int[np.ndarray, " n"]) -> float:
    """Estimate the mean motion in pixels from one frame to the next, over all runs without a gap; 0 if all are too short."""
    motion = measure_motion(map(Frame, frames), lag=_LAG)
    first, far, steps = 0, 0.0, 0
    while first < len(frames):
        run = int(following[first])
        if run > _LAG:
            far, steps = far + travelled(motion, first, run), steps + run - 1
        first += run
    return far / steps if steps else 0.0


def _relative(speeds: Sequence[float]) -> list[float]:
    """Divide speeds by the largest; all are 1 if nothing moves."""
    return [speed / max(speeds) for speed in speeds] if max(speeds) else [1.0] * len(speeds)


def _shares(folders: Sequence[Folder], speeds: Sequence[float]) -> dict[str, float]:
    """Estimate the share of each folder in all windows. Windows that are too long or too soft also count."""
    weights = {str(folder.path): len(folder.frames) * speed for folder, speed in zip(folders, speeds, strict=True)}
    return {name: weight / sum(weights.values()) for name, weight in weights.items()}


def _check_windows(folder: Folder, numbers: Sequence[int], *, sharpness: float) -> None:
    """Raise InputError if a folder has no window for one of the numbers of frames."""
    longest = int(folder.following.max())
    if longest < max(numbers):
        raise InputError(
            f"frames_averaged={min(numbers)},{max(numbers)} averages more frames than the longest run without a gap in {folder.path}:"
            f" {longest} frames; use 1 to {longest} (--config.frames_averaged)."
        )
    for number in numbers if folder.sharp is not None else ():
        firsts = np.flatnonzero(folder.following >= number)
        if folder.sharp is not None and not folder.sharp[firsts + number // 2].any():
            raise InputError(
                f"frames_sharpness={sharpness:g} leaves no window of {number} frames in {folder.path}: each has a soft frame in the middle."
                " Use a lower share (--config.frames_sharpness=0.5), or fewer frames."
            )

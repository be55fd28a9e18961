"""The frames of a video file (PyAV), or of a folder of frames, one at a time."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from drsn_jax.data.images.listing import IMAGE_SUFFIXES, list_images
from drsn_jax.data.images.rgb import read_rgb
from drsn_jax.system.errors import InputError
from drsn_jax.system.paths import local_path
from drsn_jax.system.video_files import explaining_damage, open_video

_RESERVED = ("blur", "blur_gamma", "sharp", "input", "target", "A", "B", "train", "test", "val", "valid", "validation")


class Source(NamedTuple):
    """A video file or a folder of frames, and the name of the scene for its pairs."""

    path: Path
    scene: str


class Frame(NamedTuple):
    """One frame in display order. `pts` is its time stamp, if the video has one; `gap` means that frames are missing before it."""

    pixels: UInt8[np.ndarray, "h w 3"]
    pts: int | None = None
    gap: bool = False


def open_sources(paths: Sequence[str | Path]) -> list[Source]:
    """Name the scene of each source: the file's name without suffix or the folder's, with a number if two are equal.

    Names with a meaning in a folder of pairs (blur, sharp, train, ...) get a prefix. Raises `InputError` for a missing source.
    """
    sources: list[Source] = []
    for path in (local_path(path) for path in paths):
        if not path.exists():
            raise InputError(f"{path} does not exist; give a video file or a folder of frames")
        base = (path.resolve().name if path.is_dir() else path.stem).lstrip("._") or "scene"
        base = f"scene-{base}" if base in _RESERVED else base
        taken, name, number = {source.scene for source in sources}, base, 2
        while name in taken:
            name, number = f"{base}-{number}", number + 1
        sources.append(Source(path, name))
    return sources


def identify(source: Source) -> dict[str, Any]:
    """Identify a source without reading it: scene, and the bytes of the file or of all frames of the folder."""
    files = list_frames(source.path) if source.path.is_dir() else [source.path]
    return {"scene": source.scene, "files": len(files), "bytes": sum(file.stat().st_size for file in files)}


def list_frames(folder: Path) -> list[Path]:
    """List the images directly in a folder; numbers in names are sorted as numbers (2 before 10). Raises `InputError` if there are none."""
    files = list_images(folder, deep=False)
    if not files:
        raise InputError(f"{folder} holds no images; give the folder that directly holds the frames ({', '.join(IMAGE_SUFFIXES)})")
    return sorted(files, key=_natural)


def read_frames(path: Path, *, first: int = 0, pts: int | None = None) -> Iterator[Frame]:
    """Yield the frames from number `first` (0 is the first displayed) on, uint8 RGB 0..255, upright, all of one size.

    With `pts`, the time stamp of frame `first`, a video is decoded from the key frame before it; otherwise from its start. In a folder a
    frame has `gap` if its number does not follow the one before by the folder's usual step.
    Raises `InputError` naming the source for: no images, no video stream, no frame at all, damage, frames of different sizes,
    a missing PyAV.
    """
    frames = _read_folder(path, first) if path.is_dir() else _read_video(path, first, pts)
    size = None
    for number, frame in enumerate(frames, start=first + 1):
        size = size or frame.pixels.shape
        if frame.pixels.shape != size:
            shown = " and ".join(f"{shape[1]}x{shape[0]}" for shape in (size, frame.pixels.shape))
            raise InputError(
                f"{path} has frames of different sizes, {shown} (frame {number}); cut it there or scale its frames to one size"
            )
        yield frame
    if size is None and not first:
        raise InputError(f"{path} holds no frame that can be decoded; give a video with at least a few frames")


def _read_folder(folder: Path, first: int) -> Iterator[Frame]:
    files = list_frames(folder)
    gaps = _gaps(files)
    for file, gap in zip(files[first:], gaps[first:], strict=True):
        yield Frame(read_rgb(file), gap=gap)


def _gaps(files: Sequence[Path]) -> list[bool]:
    """Return for each name whether its number is further from the one before than usual, which means removed frames."""
    numbers = [int(found[-1]) if (found := re.findall(r"\d+", file.stem)) else None for file in files]
    if None in numbers or len(files) < 3:
        return [False] * len(files)
    steps = np.diff(np.array(numbers, object))
    return [False, *(bool(step != sorted(steps)[len(steps) // 2]) for step in steps)]


def _natural(path: Path) -> list[tuple[int, str]]:
    parts = re.split(r"(\d+)", path.name)
    return [(int(part), part) if part.isdecimal() else (-1, part) for part in parts]


def _read_video(path: Path, first: int, pts: int | None) -> Iterator[Frame]:
    if first and pts is not None:
        wanted = _seek(path, pts)
        found = next(wanted, None)
        if found is not None:
            yield found
            yield from wanted
            return
    with _decoding(path) as decode_fn:
        for number, frame in enumerate(decode_fn(None)):
            if number >= first:
                yield _to_frame(frame)


def _seek(path: Path, pts: int) -> Iterator[Frame]:
    """Yield the frames from the one with time stamp `pts` on; none if seeking fails, as in formats without an index."""
    with _decoding(path) as decode_fn:
        started = False
        for frame in decode_fn(pts):
            started = started or frame.pts == pts
            if not started and (frame.pts is None or frame.pts > pts):
                return
            if started:
                yield _to_frame(frame)


@contextmanager
def _decoding(path: Path) -> Iterator[Callable[[int | None], Iterator[Any]]]:
    """Make a function that decodes the first video stream from its start or from the key frame before a time stamp."""
    with open_video(path) as (container, stream):

        def decode(pts: int | None) -> Iterator[Any]:
            with explaining_damage(path):
                if pts is not None:
                    container.seek(pts, stream=stream)
                yield from container.decode(stream)

        yield decode


def _to_frame(frame: Any) -> Frame:
    """Convert to RGB, rotated by the file's metadata (phones record sideways)."""
    pixels = frame.to_ndarray(format="rgb24")
    return Frame(np.ascontiguousarray(np.rot90(pixels, round(frame.rotation / 90) % 4)), frame.pts)

"""Opening of video files (PyAV), with faults reported in one line."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from drsn_jax.system.errors import InputError


def file_name(path: Path) -> str:
    """Return a name that FFmpeg takes for a file. In a relative path it would take the part before a colon for a protocol."""
    return os.path.abspath(path)


@contextmanager
def open_video(path: Path) -> Iterator[tuple[Any, Any]]:
    """Open the container and its first video stream that is no cover picture, decoded by several threads.

    Addresses are never opened, neither in the path nor inside the file (a playlist).
    Raises InputError if PyAV is missing, and for a file that is empty, damaged, or has no video. Errors in the caller's block pass
    unchanged: decode inside `explaining_damage`.
    """
    try:
        import av
    except ImportError as error:
        raise InputError(f"Reading {path} needs PyAV ({error}): pip install 'drsn-jax[video]'") from error
    with explaining_damage(path):
        if path.stat().st_size == 0:
            raise InputError(f"{path} is empty (0 bytes); replace it")
        # A title that is not UTF-8 must not cost the video. PyAV 19 no longer has this option and accepts such titles.
        lenient: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.partition(".")[0]) < 19 else {}
        container = av.open(file_name(path), options={"protocol_whitelist": "file"}, **lenient)
    with container:
        streams = [stream for stream in container.streams.video if "attached_pic" not in str(stream.disposition)]
        if not streams:
            raise InputError(f"{path} has no video stream; give a video file")
        streams[0].thread_type = "AUTO"
        yield container, streams[0]


@contextmanager
def explaining_damage(path: Path) -> Iterator[None]:
    """Turn PyAV's errors while reading `path` into an InputError."""
    from av.error import FFmpegError

    try:
        yield
    except InputError:
        raise
    except (FFmpegError, ValueError) as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise InputError(f"{path} cannot be decoded as a video ({reason}); it is damaged or no video: replace it") from error

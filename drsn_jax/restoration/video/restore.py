"""Restoration of a video file frame by frame; its sound, time stamps, colours and orientation are kept."""

import time
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Float

from drsn_jax.data.images.opening import check_source
from drsn_jax.data.images.photo import quoted
from drsn_jax.restoration.core.restorer import RestoreFn
from drsn_jax.restoration.files.images import check_target, unwritable
from drsn_jax.restoration.video.coding import VIDEO_SUFFIXES, Coding, choose_coding, decode_frame
from drsn_jax.restoration.video.flicker import Flicker, FlickerMeter
from drsn_jax.restoration.video.writer import VideoWriter, open_writer
from drsn_jax.system.errors import InputError
from drsn_jax.system.files import appearing
from drsn_jax.system.progress import Countdown
from drsn_jax.system.video_files import explaining_damage, open_video

_MOST_PACKETS = 512  # copied at once; some files store all sound behind the frames
_MISSING_SECONDS, _MISSING_PART = 0.5, 0.1  # at the end: a last frame may be shown for long, which not every format records
_HDR_DATA = ("MASTERING_DISPLAY_METADATA", "CONTENT_LIGHT_LEVEL")
T = TypeVar("T")


class VideoReport(NamedTuple):
    """The result. `notes` list, one line each, lost features and suspected faults of the source."""

    frames: int
    size: tuple[int, int]  # height and width
    seconds: float
    flicker: Flicker | None  # None for a single frame
    notes: list[str]


class _Survey(NamedTuple):
    """Properties of a file before restoring: its frames by the count of packets, and the display matrix."""

    frames: int
    matrix: list[int] | None
    notes: list[str]


class _Piece(NamedTuple):
    """A frame, or none at the end of the file, with the preceding packets of the copied streams."""

    rgb: Float[np.ndarray, "h w 3"] | None
    pts: int | None
    duration: int
    corrupt: bool
    packets: list[Any]


def restore_video(source: Path, target: Path, *, restore_fn: RestoreFn, overwrite: bool = False) -> VideoReport:
    """Restore a video file, with progress on stderr. Only a few frames are in memory, for a video of any length.

    Frames are encoded again (`choose_coding`), with the same time stamps, colour space, range and display matrix. Sound and subtitles are
    copied without encoding. The target's suffix gives the format. The next frame is read and the last one written while the network
    processes one. `target` appears whole or not at all, also when interrupted. Raises InputError without PyAV, and for a source that is
    missing, damaged, or has no video. Raises it also if `target` exists (without `overwrite`) or cannot be written.
    """
    check_target(target, overwrite=overwrite)
    check_source(source, kind="a video")
    started, survey = time.perf_counter(), _survey(source)
    with open_video(source) as (container, stream):
        from av.error import FFmpegError

        coding, meter = choose_coding(stream, suffix=target.suffix.lower()), FlickerMeter()
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with (
                appearing(target, overwrite=overwrite) as temporary,
                open_writer(temporary, source=container, stream=stream, coding=coding, matrix=survey.matrix) as writer,
            ):
                pieces = _read(source, container, stream, coding=coding, copied=list(writer.copied))
                with Countdown(survey.frames) as countdown, closing(_ahead(pieces)) as pieces:
                    counts = _restore_pieces(pieces, writer, restore_fn=restore_fn, meter=meter, countdown=countdown, name=quoted(source))
        except (OSError, FFmpegError) as error:
            raise unwritable(target, error) from error
        size = (stream.codec_context.height, stream.codec_context.width)
    notes = [*survey.notes, *writer.notes]
    before, after = source.suffix.lower(), target.suffix.lower()
    if after != before and VIDEO_SUFFIXES.get(before) == after:
        notes.append(f"it is written as {after}, because {before} files are only read")
    if counts[1]:
        notes.append(f"{counts[1]} frames are damaged in the source, and were restored as repaired by the decoder")
    return VideoReport(counts[0], size, time.perf_counter() - started, meter.result(), notes)


def describe(report: VideoReport) -> str:
    """Describe the result in one line for the command line."""
    height, width = report.size
    text = f"{width}x{height}  {report.frames} frames  {report.seconds / report.frames:.2f} s/frame"
    if report.flicker:
        parts = [
            f"{name} {change.before:.2f} -> {change.after:.2f} (added {change.added:.2f})"
            for name, change in report.flicker._asdict().items()
        ]
        text += f"  flicker, levels of 255 from frame to frame: {', '.join(parts)}"
    return "; ".join([text, *report.notes])


def _survey(path: Path) -> _Survey:
    """Read the file once, decoding only the first frame, so that damage is found before the slow part."""
    first, frames, end, notes = None, 0, 0.0, []
    with open_video(path) as (container, stream), explaining_damage(path):
        for packet in container.demux([other for other in container.streams if other.type != "attachment"]):
            if packet.pts is not None and packet.time_base:
                end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
            if packet.stream.index == stream.index:
                frames += packet.size > 0
                first = first or next(iter(packet.decode()), None)
        length = ((container.start_time or 0) + (container.duration or 0)) / 1e6
    if first is None:
        raise InputError(f"{quoted(path)} holds no frame that can be decoded; give another video.")
    if length - end > max(_MISSING_SECONDS, _MISSING_PART * length):
        raise InputError(
            f"{quoted(path)} is cut short: it ends after {end:.1f} of {length:.1f} s. Replace it, "
            "or copy it and restore the copy: ffmpeg -i IN -c copy OUT"
        )
    if length - end > _MISSING_SECONDS:
        notes.append(f"the source ends after {end:.1f} s, although its length is given as {length:.1f} s")
    if first.interlaced_frame:
        notes.append("the source is interlaced, and its frames were restored without deinterlacing; deinterlace it first")
    if any(component.is_alpha for component in first.format.components):
        notes.append("its transparency is dropped")
    if any(first.side_data.get(kind) for kind in _HDR_DATA):
        notes.append("its HDR10 mastering metadata is dropped; its transfer function is kept")
    matrix = first.side_data.get("DISPLAYMATRIX")
    return _Survey(frames, None if matrix is None else np.frombuffer(matrix, np.int32).tolist(), notes)


def _read(path: Path, container: Any, stream: Any, *, coding: Coding, copied: Sequence[int]) -> Iterator[_Piece]:
    packets: list[Any] = []
    with explaining_damage(path):
        for packet in container.demux([stream, *(container.streams[index] for index in copied)]):
            if packet.stream.index != stream.index:
                packets += [packet] if packet.size else []  # the last one of a stream is empty
                if len(packets) < _MOST_PACKETS:
                    continue
                yield _Piece(None, None, 0, False, packets)
                packets = []
            else:
                for frame in packet.decode():
                    yield _Piece(decode_frame(frame, coding), frame.pts, frame.duration, frame.is_corrupt, packets)
                    packets = []
    yield _Piece(None, None, 0, False, packets)


def _ahead(items: Iterator[T]) -> Generator[T, None, None]:
    """Yield the same items, each made in a thread while the one before it is used."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(next, items, None)
        while (item := future.result()) is not None:
            future = pool.submit(next, items, None)
            yield item


def _restore_pieces(
    pieces: Iterator[_Piece], writer: VideoWriter, *, restore_fn: RestoreFn, meter: FlickerMeter, countdown: Countdown, name: str
) -> tuple[int, int]:
    """Restore the frames, and count the corrupt ones. A thread writes one piece while the next is restored."""
    frames = corrupt = 0
    shape = None
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(list)
        for piece in pieces:
            restored = None
            if piece.rgb is not None:
                shape = shape or piece.rgb.shape
                if piece.rgb.shape != shape:
                    raise InputError(f"The frames of {name} change their size at frame {frames + 1}; cut it there, and restore the parts.")
                try:
                    restored = restore_fn(piece.rgb)
                except InputError as error:
                    raise InputError(f"{name}, frame {frames + 1}: {error}") from error
                meter.add(piece.rgb, restored)
                frames, corrupt = frames + 1, corrupt + piece.corrupt
                countdown.advance(name)
            writing.result()
            writing = pool.submit(_write, writer, piece, restored)
        writing.result()
        writer.finish()
    return frames, corrupt


def _write(writer: VideoWriter, piece: _Piece, restored: np.ndarray | None) -> None:
    writer.copy(piece.packets)
    if restored is not None:
        writer.write(restored, pts=piece.pts, duration=piece.duration)

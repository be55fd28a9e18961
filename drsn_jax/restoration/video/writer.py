"""The file of a restored video: newly encoded frames, with everything else of the source copied if the format supports it."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from drsn_jax.restoration.video.coding import Coding, encode_frame
from drsn_jax.restoration.video.sound import Coded, Copied, add_coded, add_copy
from drsn_jax.system.video_files import file_name

_OF_THE_FILE = ("major_brand", "minor_version", "compatible_brands", "encoder")  # metadata that the new file sets itself
_OF_THE_VIDEO = ("language", "title", "handler_name", "creation_time", "timecode")  # metadata that remains valid for a newly encoded stream


class VideoWriter:
    """A writer of frames and packets into one file, in the order of the source. Not thread-safe."""

    def __init__(self, output: Any, stream: Any, coding: Coding):
        """Set an open container and its video stream; `open_writer` fills `copied` and `notes`."""
        self.copied: dict[int, Copied | Coded] = {}  # by the number of the source's stream
        self.notes: list[str] = []
        self._output, self._stream, self._coding = output, stream, coding
        self._durations: dict[int, int] = {}  # of the frames inside the encoder
        self._last: int | None = None

    def write(self, rgb: Float[np.ndarray, "h w 3"], *, pts: int | None, duration: int) -> None:
        """Write the next frame, [0, 1], at `pts` for `duration`, in the source's time base; missing or falling stamps are corrected."""
        if self._last is not None and (pts is None or pts <= self._last):
            pts = self._last + max(self._durations.get(self._last, 0), 1)
        self._last = pts = pts or 0
        frame = encode_frame(rgb, self._coding)
        frame.pts, frame.time_base = pts, self._stream.codec_context.time_base
        self._durations[pts] = duration or 1
        self._mux(self._stream.encode(frame))

    def copy(self, packets: Sequence[Any]) -> None:
        """Write packets of the source's other streams, copied or encoded again."""
        for packet in packets:
            self._output.mux(self.copied[packet.stream.index].take(packet))

    def finish(self) -> None:
        """Write the packets that the encoders still hold."""
        self._mux(self._stream.encode())
        for copied in self.copied.values():
            self._output.mux(copied.finish())

    def _mux(self, packets: Sequence[Any]) -> None:
        for packet in packets:
            packet.duration = self._durations.pop(packet.pts, packet.duration)
            self._output.mux(packet)


@contextmanager
def open_writer(path: Path, *, source: Any, stream: Any, coding: Coding, matrix: Sequence[int] | None) -> Iterator[VideoWriter]:
    """Open a new file with a video stream like `stream` of the container `source`, its tags, metadata, chapters and other streams.

    `matrix` is the display matrix, by which players rotate the frames. The writer's `notes` list everything that the format cannot keep.
    """
    import av

    with av.open(file_name(path), "w") as output:
        output.metadata.update(_kept(source.metadata))
        output.set_chapters(source.chapters())
        video = _add_video(output, stream, coding)
        if matrix is not None:
            video.set_display_matrix(matrix)
        writer = VideoWriter(output, video, coding)
        for other in source.streams:
            timecode = other.type == "data" and "timecode" in other.metadata  # the muxer recreates it from the video's metadata
            if other.index != stream.index and not timecode and (note := _add(writer.copied, output, other, suffix=path.suffix)):
                codec = f" ({other.codec_context.name})" if other.codec_context else ""
                writer.notes.append(f"stream {other.index}, {other.type}{codec}, is {note}: a {path.suffix} file cannot contain it")
        yield writer


def _add_video(output: Any, stream: Any, coding: Coding) -> Any:
    context = stream.codec_context
    video = output.add_stream(
        coding.encoder,
        rate=stream.average_rate or stream.guessed_rate,
        options=coding.options,
        width=context.width,
        height=context.height,
        time_base=stream.time_base,
    )
    made = video.codec_context
    made.pix_fmt = coding.pix_fmt
    made.color_range, made.colorspace = 2 if coding.full_range else context.color_range, coding.matrix
    made.color_primaries, made.color_trc = context.color_primaries, context.color_trc
    if stream.sample_aspect_ratio:
        made.sample_aspect_ratio = stream.sample_aspect_ratio
    video.metadata.update({key: value for key, value in stream.metadata.items() if key.lower() in _OF_THE_VIDEO})
    video.disposition = stream.disposition
    return video


def _add(copied: dict[int, Copied | Coded], output: Any, stream: Any, *, suffix: str) -> str | None:
    """Add another stream of the source to the output; returns a note if it is not simply copied."""
    takes = stream.type in ("audio", "subtitle") or (stream.type, suffix) == ("attachment", ".mkv")
    note = None
    if added := add_copy(output, stream) if takes else None:
        handling = Copied(added)
    elif added := add_coded(output, stream, suffix=suffix):
        handling, note = Coded(stream, added), f"encoded again ({added.codec_context.name.removeprefix('lib')})"
    else:
        return "left out"
    added.metadata.update(_kept(stream.metadata))
    added.disposition = stream.disposition
    if stream.type != "attachment":  # attachments have no packets: they are in the header
        copied[stream.index] = handling
    return note


def _kept(metadata: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in metadata.items() if key.lower() not in _OF_THE_FILE}

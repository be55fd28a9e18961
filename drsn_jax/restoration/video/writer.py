"""The file of a restored video: the frames coded anew, and all else of the source that the format holds, copied."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from drsn_jax.restoration.video.coding import Coding, encode_frame

_OF_THE_FILE = ("major_brand", "minor_version", "compatible_brands", "encoder")  # metadata that the new file has of its own
_OF_THE_VIDEO = ("language", "title", "handler_name", "creation_time", "timecode")  # and what stays true of a stream that is coded anew


class VideoWriter:
    """Frames and packets into one file, in the order of the source. Not for two threads at once."""

    def __init__(self, output: Any, stream: Any, coding: Coding):
        """Of an open container and its video stream; `copied` and `notes` are filled by `open_writer`."""
        self.copied: dict[int, Any] = {}  # by the number of the source's stream
        self.notes: list[str] = []
        self._output, self._stream, self._coding = output, stream, coding
        self._durations: dict[int, int] = {}  # of the frames that are within the encoder
        self._last: int | None = None

    def write(self, rgb: Float[np.ndarray, "h w 3"], *, pts: int | None, duration: int) -> None:
        """The next frame, [0, 1], at `pts` for `duration`, in the source's time base; a stamp that is missing or no later is mended."""
        if self._last is not None and (pts is None or pts <= self._last):
            pts = self._last + max(self._durations.get(self._last, 0), 1)
        self._last = pts = pts or 0
        frame = encode_frame(rgb, self._coding)
        frame.pts, frame.time_base = pts, self._stream.codec_context.time_base
        self._durations[pts] = duration or 1
        self._mux(self._stream.encode(frame))

    def copy(self, packets: Sequence[Any]) -> None:
        """Packets of the source's other streams, as they are."""
        for packet in packets:
            packet.stream = self.copied[packet.stream.index]
            self._output.mux(packet)

    def finish(self) -> None:
        """What the encoder still holds."""
        self._mux(self._stream.encode())

    def _mux(self, packets: Sequence[Any]) -> None:
        for packet in packets:
            packet.duration = self._durations.pop(packet.pts, packet.duration)
            self._output.mux(packet)


@contextmanager
def open_writer(path: Path, *, source: Any, stream: Any, coding: Coding, matrix: Sequence[int] | None) -> Iterator[VideoWriter]:
    """A new file with a video stream like `stream` of the open container `source`, its tags, metadata, chapters and other streams.

    `matrix` is the display matrix, by which players turn the frames. What the file's format does not hold is in the writer's `notes`.
    """
    import av

    with av.open(str(path), "w") as output:
        output.metadata.update(_kept(source.metadata))
        output.set_chapters(source.chapters())
        video = _add_video(output, stream, coding)
        if matrix is not None:
            video.set_display_matrix(matrix)
        writer = VideoWriter(output, video, coding)
        for other in source.streams:
            timecode = other.type == "data" and "timecode" in other.metadata  # which the muxer makes anew of the video's metadata
            if other.index != stream.index and not timecode and not _add_copy(writer.copied, output, other, suffix=path.suffix):
                codec = f" ({other.codec_context.name})" if other.codec_context else ""
                writer.notes.append(f"stream {other.index}, {other.type}{codec}, is left out: a {path.suffix} file cannot take it over")
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


def _add_copy(copied: dict[int, Any], output: Any, stream: Any, *, suffix: str) -> bool:
    if stream.type not in ("audio", "subtitle") and (stream.type, suffix) != ("attachment", ".mkv"):
        return False
    try:
        copy = output.add_stream_from_template(stream)
    except ValueError:  # the format has no such codec
        return False
    copy.metadata.update(_kept(stream.metadata))
    copy.disposition = stream.disposition
    if stream.type != "attachment":  # has no packets, and lies in the header
        copied[stream.index] = copy
    return True


def _kept(metadata: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in metadata.items() if key.lower() not in _OF_THE_FILE}

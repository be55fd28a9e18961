"""The sound of a restored video: copied if the new file's format supports it, otherwise encoded again."""

import contextlib
import io
from collections.abc import Sequence
from typing import Any

_ENCODERS = {".webm": "libopus"}  # aac elsewhere
_RATE = 48_000  # samples per second, if the encoder does not support the source's rate
_BIT_RATE = 96_000  # per channel: transparent for both encoders


class Copied:
    """A stream whose packets are copied unchanged."""

    def __init__(self, stream: Any):
        """Set `stream`, that of the output."""
        self._stream = stream

    def take(self, packet: Any) -> Sequence[Any]:
        """Return the packets to write for a packet of the source."""
        packet.stream = self._stream
        return [packet] if packet.dts is not None or packet.pts is not None else []

    def finish(self) -> Sequence[Any]:
        """Return the packets to write at the end."""
        return []


class Coded:
    """A stream of sound that is decoded and encoded again, with the same time stamps."""

    def __init__(self, source: Any, stream: Any):
        """Connect a stream of the source to one of the output, resampled if necessary."""
        self._source, self._stream = source, stream

    def take(self, packet: Any) -> Sequence[Any]:
        """Return the packets to write for a packet of the source; none for a damaged one."""
        from av.error import FFmpegError

        try:
            frames = packet.decode()
        except FFmpegError:
            return []
        return [coded for frame in frames for coded in self._stream.encode(frame)]

    def finish(self) -> Sequence[Any]:
        """Return the packets that decoder and encoder still hold."""
        from av.error import FFmpegError

        frames = []
        with contextlib.suppress(FFmpegError, EOFError):  # the decoder may have ended with the last packet of its stream
            frames = self._source.codec_context.decode(None)
        return [coded for frame in (*frames, None) for coded in self._stream.encode(frame)]


def add_copy(output: Any, stream: Any) -> Any:
    """Add a stream to the output like `stream` of the source, for `Copied`. None if the output's format does not support it.

    Some formats reject it only when the header is written, so a header is written to memory first.
    """
    import av
    from av.error import FFmpegError

    try:
        with av.open(io.BytesIO(), "w", format=output.format.name) as trial:
            trial.add_stream_from_template(stream)
            trial.start_encoding()
        return output.add_stream_from_template(stream)
    except (FFmpegError, ValueError):
        return None


def add_coded(output: Any, stream: Any, *, suffix: str) -> Any:
    """Add a stream to the output for the sound of `stream`, for `Coded`. None if it is no sound, or cannot be decoded or encoded."""
    from av.codec import Codec
    from av.error import FFmpegError

    context, name = stream.codec_context, _ENCODERS.get(suffix, "aac")
    if stream.type != "audio" or context is None or not context.sample_rate:
        return None
    rate = context.sample_rate if context.sample_rate in (Codec(name, "w").audio_rates or ()) else _RATE
    channels = context.layout.nb_channels
    layout = f"{channels}c" if "channels" in context.layout.name else context.layout.name  # the source does not name its channels
    try:
        coded = output.add_stream(name, rate=rate, layout=layout, bit_rate=_BIT_RATE * channels)
    except (FFmpegError, ValueError):
        return None
    return coded

"""The sound of a restored video: copied where the new file's format takes it, coded anew where it does not."""

import contextlib
import io
from collections.abc import Sequence
from typing import Any

_ENCODERS = {".webm": "libopus"}  # aac elsewhere
_RATE = 48_000  # samples a second, where the encoder has no such rate as the source
_BIT_RATE = 96_000  # a channel: more than either needs for what ears tell apart


class Copied:
    """A stream whose packets are taken over as they are."""

    def __init__(self, stream: Any):
        """`stream` is the output's."""
        self._stream = stream

    def take(self, packet: Any) -> Sequence[Any]:
        """What is to be written for a packet of the source."""
        packet.stream = self._stream
        return [packet] if packet.dts is not None or packet.pts is not None else []

    def finish(self) -> Sequence[Any]:
        """What is to be written at the end."""
        return []


class Coded:
    """A stream of sound that is decoded and coded anew, at the same times."""

    def __init__(self, source: Any, stream: Any):
        """From a stream of the source to one of the output, which resamples where it has to."""
        self._source, self._stream = source, stream

    def take(self, packet: Any) -> Sequence[Any]:
        """What is to be written for a packet of the source; nothing for one that is damaged."""
        from av.error import FFmpegError

        try:
            frames = packet.decode()
        except FFmpegError:
            return []
        return [coded for frame in frames for coded in self._stream.encode(frame)]

    def finish(self) -> Sequence[Any]:
        """What decoder and encoder still hold."""
        from av.error import FFmpegError

        frames = []
        with contextlib.suppress(FFmpegError, EOFError):  # a decoder that ended with the last packet of its stream
            frames = self._source.codec_context.decode(None)
        return [coded for frame in (*frames, None) for coded in self._stream.encode(frame)]


def add_copy(output: Any, stream: Any) -> Any:
    """A stream of the output like `stream` of the source, for `Copied`. None where the output's format does not take it.

    Some formats say so only when their header is written; so one is written into memory first.
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
    """A stream of the output for the sound of `stream`, for `Coded`. None where it is no sound, or cannot be decoded or coded."""
    from av.codec import Codec
    from av.error import FFmpegError

    context, name = stream.codec_context, _ENCODERS.get(suffix, "aac")
    if stream.type != "audio" or context is None or not context.sample_rate:
        return None
    rate = context.sample_rate if context.sample_rate in (Codec(name, "w").audio_rates or ()) else _RATE
    channels = context.layout.nb_channels
    layout = f"{channels}c" if "channels" in context.layout.name else context.layout.name  # of a source that does not say which they are
    try:
        coded = output.add_stream(name, rate=rate, layout=layout, bit_rate=_BIT_RATE * channels)
    except (FFmpegError, ValueError):
        return None
    return coded

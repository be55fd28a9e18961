"""The encoding of a video's frames: the properties that the restored video keeps, and frames as arrays."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from drsn_jax.restoration.video.colours import luma_shares, to_planes, to_rgb
from drsn_jax.system.errors import InputError

_FULL, _BT709 = 2, 1  # AVCOL_RANGE_JPEG; the code of BT.709 in H.273
_SUBSAMPLED = {(2, 2): "yuv420p", (2, 1): "yuv422p", (1, 1): "yuv444p"}
_ENCODERS = {".mp4": "libx264", ".mov": "libx264", ".m4v": "libx264", ".mkv": "libx264", ".webm": "libvpx-vp9"}
_READ_ALONE = (".avi", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg", ".3gp", ".flv", ".wmv")
VIDEO_SUFFIXES = {suffix: suffix for suffix in _ENCODERS} | dict.fromkeys(_READ_ALONE, ".mkv")
"""The suffix of the output by that of the input. AVI, for example, cannot store H.264's time stamps."""
_OPTIONS = {  # visually lossless; a fifth of the time of the slowest presets
    "libx264": {"crf": "16", "preset": "medium"},
    "libvpx-vp9": {"crf": "16", "deadline": "good", "cpu-used": "3", "row-mt": "1"},
}


class Coding(NamedTuple):
    """The encoding of restored frames: encoder, pixel format, and the matrix and range of the source's frames."""

    encoder: str
    pix_fmt: str
    bits: int  # per sample: 8 or 10
    matrix: int  # H.273's code for the tag; the source's unless that is RGB
    shares: tuple[float, float]
    full_range: bool

    @property
    def options(self) -> dict[str, str]:
        """Options of the encoder for a fixed high quality."""
        return _OPTIONS[self.encoder]


def choose_coding(stream: Any, *, suffix: str) -> Coding:
    """Choose the encoding of `stream` for a file of this suffix: H.264, or VP9 in .webm.

    A sample has 8 bits, or 10 if the source has more. The subsampling is kept, with two exceptions that H.264 does not support. Subsampled
    chroma with an odd height or width is written without subsampling, so that the size stays. RGB is written as BT.709 without subsampling.
    Raises InputError if this PyAV lacks the encoder, and for a suffix of an unsupported format.
    """
    from av import __version__ as version
    from av.codec import Codec, codecs_available

    if int(version.split(".")[0]) < 18:
        raise InputError(f"Writing videos needs PyAV 18 or newer, and this is {version}: pip install --upgrade 'drsn-jax[video]'")
    if suffix not in _ENCODERS:
        raise InputError(f"Videos cannot be written as {suffix!r}; give the result one of the suffixes {', '.join(_ENCODERS)}")
    context, encoder = stream.codec_context, _ENCODERS[suffix]
    if encoder not in codecs_available:
        raise InputError(f"This PyAV has no encoder {encoder}, which {suffix} files need; install the one from PyPI: pip install av")
    format, rgb = context.format, _is_rgb(context.format)
    known = [found.name for found in Codec(encoder, "w").video_formats or ()]
    bits = 10 if format.components[0].bits > 8 and "yuv420p10le" in known else 8
    grey = len(format.components) < 3 and not rgb
    factors = (1, 1) if rgb else _subsampling(format)
    if encoder == "libx264" and (context.width % factors[0] or context.height % factors[1]):
        factors = (1, 1)
    name = ("gray" if grey else _SUBSAMPLED.get(factors, "yuv444p")) + ("10le" if bits == 10 else "")
    return Coding(
        encoder,
        name if name in known else "yuv444p",  # VP9 has no grey format
        bits,
        _BT709 if rgb else context.colorspace,
        luma_shares(_BT709 if rgb else context.colorspace, height=context.height),
        not rgb and _is_full_range(context.color_range, format.name),
    )


def decode_frame(frame: Any, coding: Coding) -> Float[np.ndarray, "h w 3"]:
    """Convert the frame to float32 R'G'B' in [0, 1]."""
    format = frame.format
    if _is_rgb(format):
        return frame.to_ndarray(format="rgb48le").astype(np.float32) / np.float32(65535)
    if not (format.name.startswith(("yuv4", "yuvj4", "gray")) and format.name.endswith(("p", "gray", "le"))):
        frame = _repacked(frame)
    bits = frame.format.components[0].bits
    planes = [_samples(plane, bits) for plane in frame.planes]
    return to_rgb(planes, bits=bits, shares=coding.shares, full_range=coding.full_range)


def encode_frame(rgb: Float[np.ndarray, "h w 3"], coding: Coding) -> Any:
    """Make a frame for the encoder from R'G'B' in [0, 1], without a time stamp."""
    import av

    frame = av.VideoFrame(rgb.shape[1], rgb.shape[0], coding.pix_fmt)
    targets = [_samples(plane, coding.bits) for plane in frame.planes]
    sizes = [target.shape for target in targets]
    planes = to_planes(rgb, sizes=sizes, bits=coding.bits, shares=coding.shares, full_range=coding.full_range)
    for target, plane in zip(targets, planes, strict=True):
        target[:] = plane
    frame.colorspace, frame.color_range = coding.matrix, _FULL if coding.full_range else 1
    return frame


def _is_rgb(format: Any) -> bool:
    return format.is_rgb or format.has_palette


def _is_full_range(color_range: int, name: str) -> bool:
    """Check for full range. Grey is full range by default, as in FFmpeg."""
    return color_range == _FULL or name.startswith("yuvj") or (name.startswith(("gray", "ya")) and color_range == 0)


def _subsampling(format: Any) -> tuple[int, int]:
    """Return the columns and rows that share a chroma sample."""
    return 64 // format.chroma_width(64), 64 // format.chroma_height(64)


def _repacked(frame: Any) -> Any:
    """Repack the same samples (nv12, yuyv422, yuva420p, ...) into separate planes, without transparency."""
    name = _SUBSAMPLED.get(_subsampling(frame.format), "yuv444p")
    return frame.reformat(format=name + ("" if frame.format.components[0].bits == 8 else "10le"))


def _samples(plane: Any, bits: int) -> np.ndarray:
    """View the plane without the padding of its lines."""
    rows = np.frombuffer(plane, np.uint8 if bits == 8 else "<u2").reshape(plane.height, -1)
    return rows[:, : plane.width]

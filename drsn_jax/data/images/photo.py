"""A photograph file in memory: its pixels, and the properties for writing the restored photograph in the same form."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Integer, UInt8

SUFFIXES = {
    ".jpg": "JPEG", ".jpeg": "JPEG", ".jpe": "JPEG", ".jfif": "JPEG", ".png": "PNG", ".tif": "TIFF", ".tiff": "TIFF",
    ".webp": "WEBP", ".bmp": "BMP", ".gif": "GIF", ".ppm": "PPM", ".pgm": "PPM", ".pnm": "PPM",
    ".avif": "AVIF", ".heic": "HEIF", ".heif": "HEIF", ".hif": "HEIF",
}  # fmt: skip
Stream = Any  # a seekable byte stream; runtime type checkers do not support typing.IO
PHONE_FORMATS = ("AVIF", "HEIF")  # read as written by phones; written only on request


@dataclass(frozen=True)
class Metadata:
    """The metadata of an image file, ready to be written with the upright picture: orientation 1, no thumbnail.

    `notes` list, one line each, damaged parts that are not kept. The chunks are PNG's, unchanged.
    """

    exif: bytes = b""  # with its Exif\0\0 prefix
    xmp: bytes = b""
    iptc: bytes = b""  # only the record, without its segment
    icc_profile: bytes | None = None
    dpi: tuple[float, float] | None = None
    comment: bytes = b""
    colour_chunks: tuple[tuple[bytes, bytes], ...] = ()  # gAMA, cHRM, sRGB, cICP
    text_chunks: tuple[tuple[bytes, bytes], ...] = ()  # tEXt, zTXt, iTXt
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Photo:
    """One decoded image file, turned upright.

    `samples` are uint8 or uint16, as in the file, for the channels of `mode` (L, LA, RGB, RGBA or CMYK). Palettes and 1-bit images are
    widened.
    """

    samples: Integer[np.ndarray, "h w channels"]
    mode: str
    path: Path
    format: str  # Pillow's name: JPEG, PNG, TIFF, WEBP, BMP, GIF, PPM, AVIF or HEIF
    metadata: Metadata = field(default_factory=Metadata)
    lossless: bool = True
    compression: str | None = None  # TIFF only

    @cached_property
    def rgb(self) -> Float[np.ndarray, "h w 3"]:
        """The input of the network: float32 in [0, 1], in the file's own colour space (a profile is kept, not applied)."""
        return to_rgb(self.samples, self.mode)

    @property
    def bit_depth(self) -> int:
        """8 or 16."""
        return 8 * self.samples.dtype.itemsize

    @property
    def alpha(self) -> Integer[np.ndarray, "h w"] | None:
        """Integers of `bit_depth` bits; None for an opaque mode."""
        return self.samples[..., -1] if self.mode.endswith("A") else None


def to_rgb(samples: Integer[np.ndarray, "h w channels"], mode: str) -> Float[np.ndarray, "h w 3"]:
    """Convert samples to float32 RGB in [0, 1]; alpha is dropped, and inks are treated as ideal: (1 - cmy)(1 - k)."""
    scaled = samples.astype(np.float32) / np.float32(np.iinfo(samples.dtype).max)
    if mode == "CMYK":
        return (1 - scaled[..., :3]) * (1 - scaled[..., 3:])
    return np.repeat(scaled[..., :1], 3, axis=-1) if mode.startswith("L") else np.ascontiguousarray(scaled[..., :3])


def to_rgb8(samples: Integer[np.ndarray, "h w channels"], mode: str) -> UInt8[np.ndarray, "h w 3"]:
    """Convert samples to uint8 RGB: the rounded result of `to_rgb`."""
    if samples.dtype != np.uint8 or mode == "CMYK":
        return np.rint(to_rgb(samples, mode) * 255).astype(np.uint8)
    return np.repeat(samples[..., :1], 3, axis=-1) if mode.startswith("L") else np.ascontiguousarray(samples[..., :3])


def quoted(path: object) -> str:
    """Format a path or another name of a file for a one-line message; line breaks and undecodable bytes are escaped."""
    return repr(str(path))


def reason(error: BaseException) -> str:
    """Return the cause of an error on one line; for an error of the operating system, its text without number and path."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__

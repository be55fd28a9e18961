"""What is known of a photograph file: its pixels and all that is needed to write the restored one in the same form."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Integer, UInt8

from drsn_jax.system.errors import InputError

SUFFIXES = {
    ".jpg": "JPEG", ".jpeg": "JPEG", ".jpe": "JPEG", ".jfif": "JPEG", ".png": "PNG", ".tif": "TIFF", ".tiff": "TIFF",
    ".webp": "WEBP", ".bmp": "BMP", ".gif": "GIF", ".ppm": "PPM", ".pgm": "PPM", ".pnm": "PPM",
}  # fmt: skip
# What our writer stores losslessly in structure; a mode that is missing is widened to RGB or RGBA.
MODES = {
    "JPEG": {"L", "RGB", "CMYK"},
    "PNG": {"L", "LA", "RGB", "RGBA"},
    "TIFF": {"L", "LA", "RGB", "RGBA", "CMYK"},
    "WEBP": {"RGB", "RGBA"},
    "BMP": {"L", "RGB"},
    "GIF": {"L", "RGB", "RGBA"},
    "PPM": {"L", "RGB"},
}


@dataclass(frozen=True)
class Photo:
    """One decoded image file, turned upright.

    `rgb` is float32 in [0, 1], in the file's own colour space (a profile is carried along, not applied): what the network sees.
    `alpha` (integers of `bit_depth` bits) and `cmyk` are kept because they cannot be had back from `rgb`.
    """

    rgb: Float[np.ndarray, "h w 3"]
    path: Path
    format: str  # Pillow's name: JPEG, PNG, TIFF, WEBP, BMP, GIF or PPM
    mode: str  # L, LA, RGB, RGBA or CMYK; palettes and 1-bit images are widened
    bit_depth: int = 8  # 8 or 16
    alpha: Integer[np.ndarray, "h w"] | None = None
    cmyk: UInt8[np.ndarray, "h w 4"] | None = None
    exif: bytes = b""  # with its Exif\0\0 prefix; orientation already 1
    icc_profile: bytes | None = None
    dpi: tuple[float, float] | None = None
    lossless: bool = True
    compression: str | None = None  # TIFF only
    colour_chunks: tuple[tuple[bytes, bytes], ...] = ()  # PNG only: gAMA, cHRM, sRGB, cICP as they were


def quoted(path: Path | str) -> str:
    """The path for a one-line message: line breaks and undecodable bytes are shown escaped."""
    return repr(str(path))


def reason(error: BaseException) -> str:
    """The cause of an error on one line; for one of the operating system, its words without number and path."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__


def target_format(photo: Photo, path: Path) -> str:
    """Pillow's format for writing `photo` to `path`: by the suffix, or the photo's own when the suffix is that of its file.

    Raises InputError for a suffix that names no format we write.
    """
    suffix = path.suffix.lower()
    if suffix == photo.path.suffix.lower():
        return photo.format  # a PNG named .jpg stays what it is
    if suffix not in SUFFIXES:
        raise InputError(f"{quoted(path)}: suffix {quoted(suffix)} names no format that can be written; use one of {', '.join(SUFFIXES)}.")
    return SUFFIXES[suffix]


def target_mode(photo: Photo, path: Path) -> str:
    """The mode (L, LA, RGB, RGBA, CMYK) in which `path` can hold the photo.

    Raises InputError if transparency would be lost: it is never dropped in silence unless all of it is opaque.
    """
    allowed = MODES[target_format(photo, path)]
    if photo.mode in allowed:
        return photo.mode
    opaque = photo.alpha is None or bool((photo.alpha == 2**photo.bit_depth - 1).all())
    mode = "RGB" if opaque else "RGBA"
    if mode not in allowed:
        raise InputError(f"{quoted(photo.path)} has transparency, which {quoted(path.name)} cannot hold; choose PNG (--output-format=png).")
    return mode

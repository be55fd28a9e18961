"""The features of a photo that an output file can keep, known before the network runs: format, mode, depth, metadata."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from drsn_jax.data.images.opening import open_phone_formats
from drsn_jax.data.images.photo import PHONE_FORMATS, SUFFIXES, Photo, quoted
from drsn_jax.restoration.files.pieces import pieces, png_chunks
from drsn_jax.system.errors import InputError

JPEG_QUALITY = 95  # with 4:4:4 chroma: one more generation of compression without a visible loss
# Modes that our writer stores without loss; others are widened to RGB or RGBA.
MODES = {
    "JPEG": {"L", "RGB", "CMYK"},
    "PNG": {"L", "LA", "RGB", "RGBA"},
    "TIFF": {"L", "LA", "RGB", "RGBA", "CMYK"},
    "WEBP": {"RGB", "RGBA"},
    "BMP": {"L", "RGB"},
    "GIF": {"L", "RGB", "RGBA"},
    "PPM": {"L", "RGB"},
    "AVIF": {"RGB", "RGBA"},
    "HEIF": {"RGB", "RGBA"},
}
_LONGEST_SIDES = {"JPEG": 65_500, "WEBP": 16_383, "GIF": 65_535, "AVIF": 32_768}  # libjpeg's, libwebp's, the format's, libavif's
_TIFF_COMPRESSIONS = ("raw", "packbits", "tiff_lzw", "tiff_adobe_deflate")  # the lossless ones that hold any depth
_TO_PNG = "choose PNG (--output-format=png)"


@dataclass(frozen=True)
class Encoding:
    """The way a photo is written: options of Pillow's `save`, and notes, one line each, about lost features."""

    format: str
    mode: str  # L, LA, RGB, RGBA or CMYK
    bit_depth: int
    options: dict[str, Any]
    chunks: tuple[tuple[bytes, bytes], ...]  # PNG's
    notes: tuple[str, ...]


def plan_encoding(photo: Photo, path: Path) -> Encoding:
    """Plan how to write `photo` to `path`; the suffix gives the format. Metadata that cannot be written is dropped, with a note.

    16 bits per sample stay 16 in PNG and grey TIFF, and become 8 elsewhere. Raises InputError for a suffix, transparency or size that
    the format does not support.
    """
    format = target_format(photo, path)
    mode = _target_mode(photo, path, format)
    _check_sides(photo, path, format)
    deep = photo.bit_depth == 16 and (format == "PNG" or (format, mode) == ("TIFF", "L"))
    notes = list(photo.metadata.notes)
    if photo.bit_depth == 16 and not deep:
        notes.append(f"its 16 bits a channel become 8; choose PNG{' or grey TIFF' if mode == 'L' else ''} to keep 16")
    options, chunks = _format_options(photo, format), png_chunks(photo.metadata) if format == "PNG" else ()
    trial = Image.new("I;16" if deep and format == "TIFF" else mode, (8, 8))
    for name, choices in pieces(photo, format, mode, options):
        kept = next((number for number, piece in enumerate(choices) if _can_save(trial, format, options | piece)), None)
        options |= choices[kept] if kept is not None else {}
        if kept is None:
            notes.append(f"its {name} is not kept: {format} cannot hold it")
        elif kept:
            notes.append(f"its {name} is kept in part: {format} cannot hold all of it")
    return Encoding(format, mode, 16 if deep else 8, options, chunks, tuple(notes))


def target_format(photo: Photo, path: Path) -> str:
    """Choose Pillow's format for writing `photo` to `path`: by the suffix, or the photo's own if the suffix is that of its file.

    Raises InputError for the suffix of another format.
    """
    suffix = path.suffix.lower()
    if suffix == photo.path.suffix.lower() and photo.format not in PHONE_FORMATS:
        return photo.format  # a PNG called .jpg remains a PNG
    if suffix not in SUFFIXES:
        raise InputError(f"{quoted(path)}: suffix {quoted(suffix)} names no format that can be written; use one of {', '.join(SUFFIXES)}.")
    format = SUFFIXES[suffix]
    if format in PHONE_FORMATS and format not in open_phone_formats():
        needs = {"HEIF": "pillow-heif: pip install 'drsn-jax[heif]'", "AVIF": "Pillow 11.3: pip install -U pillow"}[format]
        raise InputError(f"{quoted(path)}: writing {suffix[1:].upper()} needs {needs}; or choose JPEG (--output-format=jpg).")
    return format


def _target_mode(photo: Photo, path: Path, format: str) -> str:
    """Choose the mode for the format. Transparency is never dropped silently, unless everything is opaque."""
    if photo.mode in MODES[format]:
        return photo.mode
    opaque = photo.alpha is None or bool((photo.alpha == 2**photo.bit_depth - 1).all())
    mode = "RGB" if opaque else "RGBA"
    if mode not in MODES[format]:
        message = f"{quoted(photo.path)} has transparency, which {quoted(path.name)} cannot hold; choose PNG"
        raise InputError(f"{message} (--output-format=png).", plain=f"{message}.")
    return mode


def _check_sides(photo: Photo, path: Path, format: str) -> None:
    height, width = photo.samples.shape[:2]
    if max(height, width) > (longest := _LONGEST_SIDES.get(format, max(height, width))):
        message = f"{quoted(path)} cannot be written: {format} holds sides of {longest:,} pixels at most, and this photograph is"
        raise InputError(f"{message} {width}x{height}; {_TO_PNG}.", plain=f"{message} {width}x{height}.")


def _format_options(photo: Photo, format: str) -> dict[str, Any]:
    options: dict[str, Any] = {"dpi": photo.metadata.dpi} if photo.metadata.dpi else {}
    if format == "JPEG":
        return options | {"quality": JPEG_QUALITY, "subsampling": 0}
    if format == "WEBP":
        return options | {"lossless": photo.lossless, "quality": JPEG_QUALITY, "exact": True}  # exact: colours under transparency too
    if format == "TIFF":
        compression = photo.compression if photo.compression in _TIFF_COMPRESSIONS else "tiff_adobe_deflate"
        return options | {"compression": compression}
    if format == "AVIF":
        return options | {"quality": JPEG_QUALITY, "subsampling": "4:4:4"}
    return options | ({"quality": JPEG_QUALITY, "chroma": 444} if format == "HEIF" else {})


def _can_save(trial: Image.Image, format: str, options: dict[str, Any]) -> bool:
    try:
        trial.save(io.BytesIO(), format, **options)
    except Exception:  # Pillow raises many types, depending on the value
        return False
    return True

"""From restored pixels to the bytes of a file in the photo's own format, mode and depth."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Integer
from PIL import Image, PngImagePlugin

from drsn_jax.data.images import png16
from drsn_jax.data.images.exif import PREFIX
from drsn_jax.data.images.photo import Photo, quoted, reason, target_format, target_mode
from drsn_jax.system.errors import InputError

JPEG_QUALITY = 95  # with 4:4:4 chroma: one more generation of compression that the eye does not see
_TIFF_COMPRESSIONS = ("raw", "packbits", "tiff_lzw", "tiff_adobe_deflate")  # the lossless ones that hold any depth


def encode_photo(photo: Photo, restored: Float[np.ndarray, "h w 3"], path: Path) -> bytes:
    """The bytes of the file `path` showing `restored` ([0, 1]); nothing is written.

    16 bits a sample stay 16 in PNG and grey TIFF, and become 8 elsewhere. Raises InputError for a suffix or transparency that
    the format cannot take, or a size beyond the format's limit.
    """
    format, mode = target_format(photo, path), target_mode(photo, path)
    deep = photo.bit_depth == 16 and (format == "PNG" or (format, mode) == ("TIFF", "L"))
    samples = _to_samples(photo, restored, mode=mode, bit_depth=16 if deep else 8)
    # A profile describes one kind of channels: that of CMYK says nothing of RGB.
    icc_profile = photo.icc_profile if mode.rstrip("A") == photo.mode.rstrip("A") else None
    if deep and format == "PNG":
        exif = photo.exif.removeprefix(PREFIX)
        return png16.encode(samples, exif=exif, icc_profile=icc_profile, dpi=photo.dpi, colour_chunks=photo.colour_chunks)
    size = (samples.shape[1], samples.shape[0])
    image = Image.frombytes("I;16" if deep else mode, size, samples.astype("<u2" if deep else np.uint8).tobytes())
    options = _options(photo, format) | ({"icc_profile": icc_profile} if icc_profile else {})
    if format == "GIF":
        image, options = _to_palette(image), options | ({"transparency": 255} if mode == "RGBA" else {})
    file = io.BytesIO()
    try:
        image.save(file, format, **options)
    except (OSError, ValueError) as error:
        raise InputError(f"{quoted(path)} cannot be written as {format} ({reason(error)}); choose PNG (--output-format=png).") from error
    return file.getvalue()


def _to_samples(photo: Photo, restored: np.ndarray, *, mode: str, bit_depth: int) -> Integer[np.ndarray, "h w channels"]:
    colour = restored
    if mode.startswith("L"):
        colour = restored.mean(axis=-1, keepdims=True)
    elif mode == "CMYK":
        colour = _to_cmyk(photo, restored)
    scale = 2**bit_depth - 1
    samples = np.rint(np.clip(colour, 0, 1) * np.float32(scale)).astype(np.uint16 if bit_depth == 16 else np.uint8)
    if not mode.endswith("A"):
        return samples
    assert photo.alpha is not None
    alpha = photo.alpha if photo.bit_depth == bit_depth else np.rint(photo.alpha / 257).astype(np.uint8)
    return np.concatenate([samples, alpha[..., None]], axis=-1)


def _to_cmyk(photo: Photo, restored: np.ndarray) -> Float[np.ndarray, "h w 4"]:
    """Inverse of rgb = (1 - cmy)(1 - k) that keeps the photo's black ink where it can: an unchanged pixel comes back unchanged."""
    assert photo.cmyk is not None
    before = photo.cmyk.astype(np.float32) / np.float32(255)
    paper = np.maximum(1 - before[..., 3:], restored.max(axis=-1, keepdims=True))  # 1 - k: less black where it got lighter
    inks = 1 - restored / np.maximum(paper, np.float32(1e-6))
    return np.concatenate([np.where(paper > 0, inks, before[..., :3]), 1 - paper], axis=-1)


def _options(photo: Photo, format: str) -> dict[str, Any]:
    options: dict[str, Any] = {"exif": photo.exif} if photo.exif else {}
    if photo.dpi:
        options["dpi"] = photo.dpi
    if format == "JPEG":
        options |= {"quality": JPEG_QUALITY, "subsampling": 0}
    elif format == "WEBP":
        options |= {"lossless": photo.lossless, "quality": JPEG_QUALITY, "exact": True}  # exact: colours under transparency too
    elif format == "TIFF":
        options["compression"] = photo.compression if photo.compression in _TIFF_COMPRESSIONS else "tiff_adobe_deflate"
    elif format == "PNG":
        options["pnginfo"] = PngImagePlugin.PngInfo()
        for name, data in photo.colour_chunks:
            options["pnginfo"].add(name, data)
    return options


def _to_palette(image: Image.Image) -> Image.Image:
    """GIF holds 256 colours, one of them transparent; grey needs no quantising."""
    if image.mode == "L":
        return image
    if image.mode == "RGB":
        return image.quantize(256)
    indices = image.convert("RGB").quantize(255)
    indices.paste(255, mask=image.getchannel("A").point([255] * 128 + [0] * 128))
    return indices

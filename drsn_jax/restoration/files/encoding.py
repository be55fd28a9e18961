"""Encoding of restored pixels in the photograph's own format, mode and depth."""

import io

import numpy as np
from jaxtyping import Float, Integer
from PIL import Image, PngImagePlugin

from drsn_jax.data.images import png16
from drsn_jax.data.images.exif import PREFIX
from drsn_jax.data.images.photo import Photo, reason
from drsn_jax.restoration.files.targets import Encoding
from drsn_jax.system.errors import InputError


def encode_photo(photo: Photo, restored: Float[np.ndarray, "h w 3"], encoding: Encoding) -> bytes:
    """Encode a file of `restored` ([0, 1]) as planned by `plan_encoding`; nothing is written.

    Raises InputError if Pillow cannot write it.
    """
    samples = _to_samples(photo, restored, mode=encoding.mode, bit_depth=encoding.bit_depth)
    deep, options = encoding.bit_depth == 16, dict(encoding.options)
    if deep and encoding.format == "PNG":
        exif, profile = photo.metadata.exif.removeprefix(PREFIX), options.get("icc_profile")
        return png16.encode(samples, exif=exif, icc_profile=profile, dpi=photo.metadata.dpi, chunks=encoding.chunks)
    size = (samples.shape[1], samples.shape[0])
    image = Image.frombytes("I;16" if deep else encoding.mode, size, samples.astype("<u2" if deep else np.uint8).tobytes())
    if encoding.format == "GIF":
        image, options = _to_palette(image), options | ({"transparency": 255} if encoding.mode == "RGBA" else {})
    if encoding.format == "PNG":
        options["pnginfo"] = PngImagePlugin.PngInfo()
        for name, data in encoding.chunks:
            options["pnginfo"].add(name, data)
    file = io.BytesIO()
    try:
        image.save(file, encoding.format, **options)
    except (OSError, ValueError) as error:
        message = f"The photograph cannot be written as {encoding.format} ({reason(error)})"
        raise InputError(f"{message}; choose PNG (--output-format=png).", plain=f"{message}.") from error
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
    """Invert rgb = (1 - cmy)(1 - k), keeping the photo's black ink if possible, so that an unchanged pixel stays unchanged."""
    before = photo.samples.astype(np.float32) / np.float32(255)
    paper = np.maximum(1 - before[..., 3:], restored.max(axis=-1, keepdims=True))  # 1 - k: less black where the pixel became lighter
    inks = 1 - restored / np.maximum(paper, np.float32(1e-6))
    return np.concatenate([np.where(paper > 0, inks, before[..., :3]), 1 - paper], axis=-1)


def _to_palette(image: Image.Image) -> Image.Image:
    """Convert to a palette: GIF has 256 colours, one of them transparent. Grey needs no quantisation."""
    if image.mode == "L":
        return image
    if image.mode == "RGB":
        return image.quantize(256)
    indices = image.convert("RGB").quantize(255)
    indices.paste(255, mask=image.getchannel("A").point([255] * 128 + [0] * 128))
    return indices

"""Decoding of an open image file. Every mode that Pillow reads without loss is widened to grey, RGB or CMYK."""

import sys
from typing import Any

import numpy as np
from jaxtyping import Integer, UInt16
from PIL import Image, ImageFile

from drsn_jax.data.images import png16
from drsn_jax.data.images.exif import TURNED
from drsn_jax.data.images.photo import Stream
from drsn_jax.system.errors import BadImageError

_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "I;16", "I;16L", "I;16B"}
_SAVE_AS = "save it as PNG or JPEG with 8 bits a channel, or as PNG with 16"
_BITS, _PLANES, _PHOTOMETRIC, _SUBFILE = 258, 284, 262, 254  # TIFF's tags
_SWAPPED = {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}  # byte orders of 16-bit samples


def decode(image: ImageFile.ImageFile, stream: Stream, *, name: str) -> tuple[Integer[np.ndarray, "h w channels"], str]:
    """Return all samples of `image`, just opened from `stream`, without rotation, and their mode: L, LA, RGB, RGBA or CMYK.

    uint16 if the file has 16 bits, else uint8. Pillow's own errors pass unchanged. Raises BadImageError, naming the file
    `name`, for content that would be read incorrectly or partly: several frames, floats, depths that Pillow reduces to 8 bits. For
    a camera's JPEG with previews or gain maps (MPO), and for a TIFF with thumbnails, the first frame is read.
    """
    _refuse(image, name)
    if image.format == "PNG" and png16.read_chunks(stream)[0] == 16:
        samples = png16.decode(stream, name=name)
        return samples, ("L", "LA", "RGB", "RGBA")[samples.shape[-1] - 1]
    stream.seek(0)
    if image.format == "TIFF":
        return _decode_tiff(image, stream)
    image.load()
    return _to_samples(image)


def stored_size(image: ImageFile.ImageFile) -> tuple[int, int]:
    """Return (width, height) of the stored pixels. For a rotated TIFF Pillow reports them swapped."""
    (width, height), tags = image.size, getattr(image, "tag_v2", {})
    return (height, width) if image.format == "TIFF" and tags.get(0x112) in TURNED else (width, height)


def _refuse(image: ImageFile.ImageFile, name: str) -> None:
    frames = getattr(image, "n_frames", 1)
    if image.format not in ("MPO", "HEIF") and frames > 1 and not (image.format == "TIFF" and _has_thumbnails_alone(image, frames)):
        raise BadImageError(f"{name} contains {frames} frames or pages, and only single images are supported; save each as its own file.")
    bits = _count_bits(image)
    if not (image.mode in _MODES or (image.mode == "I" and image.format == "PPM")):
        kind = {"F": "floating-point pixels", "I": "32-bit or signed integer pixels"}.get(image.mode, f"pixels of mode {image.mode}")
        raise BadImageError(f"{name} holds {kind}, which are not supported; {_SAVE_AS}.")
    deep = image.mode.startswith("I") or (image.format == "TIFF" and _swap(image) is not None)
    if bits > 8 and not (bits == 16 and deep):
        raise BadImageError(f"{name} is a {image.format} file of {bits} bits a channel, which are not supported; {_SAVE_AS}.")


def _count_bits(image: ImageFile.ImageFile) -> int:
    if image.format == "TIFF":
        return max(getattr(image, "tag_v2", {}).get(_BITS, (1,)))
    if image.format == "PPM" and image.mode == "I":
        return 16  # Pillow scales any depth above 8 to 16
    if image.format == "PPM" and isinstance(image.tile[0].args, tuple) and image.tile[0].codec_name.startswith("ppm"):
        return int(image.tile[0].args[-1]).bit_length()  # from the largest value
    return 8


def _has_thumbnails_alone(image: ImageFile.ImageFile, frames: int) -> bool:
    """Check that all later pages are smaller copies of the first: marked as such (NewSubfileType), or at most half as wide and high."""
    width, height = stored_size(image)
    small = True
    for frame in range(1, frames):
        image.seek(frame)
        tags: Any = getattr(image, "tag_v2", {})
        small &= bool(tags.get(_SUBFILE, 0) & 1) or (2 * tags.get(256, width) <= width and 2 * tags.get(257, height) <= height)
    image.seek(0)
    return small


def _decode_tiff(image: ImageFile.ImageFile, stream: Stream) -> tuple[Integer[np.ndarray, "h w channels"], str]:
    tags: Any = image.tag_v2  # pyright: ignore[reportAttributeAccessIssue]
    white_is_zero, swapped = tags.get(_PHOTOMETRIC) == 0, _swap(image)
    loaded = _load_as_stored(image)
    if loaded.mode.startswith("I;16"):
        samples, mode = _to_samples(loaded)
        return (65535 - samples if white_is_zero else samples), mode  # Pillow inverts only 8 bits and fewer
    if swapped is None:
        return _to_samples(loaded)
    stream.seek(0)
    with Image.open(stream, formats=["TIFF"]) as again:
        again.tile = [tile._replace(args=(args, *(tile.args or ())[1:])) for tile, args in zip(again.tile, swapped, strict=True)]
        low = _load_as_stored(again)
    samples: UInt16[np.ndarray, "h w c"] = np.asarray(loaded).astype(np.uint16) * np.uint16(256) + np.asarray(low)
    return samples, loaded.mode


def _swap(image: ImageFile.ImageFile) -> list[str] | None:
    """Return the raw modes for the low bytes of a TIFF's 16-bit colours, of which Pillow reads the high ones; None for other TIFFs.

    Separate planes, which Pillow would treat as 8-bit ones, and premultiplied alpha are not supported either.
    """
    if image.mode not in ("RGB", "RGBA") or getattr(image, "tag_v2", {}).get(_PLANES, 1) != 1:
        return None
    rawmodes = [str(tile.args[0]) for tile in image.tile if isinstance(tile.args, tuple)]
    if not rawmodes or not all(mode[:-1] in ("RGB;16", "RGBX;16", "RGBA;16") for mode in rawmodes):
        return None
    return [mode[:-1] + _SWAPPED[mode[-1]] for mode in rawmodes]


def _load_as_stored(image: ImageFile.ImageFile) -> Image.Image:
    """Load a TIFF without Pillow's rotation, which rewrites the EXIF tags and fails if it cannot."""
    image.load_end = lambda: None
    image.load()
    return image.copy()  # with the size of its pixels


def _to_samples(image: Image.Image) -> tuple[Integer[np.ndarray, "h w channels"], str]:
    if image.mode.startswith("I"):
        return np.asarray(image).astype(np.uint16)[..., None], "L"
    if image.mode == "CMYK":
        return np.asarray(image), "CMYK"
    transparent = image.has_transparency_data
    if image.mode in ("1", "L", "LA"):
        # Through RGBA, because there Pillow turns a transparent grey level into alpha for all three modes.
        return (np.asarray(image.convert("RGBA"))[..., [0, 3]], "LA") if transparent else (np.asarray(image.convert("L"))[..., None], "L")
    mode = "RGBA" if transparent else "RGB"
    return np.asarray(image.convert(mode)), mode

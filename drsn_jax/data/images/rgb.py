"""Image files as uint8 RGB, and the three ways to crop_size x crop_size (SPEC.md section 1, "converted to 256x256").

Uses Pillow and numpy only. Any image that `read_rgb` reads can be used for training, evaluation and metrics, whichever decoder is used.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from drsn_jax.data.images.metadata import read_orientation
from drsn_jax.data.images.opening import ImageSource, opening
from drsn_jax.data.images.photo import quoted, to_rgb8
from drsn_jax.data.images.reader import decode_upright, upright_size
from drsn_jax.system.errors import BadImageError, InputError

FRAMES = ("resize", "half_crop", "crop")
# Parts of a PNG that may contain an orientation, or make colours transparent.
_NOT_PLAIN = (b"eXIf", b"XML:com.adobe.xmp", b"Raw profile type", b"tRNS")


def read_rgb(path: str | ImageSource) -> UInt8[np.ndarray, "h w 3"]:
    """Decode one image file completely.

    Returns uint8 [h w 3], RGB, 0..255, upright (EXIF orientation applied): the rounded result of `read_photo`. Grey, palette and CMYK are
    converted, alpha is dropped, 16 bits are scaled by 1/257. Raises `BadImageError` as `read_photo` does.
    """
    with opening(path) as (image, stream):
        return to_rgb8(*decode_upright(image, stream, name=quoted(path)))


def image_size(path: str | ImageSource) -> tuple[int, int]:
    """Return (height, width) of the upright image, from the header alone. Raises `BadImageError` as `read_rgb` does."""
    if (known := getattr(path, "size", None)) is not None:
        return known
    with opening(path) as (image, stream):
        return upright_size(image, stream)


def contents_of(file: ImageSource) -> bytes:
    """Return the encoded image, or nothing for an unreadable path, which `read_rgb` reports."""
    if isinstance(file, Path) and not file.is_file():
        return b""
    try:
        return file.read_bytes()
    except OSError:
        return b""


def check_whole(contents: bytes, *, name: str) -> None:
    """Raise `BadImageError` naming `name` if an encoded image is damaged, cut short, or not supported by `read_rgb`.

    For a PNG its checksums are enough (2 ms a megapixel); other formats are decoded.
    """
    with opening(_Encoded(name, contents)) as (image, stream):
        if image.format == "PNG":
            image.verify()
        else:
            decode_upright(image, stream, name=quoted(name))


def plain_format(contents: bytes) -> str | None:
    """Return 'PNG' or 'JPEG' if any decoder gives the pixels of `read_rgb` (upright 8-bit RGB without transparency), else None."""
    try:
        with opening(_Encoded("", contents)) as (image, stream):
            # PNG of 16 bits a channel also opens as RGB; its depth is byte 24.
            if image.mode != "RGB" or getattr(image, "n_frames", 1) > 1 or image.format not in ("PNG", "JPEG"):
                return None
            if image.format == "PNG":
                return "PNG" if contents[24] == 8 and not any(name in contents for name in _NOT_PLAIN) else None
            # Decoders differ in their results for a truncated progressive file.
            return "JPEG" if read_orientation(image, stream) == 1 and not image.info.get("progressive") else None
    except BadImageError:  # `read_rgb` reports the reason
        return None


def fit_frame(image: UInt8[np.ndarray, "h w 3"], *, frame: str, crop_size: int) -> UInt8[np.ndarray, "fitted_h fitted_w 3"]:
    """Apply the constant part of `frame`, which can be cached: uint8 0..255 in and out, before any crop.

    - `resize`: the whole frame resized to [crop_size crop_size 3] without its aspect ratio (as the Keras reference; hides most of the
      blur).
    - `half_crop`: [h//2 w//2 3] (as DeblurGAN).
    - `crop`: unchanged.

    Both resamplings are Pillow's antialiased bicubic.
    """
    if frame == "crop":
        return image
    height, width = fitted_size(image.shape[:2], frame=frame, crop_size=crop_size)
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


def fitted_size(size: tuple[int, ...], *, frame: str, crop_size: int) -> tuple[int, int]:
    """Return (height, width) after `fit_frame` of an image of `size`, at least 1x1."""
    if frame == "resize":
        return crop_size, crop_size
    return (max(size[0] // 2, 1), max(size[1] // 2, 1)) if frame == "half_crop" else (size[0], size[1])


def smallest_size(*, frame: str, crop_size: int) -> int:
    """Return the smallest height and width for which `frame` gives a crop of crop_size: the `min_size` for `check_pairs`."""
    return {"resize": 1, "half_crop": 2 * crop_size, "crop": crop_size}[frame]


@dataclass(frozen=True)
class _Encoded:
    """An image in memory with its name for messages."""

    name: str
    contents: bytes

    def open(self, mode: Any = "rb", /) -> io.BytesIO:
        """Open a stream of it."""
        return io.BytesIO(self.contents)

    def read_bytes(self) -> bytes:
        """Return the encoded image."""
        return self.contents

    def __str__(self) -> str:
        return self.name


def check_same_size(files: Sequence[Any], sizes: Sequence[tuple[int, ...]]) -> None:
    """Raise InputError, naming both files of a pair, unless their two sizes (height, width) are equal."""
    if sizes[0] != sizes[1]:
        shown = [f"{file} is {height}x{width}" for file, (height, width) in zip(files, sizes, strict=True)]
        raise InputError(f"{shown[0]} but {shown[1]} (height x width); give both one size, or remove the pair")

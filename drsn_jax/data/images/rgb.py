"""Image files as uint8 RGB frames, and the three ways to crop_size x crop_size (SPEC.md section 1, "converted to 256x256").

Pillow and numpy only: whatever `read_rgb` reads can be trained on, evaluated and measured, whichever decoder does the work.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from drsn_jax.system.errors import BadImageError, InputError

FRAMES = ("resize", "half_crop", "crop")
_TURNED = (5, 6, 7, 8)  # the EXIF orientations that swap height and width


@runtime_checkable
class ImageFile(Protocol):
    """What an image is read from: a `Path`, a file of an archive, an image of a prepared data set. `str` of it names it to people.

    One that knows its (height, width) has it as `size`, and is then not opened to be measured.
    """

    def open(self, mode: Any = "rb", /) -> IO[Any]:
        """A binary stream of the encoded image."""
        ...

    def read_bytes(self) -> bytes:
        """The encoded image."""
        ...


def read_rgb(path: str | ImageFile) -> UInt8[np.ndarray, "h w 3"]:
    """Decode all of one image file.

    Returns uint8 [h w 3], RGB, 0..255, upright (EXIF orientation applied). Grey, palette and CMYK are converted, alpha is
    dropped, 16-bit grey is scaled by 1/257. Raises `BadImageError` naming the file when it is missing, empty, damaged, cut short,
    not an image, or holds floating-point values.
    """
    with _opening(path) as image:
        image.load()
        upright = ImageOps.exif_transpose(image)
        if upright.mode == "F":
            raise BadImageError(f"{path} holds floating-point values, whose range is anyone's guess; save it with 8 or 16 bits a channel")
        if upright.mode == "I" or upright.mode.startswith("I;16"):
            return _from_16_bits(np.asarray(upright), path)
        return np.array(upright.convert("RGB"))


def image_size(path: str | ImageFile) -> tuple[int, int]:
    """(height, width) of the upright image, from the file's header alone; raises `BadImageError` as `read_rgb` does."""
    if (known := getattr(path, "size", None)) is not None:
        return known
    with _opening(path) as image:
        return (image.width, image.height) if _orientation(image) in _TURNED else (image.height, image.width)


def contents_of(file: ImageFile) -> bytes:
    """The encoded image, or nothing where a path cannot be read: `read_rgb` will say why."""
    if isinstance(file, Path) and not file.is_file():
        return b""
    try:
        return file.read_bytes()
    except OSError:
        return b""


def check_whole(contents: bytes, *, name: str) -> None:
    """Raises `InputError` naming `name` where an encoded image is damaged or cut short.

    A PNG carries checksums, which are enough (2 ms a megapixel); anything else is decoded.
    """
    try:
        with Image.open(io.BytesIO(contents)) as image:
            image.verify() if image.format == "PNG" else image.load()
    except MemoryError:
        raise
    except Exception as error:
        raise InputError(f"{name} {_trouble(None, error, empty=not contents)}") from error


def plain_format(contents: bytes) -> str | None:
    """'PNG' or 'JPEG' where any decoder gives the pixels of `read_rgb`: upright RGB of 8 bits without transparency; else None."""
    try:
        with Image.open(io.BytesIO(contents)) as image:
            plain = image.mode == "RGB" and "transparency" not in image.info and _orientation(image) == 1
            # PNG of 16 bits a channel also opens as RGB; its depth is byte 24. A late eXIf chunk is not in the header read so far.
            if plain and image.format == "PNG":
                return "PNG" if contents[24] == 8 and b"eXIf" not in contents else None
            return "JPEG" if plain and image.format == "JPEG" else None
    except Exception:  # damaged: `read_rgb` will say how
        return None


def fit_frame(image: UInt8[np.ndarray, "h w 3"], *, frame: str, crop_size: int) -> UInt8[np.ndarray, "fitted_h fitted_w 3"]:
    """The part of `frame` that is the same each time, so that it can be cached: uint8 0..255 in and out, before any crop.

    `resize`: the whole frame squeezed to [crop_size crop_size 3], aspect lost (the Keras reference's; it hides most of the blur);
    `half_crop`: [h//2 w//2 3] (DeblurGAN's); `crop`: untouched. Both resamplings are Pillow's antialiased bicubic.
    """
    if frame == "crop":
        return image
    height, width = fitted_size(image.shape[:2], frame=frame, crop_size=crop_size)
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


def fitted_size(size: tuple[int, ...], *, frame: str, crop_size: int) -> tuple[int, int]:
    """(height, width) of what `fit_frame` makes of an image of `size`, at least 1x1."""
    if frame == "resize":
        return crop_size, crop_size
    return (max(size[0] // 2, 1), max(size[1] // 2, 1)) if frame == "half_crop" else (size[0], size[1])


def smallest_size(*, frame: str, crop_size: int) -> int:
    """The least height and width from which `frame` yields a crop of crop_size: the `min_size` to give `check_pairs`."""
    return {"resize": 1, "half_crop": 2 * crop_size, "crop": crop_size}[frame]


@contextmanager
def _opening(file: str | ImageFile) -> Iterator[Image.Image]:
    """Open an image; whatever a decoder raises on damaged data, here or in the caller's block, becomes a `BadImageError`."""
    file = Path(file) if isinstance(file, str) else file
    path = file if isinstance(file, Path) else None
    try:
        with file.open("rb") as stream, Image.open(stream) as image:
            yield image
    except (InputError, MemoryError):
        raise
    except Exception as error:  # Pillow's plugins raise OSError, SyntaxError, ValueError, struct.error, zlib.error, ...
        empty = not path.exists() or path.stat().st_size == 0 if path else not file.read_bytes()
        raise BadImageError(f"{file} {_trouble(path, error, empty=empty)}") from error


def _trouble(path: Path | None, error: Exception, *, empty: bool) -> str:
    if path is not None and path.is_dir():
        return "is a folder; an image file is needed here"
    if isinstance(error, FileNotFoundError):
        return "does not exist; check the path"
    if isinstance(error, PermissionError):
        return "may not be read (permission denied); change its permissions"
    if empty:
        return "is empty (0 bytes); replace or remove it"
    if isinstance(error, UnidentifiedImageError):
        return "is not an image, whatever its name says; replace or remove it"
    if isinstance(error, Image.DecompressionBombError):
        return f"is larger than the {2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6:.0f} megapixels allowed; cut it into smaller images"
    return f"is damaged or cut short ({' '.join(str(error).split())}); replace or remove it"


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation that remains to be applied, 1 where there is none, without decoding any pixel."""
    if image.format == "TIFF":  # Pillow turns a TIFF by itself, and its size says so already
        return 1
    # Asking a PNG without EXIF for it decodes the pixels in search of a late chunk: look at the header's own list first.
    if not {"exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"} & image.info.keys():
        return 1
    return image.getexif().get(ExifTags.Base.Orientation, 1)


def _from_16_bits(values: np.ndarray, path: str | ImageFile) -> UInt8[np.ndarray, "h w 3"]:
    if values.min() < 0 or values.max() > 65535:  # mode "I" holds 32 bits
        raise BadImageError(f"{path} holds grey values from {values.min()} to {values.max()}; save it with 8 or 16 bits a channel")
    grey = np.rint(values / 257).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)

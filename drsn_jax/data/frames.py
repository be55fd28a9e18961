"""Image files as uint8 RGB frames, and the three ways to crop_size x crop_size (SPEC.md section 1, "converted to 256x256").

Pillow and numpy only: whatever `read_rgb` reads can be trained on, evaluated and measured, whichever decoder does the work.
"""

import io
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from drsn_jax.errors import InputError

FRAMES = ("resize", "half_crop", "crop")
_TURNED = (5, 6, 7, 8)  # the EXIF orientations that swap height and width


def read_rgb(path: str | Path) -> UInt8[np.ndarray, "h w 3"]:
    """Decode all of one image file.

    Returns uint8 [h w 3], RGB, 0..255, upright (EXIF orientation applied). Grey, palette and CMYK are converted, alpha is
    dropped, 16-bit grey is scaled by 1/257. Raises `InputError` naming the file when it is missing, empty, damaged, cut short,
    not an image, or holds floating-point values.
    """
    with _opening(Path(path)) as image:
        image.load()
        upright = ImageOps.exif_transpose(image)
        if upright.mode == "F":
            raise InputError(f"{path} holds floating-point values, whose range is anyone's guess; save it with 8 or 16 bits a channel")
        if upright.mode == "I" or upright.mode.startswith("I;16"):
            return _from_16_bits(np.asarray(upright), path)
        return np.array(upright.convert("RGB"))


def image_size(path: str | Path) -> tuple[int, int]:
    """(height, width) of the upright image, from the file's header alone; raises `InputError` as `read_rgb` does."""
    with _opening(Path(path)) as image:
        return (image.width, image.height) if _orientation(image) in _TURNED else (image.height, image.width)


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


class CropLoader:
    """Number of a pair and four random draws -> the same window, mirroring and turn of its two images. For many threads at once.

    `files` are (blurred, sharp) paths, `decode` is `read_rgb` or its equal. `flip` mirrors every other sample left to right,
    `rotate` turns by 0 to 3 quarters. With `cache_limit_bytes`, fitted frames stay in `frames` and nothing is decoded twice: sum of
    height * width * 6 bytes (GoPro's 2,103 pairs at full size: 11.6 GB); `InputError` at once where that exceeds the limit.
    """

    def __init__(
        self,
        files: Sequence[tuple[Path, Path]],
        *,
        frame: str,
        crop_size: int,
        flip: bool = False,
        rotate: bool = False,
        cache_limit_bytes: int | None = None,
        decode: Callable[[Path], UInt8[np.ndarray, "h w 3"]] = read_rgb,
    ):
        """Nothing is read yet, but for the headers when the memory of a cache has to be counted."""
        self.files, self.frame, self.crop_size, self.decode = files, frame, crop_size, decode
        self.flip, self.rotate, self.cache = flip, rotate, cache_limit_bytes is not None
        self.frames: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        if cache_limit_bytes is not None:
            self._check_memory(cache_limit_bytes)

    def __call__(self, number: int | np.integer, draws: Float[np.ndarray, " 4"]) -> UInt8[np.ndarray, "2 crop crop 3"]:
        """Blurred and sharp crop, 0..255; `draws`, each in [0, 1), decide on top, left, mirroring and turn, in this order.

        Raises `InputError` when a file is unreadable, too small, or not of its partner's size.
        """
        images = self.frames.get(int(number)) or self._fit(int(number))
        down, right, mirror, turn = draws.tolist()
        height, width = (extent - self.crop_size + 1 for extent in images[0].shape[:2])
        top, left = int(down * height), int(right * width)
        crops = [image[top : top + self.crop_size, left : left + self.crop_size] for image in images]
        if self.flip and mirror < 0.5:
            crops = [crop[:, ::-1] for crop in crops]
        if self.rotate:
            crops = [np.rot90(crop, int(4 * turn)) for crop in crops]
        return np.stack(crops)

    def _fit(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        names = self.files[number]
        blurred, sharp = (self.decode(path) for path in names)
        if blurred.shape != sharp.shape:
            raise InputError(f"{names[0]} and {names[1]} differ in size: {blurred.shape[:2]}, {sharp.shape[:2]}; replace or remove them")
        blurred, sharp = (fit_frame(image, frame=self.frame, crop_size=self.crop_size) for image in (blurred, sharp))
        if min(blurred.shape[:2]) < self.crop_size:
            raise InputError(
                f"{names[0]} gives a frame of {blurred.shape[0]}x{blurred.shape[1]} (frame={self.frame!r}), "
                f"smaller than the crop of {self.crop_size}; use a smaller --config.crop_size or remove the pair"
            )
        if self.cache:
            self.frames[number] = (blurred, sharp)
        return blurred, sharp

    def _check_memory(self, limit: int) -> None:
        with ThreadPoolExecutor(8) as pool:
            sizes = pool.map(image_size, [blurred for blurred, _ in self.files])
            fitted = [fitted_size(size, frame=self.frame, crop_size=self.crop_size) for size in sizes]
        needed = sum(height * width * 6 for height, width in fitted)
        if needed > limit:
            raise InputError(
                f"Caching {len(fitted)} pairs takes {needed / 1e9:.3g} GB, the limit is {limit / 1e9:.3g} GB; "
                "turn the cache off, raise its limit or use smaller frames (frame='half_crop' or 'resize')"
            )


@contextmanager
def _opening(path: Path) -> Iterator[Image.Image]:
    """Open an image; whatever a decoder raises on damaged data, here or in the caller's block, becomes an `InputError`."""
    try:
        with Image.open(path) as image:
            yield image
    except (InputError, MemoryError):
        raise
    except Exception as error:  # Pillow's plugins raise OSError, SyntaxError, ValueError, struct.error, zlib.error, ...
        raise InputError(f"{path} {_trouble(path, error)}") from error


def _trouble(path: Path, error: Exception) -> str:
    if path.is_dir():
        return "is a folder; an image file is needed here"
    if isinstance(error, FileNotFoundError):
        return "does not exist; check the path"
    if isinstance(error, PermissionError):
        return "may not be read (permission denied); change its permissions"
    if path.exists() and path.stat().st_size == 0:
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


def _from_16_bits(values: np.ndarray, path: str | Path) -> UInt8[np.ndarray, "h w 3"]:
    if values.min() < 0 or values.max() > 65535:  # mode "I" holds 32 bits
        raise InputError(f"{path} holds grey values from {values.min()} to {values.max()}; save it with 8 or 16 bits a channel")
    grey = np.rint(values / 257).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)


def half_of_memory() -> int:
    """Bytes: what a cache of frames may take unless told otherwise; 4 GiB where the system does not say (Windows)."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2 if hasattr(os, "sysconf") else 4 * 2**30

"""Reading people's image files and writing the restored ones: all of a file or nothing, and one clear line when it cannot be."""

import contextlib
import os
import secrets
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image, UnidentifiedImageError

from drsn_jax.data.images.decoding import decode_photo
from drsn_jax.data.images.photo import MODES, Photo, quoted, reason, target_mode
from drsn_jax.restoration.core.tiling import to_uint8
from drsn_jax.restoration.files.encoding import encode_photo
from drsn_jax.system.errors import InputError
from drsn_jax.system.panels import encode_png, make_panel

__all__ = [
    "Photo",
    "appearing",
    "check_source",
    "check_target",
    "read_photo",
    "target_mode",
    "unwritable",
    "write_file",
    "write_photo",
]


def read_photo(path: Path | str, *, max_pixels: int | None = None) -> Photo:
    """Read one image file: JPEG, PNG, TIFF, WebP, BMP, GIF or PPM, 8 bits a channel, or 16 in PNG and grey TIFF.

    The pixels are turned upright, and `Photo.rgb` is float32 [h w 3] in [0, 1]. Raises InputError, naming the path, for anything
    that is not one whole picture: missing, empty, damaged, cut short, several frames, a depth or format that is not supported; and,
    before anything is decoded, for more than `max_pixels` by the header.
    """
    path = Path(path)
    try:
        check_source(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's: damaged EXIF, and sizes from half the limit that raises (panoramas)
            with Image.open(path, formats=list(MODES)) as image:
                if max_pixels is not None:
                    _check_size(image, path, max_pixels=max_pixels)
                return decode_photo(image, path)
    except InputError:
        raise
    except Image.DecompressionBombError as error:
        raise InputError(f"{quoted(path)} is too large: {reason(error)} Crop it, or scale it down, and try again.") from error
    except UnidentifiedImageError as error:
        heic = " (HEIC photographs have to be converted first)" if path.suffix.lower() in (".heic", ".heif") else ""
        raise InputError(f"{quoted(path)} is not an image of a format that can be read{heic}; give one of {', '.join(MODES)}.") from error
    except PermissionError as error:
        raise InputError(f"{quoted(path)} cannot be read ({reason(error)}); check the permissions of the file.") from error
    except Exception as error:  # on damaged data Pillow's decoders raise almost anything, from struct.error to IndexError
        raise InputError(f"{quoted(path)} cannot be decoded ({reason(error)}); the file is damaged or cut short, replace it.") from error


def write_photo(photo: Photo, restored: Float[np.ndarray, "h w 3"], path: Path | str, *, overwrite: bool = False) -> None:
    """Write `restored` ([0, 1], the size of `photo.rgb`) to `path` in the photo's mode, depth and metadata, format by the suffix.

    The file appears whole or not at all, also when interrupted; folders are made. Raises InputError if `path` exists and
    `overwrite` is false, cannot be written, or cannot hold the photo (`encode_photo`); ValueError for another size.
    """
    path = Path(path)
    if restored.shape != photo.rgb.shape:
        raise ValueError(f"restored has shape {restored.shape}, the photo {photo.rgb.shape}; they must be equal.")
    check_target(path, overwrite=overwrite)
    write_file(encode_photo(photo, restored, path), path, overwrite=overwrite)


def write_file(data: bytes, path: Path, *, overwrite: bool = False) -> None:
    """Write `data` to `path`, whole or not at all, also when interrupted; folders are made. Raises InputError as `write_photo`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write_atomically(data, path, overwrite=overwrite)
    except OSError as error:
        raise unwritable(path, error) from error


def check_target(path: Path, *, overwrite: bool) -> None:
    """Raise InputError if `path` is taken (unless `overwrite`) or its folder cannot be written: asked before the slow work."""
    try:
        if path.is_dir():
            raise InputError(f"{quoted(path)} is a folder; give the name of a file in it.")
        if os.path.lexists(path) and not overwrite:
            raise _exists(path)
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        if not folder.is_dir():
            raise InputError(f"{quoted(path)} cannot be written: {quoted(folder)} is a file, not a folder; choose another --output.")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise InputError(f"{quoted(path)} cannot be written: no permission to write in {quoted(folder)}; choose another --output.")
    except OSError as error:  # a name too long for the file system, a loop of links
        raise InputError(f"{quoted(path)} cannot be written ({reason(error)}); choose another --output.") from error


def unwritable(path: Path, error: Exception) -> InputError:
    """What is said where `path` could not be written."""
    if isinstance(error, FileExistsError):
        return _exists(path)
    advice = "nothing was left behind; free some space or choose another folder (--output)"
    return InputError(f"{quoted(path)} cannot be written ({reason(error)}); {advice}.")


def check_source(path: Path, *, kind: str = "an image") -> None:
    """Raise InputError unless `path` is a regular file with something in it."""
    if path.is_dir():
        raise InputError(f"{quoted(path)} is a folder, not {kind}; give the name of a file.")
    if not path.exists():
        raise InputError(f"{quoted(path)} does not exist; check the name.")
    if not path.is_file():
        raise InputError(f"{quoted(path)} is not a regular file; give {kind} file.")  # a pipe would wait for ever
    if path.stat().st_size == 0:
        raise InputError(f"{quoted(path)} is empty (0 bytes); replace the file.")


def _check_size(image: Image.Image, path: Path, *, max_pixels: int) -> None:
    tags = getattr(image, "tag_v2", {})
    tile = tags.get(322, 0), tags.get(323, 0)  # width and length; of a TIFF in tiles one may exceed the image, and is decoded whole
    for what, (width, height) in (("", image.size), ("tiles of ", tile)):
        if width * height > max_pixels:
            excess = f"{what}{width}x{height} pixels ({width * height / 1e6:.1f} MP), more than {max_pixels / 1e6:g} MP"
            raise InputError(f"{quoted(path)} has {excess}; scale it down.")


def _exists(path: Path) -> InputError:
    return InputError(f"{quoted(path)} already exists; choose another --output, or --overwrite to replace it.")


@contextlib.contextmanager
def appearing(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """The name under which the block writes what is then given its name `path`: whole, or not at all where the block raises.

    Raises FileExistsError where, without `overwrite`, somebody took `path` meanwhile.
    """
    # Hidden, so that no run over a folder takes it for an image; short, because the name itself may be as long as is allowed.
    temporary = path.with_name(f".drsn-{secrets.token_hex(6)}{path.suffix if len(path.suffix) < 8 else ''}")
    try:
        yield temporary
        if not overwrite:
            _claim(temporary, path)
        else:
            os.replace(temporary, path)
    finally:  # also on Ctrl-C; after os.replace there is nothing left to remove
        with contextlib.suppress(OSError):
            temporary.unlink()


def _write_atomically(data: bytes, path: Path, *, overwrite: bool) -> None:
    with appearing(path, overwrite=overwrite) as temporary, temporary.open("xb") as file:
        file.write(data)


def _claim(temporary: Path, path: Path) -> None:
    """Give `temporary` its final name only if nobody else has taken it meanwhile, which a rename cannot ask."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links (FAT, some network shares)
        path.open("xb").close()
        os.replace(temporary, path)


def encode_panel(photo: Photo, restored: Float[np.ndarray, "h w 3"]) -> bytes:
    """The bytes of a PNG file: `photo` and `restored` ([0, 1]) at their full size under their labels; transparency is not shown."""
    if photo.mode.startswith("L"):
        restored = np.repeat(restored.mean(axis=-1, keepdims=True), 3, axis=-1)  # as it is written
    return encode_png(make_panel([to_uint8(photo.rgb), to_uint8(restored)], labels=["blurred", "restored"]))

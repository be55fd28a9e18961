"""Writing of restored photographs: the whole file or nothing, with one clear line for a failure."""

import errno
import os
from pathlib import Path

import numpy as np
from jaxtyping import Float

from drsn_jax.data.images.photo import Photo, quoted, reason, to_rgb8
from drsn_jax.restoration.core.tiling import to_uint8
from drsn_jax.restoration.files.encoding import encode_photo
from drsn_jax.restoration.files.targets import Encoding, plan_encoding
from drsn_jax.system.errors import InputError
from drsn_jax.system.files import write_atomically
from drsn_jax.system.panels import encode_png, make_panel


def write_photo(
    photo: Photo,
    restored: Float[np.ndarray, "h w 3"],
    path: Path | str,
    *,
    overwrite: bool = False,
    encoding: Encoding | None = None,
) -> None:
    """Write `restored` ([0, 1], the size of `photo.rgb`) to `path` in the photo's mode, depth and metadata; the suffix gives the format.

    `encoding` defaults to that of `plan_encoding`. The file appears whole or not at all, also when interrupted;
    folders are made. Raises InputError if `path` exists and `overwrite` is false, cannot be written, or cannot store the photo;
    ValueError for another size.
    """
    path = Path(path)
    if restored.shape != photo.rgb.shape:
        raise ValueError(f"restored has shape {restored.shape}, the photo {photo.rgb.shape}; they must be equal.")
    check_target(path, overwrite=overwrite)
    write_file(encode_photo(photo, restored, encoding or plan_encoding(photo, path)), path, overwrite=overwrite)


def write_file(data: bytes, path: Path, *, overwrite: bool = False) -> None:
    """Write `data` to `path`, whole or not at all, also when interrupted; folders are made. Raises InputError as `write_photo`."""
    try:
        write_atomically(path, data, overwrite=overwrite)
    except OSError as error:
        raise unwritable(path, error) from error


def check_target(path: Path, *, overwrite: bool) -> None:
    """Raise InputError if `path` exists (unless `overwrite`) or its folder cannot be written; called before the slow work."""
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
    except OSError as error:  # such as a name too long for the file system, or a loop of links
        raise InputError(f"{quoted(path)} cannot be written ({reason(error)}); choose another --output.") from error


def unwritable(path: Path, error: Exception) -> InputError:
    """Make the error for a `path` that could not be written."""
    if isinstance(error, FileExistsError):
        return _exists(path)
    message = f"{quoted(path)} cannot be written ({reason(error)})"
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    advice = "free some space or choose another folder" if full else "choose another place or format"
    return InputError(f"{message}; no partial file is left; {advice} (--output).", plain=f"{message}.")


def _exists(path: Path) -> InputError:
    return InputError(f"{quoted(path)} already exists; choose another --output, or --overwrite to replace it.")


def encode_panel(photo: Photo, restored: Float[np.ndarray, "h w 3"]) -> bytes:
    """Encode a PNG file of `photo` and `restored` ([0, 1]) at full size under their labels; transparency is not shown."""
    if photo.mode.startswith("L"):
        restored = np.repeat(restored.mean(axis=-1, keepdims=True), 3, axis=-1)  # as in the written file
    return encode_png(make_panel([to_rgb8(photo.samples, photo.mode), to_uint8(restored)], labels=["blurred", "restored"]))

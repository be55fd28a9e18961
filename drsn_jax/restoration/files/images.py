"""Writing restored photographs: all of a file or nothing, and one clear line when it cannot be."""

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float

from drsn_jax.data.images.photo import Photo, quoted, reason, to_rgb8
from drsn_jax.restoration.core.tiling import to_uint8
from drsn_jax.restoration.files.encoding import encode_photo
from drsn_jax.restoration.files.targets import Encoding, plan_encoding
from drsn_jax.system.errors import InputError
from drsn_jax.system.panels import encode_png, make_panel


def write_photo(
    photo: Photo,
    restored: Float[np.ndarray, "h w 3"],
    path: Path | str,
    *,
    overwrite: bool = False,
    encoding: Encoding | None = None,
) -> None:
    """Write `restored` ([0, 1], the size of `photo.rgb`) to `path` in the photo's mode, depth and metadata, format by the suffix.

    `encoding` is that of `plan_encoding`, made anew where it is left out. The file appears whole or not at all, also when interrupted;
    folders are made. Raises InputError if `path` exists and `overwrite` is false, cannot be written, or cannot hold the photo;
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
    message = f"{quoted(path)} cannot be written ({reason(error)})"
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    advice = "free some space or choose another folder" if full else "choose another place or format"
    return InputError(f"{message}; nothing was left behind; {advice} (--output).", plain=f"{message}.")


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
    return encode_png(make_panel([to_rgb8(photo.samples, photo.mode), to_uint8(restored)], labels=["blurred", "restored"]))

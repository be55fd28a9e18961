"""Atomic file writes: a file appears whole or not at all."""

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from drsn_jax.system.paths import AnyPath, explaining


def write_atomically(path: AnyPath, content: bytes, *, overwrite: bool = True) -> None:
    """Write `content` under a temporary name beside `path`, then rename it, so that no reader sees half a file.

    Objects in a bucket are atomic by themselves. Makes missing folders. Raises OSError if the place cannot be written, and
    FileExistsError if `path` exists and `overwrite` is off.
    """
    if not isinstance(path, Path):
        with explaining(path):
            path.write_bytes(content)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with appearing(path, overwrite=overwrite) as temporary:
        temporary.write_bytes(content)


@contextlib.contextmanager
def appearing(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield a temporary name for a file or folder. At the end of the block it is renamed to `path`; if the block raises, it is removed.

    Raises FileExistsError if `path` appeared in the meantime and `overwrite` is off. A folder never replaces an existing path.
    """
    # Hidden, so that a run over the folder does not take it for an image. Short, because `path`'s name may already have the maximum length.
    temporary = path.with_name(f".drsn-{secrets.token_hex(6)}{path.suffix if len(path.suffix) < 8 else ''}")
    try:
        yield temporary
        if temporary.is_dir():
            _claim_for_folder(temporary, path)
        elif not overwrite:
            _claim(temporary, path)
        else:
            os.replace(temporary, path)
    finally:  # also on Ctrl-C; after os.replace there is nothing to remove
        shutil.rmtree(temporary, ignore_errors=True)
        with contextlib.suppress(OSError):
            temporary.unlink()


def _claim_for_folder(temporary: Path, path: Path) -> None:
    """Rename the folder `temporary` to `path` unless `path` exists. A plain rename would replace a file or an empty folder."""
    if os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    os.rename(temporary, path)


def _claim(temporary: Path, path: Path) -> None:
    """Rename `temporary` to `path` unless `path` exists. A plain rename would overwrite it."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links (FAT, some network shares)
        path.open("xb").close()
        os.replace(temporary, path)

"""Writing files whole or not at all."""

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from drsn_jax.system.paths import AnyPath, explaining


def write_atomically(path: AnyPath, content: bytes, *, overwrite: bool = True) -> None:
    """Write `content` under a temporary name beside `path`, then rename: nobody ever reads half a file.

    In a bucket an object appears whole by itself. Makes missing folders. Raises OSError where the place cannot be written; without
    `overwrite`, FileExistsError where `path` is taken.
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
    """The name under which the block writes the file or folder that is then given its name `path`: whole, or not at all where it raises.

    Raises FileExistsError where, without `overwrite`, somebody took `path` meanwhile; a folder takes no name that is taken.
    """
    # Hidden, so that no run over a folder takes it for an image; short, because the name itself may be as long as is allowed.
    temporary = path.with_name(f".drsn-{secrets.token_hex(6)}{path.suffix if len(path.suffix) < 8 else ''}")
    try:
        yield temporary
        if temporary.is_dir():
            _claim_for_folder(temporary, path)
        elif not overwrite:
            _claim(temporary, path)
        else:
            os.replace(temporary, path)
    finally:  # also on Ctrl-C; after os.replace there is nothing left to remove
        shutil.rmtree(temporary, ignore_errors=True)
        with contextlib.suppress(OSError):
            temporary.unlink()


def _claim_for_folder(temporary: Path, path: Path) -> None:
    """A rename refuses a folder with something in it, and is asked here about all else."""
    if os.path.lexists(path):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
    os.rename(temporary, path)


def _claim(temporary: Path, path: Path) -> None:
    """Give `temporary` its final name only if nobody else has taken it meanwhile, which a rename cannot ask."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links (FAT, some network shares)
        path.open("xb").close()
        os.replace(temporary, path)

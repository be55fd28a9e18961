"""Exclusive use of a folder by one process.

The package filelock is no substitute. It does not name the owner of a lock, leaves its file behind, and does not work in buckets.
"""

import contextlib
import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from drsn_jax.system.errors import InputError
from drsn_jax.system.leases import hold_lease
from drsn_jax.system.paths import AnyPath

LOCK_FILE = ".lock"  # hidden, so that listings skip it
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # file systems without locks, such as some network folders


@contextlib.contextmanager
def lock_folder(path: AnyPath, *, doing: str) -> Iterator[None]:
    """Keep the folder `path`, made if missing, to this process while the block runs.

    The lock ends with the process, even if it is killed. In a bucket `leases.hold_lease` is used instead. `doing` completes the message of
    the InputError: "preparing hide" for an owner that prepares HIDE. At the end the lock file is removed, and so are the folders that were
    made here and are still empty. Raises `InputError` at once if the folder is already held, also by this process, and if `path` or one of
    its parents is a file. Raises OSError if the folder cannot be written. On Windows and on file systems without locks only the folder is
    made.
    """
    if not isinstance(path, Path):
        with hold_lease(path, doing=doing):
            yield
        return
    made = [folder for folder in (path, *path.parents) if not folder.exists()]
    file = _acquire(path, doing)
    try:
        yield
    finally:
        if file:
            (path / LOCK_FILE).unlink(missing_ok=True)  # before the lock is released: afterwards the file may belong to another process
            file.close()
        with contextlib.suppress(OSError):  # not empty: it was used
            for folder in made:
                folder.rmdir()


def _acquire(path: Path, doing: str) -> IO[Any] | None:
    for _ in range(100):  # another process may remove the folder or the lock file as it ends
        try:
            path.mkdir(parents=True, exist_ok=True)
            file = _open(path / LOCK_FILE, doing)
            if file is None or _is_there(file, path / LOCK_FILE):
                return file
            file.close()
        except FileNotFoundError:
            continue
        except (FileExistsError, NotADirectoryError) as error:
            there = next((place for place in (path, *path.parents) if os.path.lexists(place)), path)
            raise InputError(f"{there} is a file, a folder is needed ({path}); choose another place") from error
    raise InputError(f"{path} cannot be locked; remove {path / LOCK_FILE}, or choose another folder")


def _open(path: Path, doing: str) -> IO[Any] | None:
    """Open and lock the lock file; None if locks are not supported. Raises `InputError`, naming the owner, if it is already locked."""
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    file = path.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return file
        file.seek(0)
        owner = file.read(200).strip() or "another process"
        file.close()
        if isinstance(error, BlockingIOError):
            raise InputError(f"{path.parent} is in use, {owner} is {doing} there; wait for it, or choose another folder") from error
        raise
    with contextlib.suppress(OSError):  # a full disk: the lock works without a name in it
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
    return file


def _is_there(file: IO[Any], path: Path) -> bool:
    """Check that the opened file still has its name: the last holder may have removed it before we locked it."""
    return os.path.samestat(os.fstat(file.fileno()), path.stat())

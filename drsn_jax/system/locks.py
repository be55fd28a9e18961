"""One process at a time in a folder that is written to.

Not filelock, which does not say who holds a lock of the system, leaves its file behind, and knows no bucket.
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

LOCK_FILE = ".lock"  # hidden: whoever lists a folder passes over it
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # a file system without locks, as some network folders


@contextlib.contextmanager
def lock_folder(path: AnyPath, *, doing: str) -> Iterator[None]:
    """Keeps `path`, a folder that is made where it is missing, to this process for as long as the block runs.

    The lock ends with the process, however that ends; in a bucket `leases.hold_lease` takes its place. `doing` is what another process
    that holds it is taken to do: "preparing hide".
    Folders made here that are still empty at the end are removed, and so is the lock file. Raises `InputError` at once where the
    folder is held already, also by this process, and where it or a parent of it is a file; OSError where it cannot be written.
    Without effect but for the folder on Windows, and on file systems that have no locks.
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
            (path / LOCK_FILE).unlink(missing_ok=True)  # while it is held: afterwards it may be somebody else's
            file.close()
        with contextlib.suppress(OSError):  # not empty: used
            for folder in made:
                folder.rmdir()


def _acquire(path: Path, doing: str) -> IO[Any] | None:
    for _ in range(100):  # a process that ends may remove the folder or the file under our hands
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
    """The file with the lock on it, None where there are no locks. Raises `InputError`, naming the owner, where it is taken."""
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
    with contextlib.suppress(OSError):  # of a full disk: the lock is held all the same
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
    return file


def _is_there(file: IO[Any], path: Path) -> bool:
    """Whether the file that was opened is still the one of that name: its last holder may have removed it before we had the lock."""
    return os.path.samestat(os.fstat(file.fileno()), path.stat())

"""Compiled programs that outlive their process: JAX's persistent compilation cache, in the user's cache folder.

JAX removes the programs that were not used for longest. It writes each in place, reads one without a checksum, and leaves a damaged one
where it is. So the end of each run notes checksums, and the next begins by removing what does not have its own.
"""

import contextlib
import hashlib
import json
import os
import platform
import shutil
import sys
import time
import warnings
import zlib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import filelock
import jax
from jax.experimental.compilation_cache import compilation_cache

from drsn_jax import __version__
from drsn_jax.system.errors import InputError
from drsn_jax.system.files import write_atomically
from drsn_jax.system.processor import read_processor

SWITCH = "DRSN_JAX_COMPILATION_CACHE"
MAX_BYTES = 256 * 2**20
_UNUSED_SECONDS = 30 * 24 * 3600.0
_CHECKSUMS = "checksums.json"
_LOCK, _PROGRAM, _USED = ".lockfile", "-cache", "-atime"  # JAX's names: its lock, the ends of a program's file and of when it was used
_SETTINGS = {
    "jax_compilation_cache_max_size": MAX_BYTES,
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_enable_xla_caches": "",  # XLA's own lie in the same folder and have no limit
}


@contextlib.contextmanager
def keep_programs() -> Iterator[None]:
    """Inside the block JAX finds what earlier runs have compiled, and leaves what it compiles to later ones.

    Programs are of one version of this package and of JAX, and for processors with the same instructions; those of others that nobody
    used for a month are removed. Without effect where the environment variable DRSN_JAX_COMPILATION_CACHE is off, where JAX has a cache
    of its own (JAX_COMPILATION_CACHE_DIR), and where the user's cache folder cannot be written. Raises InputError for another value of
    the variable.
    """
    folder = _choose_folder()
    if folder is None or not _prepare(folder):
        yield
        return
    settings: dict[str, Any] = {"jax_compilation_cache_dir": str(folder), **_SETTINGS}
    before = {name: getattr(jax.config, name) for name in settings}
    with warnings.catch_warnings():
        # Of a full disk, or a lock that is held for long: the program is compiled all the same.
        warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache|Cache value for key")
        _configure(settings)
        try:
            yield
        finally:
            _configure(before)
            with contextlib.suppress(OSError, NotImplementedError), filelock.FileLock(folder / _LOCK, timeout=10):
                _write_checksums(folder)


def _configure(settings: dict[str, Any]) -> None:
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()  # JAX opens a cache once, with the settings of then


def _choose_folder() -> Path | None:
    """Where the programs of this machine lie; None where none are kept."""
    if switch := os.environ.get(SWITCH):
        if switch != "off":
            raise InputError(f"{SWITCH}={switch} is not known; set it to off, or leave it away.")
        return None
    if jax.config.jax_compilation_cache_dir:  # pyright: ignore[reportAttributeAccessIssue]
        return None
    versions = (__version__, jax.__version__, metadata.version("jaxlib"), platform.machine(), *sorted(read_processor().flags))
    with contextlib.suppress(RuntimeError):  # a user without a home
        return _user_cache() / "drsn-jax" / f"programs-{hashlib.sha256(' '.join(versions).encode()).hexdigest()[:16]}"
    return None


def _user_cache() -> Path:
    """The platform's folder for caches of this user."""
    if os.path.isabs(given := os.environ.get("XDG_CACHE_HOME", "")):
        return Path(given)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    return Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache")


def _prepare(folder: Path) -> bool:
    """Makes the folder, for this user alone, and removes what is damaged or old. False where that cannot be done."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with filelock.FileLock(folder / _LOCK, timeout=10):
            _remove_damaged(folder)
            _write_checksums(folder)  # its date is that of the last use
    except (OSError, NotImplementedError):  # no permission, a full disk; a file system without locks
        return False
    for other in folder.parent.glob("programs-*"):
        with contextlib.suppress(OSError):
            if time.time() - (other / _CHECKSUMS).stat().st_mtime > _UNUSED_SECONDS:
                shutil.rmtree(other)
    return True


def _remove_damaged(folder: Path) -> None:
    known = _read_checksums(folder)
    for program in folder.glob(f"*{_PROGRAM}"):
        used = program.with_name(program.name.removesuffix(_PROGRAM) + _USED)
        if not used.exists() or known.get(program.name) != _checksum(program):  # without the former JAX would never remove anything
            program.unlink()
            used.unlink(missing_ok=True)


def _read_checksums(folder: Path) -> dict[str, int]:
    with contextlib.suppress(OSError, ValueError):
        checksums = json.loads((folder / _CHECKSUMS).read_text())
        return checksums if isinstance(checksums, dict) else {}
    return {}


def _write_checksums(folder: Path) -> None:
    """Notes those of new programs; of the others they stay, so that what is damaged later is found."""
    known, programs = _read_checksums(folder), sorted(folder.glob(f"*{_PROGRAM}"))
    checksums = {program.name: known[program.name] if program.name in known else _checksum(program) for program in programs}
    write_atomically(folder / _CHECKSUMS, json.dumps(checksums, indent=1).encode())


def _checksum(program: Path) -> int:
    return zlib.crc32(program.read_bytes())

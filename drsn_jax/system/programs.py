"""Compiled programs that outlive their process: JAX's persistent compilation cache, in the user's cache folder.

JAX removes the least recently used programs. It writes each in place, reads it without a checksum, and never removes a damaged one. So each
run stores checksums at its end, and the next one first removes the programs that do not match theirs.
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
_LOCK, _PROGRAM, _USED = ".lockfile", "-cache", "-atime"  # JAX's names: its lock, and the suffixes of a program and its last use
_SETTINGS = {
    "jax_compilation_cache_max_size": MAX_BYTES,
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_enable_xla_caches": "",  # XLA's own caches lie in the same folder and have no limit
}


@contextlib.contextmanager
def keep_programs() -> Iterator[None]:
    """Let JAX read the programs of earlier runs inside the block, and store new ones for later runs.

    Each version of this package and of JAX, and each set of processor instructions, has its own folder. Folders that were unused for a
    month are removed. The block has no effect if the environment variable DRSN_JAX_COMPILATION_CACHE is off, or if the user's cache folder
    cannot be written. Nor has it if JAX has its own cache (JAX_COMPILATION_CACHE_DIR). Raises InputError for another value of the variable.
    """
    folder = _choose_folder()
    if folder is None or not _prepare(folder):
        yield
        return
    settings: dict[str, Any] = {"jax_compilation_cache_dir": str(folder), **_SETTINGS}
    before = {name: getattr(jax.config, name) for name in settings}
    with warnings.catch_warnings():
        # JAX warns of a full disk, or of a lock that is held for long. It compiles the program all the same.
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
    compilation_cache.reset_cache()  # JAX opens a cache once, with its settings at that time


def _choose_folder() -> Path | None:
    """Return the folder for the programs of this machine; None if none are kept."""
    if switch := os.environ.get(SWITCH):
        if switch != "off":
            raise InputError(f"{SWITCH}={switch} is not known; set it to off, or unset it.")
        return None
    if jax.config.jax_compilation_cache_dir:  # pyright: ignore[reportAttributeAccessIssue]
        return None
    versions = (__version__, jax.__version__, metadata.version("jaxlib"), platform.machine(), *sorted(read_processor().flags))
    with contextlib.suppress(RuntimeError):  # a user without a home
        return _user_cache() / "drsn-jax" / f"programs-{hashlib.sha256(' '.join(versions).encode()).hexdigest()[:16]}"
    return None


def _user_cache() -> Path:
    """Return the platform's folder for the caches of this user."""
    if os.path.isabs(given := os.environ.get("XDG_CACHE_HOME", "")):
        return Path(given)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    return Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache")


def _prepare(folder: Path) -> bool:
    """Make the folder, for this user alone, and remove damaged and old programs. Return False if that fails."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with filelock.FileLock(folder / _LOCK, timeout=10):
            _remove_damaged(folder)
            _write_checksums(folder)  # the file's date is that of the last use
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
        if not used.exists() or known.get(program.name) != _checksum(program):  # without the first, JAX never removes a program
            program.unlink()
            used.unlink(missing_ok=True)


def _read_checksums(folder: Path) -> dict[str, int]:
    with contextlib.suppress(OSError, ValueError):
        checksums = json.loads((folder / _CHECKSUMS).read_text())
        return checksums if isinstance(checksums, dict) else {}
    return {}


def _write_checksums(folder: Path) -> None:
    """Add the checksums of new programs. The others stay as they are, so that later damage is found."""
    known, programs = _read_checksums(folder), sorted(folder.glob(f"*{_PROGRAM}"))
    checksums = {program.name: known[program.name] if program.name in known else _checksum(program) for program in programs}
    write_atomically(folder / _CHECKSUMS, json.dumps(checksums, indent=1).encode())


def _checksum(program: Path) -> int:
    return zlib.crc32(program.read_bytes())

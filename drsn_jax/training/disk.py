"""What a disk refuses, told in one line before or after it does."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import jax

from drsn_jax.errors import InputError

# What the system says where a file cannot be written, and TensorStore where it knows no better.
_SIGNS = ("No space left", "Disk quota exceeded", "File too large", "Permission denied", "Read-only file system", "RESOURCE_EXHAUSTED")


@contextlib.contextmanager
def explained(folder: Path, *, advice: str) -> Iterator[None]:
    """Raises InputError for what the disk refuses inside the block; `advice` ends the sentence. Other errors pass."""
    try:
        yield
    except Exception as error:  # Orbax passes on whatever its storage library raises
        text = " ".join(str(error).split())
        for sign in _SIGNS:
            if sign in text:
                raise InputError(f"A checkpoint could not be written to {folder}: {sign}; {advice}.") from error
        raise


def check_room(folder: Path, *, needed: int, advice: str) -> None:
    """Raises InputError where so many bytes do not fit: better refused than broken off half-way. OSError where no folder can be made.

    Orbax would say that too, but its threads would then keep the process for five minutes.
    """
    probe = folder / f".probe{jax.process_index()}"
    probe.mkdir(exist_ok=True)
    probe.rmdir()
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise InputError(f"No room for a checkpoint: it takes {needed / 1e6:.3g} MB, {free / 1e6:.3g} MB are free; {advice}.")

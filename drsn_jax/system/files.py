"""Writing files whole or not at all."""

import os
from pathlib import Path

from drsn_jax.system.paths import AnyPath, explaining


def write_atomically(path: AnyPath, content: bytes) -> None:
    """Write `content` under a temporary name beside `path`, then rename: nobody ever reads half a file.

    In a bucket an object appears whole by itself. Makes missing folders. Raises OSError where the place cannot be written.
    """
    if not isinstance(path, Path):
        with explaining(path):
            path.write_bytes(content)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)

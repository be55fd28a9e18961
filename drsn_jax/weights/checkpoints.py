"""Checkpoints of a training as Orbax stores them: finding and reading them."""

import contextlib
import inspect
import json
import logging
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from drsn_jax.system.errors import InputError, first_line
from drsn_jax.system.paths import AnyPath, absolute, download, entries, is_bucket, scheme_of
from drsn_jax.weights.shipped import SHIPPED

FOLDER = "checkpoints"
COMMIT_FILE = "commit_success.txt"  # Orbax's mark of a complete checkpoint in a bucket, which has no rename
UNSCORED = -1.0  # PSNR of a checkpoint between evaluations: never the best. Without a metric Orbax would keep it forever


def find_checkpoint(path: AnyPath) -> AnyPath:
    """Find the checkpoint of a workdir (its best by validation PSNR, else its newest), a folder of checkpoints, or one checkpoint.

    Raises InputError if there is none.
    """
    if (path / "_CHECKPOINT_METADATA").exists() or (path / "state").is_dir():
        return path
    folder = path / FOLDER if (path / FOLDER).is_dir() else path
    if not path.exists():
        raise InputError(f"There is no {path}; give a model's name ({', '.join(SHIPPED)}), a training's --workdir, or its {FOLDER}/STEP.")
    steps = list_whole(folder)
    if not steps:
        raise InputError(f"{path} holds no checkpoint; give a --workdir of a training that has saved one, or a checkpoint.")
    return max(steps, key=lambda p: (_stored_psnr(p), int(p.name)))


def list_whole(folder: AnyPath) -> list[AnyPath]:
    """List the complete checkpoints in a folder by step; in a bucket they have a commit file, elsewhere their final name."""
    found = [path for path in entries(folder) if path.name.isdigit() and path.is_dir()]
    whole = [path for path in found if not is_bucket(folder) or (path / COMMIT_FILE).exists()]
    return sorted(whole, key=lambda path: int(path.name))


@contextlib.contextmanager
def readable(path: AnyPath) -> Iterator[AnyPath]:
    """Return a path from which Orbax can read a checkpoint: its own, or for s3:// a local copy, because Orbax does not support s3://."""
    if scheme_of(path) != "s3":
        yield absolute(path)
        return
    with tempfile.TemporaryDirectory(prefix="drsn-jax-") as folder:
        download(path, Path(folder))
        yield Path(folder)


def _stored_psnr(checkpoint: AnyPath) -> float:
    try:
        return float(json.loads((checkpoint / "metrics" / "metrics").read_text())["psnr"])
    except (OSError, ValueError, KeyError):
        return UNSCORED


def read_checkpoint(path: AnyPath, items: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read some fields of the state, as numpy arrays, and the configuration of one checkpoint (see `find_checkpoint`).

    Raises InputError if it is damaged or not from this package.
    """
    try:
        config = json.loads((path / "config" / "metadata").read_text())
        if not items:
            return {}, config
        quieten()
        with readable(path) as place:
            tree = read_tree(place / "state")
            wanted = {name: tree[name] for name in items}
            restore_args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), wanted)  # for any devices
            args = ocp.args.PyTreeRestore(wanted, restore_args=restore_args, partial_restore=True)
            return ocp.PyTreeCheckpointer().restore(place / "state", args=args), config
    except Exception as error:
        raise InputError(
            f"{path} is not a readable checkpoint ({first_line(error)}); give another, or restore it from a backup."
        ) from error


def read_tree(folder: AnyPath) -> dict[str, Any]:
    """Return the tree of a stored state with descriptions instead of arrays. Orbax would not read a relative path."""
    return ocp.PyTreeCheckpointer().metadata(absolute(folder)).item_metadata.tree  # pyright: ignore[reportOptionalMemberAccess]


def quieten() -> None:
    """Silence Orbax, which logs each save and raised errors, and TensorStore's threads, which report a closed event loop after an error."""
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", message="coroutine .* was never awaited", category=RuntimeWarning)
    before = sys.unraisablehook
    if getattr(before, "func", None) is not _ignore_closed_loop:
        sys.unraisablehook = partial(_ignore_closed_loop, before)


def _ignore_closed_loop(before: Callable[[Any], object], event: Any) -> None:
    if not inspect.iscoroutine(event.object) and str(event.exc_value) != "Event loop is closed":
        before(event)

"""What was saved of a training, wherever it lies: a checkpoint of a run or a compact model."""

from pathlib import Path
from typing import Any, NamedTuple

from drsn_jax.training.checkpoint import find_checkpoint, read_checkpoint
from drsn_jax.training.compact import is_compact, read_compact


class Saved(NamedTuple):
    """Fields of a training state as numpy arrays, {} for what is not there; the configuration; the step; and where it was found."""

    path: Path
    fields: dict[str, Any]
    config: dict[str, Any]
    step: int | None


def read_saved(path: Path, fields: tuple[str, ...]) -> Saved:
    """Reads some fields of the state, and the configuration, of a workdir (its best checkpoint), a checkpoint or a compact model.

    Raises InputError if there is none, or it is damaged.
    """
    if is_compact(path):
        compact = read_compact(path)
        return Saved(path, {name: compact.fields.get(name, {}) for name in fields}, compact.config, compact.step)
    checkpoint = find_checkpoint(path)
    found, config = read_checkpoint(checkpoint, fields)
    step = int(checkpoint.name) if checkpoint.name.isdigit() else None
    return Saved(checkpoint, {name: tree or {} for name, tree in found.items()}, config, step)

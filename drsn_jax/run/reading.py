"""Reading of one stored state: with retries, with damage distinguished from other faults, and with the parts of older formats."""

import dataclasses
import json
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import orbax.checkpoint as ocp

from drsn_jax.system.errors import InputError, first_line
from drsn_jax.system.paths import AnyPath, any_path
from drsn_jax.training.state import TrainState
from drsn_jax.weights.checkpoints import read_tree

T = TypeVar("T")

VERSIONS = "versions"  # stored beside the state and the configuration
DATA_KEYS = 2  # the way batches are drawn from a seed and a step; in 1 several draws shared a key
OPTIMISERS = ("generator_opt_state", "critic_opt_state")
WAITS = (0.5, 2.0, 5.0)  # seconds before each retry
# How TensorStore's messages about missing or wrong bytes begin. With one of the system's error codes the cause may also be a drive that has
# lost its connection.
_SIGNS = ("DATA_LOSS", "OUT_OF_RANGE", "FAILED_PRECONDITION", "INVALID_ARGUMENT", "NOT_FOUND")
_REFUSED = "os_error_code="


class DamagedError(Exception):
    """Files that are missing, cut short or garbled."""


def is_damage(error: BaseException) -> bool:
    """Check whether an error or its cause says that files are missing, cut short or garbled.

    Anything else is no damage: an unreachable drive, a missing permission, an unknown error.
    """
    if isinstance(error, OSError):
        return isinstance(error, (FileNotFoundError, IsADirectoryError, NotADirectoryError))
    if isinstance(error, (json.JSONDecodeError, UnicodeDecodeError)):
        return True
    text = str(error)
    return (text.startswith(_SIGNS) and _REFUSED not in text) or (error.__cause__ is not None and is_damage(error.__cause__))


def read_patiently(read_fn: Callable[[], T], *, what: str, say: Callable[[str], None]) -> T:
    """Return `read_fn()`, with retries: one for apparent damage, else one after each of `WAITS`, each with a message.

    Raises DamagedError for recognised damage, and InputError naming `what` for anything else. InputErrors of `read_fn` pass.
    """
    tries = 0
    while True:
        try:
            return read_fn()
        except InputError:
            raise
        except Exception as error:  # the storage library raises many types
            tries += 1
            _give_up_if_due(error, what=what, tries=tries)
            if not is_damage(error):
                say(f"Could not read {what} ({first_line(error)}); trying again in {WAITS[tries - 1]:g} s.")
        time.sleep(WAITS[tries - 1])


def _give_up_if_due(error: Exception, *, what: str, tries: int) -> None:
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        raise InputError(f"There is not enough memory for {what}; free some and try again.") from error
    if is_damage(error) and tries > 1:
        raise DamagedError(first_line(error)) from error
    if tries > len(WAITS):
        raise InputError(
            f"Could not read {what} in {tries} tries ({first_line(error)}). It may be intact, so nothing was changed."
            " Check its drive and run the same command again, or move it away to resume from the one before."
        ) from error


class Restored(NamedTuple):
    """A stored state, and which of its parts are outdated.

    `outdated`: the optimiser fields with a changed tree, still as stored, with the number of updates made so far.
    """

    state: TrainState
    outdated: dict[str, int]
    data_keys: int


def read_state(manager: ocp.CheckpointManager, step: int, abstract_state: TrainState) -> Restored:
    """Read one checkpoint, placed as in `abstract_state`. Raises InputError if its networks differ from the state's."""
    folder = any_path(manager.directory) / str(step)
    tree, names = _read_index(folder / "state"), [field.name for field in dataclasses.fields(abstract_state) if field.name != "rng"]
    differing = {name for name in names if tree and _shapes(tree.get(name)) != _shapes(getattr(abstract_state, name))}
    if foreign := differing.difference(OPTIMISERS):
        raise InputError(
            f"Checkpoint {step} in {folder.parent} has another architecture than this configuration ({min(foreign)});"
            f" choose another --workdir, or the configuration stored with it ({step}/config/metadata)."
        )
    sharding = abstract_state.step.sharding
    as_stored = {
        name: jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree.get(name))
        for name in differing
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warns of shardings of other topologies, which `abstract_state` handles
        args = ocp.args.StandardRestore(dataclasses.replace(abstract_state, **as_stored))
        state = manager.restore(step, args=ocp.args.Composite(state=args))["state"]
    counts = {name: _count_updates(getattr(state, name), default=int(state.step)) for name in differing}
    return Restored(state, counts, _read_data_keys(folder / VERSIONS / "metadata"))


def _read_index(folder: AnyPath) -> dict[str, Any]:
    """Return the tree of a stored state; empty if Orbax finds none, because restoring then reports the fault."""
    try:
        return read_tree(folder)
    except AttributeError:
        return {}


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """Return the shape of each array by its name, which is the same in a state and in the index of a stored one."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape) for path, leaf in leaves}


def _count_updates(opt_state: Any, *, default: int) -> int:
    """Return the number of updates in an optimiser's state."""
    leaves = jax.tree_util.tree_leaves_with_path(opt_state)
    return max((int(leaf) for path, leaf in leaves if getattr(path[-1], "key", None) == "count"), default=default)


def _read_data_keys(path: AnyPath) -> int:
    try:
        return json.loads(path.read_text())["data_keys"]
    except Exception as error:
        if not is_damage(error):
            raise
        return 1  # older checkpoints have no versions; a damaged file must not cost the state

"""One stored state: read patiently, told apart from damage, and with what in it is of before."""

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

VERSIONS = "versions"  # what is stored beside the state and the configuration
DATA_KEYS = 2  # how batches are drawn from a seed and a step; 1: several draws shared a key
OPTIMISERS = ("generator_opt_state", "critic_opt_state")
WAITS = (0.5, 2.0, 5.0)  # seconds before each further try
# How TensorStore begins what it says of bytes that are not what was written, or not there. With a code of the system's it says so of a
# drive that has lost its connection too.
_SIGNS = ("DATA_LOSS", "OUT_OF_RANGE", "FAILED_PRECONDITION", "INVALID_ARGUMENT", "NOT_FOUND")
_REFUSED = "os_error_code="


class DamagedError(Exception):
    """Files that are missing, cut short or garbled."""


def is_damage(error: BaseException) -> bool:
    """Whether an error, or what caused it, says that files are missing, cut short or garbled.

    Nothing else counts: a drive that does not answer, a right that is missing, an error that is unknown.
    """
    if isinstance(error, OSError):
        return isinstance(error, (FileNotFoundError, IsADirectoryError, NotADirectoryError))
    if isinstance(error, (json.JSONDecodeError, UnicodeDecodeError)):
        return True
    text = str(error)
    return (text.startswith(_SIGNS) and _REFUSED not in text) or (error.__cause__ is not None and is_damage(error.__cause__))


def read_patiently(read_fn: Callable[[], T], *, what: str, say: Callable[[str], None]) -> T:
    """What `read_fn` returns, tried again where it fails: once where it looks like damage, else after each of `WAITS`, which is said.

    Raises DamagedError for what is recognised as damage, and InputError that names `what` for all else; InputErrors pass.
    """
    tries = 0
    while True:
        try:
            return read_fn()
        except InputError:
            raise
        except Exception as error:  # the storage library raises whatever it likes
            tries += 1
            _give_up_if_due(error, what=what, tries=tries)
            if not is_damage(error):
                say(f"Could not read {what} ({first_line(error)}); trying again in {WAITS[tries - 1]:g} s.")
        time.sleep(WAITS[tries - 1])


def _give_up_if_due(error: Exception, *, what: str, tries: int) -> None:
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        raise InputError(f"Memory is short for {what}; free some and try again.") from error
    if is_damage(error) and tries > 1:
        raise DamagedError(first_line(error)) from error
    if tries > len(WAITS):
        raise InputError(
            f"Could not read {what} in {tries} tries ({first_line(error)}). It may be whole, so nothing was changed."
            " See that its drive can be reached and run the same command again, or move it away to go on from the one before."
        ) from error


class Restored(NamedTuple):
    """A state as it was stored, and what in it is of before.

    `outdated`: the fields of optimisers whose tree is another now, still as they were stored, with the number of updates made so far.
    """

    state: TrainState
    outdated: dict[str, int]
    data_keys: int


def read_state(manager: ocp.CheckpointManager, step: int, abstract_state: TrainState) -> Restored:
    """One checkpoint, placed as `abstract_state` says. Raises InputError if its networks are others than the state's."""
    folder = any_path(manager.directory) / str(step)
    tree, names = _read_index(folder / "state"), [field.name for field in dataclasses.fields(abstract_state) if field.name != "rng"]
    differing = {name for name in names if tree and _shapes(tree.get(name)) != _shapes(getattr(abstract_state, name))}
    if foreign := differing.difference(OPTIMISERS):
        raise InputError(
            f"Checkpoint {step} in {folder.parent} is of another architecture than this configuration's ({min(foreign)});"
            f" choose another --workdir, or the configuration stored with it ({step}/config/metadata)."
        )
    sharding = abstract_state.step.sharding
    as_stored = {
        name: jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree.get(name))
        for name in differing
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about shardings of other topologies, which is what abstract_state is for
        args = ocp.args.StandardRestore(dataclasses.replace(abstract_state, **as_stored))
        state = manager.restore(step, args=ocp.args.Composite(state=args))["state"]
    counts = {name: _count_updates(getattr(state, name), default=int(state.step)) for name in differing}
    return Restored(state, counts, _read_data_keys(folder / VERSIONS / "metadata"))


def _read_index(folder: AnyPath) -> dict[str, Any]:
    """The tree of a stored state; empty where Orbax finds none, since restoring then says what is wrong."""
    try:
        return read_tree(folder)
    except AttributeError:
        return {}


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """The shape of each array by its name, which is the same in a state and in the index of a stored one."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape) for path, leaf in leaves}


def _count_updates(opt_state: Any, *, default: int) -> int:
    """How many updates an optimiser has made, as its own state says."""
    leaves = jax.tree_util.tree_leaves_with_path(opt_state)
    return max((int(leaf) for path, leaf in leaves if getattr(path[-1], "key", None) == "count"), default=default)


def _read_data_keys(path: AnyPath) -> int:
    try:
        return json.loads(path.read_text())["data_keys"]
    except Exception as error:
        if not is_damage(error):
            raise
        return 1  # not there, as before there were versions; a damaged one is no reason to do without the state

"""A run that begins with the weights of another: its moments are new, and warmed up again."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from drsn_jax.system.errors import InputError
from drsn_jax.system.paths import AnyPath
from drsn_jax.training.state import TrainState
from drsn_jax.weights.compact import FIELDS
from drsn_jax.weights.saved import read_saved

NEW_BLOCK_SCALE = 0.1


def start_from(state: TrainState, path: AnyPath) -> TrainState:
    """The state at step 0 with the networks of a workdir (its best checkpoint), a checkpoint or a compact model.

    A model without the parameters that were trained begins with their running mean, one without a critic that was trained with a new
    one. Where a fresh `state` has no running mean, that of the model is left away. A generator of `state` with more channels or blocks
    than the model's begins by computing what that does, nearly: new blocks are near the identity (and norm=layer sees new channels).
    Raises InputError if there is no model, or its generator is another one; so is a larger one with norm=batch, whose statistics it lacks.
    """
    saved = read_saved(path, FIELDS)
    trained = saved.config.get("adversarial_weight") != 0  # a critic that never was is as good as a new one
    found = {name: tree for name, tree in saved.fields.items() if jax.tree.leaves(tree) and (trained or "critic" not in name)}
    for name in {"generator_params", "ema_params"} & set(found):
        found[name] = _grow(found[name], fresh=state.generator_params)
    mean = found.pop("ema_params", found.get("generator_params"))
    found.setdefault("generator_params", mean)
    if jax.tree.leaves(state.ema_params):
        found["ema_params"] = mean
    if differing := [name for name, tree in found.items() if _shapes(tree) != _shapes(getattr(state, name))]:
        network = differing[0].split("_")[0]
        raise InputError(
            f"init_from={path} holds another {network} than this configuration describes; make them equal (`drsn-jax info --model={path}`"
            " lists the values; widths, num_blocks and middle_blocks may be more), or leave init_from empty."
        )
    placed = {name: jax.device_put(tree, jax.tree.map(lambda x: x.sharding, getattr(state, name))) for name, tree in found.items()}
    return dataclasses.replace(state, **placed)


def _grow(params: dict[str, Any], *, fresh: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters in the channels and blocks of `fresh`, where those are more, computing what they did but for what new blocks add.

    A new block's last convolution is small, not zero: soft thresholding has no gradient where all of a residual is zero, so such a block
    would never learn. What has no place in `fresh` stays as it is, to be refused.
    """
    old = flatten_dict(params)
    new = {path: np.array(leaf) for path, leaf in flatten_dict(dict(fresh)).items()}  # copies: the step gives away what it gets, only once
    if _ends(old) == _ends(new):
        old |= {path: _widen(leaf, fresh=new[path]) for path, leaf in old.items() if path in new}
    blocks = {path[0] for path in new if "block" in path[0]} - {path[0] for path in old}
    last = max((path[1] for path in old if path[1:] and path[1].startswith("conv")), default="")
    added = {path: NEW_BLOCK_SCALE * leaf if path[1] == last else leaf for path, leaf in new.items() if path[0] in blocks}
    return unflatten_dict(old | added)


def _widen(leaf: Any, *, fresh: np.ndarray) -> np.ndarray:
    """An array with the channels of `fresh`, of which those that were there do not hear the new ones yet."""
    leaf = np.asarray(leaf)
    if leaf.ndim != fresh.ndim or leaf.shape[:-2] != fresh.shape[:-2] or any(a > b for a, b in zip(leaf.shape, fresh.shape, strict=True)):
        return leaf  # of another kernel size, or less: refused
    widened = fresh.copy()
    if leaf.ndim > 1:  # [*window, in, out]; a bias or a norm's scale has no input
        widened[..., : leaf.shape[-1]] = 0
    widened[(..., *(slice(n) for n in leaf.shape[-2:]))] = leaf
    return widened


def _ends(flat: Mapping[tuple[str, ...], Any]) -> list[int]:
    """What the stem reads and the head writes: where these differ the same parameters mean something else."""
    ends = {"stem": -2, "head": -1}
    return [np.shape(leaf)[ends[path[0]]] for path, leaf in sorted(flat.items()) if path[0] in ends and path[-1] == "kernel"]


def _shapes(tree: object) -> dict[str, tuple[int, ...]]:
    return {jax.tree_util.keystr(name): np.shape(leaf) for name, leaf in jax.tree_util.tree_leaves_with_path(tree)}

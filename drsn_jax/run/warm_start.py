"""A run that starts with the weights of another one. Its optimiser moments are new, and the learning rate warms up again."""

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
    """Return the state at step 0 with the networks of a workdir (its best checkpoint), a checkpoint or a compact model.

    - A model without its training parameters starts with their running mean, a model without a trained critic with a new critic.
    - The model's running mean is dropped if the fresh `state` has none.
    - A generator with more channels or blocks than the model's starts with nearly the same function: new blocks are near the identity. Two
      exceptions: norm=layer also sees the new channels, and norm=batch is refused, because their statistics are missing.

    Raises InputError if there is no such model, or if its generator does not fit.
    """
    saved = read_saved(path, FIELDS)
    trained = saved.config.get("adversarial_weight") != 0  # an untrained critic is equal to a new one
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
            f"init_from={path} holds a {network} that differs from this configuration. Make them equal (`drsn-jax info --model={path}`"
            " lists the values). widths, num_blocks and middle_blocks may be larger."
        )
    placed = {name: jax.device_put(tree, jax.tree.map(lambda x: x.sharding, getattr(state, name))) for name, tree in found.items()}
    return dataclasses.replace(state, **placed)


def _grow(params: dict[str, Any], *, fresh: Mapping[str, Any]) -> dict[str, Any]:
    """Copy the parameters into `fresh`, which may have more channels and blocks. The function stays the same except for new blocks.

    A new block's last convolution is small instead of zero. If a whole residual is zero, soft thresholding has no gradient, and the block
    never learns. Parameters without a place in `fresh` are kept, so that they are refused.
    """
    old = flatten_dict(params)
    new = {path: np.array(leaf) for path, leaf in flatten_dict(dict(fresh)).items()}  # copies, because the step donates its input
    if _ends(old) == _ends(new):
        old |= {path: _widen(leaf, fresh=new[path]) for path, leaf in old.items() if path in new}
    blocks = {path[0] for path in new if "block" in path[0]} - {path[0] for path in old}
    last = max((path[1] for path in old if path[1:] and path[1].startswith("conv")), default="")
    added = {path: NEW_BLOCK_SCALE * leaf if path[1] == last else leaf for path, leaf in new.items() if path[0] in blocks}
    return unflatten_dict(old | added)


def _widen(leaf: Any, *, fresh: np.ndarray) -> np.ndarray:
    """Copy an array into the larger `fresh`. The existing output channels do not depend on the new input channels yet."""
    leaf = np.asarray(leaf)
    if leaf.ndim != fresh.ndim or leaf.shape[:-2] != fresh.shape[:-2] or any(a > b for a, b in zip(leaf.shape, fresh.shape, strict=True)):
        return leaf  # another kernel size, or fewer channels: refused later
    widened = fresh.copy()
    if leaf.ndim > 1:  # [*window, in, out]; biases and norm scales have no input
        widened[..., : leaf.shape[-1]] = 0
    widened[(..., *(slice(n) for n in leaf.shape[-2:]))] = leaf
    return widened


def _ends(flat: Mapping[tuple[str, ...], Any]) -> list[int]:
    """Return the input channels of the stem and the output channels of the head. If they differ, the channels have another meaning."""
    ends = {"stem": -2, "head": -1}
    return [np.shape(leaf)[ends[path[0]]] for path, leaf in sorted(flat.items()) if path[0] in ends and path[-1] == "kernel"]


def _shapes(tree: object) -> dict[str, tuple[int, ...]]:
    return {jax.tree_util.keystr(name): np.shape(leaf) for name, leaf in jax.tree_util.tree_leaves_with_path(tree)}

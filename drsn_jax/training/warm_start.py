"""A run that begins with the weights of another: its moments are new, and warmed up again."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from drsn_jax.errors import InputError
from drsn_jax.training.compact import FIELDS
from drsn_jax.training.saved import read_saved
from drsn_jax.training.state import TrainState

NEW_BLOCK_SCALE = 0.1


def start_from(state: TrainState, path: Path) -> TrainState:
    """The state at step 0 with the networks of a workdir (its best checkpoint), a checkpoint or a compact model.

    A model without the parameters that were trained begins with their running mean, one without a critic that was trained with a new
    one. Where a fresh `state` has no running mean, that of the model is left away. Middle blocks of `state` that the model has not begin
    near the identity. Raises InputError if there is no model, or its generator is another one.
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
            " lists the values), or leave init_from empty."
        )
    placed = {name: jax.device_put(tree, jax.tree.map(lambda x: x.sharding, getattr(state, name))) for name, tree in found.items()}
    return dataclasses.replace(state, **placed)


def _grow(params: dict[str, Any], *, fresh: Mapping[str, Any]) -> dict[str, Any]:
    """Adds the middle blocks of `fresh` that are not there, with a last convolution that is small.

    It is not zero: soft thresholding has no gradient where all of a residual is zero, so such a block would never learn.
    """
    names = [name for name in fresh if name.startswith("middle_block") and name not in params]
    new = {name: jax.tree.map(np.array, dict(fresh[name])) for name in names}  # copies: the step gives away what it gets, and only once
    for block in new.values():
        last = max(name for name in block if name.startswith("conv"))
        block[last] = jax.tree.map(lambda x: NEW_BLOCK_SCALE * x, block[last])
    return params | new


def _shapes(tree: object) -> dict[str, tuple[int, ...]]:
    return {jax.tree_util.keystr(name): np.shape(leaf) for name, leaf in jax.tree_util.tree_leaves_with_path(tree)}

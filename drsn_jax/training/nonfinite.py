"""Steps that are skipped because their figures or their new state are infinite or not a number."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from drsn_jax.training.state import TrainState

Metrics = dict[str, jax.Array]
SKIPPED = "skipped"  # the metric: 1 for a step that was skipped, 0 for one that was not


def skip_nonfinite(train_step: Callable[..., tuple[TrainState, Metrics]]) -> Callable[..., tuple[TrainState, Metrics]]:
    """The same step, pure too, but for one thing: where a metric or the new state is not finite, networks and optimisers stay as they were.

    So do the running mean and batch statistics; only the number of the step and the optimisers' learning-rate schedules go on, so that
    all later steps draw and learn as they would have. Nothing waits for it on the host: the metrics gain `SKIPPED`, those of a step that
    was skipped are what they were. Over several devices and processes all decide alike, by figures of the whole batch.
    """

    def step(state: TrainState, batch: Any, frozen: Any = None) -> tuple[TrainState, Metrics]:
        after, metrics = train_step(state, batch, frozen)
        floats = [x for x in jax.tree.leaves((metrics, after)) if jnp.issubdtype(x.dtype, jnp.floating)]
        finite = jnp.stack([jnp.isfinite(x).all() for x in floats]).all()

        def choose(new: Any, old: Any) -> Any:
            return new if _is_schedule(new) else jnp.where(finite, new, old)

        unchanged = dataclasses.replace(state, step=after.step)
        chosen = jax.tree.map(choose, after, unchanged, is_leaf=_is_schedule)
        return chosen, metrics | {SKIPPED: 1 - finite.astype(jnp.float32)}

    return step


def _is_schedule(node: Any) -> bool:
    """Whether part of an optimiser's state counts its updates for a learning rate; Adam's own count belongs to its moments."""
    return isinstance(node, optax.ScaleByScheduleState)

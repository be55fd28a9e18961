"""Skipping of steps with metrics or a new state that are infinite or not a number."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from drsn_jax.training.state import TrainState

Metrics = dict[str, jax.Array]
SKIPPED = "skipped"  # the metric: 1 for a skipped step, else 0


def skip_nonfinite(train_step: Callable[..., tuple[TrainState, Metrics]]) -> Callable[..., tuple[TrainState, Metrics]]:
    """Wrap a step, still pure: if a metric or the new state is not finite, networks and optimisers keep their previous values.

    The running mean and batch statistics keep theirs too. Only the step counter and the optimisers' learning-rate schedules advance, so
    later steps draw and learn as without the fault. The host does not wait, because the decision is made on the device. The metrics gain
    `SKIPPED`; the others are those of the skipped step. The decision is the same on all devices and processes, because the figures are
    those of the whole batch.
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
    """Check whether part of an optimiser's state is the update count of a learning rate. Adam's own count belongs to its moments."""
    return isinstance(node, optax.ScaleByScheduleState)

"""The training step: five critic updates and one generator update in one pure function of (state, batch) (SPEC section 2)."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from drsn_jax.ops.remat import sequence_after
from drsn_jax.training.critic import CriticData, CriticState, Metrics, loop_critic_updates, score
from drsn_jax.training.generator import Forward, differentiate, forward, restore_for_critic, update_generator
from drsn_jax.training.losses import Images, Scores
from drsn_jax.training.nonfinite import skip_nonfinite
from drsn_jax.training.spec import Parts, PyTree, StepSpec
from drsn_jax.training.state import TrainState

Batch = dict[str, Float[Array, "b h w 3"]]
CriticParts = dict[str, Float[Array, "rows parts h w 3"]]
TrainStep = Callable[..., tuple[TrainState, Metrics]]


def make_train_step(parts: Parts, spec: StepSpec) -> TrainStep:
    """Make train_step(state, batch, frozen=None) -> (state, metrics), pure and not jitted. When you jit it, donate the state.

    `frozen` are the parameters of `parts.features_fn`. Raises InputError for impossible combinations.
    """
    spec.check(parts.critic)
    step = partial(train_step, parts=parts, spec=spec)
    return skip_nonfinite(step) if spec.on_nonfinite == "skip" else step


def train_step(state: TrainState, batch: Batch, frozen: PyTree = None, *, parts: Parts, spec: StepSpec) -> tuple[TrainState, Metrics]:
    """Update the critic `critic_steps` times, then the generator once; returns the state and the mean of each metric, float32.

    The batch holds `blurred` and `sharp`, [b h w 3] in [-1, 1].

    - `critic_batches` same: one forward pass serves the critic's updates and the generator's.
    - `critic_batches` fresh: the batch has critic_steps + 1 parts, and row r belongs to part r % (critic_steps + 1). Each critic update has
      a part, and the generator the last one.
    - An adversarial weight of 0 leaves the critic unchanged.
    - Micro-batches cannot share a forward pass. First the critic's images are restored; the generator's update then repeats its forward
      pass with the same dropout keys.
    """
    dropout_key, critic_key, fresh_key = jax.random.split(jax.random.fold_in(state.rng, state.step), 3)
    fresh = spec.batch_parts > 1
    critic_parts, batch = split_batch(batch, spec.critic_steps) if fresh else ({}, batch)
    forward_fn = partial(forward, parts.generator, state.generator_params, state.generator_stats)
    shared_pass = forward_fn(batch["blurred"], key=dropout_key) if spec.accumulation_steps == 1 else None
    critic_state, metrics = CriticState.of(state), {}
    if spec.weights.adversarial:
        restore = partial(_restore_for_critic, state, parts=parts, spec=spec)
        data_fn = _fresh_data(critic_parts, restore, fresh_key) if fresh else _same_data(batch, restore, dropout_key, shared_pass, spec)
        critic_state, metrics = loop_critic_updates(critic_state, data_fn, parts=parts, spec=spec, key=critic_key)

    def score_fn(images: Images) -> Scores:
        train = spec.critic_norm_in_generator_step == "batch"
        return score(parts.critic, critic_state.params, critic_state.stats, images, train=train)[0]

    def gradient(blurred: Images, sharp: Images, key: PRNGKeyArray) -> tuple[PyTree, PyTree, Metrics]:
        features_fn = partial(parts.features_fn, frozen)
        return differentiate(shared_pass or forward_fn(blurred, key=key), sharp, spec=spec, score_fn=score_fn, features_fn=features_fn)

    blurred = batch["blurred"]
    if not shared_pass:  # ordered, or XLA would merge this pass with that of the critic's images and keep it in memory
        blurred = sequence_after(blurred, critic_state.params, by_value=spec.forms.sequence_by_value)
    grads, stats, generator_metrics = spec.micro_batches.mean(gradient, blurred, batch["sharp"], key=dropout_key)
    changes = update_generator(state, grads, stats, tx=parts.generator_tx, ema_decay=spec.ema_decay)
    metrics |= generator_metrics | {"generator/grad_norm": optax.tree.norm(grads), "learning_rate": parts.learning_rate_fn(state.step)}
    critic_changes: dict[str, Any] = {f"critic_{name}": value for name, value in critic_state._asdict().items()}
    state = dataclasses.replace(state, step=state.step + 1, **changes, **critic_changes)
    return state, jax.tree.map(lambda m: jnp.asarray(m, jnp.float32), metrics)


def _restore_for_critic(state: TrainState, blurred: Images, key: PRNGKeyArray, *, parts: Parts, spec: StepSpec) -> Images:
    """Restore the images that only the critic sees, by micro-batches."""
    restore_part = partial(restore_for_critic, parts.generator, state, fake_mode=spec.fake_mode)
    return spec.micro_batches.map(lambda blurred, key: restore_part(blurred, key=key), blurred, key=key)


def _fresh_data(critic_parts: CriticParts, restore: Callable[[Images, PRNGKeyArray], Images], key: PRNGKeyArray) -> CriticData:
    """Make the data for critic update i: its own part of the batch, restored."""
    return lambda i: (critic_parts["sharp"][:, i], restore(critic_parts["blurred"][:, i], jax.random.fold_in(key, i)))


def _same_data(
    batch: Batch, restore: Callable[[Images, PRNGKeyArray], Images], key: PRNGKeyArray, shared_pass: Forward | None, spec: StepSpec
) -> CriticData:
    """Make the data for every critic update: the generator's batch, restored once."""
    restored = shared_pass.restored if shared_pass and spec.fake_mode == "train" else restore(batch["blurred"], key)
    return lambda i: (batch["sharp"], restored)


def split_batch(batch: Batch, critic_steps: int) -> tuple[CriticParts, dict[str, Float[Array, "rows h w 3"]]]:
    """Split a batch of critic_steps + 1 parts. Row r belongs to part r % (critic_steps + 1), so devices keep their rows."""
    parts = {name: x.reshape(-1, critic_steps + 1, *x.shape[1:]) for name, x in batch.items()}
    return parts, {name: x[:, -1] for name, x in parts.items()}

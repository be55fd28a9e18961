"""The training step: five critic updates and one generator update, one pure function of (state, batch) (SPEC section 2)."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from drsn_jax.models.critic import Critic
from drsn_jax.models.generator import Generator
from drsn_jax.ops import backend
from drsn_jax.ops.remat import after
from drsn_jax.training.accumulation import MicroBatches
from drsn_jax.training.critic import CriticState, CriticUpdate, Lipschitz, Metrics, make_critic_update, score
from drsn_jax.training.generator import FeaturesFn, LossWeights, PyTree, differentiate, forward, restore_for_critic, update_generator
from drsn_jax.training.losses import Images, Scores
from drsn_jax.training.state import TrainState

Batch = dict[str, Float[Array, "b h w 3"]]
TrainStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def make_train_step(
    *,
    generator: Generator,
    critic: Critic,
    features_fn: FeaturesFn,
    generator_tx: optax.GradientTransformation,
    critic_tx: optax.GradientTransformation,
    learning_rate_fn: optax.Schedule,
    weights: LossWeights,
    critic_steps: int = 5,
    critic_batches: Literal["same", "fresh"] = "same",
    critic_update: Literal["joint", "alternating"] = "joint",
    fake_mode: Literal["train", "inference"] = "train",
    critic_norm_in_generator_step: Literal["batch", "moving"] = "batch",
    lipschitz: Lipschitz = "none",
    penalty_weight: float = 10.0,
    clip_value: float = 0.01,
    ema_decay: float = 0.0,
    accumulation_steps: int = 1,
    unroll: bool | None = None,
) -> TrainStep:
    """Builds train_step(state, batch) -> (state, metrics), pure and not yet jitted: donate the state when you jit it.

    The batch holds `blurred` and `sharp`, [b h w 3] in [-1, 1]. With `critic_batches` same the critic learns from the batch that the
    generator learns from, and from the same restorations: one forward pass serves the five critic updates and the generator's
    (`fake_mode` inference computes the critic's once more, without dropout and with moving statistics, as the Keras reference does).
    With fresh, the batch is critic_steps + 1 times larger, and row r belongs to part r % (critic_steps + 1): one for each critic update,
    the last for the generator. An adversarial weight of 0 leaves the critic alone. `unroll` of the loops defaults by back end.

    With `accumulation_steps` above 1 each update's gradient is the mean over that many micro-batches, one at a time. Then no forward pass
    can be kept: the critic's images are restored first, and the generator's update passes forward again, from the same dropout keys.
    Raises InputError for impossible combinations.
    """
    weights.check()
    unroll = backend.unroll_critic_loop() if unroll is None else unroll
    micro_batches = MicroBatches(accumulation_steps, unroll)
    update_critic = make_critic_update(
        critic=critic,
        tx=critic_tx,
        critic_update=critic_update,
        lipschitz=lipschitz,
        penalty_weight=penalty_weight,
        clip_value=clip_value,
        micro_batches=micro_batches,
    )

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        dropout_key, critic_key, fresh_key = jax.random.split(jax.random.fold_in(state.rng, state.step), 3)
        parts, batch = split_batch(batch, critic_steps) if critic_batches == "fresh" else ({}, batch)
        blurred, sharp = batch["blurred"], batch["sharp"]
        forward_fn = partial(forward, generator, state.generator_params, state.generator_stats)
        shared_pass = forward_fn(blurred, key=dropout_key) if accumulation_steps == 1 else None

        def restore(blurred: Images, key: PRNGKeyArray) -> Images:
            restore_part = partial(restore_for_critic, generator, state, fake_mode=fake_mode)
            return micro_batches.map(lambda blurred, key: restore_part(blurred, key=key), blurred, key=key)

        def fresh_data(i: jax.Array) -> tuple[Images, Images]:
            return parts["sharp"][:, i], restore(parts["blurred"][:, i], jax.random.fold_in(fresh_key, i))

        def same_data() -> Callable[[jax.Array], tuple[Images, Images]]:
            restored = shared_pass.restored if shared_pass and fake_mode == "train" else restore(blurred, dropout_key)
            return lambda i: (sharp, restored)

        critic_state, metrics = CriticState(state.critic_params, state.critic_stats, state.critic_opt_state), {}
        if weights.adversarial:
            critic_data = fresh_data if critic_batches == "fresh" else same_data()
            critic_state, metrics = loop_critic_updates(
                update_critic, critic_state, critic_data, critic_steps=critic_steps, key=critic_key, unroll=unroll
            )

        def score_fn(images: Images) -> Scores:
            train = critic_norm_in_generator_step == "batch"
            return score(critic, critic_state.params, critic_state.stats, images, train=train)[0]

        def gradient(blurred: Images, sharp: Images, key: PRNGKeyArray) -> tuple[PyTree, PyTree, Metrics]:
            forward_pass = shared_pass or forward_fn(blurred, key=key)
            return differentiate(forward_pass, sharp, weights=weights, score_fn=score_fn, features_fn=features_fn)

        if not shared_pass:  # held back, or the first part's pass would be merged with that of the critic's images, and kept meanwhile
            blurred = after(blurred, critic_state.params)
        grads, stats, generator_metrics = micro_batches.mean(gradient, blurred, sharp, key=dropout_key)
        changes = update_generator(state, grads, stats, tx=generator_tx, ema_decay=ema_decay)
        metrics |= generator_metrics | {"generator/grad_norm": optax.tree.norm(grads), "learning_rate": learning_rate_fn(state.step)}
        critic_changes = {f"critic_{name}": value for name, value in critic_state._asdict().items()}
        state = dataclasses.replace(state, step=state.step + 1, **changes, **critic_changes)
        return state, jax.tree.map(lambda m: jnp.asarray(m, jnp.float32), metrics)

    return train_step


def loop_critic_updates(
    update_critic: CriticUpdate,
    critic_state: CriticState,
    critic_data: Callable[[jax.Array], tuple[Images, Images]],
    *,
    critic_steps: int,
    key: PRNGKeyArray,
    unroll: bool,
) -> tuple[CriticState, Metrics]:
    """Runs `critic_steps` updates in one `lax.fori_loop`; returns the critic and the mean of each metric over the updates.

    `critic_data` gives (sharp, restored) for update i, and update i draws from the key folded with i.
    """

    def update(i: jax.Array, critic_state: CriticState) -> tuple[CriticState, Metrics]:
        sharp, restored = critic_data(i)
        return update_critic(critic_state, sharp, restored, jax.random.fold_in(key, i))

    def body(i: jax.Array, carry: tuple[CriticState, Metrics]) -> tuple[CriticState, Metrics]:
        critic_state, totals = carry
        critic_state, metrics = update(i, critic_state)
        return critic_state, jax.tree.map(jnp.add, totals, metrics)

    _, metrics = jax.eval_shape(update, jnp.int32(0), critic_state)
    zeros = jax.tree.map(lambda m: jnp.zeros(m.shape, m.dtype), metrics)
    critic_state, totals = jax.lax.fori_loop(0, critic_steps, body, (critic_state, zeros), unroll=unroll)
    return critic_state, jax.tree.map(lambda total: total / critic_steps, totals)


def split_batch(
    batch: Batch, critic_steps: int
) -> tuple[dict[str, Float[Array, "rows parts h w 3"]], dict[str, Float[Array, "rows h w 3"]]]:
    """Splits a batch of critic_steps + 1 parts, row r belonging to part r % (critic_steps + 1), so that devices keep their rows."""
    parts = {name: x.reshape(-1, critic_steps + 1, *x.shape[1:]) for name, x in batch.items()}
    return parts, {name: x[:, -1] for name, x in parts.items()}

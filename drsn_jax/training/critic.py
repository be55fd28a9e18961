"""One critic update, and the loop over several: pure functions."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from drsn_jax.models.critic import Critic
from drsn_jax.training import losses
from drsn_jax.training.losses import Images, Scalar, Scores
from drsn_jax.training.spec import Parts, PyTree, StepSpec
from drsn_jax.training.state import TrainState

Metrics = dict[str, Scalar]
CriticData = Callable[[jax.Array], tuple[Images, Images]]


class CriticState(NamedTuple):
    """The part of the training state that a critic update changes: the carry of the loop."""

    params: PyTree
    stats: PyTree
    opt_state: PyTree

    @classmethod
    def of(cls, state: TrainState) -> "CriticState":
        """Take the critic's part of a training state."""
        return cls(state.critic_params, state.critic_stats, state.critic_opt_state)


def score(critic: Critic, params: PyTree, stats: PyTree, images: Images, *, train: bool) -> tuple[Scores, PyTree]:
    """Score images; also returns the batch statistics, updated if `train` is set."""
    variables = {"params": params, "batch_stats": stats}
    if not train:
        return critic.apply(variables, images), stats  # pyright: ignore[reportReturnType]
    scores, updated = critic.apply(variables, images, train=True, mutable=["batch_stats"])
    return scores, updated.get("batch_stats", {})


def joint_loss(
    params: PyTree,
    stats: PyTree,
    sharp: Images,
    restored: Images,
    weight: Float[Array, "b 1 1 1"] | None = None,
    *,
    critic: Critic,
    spec: StepSpec,
) -> tuple[Scalar, tuple[PyTree, Metrics]]:
    """Compute the critic's loss on one batch of both kinds, with statistics and metrics; `weight` is for the gradient penalty."""
    # Interleaved instead of concatenated, so that each device keeps its own images.
    both = jnp.stack([sharp, restored], axis=1).reshape(-1, *sharp.shape[1:])
    scores, stats = score(critic, params, stats, both, train=True)
    sharp_scores, restored_scores = scores.reshape(-1, 2).T
    loss = losses.critic_loss(sharp_scores, restored_scores)
    metrics = {"critic/sharp": sharp_scores.mean(), "critic/restored": restored_scores.mean()}
    if weight is not None:
        penalty = losses.gradient_penalty(lambda x: score(critic, params, stats, x, train=True)[0], sharp, restored, weight=weight)
        loss += spec.penalty_weight * penalty
        metrics["critic/gradient_penalty"] = penalty
    return loss, (stats, metrics)


def single_loss(params: PyTree, stats: PyTree, images: Images, *, sign: float, critic: Critic) -> tuple[Scalar, tuple[PyTree, Scalar]]:
    """Compute `sign` times the mean score of images of one kind, with statistics and the mean score."""
    scores, stats = score(critic, params, stats, images, train=True)
    return sign * scores.mean(), (stats, scores.mean())


def apply_gradient(state: CriticState, grads: PyTree, stats: PyTree, *, parts: Parts, spec: StepSpec) -> CriticState:
    """Apply one update of the optimiser, and the bound on the parameters if `lipschitz` is clip."""
    updates, opt_state = parts.critic_tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    if spec.lipschitz == "clip":
        params = jax.tree.map(lambda p: jnp.clip(p, -spec.clip_value, spec.clip_value), params)
    return CriticState(params, stats, opt_state)


def joint_update(
    state: CriticState, sharp: Images, restored: Images, key: PRNGKeyArray, *, parts: Parts, spec: StepSpec
) -> tuple[CriticState, Metrics]:
    """Make one optimiser update on one batch of both kinds. `key` draws the points of the gradient penalty."""
    loss_fn = jax.value_and_grad(partial(joint_loss, critic=parts.critic, spec=spec), has_aux=True)

    def gradient(*arrays: Array) -> tuple[PyTree, PyTree, Metrics]:
        (loss, (stats, metrics)), grads = loss_fn(state.params, state.stats, *arrays)
        return grads, stats, metrics | {"critic/loss": loss}

    # Drawn for the whole batch, so that the weights do not depend on the number of micro-batches.
    drawn = [losses.draw_weights(key, len(sharp))] if spec.lipschitz == "gradient_penalty" else []
    grads, stats, metrics = spec.micro_batches.mean(gradient, sharp, restored, *drawn)
    metrics |= {"critic/grad_norm": optax.tree.norm(grads), "critic/distance": metrics["critic/sharp"] - metrics["critic/restored"]}
    return apply_gradient(state, grads, stats, parts=parts, spec=spec), metrics


def alternating_update(
    state: CriticState, sharp: Images, restored: Images, key: PRNGKeyArray, *, parts: Parts, spec: StepSpec
) -> tuple[CriticState, Metrics]:
    """Make two optimiser updates, sharp images first, each with its own batch statistics (Keras reference). `key` is unused."""
    del key

    def half(state: CriticState, images: Images, sign: float) -> tuple[CriticState, Scalar, Scalar]:
        loss_fn = jax.value_and_grad(partial(single_loss, sign=sign, critic=parts.critic), has_aux=True)

        def gradient(images: Array) -> tuple[PyTree, PyTree, Scalar]:
            (_, (stats, mean_score)), grads = loss_fn(state.params, state.stats, images)
            return grads, stats, mean_score

        grads, stats, mean_score = spec.micro_batches.mean(gradient, images)
        return apply_gradient(state, grads, stats, parts=parts, spec=spec), mean_score, optax.tree.norm(grads)

    state, sharp_score, sharp_norm = half(state, sharp, -1.0)
    state, restored_score, restored_norm = half(state, restored, 1.0)
    metrics = {"critic/sharp": sharp_score, "critic/restored": restored_score, "critic/grad_norm": jnp.hypot(sharp_norm, restored_norm)}
    return state, metrics | {"critic/loss": restored_score - sharp_score, "critic/distance": sharp_score - restored_score}


UPDATES: dict[str, Callable[..., tuple[CriticState, Metrics]]] = {"joint": joint_update, "alternating": alternating_update}


def loop_critic_updates(
    critic_state: CriticState, data_fn: CriticData, *, parts: Parts, spec: StepSpec, key: PRNGKeyArray
) -> tuple[CriticState, Metrics]:
    """Run `critic_steps` updates in one `lax.fori_loop`; returns the critic and the mean of each metric over the updates.

    `data_fn` returns (sharp, restored) for update i. Update i uses the key folded with i.
    """
    update_critic = partial(UPDATES[spec.critic_update], parts=parts, spec=spec)

    def update(i: jax.Array, critic_state: CriticState) -> tuple[CriticState, Metrics]:
        return update_critic(critic_state, *data_fn(i), jax.random.fold_in(key, i))

    def body(i: jax.Array, carry: tuple[CriticState, Metrics]) -> tuple[CriticState, Metrics]:
        critic_state, totals = carry
        critic_state, metrics = update(i, critic_state)
        return critic_state, jax.tree.map(jnp.add, totals, metrics)

    _, metrics = jax.eval_shape(update, jnp.int32(0), critic_state)
    zeros: Any = jax.tree.map(lambda m: jnp.zeros(m.shape, m.dtype), metrics)
    critic_state, totals = jax.lax.fori_loop(0, spec.critic_steps, body, (critic_state, zeros), unroll=spec.forms.unroll_loops)
    return critic_state, jax.tree.map(lambda total: total / spec.critic_steps, totals)

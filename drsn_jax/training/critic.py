"""One update of the critic, as a pure function that the training step loops over."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PRNGKeyArray

from drsn_jax.models.critic import Critic
from drsn_jax.system.errors import InputError
from drsn_jax.training import losses
from drsn_jax.training.accumulation import WHOLE, MicroBatches
from drsn_jax.training.losses import Images, Scalar, Scores

PyTree = Any
Metrics = dict[str, Scalar]
Lipschitz = Literal["none", "clip", "gradient_penalty"]


class CriticState(NamedTuple):
    """The part of the training state that a critic update changes: the carry of the loop."""

    params: PyTree
    stats: PyTree
    opt_state: PyTree


CriticUpdate = Callable[[CriticState, Images, Images, PRNGKeyArray], tuple[CriticState, Metrics]]


def score(critic: Critic, params: PyTree, stats: PyTree, images: Images, *, train: bool) -> tuple[Scores, PyTree]:
    """Scores images; returns the batch statistics too, updated where `train` is set."""
    variables = {"params": params, "batch_stats": stats}
    if not train:
        return critic.apply(variables, images), stats  # pyright: ignore[reportReturnType]
    scores, updated = critic.apply(variables, images, train=True, mutable=["batch_stats"])
    return scores, updated.get("batch_stats", {})


def make_critic_update(
    *,
    critic: Critic,
    tx: optax.GradientTransformation,
    critic_update: Literal["joint", "alternating"] = "joint",
    lipschitz: Lipschitz = "none",
    penalty_weight: float = 10.0,
    clip_value: float = 0.01,
    micro_batches: MicroBatches = WHOLE,
) -> CriticUpdate:
    """Builds the function (critic_state, sharp, restored, key) -> (critic_state, metrics).

    joint is one optimiser update on one batch of both; alternating is the Keras reference's two, sharp first, each with batch
    statistics of its own. `lipschitz` clip bounds every parameter by clip_value after the update (WGAN), gradient_penalty adds
    penalty_weight times it (WGAN-GP). Gradients are means over `micro_batches`. Raises InputError for a penalty with batch norm, or with
    alternating updates.
    """
    if lipschitz == "gradient_penalty":
        if critic.norm == "batch":
            raise InputError(
                "lipschitz=gradient_penalty needs scores that do not depend on the other images of a batch, which batch norm makes them do;"
                " use --config.critic_norm=none, instance or layer."
            )
        if critic_update == "alternating":
            raise InputError("lipschitz=gradient_penalty needs sharp and restored in one update; use --config.critic_update=joint.")

    def joint_loss(params, stats, sharp, restored, weight):
        # Interleaved rather than concatenated, so that over several devices each keeps its own images.
        both = jnp.stack([sharp, restored], axis=1).reshape(-1, *sharp.shape[1:])
        scores, stats = score(critic, params, stats, both, train=True)
        sharp_scores, restored_scores = scores.reshape(-1, 2).T
        loss = losses.critic_loss(sharp_scores, restored_scores)
        metrics = {"critic/sharp": sharp_scores.mean(), "critic/restored": restored_scores.mean()}
        if lipschitz == "gradient_penalty":
            penalty = losses.gradient_penalty(lambda x: score(critic, params, stats, x, train=True)[0], sharp, restored, weight=weight)
            loss += penalty_weight * penalty
            metrics["critic/gradient_penalty"] = penalty
        return loss, (stats, metrics)

    def single_loss(params, stats, images, sign):
        scores, stats = score(critic, params, stats, images, train=True)
        return sign * scores.mean(), (stats, scores.mean())

    def apply(state: CriticState, grads: PyTree, stats: PyTree) -> CriticState:
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        if lipschitz == "clip":
            params = jax.tree.map(lambda p: jnp.clip(p, -clip_value, clip_value), params)
        return CriticState(params, stats, opt_state)

    def joint(state: CriticState, sharp: Images, restored: Images, key: PRNGKeyArray) -> tuple[CriticState, Metrics]:
        def gradient(sharp, restored, weight, key):
            del key
            loss_fn = jax.value_and_grad(joint_loss, has_aux=True)
            (loss, (stats, metrics)), grads = loss_fn(state.params, state.stats, sharp, restored, weight)
            return grads, stats, metrics | {"critic/loss": loss}

        # Drawn for the whole batch, so that its images meet the same weights in however many micro-batches.
        weight = losses.draw_weights(key, len(sharp))
        grads, stats, metrics = micro_batches.mean(gradient, sharp, restored, weight, key=key)
        metrics |= {"critic/grad_norm": optax.tree.norm(grads), "critic/distance": metrics["critic/sharp"] - metrics["critic/restored"]}
        return apply(state, grads, stats), metrics

    def alternating(state: CriticState, sharp: Images, restored: Images, key: PRNGKeyArray) -> tuple[CriticState, Metrics]:
        def half(state: CriticState, images: Images, sign: float) -> tuple[CriticState, Scalar, Scalar]:
            def gradient(images, key):
                del key
                (_, (stats, mean_score)), grads = jax.value_and_grad(single_loss, has_aux=True)(state.params, state.stats, images, sign)
                return grads, stats, mean_score

            grads, stats, mean_score = micro_batches.mean(gradient, images, key=key)
            return apply(state, grads, stats), mean_score, optax.tree.norm(grads)

        state, sharp_score, sharp_norm = half(state, sharp, -1.0)
        state, restored_score, restored_norm = half(state, restored, 1.0)
        metrics = {"critic/sharp": sharp_score, "critic/restored": restored_score, "critic/grad_norm": jnp.hypot(sharp_norm, restored_norm)}
        return state, metrics | {"critic/loss": restored_score - sharp_score, "critic/distance": sharp_score - restored_score}

    return alternating if critic_update == "alternating" else joint

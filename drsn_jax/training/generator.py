"""The generator's forward pass and its update, as pure functions."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PRNGKeyArray

from drsn_jax.models.generator import Generator
from drsn_jax.models.shrinkage import THRESHOLDS
from drsn_jax.system.errors import InputError
from drsn_jax.training import losses
from drsn_jax.training.losses import Features, Images, Scalar, Scores
from drsn_jax.training.state import TrainState

PyTree = Any
Metrics = dict[str, Scalar]
FeaturesFn = Callable[[Images], Features]


class LossWeights(NamedTuple):
    """The weight of each term of the generator's loss; a term of weight 0 is not computed. The paper's: 1, 100, 0, 0."""

    adversarial: float = 1.0
    content: float = 100.0
    pixel: float = 0.0
    frequency: float = 0.0

    def check(self) -> None:
        """Raises InputError for a negative weight, or if nothing is left to learn from."""
        for name, weight in self._asdict().items():
            if weight < 0:
                raise InputError(f"{name}_weight={weight} is negative; use 0 (not computed) or more (--config.{name}_weight=1).")
        if not any(self):
            raise InputError("All loss weights are 0: there is nothing to learn; set one, for example --config.pixel_weight=1.")


class Forward(NamedTuple):
    """A training-mode forward pass that has not been differentiated yet."""

    restored: Images
    pullback: Callable[[Images], tuple[PyTree]]
    stats: PyTree
    thresholds: PyTree


def forward(generator: Generator, params: PyTree, stats: PyTree, blurred: Images, *, key: PRNGKeyArray) -> Forward:
    """Restores in training mode, keeping what the gradient needs: the critic and the generator's update share this one pass."""

    def restore(params: PyTree):
        restored, updated = generator.apply(
            {"params": params, "batch_stats": stats}, blurred, train=True, rngs={"dropout": key}, mutable=["batch_stats", THRESHOLDS]
        )
        return restored, (updated.get("batch_stats", {}), updated.get(THRESHOLDS, {}))

    restored, pullback, (stats, thresholds) = jax.vjp(restore, params, has_aux=True)
    return Forward(restored, pullback, stats, thresholds)


def generator_loss(
    restored: Images,
    sharp: Images,
    *,
    weights: LossWeights,
    score_fn: Callable[[Images], Scores],
    features_fn: FeaturesFn,
) -> tuple[Scalar, Metrics]:
    """L = sum of weight x term over adversarial, content, pixel and frequency terms (SPEC section 2), and each term unweighted."""
    terms = {}
    if weights.adversarial:
        terms["adversarial"] = losses.adversarial_loss(score_fn(restored))
    if weights.content:
        terms["content"] = losses.content_loss(jax.lax.stop_gradient(features_fn(sharp)), features_fn(restored))
    if weights.pixel:
        terms["pixel"] = losses.pixel_loss(sharp, restored)
    if weights.frequency:
        terms["frequency"] = losses.frequency_loss(sharp, restored)
    total = sum(getattr(weights, name) * term for name, term in terms.items())
    return jnp.asarray(total), {f"generator/{name}": term for name, term in terms.items()}


def differentiate(
    forward_pass: Forward,
    sharp: Images,
    *,
    weights: LossWeights,
    score_fn: Callable[[Images], Scores],
    features_fn: FeaturesFn,
) -> tuple[PyTree, PyTree, Metrics]:
    """Differentiates the loss at the restored images and pulls that back to the parameters: (gradients, statistics, metrics)."""
    loss_fn = partial(generator_loss, sharp=sharp, weights=weights, score_fn=score_fn, features_fn=features_fn)
    (loss, metrics), image_gradient = jax.value_and_grad(loss_fn, has_aux=True)(forward_pass.restored)
    (grads,) = forward_pass.pullback(image_gradient)
    return grads, forward_pass.stats, metrics | {"generator/loss": loss} | mean_threshold(forward_pass.thresholds)


def update_generator(
    state: TrainState, grads: PyTree, stats: PyTree, *, tx: optax.GradientTransformation, ema_decay: float
) -> dict[str, PyTree]:
    """One update of the optimiser and, where it is on, of the running mean; returns the changed fields of the state."""
    updates, opt_state = tx.update(grads, state.generator_opt_state, state.generator_params)
    params = optax.apply_updates(state.generator_params, updates)
    changes = {"generator_params": params, "generator_stats": stats, "generator_opt_state": opt_state}
    if ema_decay:
        changes["ema_params"] = update_ema(state.ema_params, params, decay=ema_decay, step=state.step)
    return changes


def restore_for_critic(
    generator: Generator, state: TrainState, blurred: Images, *, fake_mode: Literal["train", "inference"], key: PRNGKeyArray
) -> Images:
    """Restores images that only the critic sees: in training mode, or in inference mode as the Keras reference does."""
    variables = {"params": state.generator_params, "batch_stats": state.generator_stats}
    if fake_mode == "inference":
        return generator.apply(variables, blurred)  # pyright: ignore[reportReturnType]
    return generator.apply(variables, blurred, train=True, rngs={"dropout": key}, mutable=["batch_stats"])[0]


def mean_threshold(thresholds: PyTree) -> Metrics:
    """The mean of all thresholds of all blocks, as a metric; empty without shrinkage."""
    leaves = jax.tree.leaves(thresholds)
    # Of sums, not of one long array: every device would be sent the thresholds of all images for that.
    sums = [leaf.sum() for leaf in leaves]
    return {"generator/threshold": jnp.stack(sums).sum() / sum(leaf.size for leaf in leaves)} if leaves else {}


def update_ema(ema_params: PyTree, params: PyTree, *, decay: float, step: Int[Array, ""]) -> PyTree:
    """Moves the running mean towards `params`. The decay grows to its value over the first steps, so that the start is forgotten."""
    warm_decay = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return optax.incremental_update(params, ema_params, 1.0 - warm_decay)

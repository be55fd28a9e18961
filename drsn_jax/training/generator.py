"""The generator's forward pass and its update, as pure functions."""

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PRNGKeyArray

from drsn_jax.models.generator import Generator
from drsn_jax.models.shrinkage import THRESHOLDS
from drsn_jax.training import losses
from drsn_jax.training.losses import Features, Images, Scalar, Scores
from drsn_jax.training.spec import PyTree, StepSpec
from drsn_jax.training.state import TrainState

Metrics = dict[str, Scalar]


class Forward(NamedTuple):
    """A forward pass in training mode that has not been differentiated yet."""

    restored: Images
    pullback: Callable[[Images], tuple[PyTree]]
    stats: PyTree
    thresholds: PyTree


def forward(generator: Generator, params: PyTree, stats: PyTree, blurred: Images, *, key: PRNGKeyArray) -> Forward:
    """Restore in training mode and keep what the gradient needs: one pass serves the critic and the generator's update."""

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
    spec: StepSpec,
    score_fn: Callable[[Images], Scores],
    features_fn: Callable[[Images], Features],
) -> tuple[Scalar, Metrics]:
    """Compute L = sum of weight x term over adversarial, content, pixel and frequency terms (SPEC section 2), and each unweighted term."""
    terms, weights = {}, spec.weights
    if weights.adversarial:
        terms["adversarial"] = losses.adversarial_loss(score_fn(restored))
    if weights.content:
        terms["content"] = losses.content_loss(jax.lax.stop_gradient(features_fn(sharp)), features_fn(restored))
    if weights.pixel:
        terms["pixel"] = losses.pixel_loss(sharp, restored)
    if weights.frequency:
        terms["frequency"] = losses.frequency_loss(sharp, restored, multiply=spec.forms.multiply_fourier)
    total = sum(getattr(weights, name) * term for name, term in terms.items())
    return jnp.asarray(total), {f"generator/{name}": term for name, term in terms.items()}


def differentiate(
    forward_pass: Forward,
    sharp: Images,
    *,
    spec: StepSpec,
    score_fn: Callable[[Images], Scores],
    features_fn: Callable[[Images], Features],
) -> tuple[PyTree, PyTree, Metrics]:
    """Differentiate the loss at the restored images and pull that back to the parameters: (gradients, statistics, metrics)."""
    loss_fn = partial(generator_loss, sharp=sharp, spec=spec, score_fn=score_fn, features_fn=features_fn)
    (loss, metrics), image_gradient = jax.value_and_grad(loss_fn, has_aux=True)(forward_pass.restored)
    (grads,) = forward_pass.pullback(image_gradient)
    return grads, forward_pass.stats, metrics | {"generator/loss": loss} | mean_thresholds(forward_pass.thresholds)


def update_generator(
    state: TrainState, grads: PyTree, stats: PyTree, *, tx: optax.GradientTransformation, ema_decay: float
) -> dict[str, PyTree]:
    """Apply one update of the optimiser, and of the running mean if it is on; returns the changed fields of the state."""
    updates, opt_state = tx.update(grads, state.generator_opt_state, state.generator_params)
    params = optax.apply_updates(state.generator_params, updates)
    changes = {"generator_params": params, "generator_stats": stats, "generator_opt_state": opt_state}
    if ema_decay:
        changes["ema_params"] = update_ema(state.ema_params, params, decay=ema_decay, step=state.step)
    return changes


def restore_for_critic(
    generator: Generator, state: TrainState, blurred: Images, *, fake_mode: Literal["train", "inference"], key: PRNGKeyArray
) -> Images:
    """Restore images that only the critic sees: in training mode, or in inference mode as in the Keras reference."""
    variables = {"params": state.generator_params, "batch_stats": state.generator_stats}
    if fake_mode == "inference":
        return generator.apply(variables, blurred)  # pyright: ignore[reportReturnType]
    return generator.apply(variables, blurred, train=True, rngs={"dropout": key}, mutable=["batch_stats"])[0]


def mean_thresholds(thresholds: PyTree) -> Metrics:
    """Compute the mean of all thresholds, and of each block's, as metrics; empty without shrinkage."""
    blocks = {name: jax.tree.leaves(tree) for name, tree in thresholds.items()}
    if not blocks:
        return {}
    # Means of sums: one long array would send the thresholds of all images to every device.
    sums = {name: jnp.stack([leaf.sum() for leaf in leaves]).sum() for name, leaves in blocks.items()}
    sizes = {name: sum(leaf.size for leaf in leaves) for name, leaves in blocks.items()}
    means = {f"generator/threshold/{name}": sums[name] / sizes[name] for name in blocks}
    return means | {"generator/threshold": jnp.stack(list(sums.values())).sum() / sum(sizes.values())}


def update_ema(ema_params: PyTree, params: PyTree, *, decay: float, step: Int[Array, ""]) -> PyTree:
    """Move the running mean towards `params`. The decay rises to its value over the first steps, which reduces the weight of the start."""
    steps = step.astype(jnp.float32)
    warm_decay = jnp.minimum(decay, (1.0 + steps) / (10.0 + steps))
    return optax.incremental_update(params, ema_params, 1.0 - warm_decay)

"""Adam in optax's form and in Keras', which differ where gradients are tiny (SPEC section 2), and Muon."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers, muon

ADAM_RMS = 0.2  # root mean square of Adam's updates at a learning rate of 1, about (Liu et al., 2025, section 2.2)


class KerasAdamState(NamedTuple):
    """First and second moments, and the number of updates so far."""

    count: jax.Array
    mu: optax.Updates
    nu: optax.Updates


def scale_by_adam_keras(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    """Adam as Keras writes it: epsilon is added to the square root of the *uncorrected* second moment.

    optax adds it to the corrected one; at gradients of 1e-6 the first update differs four-fold.
    """

    def init_fn(params: optax.Params) -> KerasAdamState:
        mu, nu = (jax.tree.map(jnp.zeros_like, params) for _ in range(2))  # apart: a state is donated, and no buffer twice
        return KerasAdamState(jnp.zeros([], jnp.int32), mu, nu)

    def update_fn(updates, state, params=None):
        del params
        count = state.count + 1
        mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, updates)
        nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, state.nu, updates)
        correction = jnp.sqrt(1 - b2**count) / (1 - b1**count)
        updates = jax.tree.map(lambda m, v: correction * m / (jnp.sqrt(v) + eps), mu, nu)
        return updates, KerasAdamState(count, mu, nu)

    return optax.GradientTransformation(init_fn, update_fn)


def muon_dimensions(params: optax.Params) -> optax.Params:
    """Which parameters Muon takes, and as what matrix: kernels of convolutions as (height width in) x out, of dense layers as they are."""
    by_rank = {4: MuonDimensionNumbers((0, 1, 2), 3), 2: MuonDimensionNumbers(0, 1)}
    return jax.tree.map(lambda leaf: by_rank.get(leaf.ndim), params)


def make_optimizer(
    *,
    learning_rate_fn: optax.Schedule,
    optimizer: Literal["adam", "muon"] = "adam",
    adam_form: Literal["optax", "keras"] = "optax",
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-7,
    weight_decay: float = 0.0,
    clip_norm: float = 0.0,
) -> optax.GradientTransformation:
    """Builds Adam (Kingma & Ba) or Muon (Jordan), with decoupled weight decay (AdamW) and clipping by the global norm where they are not 0.

    Muon makes the mean gradient of every kernel orthogonal. Its steps are scaled to be as large as Adam's (Liu et al., 2025), so that one
    learning rate serves both; biases and scales are left to Adam, with Nesterov's momentum, for which there is no `adam_form`.
    """
    steps = [optax.clip_by_global_norm(clip_norm)] if clip_norm else []
    if optimizer == "muon":
        steps += [
            muon(
                learning_rate_fn,
                eps=epsilon,
                consistent_rms=ADAM_RMS,
                muon_weight_dimension_numbers=muon_dimensions,  # pyright: ignore[reportArgumentType]
                weight_decay=weight_decay,
                adam_b1=beta1,
                adam_b2=beta2,
                adam_weight_decay=weight_decay,
            )
        ]
    else:
        steps += [scale_by_adam_keras(beta1, beta2, epsilon) if adam_form == "keras" else optax.scale_by_adam(beta1, beta2, epsilon)]
        steps += [optax.add_decayed_weights(weight_decay)] if weight_decay else []
        steps += [optax.scale_by_learning_rate(learning_rate_fn)]
    return optax.chain(*steps)

"""Adam in optax's form and in Keras', which differ where gradients are tiny (SPEC section 2), and Muon."""

from functools import partial
from typing import Any, Literal, NamedTuple

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
        steps = count.astype(jnp.float32)
        correction = jnp.sqrt(1 - b2**steps) / (1 - b1**steps)
        updates = jax.tree.map(lambda m, v: correction * m / (jnp.sqrt(v) + eps), mu, nu)
        return updates, KerasAdamState(count, mu, nu)

    return optax.GradientTransformation(init_fn, update_fn)


ParameterGroups = Literal["by_role", "by_shape"]
ENDS = ("stem", "head")  # of the generator: what reads an image and what writes one


def muon_dimensions(params: optax.Params, *, skipped: tuple[str, ...] = ()) -> optax.Params:
    """Which parameters Muon takes, and as what matrix: kernels of convolutions as (height width in) x out, of dense layers as they are.

    Modules of the top level named in `skipped` are left out.
    """
    by_rank = {4: MuonDimensionNumbers((0, 1, 2), 3), 2: MuonDimensionNumbers(0, 1)}

    def dimensions(path: tuple[Any, ...], leaf: Any) -> MuonDimensionNumbers | None:
        return None if getattr(path[0], "key", None) in skipped else by_rank.get(leaf.ndim)

    return jax.tree_util.tree_map_with_path(dimensions, params)


def decay_kernels(weight_decay: float) -> optax.GradientTransformation:
    """`optax.add_decayed_weights` for kernels alone, not for biases and the scales of norms; its state is as empty as that one's.

    A mask of optax's would change the tree of the state, and the moments of a run that is stored would not fit any more.
    """

    def decay(updates: optax.Updates, params: optax.Params | None) -> optax.Updates:
        return jax.tree.map(lambda update, param: update + weight_decay * param if param.ndim > 1 else update, updates, params)

    return optax.stateless(decay)


def restart_moments(opt_state: optax.OptState, *, updates: jax.typing.ArrayLike) -> optax.OptState:
    """A fresh state of an optimiser whose learning rate goes on after so many updates."""

    def is_schedule(node: Any) -> bool:
        return isinstance(node, optax.ScaleByScheduleState)

    def count_on(node: Any) -> Any:
        return node._replace(count=jnp.full_like(node.count, updates)) if is_schedule(node) else node

    return jax.tree.map(count_on, opt_state, is_leaf=is_schedule)


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
    parameter_groups: ParameterGroups = "by_role",
) -> optax.GradientTransformation:
    """Builds Adam (Kingma & Ba) or Muon (Jordan, 2024).

    Weight decay is decoupled (AdamW), and clipping is by the global norm; 0 leaves either out.

    Muon makes the mean gradient of every kernel orthogonal. Its steps are scaled to be as large as Adam's (Liu et al., 2025), so that one
    learning rate serves both; biases and scales are left to Adam, with Nesterov's momentum, for which there is no `adam_form`.
    By role, biases and scales do not decay, and Muon leaves the kernels of `ENDS` to Adam too, since it is meant for hidden layers
    (Jordan, 2024). By shape, everything decays and Muon takes every kernel.
    """
    steps = [optax.clip_by_global_norm(clip_norm)] if clip_norm else []
    by_role, make_muon = parameter_groups == "by_role", partial(_make_muon, beta1=beta1, beta2=beta2, epsilon=epsilon)
    if optimizer == "muon" and not by_role:
        return optax.chain(*steps, make_muon(learning_rate_fn, weight_decay=weight_decay))
    if optimizer == "muon":
        steps += [make_muon(-1.0, skipped=ENDS)]  # at this rate it gives the direction, which decay and learning rate follow as Adam's
    else:
        steps += [scale_by_adam_keras(beta1, beta2, epsilon) if adam_form == "keras" else optax.scale_by_adam(beta1, beta2, epsilon)]
    if weight_decay:
        steps += [decay_kernels(weight_decay) if by_role else optax.add_decayed_weights(weight_decay)]
    return optax.chain(*steps, optax.scale_by_learning_rate(learning_rate_fn))


def _make_muon(
    learning_rate: optax.ScalarOrSchedule,
    *,
    beta1: float,
    beta2: float,
    epsilon: float,
    weight_decay: float = 0.0,
    skipped: tuple[str, ...] = (),
) -> optax.GradientTransformation:
    return muon(
        learning_rate,
        eps=epsilon,
        consistent_rms=ADAM_RMS,
        muon_weight_dimension_numbers=partial(muon_dimensions, skipped=skipped),  # pyright: ignore[reportArgumentType]
        weight_decay=weight_decay,
        adam_b1=beta1,
        adam_b2=beta2,
        adam_weight_decay=weight_decay,
    )

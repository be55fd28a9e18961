"""Adam in the forms of optax and Keras, which differ for tiny gradients (SPEC section 2), and Muon."""

from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from optax.contrib import MuonDimensionNumbers, muon

ADAM_RMS = 0.2  # approximate root mean square of Adam's updates at a learning rate of 1 (Liu et al., 2025, section 2.2)


class KerasAdamState(NamedTuple):
    """First and second moments, and the number of updates so far."""

    count: jax.Array
    mu: optax.Updates
    nu: optax.Updates


def scale_by_adam_keras(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    """Build Keras' form of Adam: epsilon is added to the square root of the *uncorrected* second moment.

    optax adds it to the corrected one. For gradients of 1e-6 the first updates differ four-fold.
    """

    def init_fn(params: optax.Params) -> KerasAdamState:
        mu, nu = (jax.tree.map(jnp.zeros_like, params) for _ in range(2))  # separate arrays: a donated state may not contain a buffer twice
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
ENDS = ("stem", "head")  # of the generator: the layers that read and write images


def muon_dimensions(params: optax.Params, *, skipped: tuple[str, ...] = ()) -> optax.Params:
    """Return the parameters for Muon with their matrix form: convolution kernels as (height width in) x out, dense kernels unchanged.

    Top-level modules named in `skipped` are excluded.
    """
    by_rank = {4: MuonDimensionNumbers((0, 1, 2), 3), 2: MuonDimensionNumbers(0, 1)}

    def dimensions(path: tuple[Any, ...], leaf: Any) -> MuonDimensionNumbers | None:
        return None if getattr(path[0], "key", None) in skipped else by_rank.get(leaf.ndim)

    return jax.tree_util.tree_map_with_path(dimensions, params)


def decay_kernels(weight_decay: float) -> optax.GradientTransformation:
    """Build `optax.add_decayed_weights` for kernels alone, not for biases and the scales of norms. Its state is empty, as optax's is.

    A mask of optax would change the tree of the state, and stored runs could not be resumed.
    """

    def decay(updates: optax.Updates, params: optax.Params | None) -> optax.Updates:
        return jax.tree.map(lambda update, param: update + weight_decay * param if param.ndim > 1 else update, updates, params)

    return optax.stateless(decay)


def restart_moments(opt_state: optax.OptState, *, updates: jax.typing.ArrayLike) -> optax.OptState:
    """Make a fresh state of an optimiser; its learning-rate schedule continues after `updates`."""

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
    """Build Adam (Kingma & Ba) or Muon (Jordan, 2024).

    Weight decay is decoupled (AdamW), and clipping is by the global norm; 0 switches either off.

    Muon makes the mean gradient of every kernel orthogonal. Its updates are scaled to the size of Adam's (Liu et al., 2025), so that one
    learning rate serves both. Adam with Nesterov momentum updates biases and scales; `adam_form` does not apply to it.

    - By role: biases and scales do not decay, and Adam also updates the kernels of `ENDS`, because Muon is meant for hidden layers
      (Jordan, 2024).
    - By shape: everything decays, and Muon updates every kernel.
    """
    steps = [optax.clip_by_global_norm(clip_norm)] if clip_norm else []
    by_role, make_muon = parameter_groups == "by_role", partial(_make_muon, beta1=beta1, beta2=beta2, epsilon=epsilon)
    if optimizer == "muon" and not by_role:
        return optax.chain(*steps, make_muon(learning_rate_fn, weight_decay=weight_decay))
    if optimizer == "muon":
        steps += [make_muon(-1.0, skipped=ENDS)]  # a rate of -1 gives the direction; decay and learning rate follow as for Adam
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

"""Training as pure functions, for a custom loop: the caller decides about jit, donation, sharding, vmap and scan."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from jaxtyping import Array, Float, PRNGKeyArray

from drsn_jax.models.critic import Critic
from drsn_jax.models.generator import Generator
from drsn_jax.models.inference import restore_batch
from drsn_jax.ops.metrics import score_batch
from drsn_jax.training.losses import Images
from drsn_jax.training.spec import Parts, StepSpec
from drsn_jax.training.state import TrainState, init_state
from drsn_jax.training.step import Batch, TrainStep, make_train_step


class Training(NamedTuple):
    """A training as pure functions of a state that contains everything. None of them is jitted. Images are [b h w 3] in [-1, 1].

    - `init(rng) -> state`. Works under `vmap` over seeds.
    - `train_step(state, batch, frozen=None) -> (state, metrics)`. Works under `vmap` and in `lax.scan` over steps. `frozen` are the
      parameters of the content loss's features.
    - `evaluate_step(state, batch)` restores a batch and returns PSNR in dB and each SSIM of every image (`metrics.score_batch`).
    - `restore(state, images)` takes any height and width (`models.inference`).

    The last two use the running mean if there is one.
    """

    generator: Generator
    critic: Critic
    init: Callable[[PRNGKeyArray], TrainState]
    train_step: TrainStep
    evaluate_step: Callable[[TrainState, Batch], dict[str, Float[Array, " b"]]]
    restore: Callable[[TrainState, Images], Images]


def make_training(parts: Parts, spec: StepSpec, *, image_size: int) -> Training:
    """Make the functions of a training from its parts and its switches.

    `image_size` is binding for a critic with a dense head. Otherwise it only has to be a multiple of the generator's stride. Raises
    InputError for impossible combinations.
    """
    init = partial(init_state, parts=parts, spec=spec, image_size=image_size)
    return Training(
        parts.generator,
        parts.critic,
        init,
        make_train_step(parts, spec),
        partial(evaluate_step, generator=parts.generator),
        partial(restore, generator=parts.generator),
    )


def restore(state: TrainState, images: Images, *, generator: Generator) -> Images:
    """Restore images of any height and width, [b h w 3] in [-1, 1], with the running mean if there is one."""
    return restore_batch(images, predict_fn=partial(generator.apply, state.variables), stride=generator.stride)


def evaluate_step(state: TrainState, batch: Batch, *, generator: Generator) -> dict[str, Float[Array, " b"]]:
    """Restore the blurred images of a batch and score each: PSNR in dB and the kinds of SSIM."""
    return score_batch(restore(state, batch["blurred"], generator=generator), batch["sharp"])

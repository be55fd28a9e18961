"""Training as pure functions, for a loop of one's own: the caller chooses what is jitted, donated, sharded, mapped or scanned."""

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
    """A training as pure functions of a state that holds all of it, none of them jitted. Images are [b h w 3] in [-1, 1].

    `init(rng) -> state` and `train_step(state, batch, frozen=None) -> (state, metrics)` are written for `vmap` over seeds and `lax.scan`
    over steps too; `frozen` are the parameters of the content loss's features. `evaluate_step(state, batch)` restores and gives PSNR in dB
    and each SSIM of every image of the batch (`metrics.score_batch`), and `restore(state, images)` takes any height and width
    (`models.inference`); both use the running mean where there is one.
    """

    generator: Generator
    critic: Critic
    init: Callable[[PRNGKeyArray], TrainState]
    train_step: TrainStep
    evaluate_step: Callable[[TrainState, Batch], dict[str, Float[Array, " b"]]]
    restore: Callable[[TrainState, Images], Images]


def make_training(parts: Parts, spec: StepSpec, *, image_size: int) -> Training:
    """Makes the functions of a training from its parts and its switches.

    A critic with a dense head is bound to `image_size`; otherwise only shapes that are multiples of the generator's stride count. Raises
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
    """Restores images of any height and width, [b h w 3] in [-1, 1], by the running mean where there is one."""
    return restore_batch(images, predict_fn=partial(generator.apply, state.variables), stride=generator.stride)


def evaluate_step(state: TrainState, batch: Batch, *, generator: Generator) -> dict[str, Float[Array, " b"]]:
    """Restores the blurred images of a batch and scores each: PSNR in dB and the kinds of SSIM."""
    return score_batch(restore(state, batch["blurred"], generator=generator), batch["sharp"])

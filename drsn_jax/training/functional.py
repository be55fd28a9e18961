"""Training as pure functions, for a loop of one's own: what is jitted, donated, sharded, mapped or scanned is the caller's choice."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import optax
from jaxtyping import Array, Float, PRNGKeyArray

from drsn_jax.models.critic import Critic
from drsn_jax.models.generator import Generator
from drsn_jax.models.inference import restore_batch
from drsn_jax.ops.metrics import score_batch
from drsn_jax.system.errors import InputError
from drsn_jax.training.generator import FeaturesFn, LossWeights
from drsn_jax.training.losses import Images
from drsn_jax.training.state import TrainState, init_state
from drsn_jax.training.step import Batch, TrainStep, make_train_step


class Training(NamedTuple):
    """A training as pure functions of a state that holds all of it, none of them jitted. Images are [b h w 3] in [-1, 1].

    `init(rng) -> state` and `train_step(state, batch) -> (state, metrics)` are written for `vmap` over seeds and `lax.scan` over steps
    too. `evaluate_step(state, batch)` restores and gives PSNR in dB and each SSIM of every image of the batch (`metrics.score_batch`), and
    `restore(state, images)` takes any height and width (`models.inference`); both use the running mean where there is one.
    """

    generator: Generator
    critic: Critic
    init: Callable[[PRNGKeyArray], TrainState]
    train_step: TrainStep
    evaluate_step: Callable[[TrainState, Batch], dict[str, Float[Array, " b"]]]
    restore: Callable[[TrainState, Images], Images]


def no_features(images: Images) -> Images:
    """Stands in the place of a content loss's features where its weight is 0; raises InputError where it is not."""
    raise InputError(
        "The content loss needs features to compare: give features_fn, such as drsn_jax.models.vgg19 with the parameters of"
        " drsn_jax.weights.vgg19, or a content weight of 0."
    )


def make_training(
    *,
    generator: Generator,
    critic: Critic,
    generator_tx: optax.GradientTransformation,
    critic_tx: optax.GradientTransformation,
    learning_rate_fn: optax.Schedule,
    weights: LossWeights,
    image_size: int,
    features_fn: FeaturesFn = no_features,
    ema_decay: float = 0.0,
    **options: Any,
) -> Training:
    """Makes the functions of a training from its parts; `options` and their defaults are those of `make_train_step`.

    `learning_rate_fn` is what the metrics name as the learning rate. A critic with a dense head is bound to `image_size`; otherwise only
    shapes that are multiples of the generator's stride count. Raises InputError for impossible combinations.
    """
    train_step = make_train_step(
        generator=generator,
        critic=critic,
        features_fn=features_fn,
        generator_tx=generator_tx,
        critic_tx=critic_tx,
        learning_rate_fn=learning_rate_fn,
        weights=weights,
        ema_decay=ema_decay,
        **options,
    )

    def init(rng: PRNGKeyArray) -> TrainState:
        networks = {"generator": generator, "critic": critic, "generator_tx": generator_tx, "critic_tx": critic_tx}
        return init_state(rng=rng, **networks, image_size=image_size, ema=ema_decay > 0)

    def restore(state: TrainState, images: Images) -> Images:
        return restore_batch(images, predict_fn=partial(generator.apply, state.variables), stride=generator.stride)

    def evaluate_step(state: TrainState, batch: Batch) -> dict[str, Float[Array, " b"]]:
        return score_batch(restore(state, batch["blurred"]), batch["sharp"])

    return Training(generator, critic, init, train_step, evaluate_step, restore)

"""Networks, optimisers and the switches of the training step, built from a configuration. Libraries below take keyword arguments only."""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PRNGKeyArray

from drsn_jax.config.values import complete
from drsn_jax.data.synthesis.camera_shake import BlurRecipe
from drsn_jax.models.critic import Critic
from drsn_jax.models.generator import Generator
from drsn_jax.models.vgg19 import LAYERS, VGG19
from drsn_jax.ops.backend import Forms, forms_here
from drsn_jax.system.errors import InputError
from drsn_jax.training import functional
from drsn_jax.training.functional import Training
from drsn_jax.training.losses import Features, Images
from drsn_jax.training.optimizer import make_optimizer
from drsn_jax.training.schedule import Stage, make_learning_rate, schedule_per_critic_update
from drsn_jax.training.sharding import check_batch_size
from drsn_jax.training.spec import LossWeights, Parts, PyTree, StepSpec


def make_generator(config: Mapping[str, Any], *, forms: Forms | None = None) -> Generator:
    """Make the generator of a configuration, or of the plain dictionary in a checkpoint.

    `forms` defaults to those for the current platform.
    """
    config = complete(config)
    options = _fields(Generator, config) | {"widths": tuple(config["widths"]), "dtype": jnp.dtype(config["dtype"])}
    return Generator(**options, forms=forms or forms_here())


def _fields(owner: type, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a dataclass for which the configuration has keys of the same name."""
    return {field.name: config[field.name] for field in dataclasses.fields(owner) if field.name in config}


def make_critic(config: Mapping[str, Any], *, forms: Forms | None = None) -> Critic:
    """Make the critic of a configuration; `forms` as in `make_generator`."""
    return Critic(
        head=config["critic"],
        widths=tuple(config["critic_widths"]),
        norm=config["critic_norm"],
        critic_output=config["critic_output"],
        dense_features=config["dense_features"],
        kernel_init=config["kernel_init"],
        dtype=jnp.dtype(config["dtype"]),
        forms=forms or forms_here(),
    )


def make_stages(config: Mapping[str, Any]) -> tuple[Stage, ...]:
    """Return crop and batch size by step. Raises InputError for stages that do not start at step 0 and rise, or that fit no network."""
    if not all(isinstance(stage, (tuple, list)) and [type(x) for x in stage] == [int] * 3 for stage in config["stages"]):
        raise InputError(f"stages={config['stages']} must be triples of whole numbers (first step, crop_size, batch_size), or () for none.")
    stages = tuple(Stage(*stage) for stage in config["stages"]) or (Stage(0, config["crop_size"], config["batch_size"]),)
    starts = [stage.first_step for stage in stages]
    if starts[0] != 0 or starts != sorted(set(starts)):
        raise InputError(f"stages={config['stages']} must begin at step 0 and rise: ((0, 128, 32), (200000, 256, 8)), or () for none.")
    stride = make_generator(config).stride
    for stage in stages:
        if stage.crop_size <= 0 or stage.crop_size % stride:
            near = max(stride, round(stage.crop_size / stride) * stride)
            raise InputError(
                f"Crops of {stage.crop_size} do not fit the generator: use a multiple of {stride}, as {near} (crop_size or stages)."
            )
        if stage.batch_size <= 0:
            raise InputError(f"stages={config['stages']}: a batch of {stage.batch_size} holds no image; use 1 or more.")
    if config["critic"] == "dense" and len({stage.crop_size for stage in stages}) > 1:
        raise InputError("The dense critic is bound to one crop size; use --config.critic=patch, or stages of one crop size.")
    return stages


def make_step_spec(config: Mapping[str, Any], *, forms: Forms | None = None) -> StepSpec:
    """Make the switches of a configuration's training step; `forms` as in `make_generator`."""
    config = complete(config)
    weights = LossWeights(*(config[f"{name}_weight"] for name in LossWeights._fields))
    return StepSpec(weights=weights, forms=forms or forms_here(), **_fields(StepSpec, config))


def count_parts(config: Mapping[str, Any]) -> int:
    """Return the number of batches that one step reads: one, or with fresh batches one more than there are critic updates."""
    return make_step_spec(config).batch_parts


def make_recipe(config: Mapping[str, Any]) -> BlurRecipe:
    """Return the parameters of synthetic blur and noise. Raises InputError for invalid ranges."""
    recipe = BlurRecipe(
        length=tuple(config["blur_length"]),
        skew=config["blur_skew"],
        inertia=tuple(config["blur_inertia"]),
        moment=config["blur_moment"],
        cross=config["blur_cross"],
        variation=config["blur_variation"],
        saturation=config["blur_saturation"],
        object_share=config["blur_object"],
        softness=tuple(config["blur_softness"]),
        jpeg_quality=tuple(config["jpeg_quality"]),
        noise_variance=tuple(config["noise_variance"]),
        noise_share=config["noise_share"],
    )
    recipe.check()
    return recipe


class Keys(NamedTuple):
    """The random streams of a run, one per purpose. Keys folded from different streams never coincide."""

    state: PRNGKeyArray
    data: PRNGKeyArray
    validation: PRNGKeyArray


def make_keys(seed: int) -> Keys:
    """Return the streams of a seed."""
    return Keys(*jax.random.split(jax.random.key(seed), len(Keys._fields)))


def make_parts(config: Mapping[str, Any], *, num_train_steps: int, forms: Forms | None = None) -> Parts:
    """Make networks, features and optimisers of a configuration; `forms` as in `make_generator`.

    Raises InputError for contradictory values, such as batch norm in the threshold branch with a batch or micro-batch of 1. After global
    pooling one image has no variance, so its thresholds would not depend on it (SPEC section 1).
    """
    config = complete(config)
    generator, critic, stages = make_generator(config, forms=forms), make_critic(config, forms=forms), make_stages(config)
    accumulation_steps = config["accumulation_steps"]
    for stage in stages:
        check_batch_size(stage.batch_size, devices=1, accumulation_steps=accumulation_steps)
    if config["threshold_norm"] == "batch" and config["shrinkage"] and min(stage.batch_size for stage in stages) <= accumulation_steps:
        raise InputError(
            "threshold_norm=batch and a batch of 1 exclude each other, because after global pooling one image has no variance."
            f" Use --config.batch_size={2 * accumulation_steps} or more, or --config.threshold_norm=none."
        )
    features_fn = partial(_apply_features, make_vgg19(config, forms=forms))
    return Parts(generator, critic, *_make_optimizers(config, num_train_steps=num_train_steps), features_fn)


def make_vgg19(config: Mapping[str, Any], *, forms: Forms | None = None) -> VGG19:
    """Make the network of the content loss; `forms` as in `make_generator`. Raises InputError for an unknown layer."""
    if config["content_layer"] not in LAYERS:
        raise InputError(
            f"VGG19 has no layer {config['content_layer']!r}; use one of {', '.join(LAYERS)} (--config.content_layer=conv3_3)."
        )
    return VGG19(config["content_layer"], config["content_input"], jnp.dtype(config["dtype"]), forms or forms_here())


def frozen_shapes(config: Mapping[str, Any]) -> Any:
    """Return the shapes of the `frozen` argument of a step: the parameters of the content loss's network, {} without that loss."""
    if not config["content_weight"]:
        return {}
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    return jax.eval_shape(make_vgg19(config).init, jax.random.key(0), image)["params"]


def _apply_features(vgg19: VGG19, params: PyTree, images: Images) -> Features:
    return vgg19.apply({"params": params}, images)  # pyright: ignore[reportReturnType]


def make_training(config: Mapping[str, Any], *, num_train_steps: int, forms: Forms | None = None) -> Training:
    """Make the functions of a configuration's training, and its networks. Raises InputError as `make_parts` does."""
    parts = make_parts(config, num_train_steps=num_train_steps, forms=forms)
    return functional.make_training(parts, make_step_spec(config, forms=forms), image_size=make_stages(config)[0].crop_size)


def _make_optimizers(
    config: Mapping[str, Any], *, num_train_steps: int
) -> tuple[optax.GradientTransformation, optax.GradientTransformation, optax.Schedule]:
    """Make both optimisers and the generator's learning rate. The critic's optimiser counts its own updates, several per step."""
    rates = partial(
        make_learning_rate,
        num_train_steps=num_train_steps,
        schedule=config["schedule"],
        warmup_steps=config["warmup_steps"],
    )
    learning_rate_fn = rates(learning_rate=config["learning_rate"])
    updates = config["critic_steps"] * (2 if config["critic_update"] == "alternating" else 1)
    adam = partial(make_optimizer, adam_form=config["adam_form"], beta2=config["beta2"], epsilon=config["epsilon"])
    generator_tx = adam(
        learning_rate_fn=learning_rate_fn,
        beta1=config["beta1"],
        **{key: config[key] for key in ("optimizer", "weight_decay", "clip_norm", "parameter_groups")},
    )
    critic_rate_fn = schedule_per_critic_update(rates(learning_rate=config["critic_learning_rate"]), updates)
    return generator_tx, adam(learning_rate_fn=critic_rate_fn, beta1=config["critic_beta1"]), learning_rate_fn

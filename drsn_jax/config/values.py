"""The allowed values of a configuration: types (those of default.py), choices and ranges. Each mistake is reported in one line."""

import math
from collections.abc import Mapping
from typing import Any, get_args, get_type_hints

from drsn_jax.data.images.rgb import FRAMES
from drsn_jax.data.synthesis.camera_shake import BlurRecipe
from drsn_jax.models.critic import Critic
from drsn_jax.models.generator import Generator
from drsn_jax.models.layers import KERNEL_INITS
from drsn_jax.models.vgg19 import VGG19
from drsn_jax.system.errors import InputError, nearest
from drsn_jax.system.paths import any_path, local_paths
from drsn_jax.training.optimizer import make_optimizer
from drsn_jax.training.schedule import make_learning_rate
from drsn_jax.training.spec import StepSpec


def _choices(owner: Any, name: str) -> tuple[Any, ...]:
    """Return the values of a Literal from its declaration, an argument of a function or a field of a class."""
    return get_args(get_type_hints(owner)[name])


CHOICES: dict[str, tuple[Any, ...]] = {
    **{key: _choices(Generator, key) for key in ("trunk", "block_order", "convs_per_block", "norm", "threshold_norm", "upsampling")},
    **{key: _choices(Generator, key) for key in ("strided_padding", "output", "unshuffle")},
    "kernel_init": tuple(KERNEL_INITS),
    "critic": _choices(Critic, "head"),
    "critic_norm": _choices(Critic, "norm"),
    "critic_output": _choices(Critic, "critic_output"),
    "content_input": _choices(VGG19, "content_input"),
    **{key: _choices(StepSpec, key) for key in ("lipschitz", "critic_batches", "critic_update", "fake_mode", "on_nonfinite")},
    "critic_norm_in_generator_step": _choices(StepSpec, "critic_norm_in_generator_step"),
    "schedule": _choices(make_learning_rate, "schedule"),
    "optimizer": _choices(make_optimizer, "optimizer"),
    "adam_form": _choices(make_optimizer, "adam_form"),
    "parameter_groups": _choices(make_optimizer, "parameter_groups"),
    "blur_moment": _choices(BlurRecipe, "moment"),
    "frame": FRAMES,
    # Declared here: these choices belong to the configuration alone.
    "dtype": ("float32", "bfloat16"),
    "data": ("pairs", "resident", "photos", "demo"),
    "blur_folder": ("blur", "blur_gamma"),
    "eval_protocol": ("full", "half", "resize256"),
    "on_bad_image": ("stop", "skip"),
}
POSITIVE = ("num_blocks", "critic_steps", "batch_size", "crop_size", "learning_rate", "critic_learning_rate", "epsilon", "clip_value")
POSITIVE += ("accumulation_steps", "log_every_steps", "num_train_steps", "hold_out_every", "eval_copies", "dense_features")
POSITIVE += ("max_nonfinite_steps", "crop_candidates")
NOT_NEGATIVE = ("adversarial_weight", "content_weight", "pixel_weight", "frequency_weight", "penalty_weight", "num_epochs", "warmup_steps")
NOT_NEGATIVE += ("weight_decay", "clip_norm", "eval_every_steps", "checkpoint_every_steps", "eval_images", "seed", "sample_images")
NOT_NEGATIVE += ("prefetch", "blur_variation", "blur_saturation", "blur_cross", "blur_object", "frames_share", "noise_share", "blur_skew")
NOT_NEGATIVE += ("middle_blocks", "frames_sharpness", "text_share")
FRACTIONS = ("dropout", "ema_decay", "beta1", "beta2", "critic_beta1")
RANGES = ("noise_variance", "blur_length", "blur_inertia", "blur_softness", "jpeg_quality", "frames_averaged")  # pairs: 0 <= low <= high
MOST = {"blur_length": 500, "blur_inertia": 1, "noise_variance": 1, "blur_cross": 1000, "blur_variation": 2, "blur_saturation": 100}
MOST |= {"jpeg_quality": 100, "blur_object": 1, "frames_share": 1, "noise_share": 1, "blur_skew": 10, "blur_softness": 10}
MOST |= {"frames_sharpness": 1, "text_share": 1}
# The keys of synthetic blur, for photographs. Pairs are blurred already.
BLURRING = ("blur_length", "blur_skew", "blur_inertia", "blur_moment", "blur_cross", "blur_variation", "blur_saturation", "blur_object")
BLURRING += ("blur_softness", "jpeg_quality", "object_masks", "text_share", "text_fonts")
PATHS = (
    "train_dir",
    "eval_dir",
    "frames_dir",
    "object_masks",
    "text_fonts",
    "vgg19",
)  # on this machine; init_from may also lie in a bucket
WIDTHS = {"widths": 3, "critic_widths": None}  # tuples of positive whole numbers, and their length
# Keys that are newer than some stored configurations, with the value of the old behaviour.
ADDED: dict[str, Any] = {"remat": False, "accumulation_steps": 1}
ADDED |= {"on_nonfinite": "stop", "max_nonfinite_steps": 10, "on_bad_image": "stop"}
ADDED |= {"blur_object": 0.0, "jpeg_quality": (100.0, 100.0), "frames_dir": "", "frames_share": 0.5, "frames_averaged": (7, 13)}
ADDED |= {"init_from": "", "crop_candidates": 1, "noise_share": 1.0, "optimizer": "adam", "middle_blocks": 0}
ADDED |= {"blur_skew": 1.0, "blur_softness": (0.0, 0.0), "blur_moment": "mean", "parameter_groups": "by_shape"}
ADDED |= {"frames_odd": False, "frames_sharpness": 0.0, "object_masks": "", "text_share": 0.0, "text_fonts": ""}
MAX_SEED = 2**32 - 1  # JAX uses 32 bits of it


def check_values(config: Mapping[str, Any], *, defaults: Mapping[str, Any]) -> None:
    """Raise InputError for the first value of the wrong type, not among its choices, or out of range.

    `build.make_stages` checks `stages`; the names of layers and files are checked where they are read.
    """
    for key, default in defaults.items():
        _check_type(key, config[key], default)
    for key, choices in CHOICES.items():
        if config[key] not in choices:
            allowed = [str(choice) for choice in choices]
            guess = nearest(str(config[key]), allowed)
            raise InputError(f"{key}={config[key]!r} is not known{guess}; use one of {', '.join(allowed)} (--config.{key}={allowed[0]}).")
    for key in POSITIVE:
        if config[key] <= 0:
            raise InputError(f"{key}={config[key]} must be more than 0 (--config.{key}={defaults[key]}).")
    for key in NOT_NEGATIVE:
        if config[key] < 0:
            raise InputError(f"{key}={config[key]} is negative; use 0 or more (--config.{key}={defaults[key]}).")
    for key in FRACTIONS:
        if not 0 <= config[key] < 1:
            raise InputError(f"{key}={config[key]} must be at least 0 and less than 1 (--config.{key}={defaults[key]}).")
    if config["seed"] > MAX_SEED:
        raise InputError(f"seed={config['seed']} is too large; use 0 to {MAX_SEED} (--config.seed=0).")
    for key in PATHS:
        local_paths(config[key])
    any_path(config["init_from"] or ".")
    _check_tuples(config, defaults)
    for key, most in MOST.items():
        if (config[key][1] if key in RANGES else config[key]) > most:
            raise InputError(f"{key}={shown(config[key])} is too large; use {most} or less (--config.{key}={shown(defaults[key])}).")


def complete(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Add the keys to a stored configuration that did not exist when it was stored."""
    return ADDED | dict(stored)


def _check_tuples(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    for key, number in WIDTHS.items():
        widths = config[key]
        if not widths or len(widths) != (number or len(widths)) or not all(type(width) is int and width > 0 for width in widths):
            count = "three" if number else "one or more"
            raise InputError(f"{key}={shown(widths)} must be {count} whole numbers of channels (--config.{key}={shown(defaults[key])}).")
    for key in RANGES:
        if not (len(config[key]) == 2 and all(map(_is_number, config[key])) and 0 <= config[key][0] <= config[key][1]):
            raise InputError(
                f"{key}={shown(config[key])} is not a range; use two numbers, 0 <= low <= high (--config.{key}={shown(defaults[key])})."
            )
    variances = config["eval_noise_variances"]
    if not variances or not all(_is_number(variance) and variance >= 0 for variance in variances):
        raise InputError(
            f"eval_noise_variances={shown(variances)} must be one or more variances, each 0 or more"
            f" (--config.eval_noise_variances={shown(defaults['eval_noise_variances'])})."
        )


def _check_type(key: str, value: Any, default: Any) -> None:
    fits = {
        bool: isinstance(value, bool),
        int: type(value) is int,
        float: _is_number(value),
        str: isinstance(value, str),
        tuple: isinstance(value, (tuple, list)),
    }
    if not fits[type(default)]:
        raise InputError(f"{key}={value!r} must be {kind_of(default)} (--config.{key}={shown(default)}).")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def kind_of(default: Any) -> str:
    """Describe in words the type of a key with this default."""
    words = {bool: "True or False", int: "a whole number", float: "a finite number", str: "a text", tuple: "a tuple such as 1,2"}
    return words[type(default)]


def shown(value: Any) -> str:
    """Format a value as on the command line."""
    return ",".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)

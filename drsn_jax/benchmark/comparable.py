"""The configurations that the Keras side supports, and the differences between its loop and ours."""

from collections.abc import Mapping
from typing import Any

from drsn_jax.config.build import make_critic, make_generator, make_stages, make_training
from drsn_jax.interop.keras import keras_options
from drsn_jax.system.errors import InputError

_FIXED = {"pixel_weight": 0, "frequency_weight": 0, "lipschitz": "none", "critic_batches": "same"}
_FIXED |= {"weight_decay": 0, "clip_norm": 0, "ema_decay": 0}
_LOOP = {"critic_update": "alternating", "fake_mode": "inference", "critic_norm_in_generator_step": "moving", "adam_form": "keras"}


def resolve_bench_config(config: Mapping[str, Any], *, batch_size: int | None, crop_size: int | None, keras: bool) -> dict[str, Any]:
    """Return the configuration to measure: the last stage if there are several, with the given batch or crop size if any.

    Raises InputError for a configuration that training would refuse, and with `keras` for one without a Keras form.
    """
    stage = make_stages(config)[-1]
    settled = {**config, "stages": (), "batch_size": batch_size or stage.batch_size, "crop_size": crop_size or stage.crop_size}
    make_training(settled, num_train_steps=settled["num_train_steps"])
    if keras:
        check_kerasable(settled)
    return settled


def check_kerasable(config: Mapping[str, Any]) -> None:
    """Raise InputError, naming the key, for networks, losses and optimisers without a Keras form."""
    for network in (make_generator(config), make_critic(config)):
        keras_options(network)
    for key, value in _FIXED.items():
        if config[key] != value:
            raise InputError(f"{key}={config[key]} has no Keras form here; use --config.{key}={value}, or omit --against.")
    for key in ("adversarial_weight", "content_weight"):
        if not config[key]:
            raise InputError(f"{key}=0 has no Keras form here; use more than 0, as --config.{key}=1, or omit --against.")


def describe_differences(config: Mapping[str, Any]) -> list[str]:
    """List, for the notes, how the reference's loop differs from the configuration; empty with keras_reference."""
    differing = [f"{key}={config[key]} (Keras: {value})" for key, value in _LOOP.items() if config[key] != value]
    if not differing:
        return []
    notes = [f"Ours trains as configured, {', '.join(differing)}; the same networks and losses."]
    if config["critic_update"] == "joint":
        steps = config["critic_steps"]
        notes.append(
            f"Ours updates the critic {steps} times, on sharp and restored images together; Keras {2 * steps} times, on each separately."
        )
    return notes

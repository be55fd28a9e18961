"""What `drsn-jax info` prints: versions, devices, configurations, parameters of the networks."""

import importlib.metadata
import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from drsn_jax import __version__
from drsn_jax.config import config_names, load_config, to_plain
from drsn_jax.errors import InputError
from drsn_jax.experiment import make_critic, make_generator, make_stages
from drsn_jax.training.checkpoint import find_checkpoint, read_checkpoint

PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "numpy", "pillow", "tensorflow", "tensorflow-cpu", "clu", "scikit-image")


def describe(*, config: str, overrides: Sequence[str], model: Path | None) -> str:
    """Describes the installation and a configuration, or the one stored with a model. Raises InputError for unknown ones."""
    if model is not None and overrides:
        raise InputError(f"{overrides[0]}: a model has the configuration stored with it; leave --model or the change away.")
    if model is None:
        name, values = f"configuration {config}", to_plain(load_config(config, overrides))
    else:
        checkpoint = find_checkpoint(model)
        name, values = f"model {checkpoint}", read_checkpoint(checkpoint, ())[1]
    lines = [_describe_installation(), f"Configurations: {', '.join(config_names())}, or FILE.py", "", f"The {name}:"]
    lines += [f"  {key} = {json.dumps(value)}" for key, value in values.items()]
    return "\n".join([*lines, "", _describe_parameters(values), ""])


def _describe_installation() -> str:
    versions = []
    for package in PACKAGES:
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    devices = ", ".join(f"{device.platform}:{device.id} {device.device_kind}" for device in jax.devices())
    return f"drsn-jax {__version__} on Python {platform.python_version()}\n{', '.join(versions)}\nDevices: {devices}"


def count_parameters(module: nn.Module, *, image_size: int) -> tuple[int, int]:
    """Trainable parameters, and those with the moving statistics of batch norm."""
    image = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), image)
    trainable, statistics = (
        sum(x.size for x in jax.tree.leaves(variables.get(collection, {}))) for collection in ("params", "batch_stats")
    )
    return trainable, trainable + statistics


def _describe_parameters(values: dict[str, Any]) -> str:
    size = make_stages(values)[0].crop_size
    counts = [count_parameters(module, image_size=size) for module in (make_generator(values), make_critic(values))]
    rows = [("generator", *counts[0]), ("critic", *counts[1]), ("both", *(sum(column) for column in zip(*counts, strict=True)))]
    header = f"{'Parameters':12}{'trainable':>14}{'with statistics':>18}"
    return "\n".join([header, *(f"{name:12}{trainable:14,}{total:18,}" for name, trainable, total in rows)])

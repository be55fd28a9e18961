"""The text of `drsn-jax info`: versions, devices, configurations, parameters of the networks."""

import importlib.metadata
import json
import platform
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from drsn_jax import __version__
from drsn_jax.config.build import make_critic, make_generator, make_stages
from drsn_jax.config.files import config_names, load_config, to_plain
from drsn_jax.ops.costs import count_module_macs, format_costs, measure_costs
from drsn_jax.planning.environment import read_environment
from drsn_jax.system.errors import InputError
from drsn_jax.system.extension import find_extension
from drsn_jax.system.paths import AnyPath
from drsn_jax.weights.saved import read_saved
from drsn_jax.weights.shipped import SHIPPED

PACKAGES = (
    "jax",
    "flax",
    "optax",
    "orbax-checkpoint",
    "numpy",
    "pillow",
    "tensorflow",
    "tensorflow-cpu",
    "clu",
    "scikit-image",
    "drsn-jax-native",
)


COST_SIZES = ((256, 256), (720, 1280))  # height x width: the paper's crop, and a GoPro frame


def describe(*, config: str, overrides: Sequence[str], model: AnyPath | None, costs: bool = False) -> str:
    """Describe the installation and a configuration, or that of a model. With `costs` compile and run its networks.

    Raises InputError if there is no such configuration or model.
    """
    name, values = _read_values(config, overrides, model)
    lines = [_describe_installation(), f"Configurations: {', '.join(config_names())}, or FILE.py"]
    lines += [f"Models inside the package: {', '.join(SHIPPED)}", "", f"The {name}:"]
    lines += [f"  {key} = {json.dumps(value)}" for key, value in values.items()]
    lines += ["", _describe_parameters(values), ""]
    return "\n".join([*lines, *([_describe_costs(values), ""] if costs else [])])


def describe_as_json(*, config: str, overrides: Sequence[str], model: AnyPath | None) -> dict[str, Any]:
    """Return the same as values: environment, configurations, models, keys, and parameters (trainable, with moving statistics)."""
    name, values = _read_values(config, overrides, model)
    size = make_stages(values)[0].crop_size
    networks = {"generator": make_generator(values), "critic": make_critic(values)}
    return {
        "environment": read_environment(),
        "configurations": config_names(),
        "models": list(SHIPPED),
        "name": name,
        "config": values,
        "parameters": {name: count_parameters(module, image_size=size) for name, module in networks.items()},
    }


def _read_values(config: str, overrides: Sequence[str], model: AnyPath | None) -> tuple[str, dict[str, Any]]:
    """Return the name and values of a configuration, or of the one stored with a model."""
    if model is None:
        return f"configuration {config}", to_plain(load_config(config, overrides))
    if overrides:
        raise InputError(f"{overrides[0]}: a model has the configuration stored with it; omit --model or the change.")
    saved = read_saved(model, ())
    return f"model {saved.path}", saved.config


def _describe_installation() -> str:
    versions = []
    for package in PACKAGES:
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    devices = ", ".join(f"{device.platform}:{device.id} {device.device_kind}" for device in jax.devices())
    return "\n".join(
        [
            f"drsn-jax {__version__} on Python {platform.python_version()}",
            ", ".join(versions),
            f"Devices: {devices}",
            f"Convolutions of oneDNN on CPU (drsn-jax-native): {find_extension().status}",
        ]
    )


def count_parameters(module: nn.Module, *, image_size: int) -> tuple[int, int]:
    """Count the trainable parameters, and those plus the moving statistics of batch norm."""
    image = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
    variables = jax.eval_shape(module.init, jax.random.key(0), image)
    trainable, statistics = (
        sum(x.size for x in jax.tree.leaves(variables.get(collection, {}))) for collection in ("params", "batch_stats")
    )
    return trainable, trainable + statistics


def describe_networks(values: dict[str, Any]) -> dict[str, Any]:
    """Describe the networks for reports: parameters of the generator, the critic and both, and the generator's GMACs at 256x256."""
    crop = make_stages(values)[0].crop_size
    networks = make_generator(values), make_critic(values)
    generator, critic = (count_parameters(network, image_size=crop)[0] for network in networks)
    macs = count_module_macs(networks[0], size=(256, 256))
    return {"parameters_critic": critic, "parameters_both": generator + critic, "gmacs_256x256": round(macs / 1e9, 3)}


def _describe_parameters(values: dict[str, Any]) -> str:
    size = make_stages(values)[0].crop_size
    counts = [count_parameters(module, image_size=size) for module in (make_generator(values), make_critic(values))]
    rows = [("generator", *counts[0]), ("critic", *counts[1]), ("both", *(sum(column) for column in zip(*counts, strict=True)))]
    header = f"{'Parameters':12}{'trainable':>14}{'with statistics':>18}"
    lines = [header, *(f"{name:12}{trainable:14,}{total:18,}" for name, trainable, total in rows)]
    return "\n".join(lines + ([] if values["adversarial_weight"] else ["The critic is not trained: adversarial_weight=0."]))


def _describe_costs(values: dict[str, Any]) -> str:
    """Format the costs. The dense critic is built for its own crop, so that its parameters match the count above."""
    crop = make_stages(values)[0].crop_size
    options = {"sizes": COST_SIZES, "run": True, "init_size": (crop, crop)}
    return format_costs(generator=measure_costs(make_generator(values), **options), critic=measure_costs(make_critic(values), **options))

"""Conversion of weight files of other frameworks to a model of this package and back, whole or not at all."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from drsn_jax.config.build import make_critic, make_generator, make_keys, make_stages, make_training
from drsn_jax.config.files import to_plain
from drsn_jax.interop.keras import Variables, encode_keras, list_layers, make_model, to_variables
from drsn_jax.interop.torch import read_torch
from drsn_jax.models.critic import Critic
from drsn_jax.models.generator import Generator
from drsn_jax.run.checkpoint import Checkpoints
from drsn_jax.system.errors import InputError
from drsn_jax.system.files import appearing, write_atomically
from drsn_jax.training.state import TrainState
from drsn_jax.weights.keras_files import SUFFIXES as KERAS_SUFFIXES
from drsn_jax.weights.keras_files import read_layers
from drsn_jax.weights.saved import read_saved

TORCH_SUFFIXES = (".pth", ".pt", ".safetensors")
KERAS_OUTPUTS = (".weights.h5", ".keras")


def convert_files(path: Path, output: Path, *, critic: Path | None, config: Mapping[str, Any], overrides: Sequence[str] = ()) -> list[str]:
    """Read a generator's weight file, and optionally a critic's, and write a workdir with both in checkpoint 0.

    `config` describes the networks and is stored with them. A PyTorch file describes its generator itself and takes precedence. `overrides`
    are the keys of `config` that the user gave as --config.key=value. Returns lines of a report. Raises InputError, with nothing written,
    for a file that cannot be read or does not fit, and if `output` exists.
    """
    _check_free(output)
    if path.suffix.lower() in TORCH_SUFFIXES:
        stored = read_torch(path)
        config = _apply_changes(config, stored.changes, overrides, path)
        generator_variables: Variables = {"params": stored.params, "batch_stats": stored.batch_stats}
    else:
        generator_variables = read_network(path, make_generator(config), config=config)
    critic_variables = read_network(critic, make_critic(config), config=config) if critic else None
    state = make_state(config, generator_variables, critic_variables)
    save_model(output, state, config=config)
    counts = [sum(x.size for x in jax.tree.leaves(params)) for params in (state.generator_params, state.critic_params)]
    return [
        f"{path} -> {output}: a generator of {counts[0]:,} parameters.",
        f"{critic} -> {output}: a critic of {counts[1]:,} parameters." if critic else "The critic is a new one, untrained (--critic=FILE).",
    ]


def read_network(path: Path, module: Generator | Critic, *, config: Mapping[str, Any]) -> Variables:
    """Return our variables of a Keras file of one network. Raises InputError if it cannot be read or does not fit the network."""
    if path.suffix.lower() not in KERAS_SUFFIXES:
        known = ", ".join((*KERAS_SUFFIXES, *(TORCH_SUFFIXES if isinstance(module, Generator) else ())))
        raise InputError(f"{path} does not have the name of a weight file; give the {_name(module)} as {known}, or a model as a folder.")
    wanted = list_layers(module, image_size=make_stages(config)[0].crop_size)
    return to_variables(read_layers(path), wanted, source=str(path))


def make_state(config: Mapping[str, Any], generator: Variables, critic: Variables | None) -> TrainState:
    """Make the training state at step 0 of these networks; a missing critic is initialised. Raises InputError if they do not fit."""
    # Only the structure of the state is needed, so the checks of features and batch size are switched off.
    form = {"stages": (), "crop_size": make_stages(config)[0].crop_size, "batch_size": 2, "content_weight": 0.0, "pixel_weight": 1.0}
    training = make_training({**config, **form}, num_train_steps=config["warmup_steps"] + 1)
    state: TrainState = jax.jit(training.init)(make_keys(config["seed"]).state)
    changes = {"generator_params": generator["params"], "generator_stats": generator.get("batch_stats", {})}
    if jax.tree.leaves(state.ema_params):
        changes["ema_params"] = generator["params"]
    if critic:
        changes |= {"critic_params": critic["params"], "critic_stats": critic.get("batch_stats", {})}
    for name, tree in changes.items():
        if jax.tree.map(jnp.shape, tree) != jax.tree.map(jnp.shape, getattr(state, name)):
            raise InputError(
                f"The weights do not fit the configuration ({name}); give the one that they were trained with (--config=NAME)."
            )
    return state.replace(**jax.tree.map(jnp.asarray, changes))  # pyright: ignore[reportAttributeAccessIssue]


def save_model(output: Path, state: TrainState, *, config: Mapping[str, Any]) -> None:
    """Write a workdir with one checkpoint under a temporary name, then rename it to `output`. Raises InputError if that exists."""
    _check_free(output)
    try:
        with appearing(output, overwrite=False) as temporary, Checkpoints(temporary, config=to_plain(config)) as checkpoints:
            checkpoints.save(int(state.step), state)
    except OSError as error:
        raise InputError(f"{output} cannot be written ({error.strerror or error}); choose another --output.") from error


def convert_model(model: Path, output: Path, *, critic: Path | None) -> list[str]:
    """Write the generator of a model of this package, and its critic if `critic` is a name, as Keras files. Returns lines of a report.

    Raises InputError, with nothing written, if a name ends in neither .weights.h5 nor .keras, a file exists, or a network has no Keras
    form.
    """
    suffixes = {path: _suffix(path) for path in (output, critic) if path}
    for path in suffixes:
        _check_free(path)
    names = ("ema_params", "generator_params", "generator_stats", *(("critic_params", "critic_stats") if critic else ()))
    checkpoint, fields, config, _ = read_saved(model, names)
    try:
        networks: list[tuple[Path, Generator | Critic, Any, Any]] = [
            (output, make_generator(config), fields["ema_params"] or fields["generator_params"], fields["generator_stats"])
        ]
        if critic:
            networks.append((critic, make_critic(config), fields["critic_params"], fields["critic_stats"]))
        size = make_stages(config)[0].crop_size
    except (KeyError, TypeError) as error:
        raise InputError(f"The configuration stored in {checkpoint} describes no network ({error}); give another checkpoint.") from error
    contents, lines = {}, []
    for path, module, params, stats in networks:
        variables = {"params": params, "batch_stats": stats}
        contents[path] = encode_keras(make_model(module, variables, image_size=size, source=str(checkpoint)), suffixes[path])
        lines.append(f"{checkpoint} -> {path}: a {_name(module)} of {sum(x.size for x in jax.tree.leaves(params)):,} parameters.")
    for path, content in contents.items():
        write_atomically(path, content)
    return lines


def _apply_changes(config: Mapping[str, Any], changes: dict[str, Any], overrides: Sequence[str], path: Path) -> dict[str, Any]:
    for key in [override.removeprefix("--config.").split("=")[0] for override in overrides]:
        if key in changes and to_plain({key: config[key]}) != to_plain({key: changes[key]}):
            raise InputError(f"{path} holds a generator with {key}={changes[key]}, not {config[key]}; omit --config.{key}.")
    return {**config, **changes}


def _check_free(path: Path) -> None:
    if path.exists() or path.is_symlink():
        raise InputError(f"{path} exists and was not overwritten; choose another name, or remove it.")


def _suffix(path: Path) -> str:
    for suffix in KERAS_OUTPUTS:
        if path.name.endswith(suffix) and path.name != suffix:
            return suffix
    raise InputError(f"Keras cannot read weights from a file called {path}; use NAME.weights.h5 (weights alone) or NAME.keras (a model).")


def _name(module: Generator | Critic) -> str:
    return "critic" if isinstance(module, Critic) else "generator"

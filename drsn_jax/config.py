"""Configurations: Python files that return an ml_collections.ConfigDict, found by name or path, with --config.key=value on top.

configs/default.py is the only place where a default lives; every other file starts from it (`base_config`) and changes keys. What a user
mistypes is reported in one line with the nearest right name.
"""

import difflib
import importlib.util
import traceback
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from drsn_jax.errors import InputError

# Inside the wheel the files are in the package; in a checkout they are at its top level.
CONFIG_FOLDERS = (Path(__file__).parent / "configs", Path(__file__).parent.parent / "configs")

CHOICES: dict[str, tuple[Any, ...]] = {
    "trunk": ("quarter", "unet"),
    "block_order": ("pre", "post"),
    "convs_per_block": (1, 2),
    "norm": ("batch", "instance", "layer", "none"),
    "threshold_norm": ("none", "layer", "batch"),
    "upsampling": ("nearest", "transposed"),
    "strided_padding": ("keras", "torch"),
    "output": ("clip_residual", "average"),
    "unshuffle": (1, 2, 4),
    "kernel_init": ("glorot_uniform", "he_normal", "normal"),
    "critic": ("dense", "patch"),
    "critic_norm": ("batch", "instance", "layer", "none"),
    "critic_output": ("sigmoid", "linear"),
    "dtype": ("float32", "bfloat16"),
    "content_input": ("raw", "imagenet"),
    "lipschitz": ("none", "clip", "gradient_penalty"),
    "critic_batches": ("same", "fresh"),
    "critic_update": ("joint", "alternating"),
    "fake_mode": ("train", "inference"),
    "critic_norm_in_generator_step": ("batch", "moving"),
    "schedule": ("constant", "cosine", "linear_decay"),
    "adam_form": ("optax", "keras"),
    "data": ("pairs", "resident", "photos", "demo"),
    "blur_folder": ("blur", "blur_gamma"),
    "frame": ("resize", "half_crop", "crop"),
    "eval_protocol": ("full", "half", "resize256"),
}
POSITIVE = (
    "num_blocks",
    "critic_steps",
    "batch_size",
    "crop_size",
    "learning_rate",
    "critic_learning_rate",
    "epsilon",
    "clip_value",
    "log_every_steps",
)
POSITIVE += ("num_train_steps", "hold_out_every", "eval_copies", "dense_features")
NOT_NEGATIVE = ("adversarial_weight", "content_weight", "pixel_weight", "frequency_weight", "penalty_weight", "num_epochs", "warmup_steps")
NOT_NEGATIVE += (
    "weight_decay",
    "clip_norm",
    "eval_every_steps",
    "checkpoint_every_steps",
    "eval_images",
    "seed",
    "sample_images",
    "prefetch",
)
FRACTIONS = ("dropout", "ema_decay", "beta1", "beta2", "critic_beta1")


def config_names() -> list[str]:
    """The configurations that ship, by name."""
    return sorted({path.stem for folder in CONFIG_FOLDERS for path in folder.glob("*.py") if path.stem != "__init__"})


def base_config() -> ConfigDict:
    """configs/default.py, for other configurations to start from: every key with its default."""
    return run_config_file(find_config("default"))


def find_config(name_or_path: str) -> Path:
    """The file behind --config=NAME or --config=FILE.py. Raises InputError, with the nearest name, if there is none."""
    path = Path(name_or_path).expanduser()
    if path.suffix == ".py":
        if path.is_file():
            return path
        raise InputError(f"There is no configuration file {path}; give a path to one, or a name: {', '.join(config_names())}.")
    for folder in CONFIG_FOLDERS:
        if (folder / f"{name_or_path}.py").is_file():
            return folder / f"{name_or_path}.py"
    names = config_names()
    raise InputError(f"There is no configuration {name_or_path!r}{_nearest(name_or_path, names)}; use {', '.join(names)}, or a FILE.py.")


def load_config(name_or_path: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Reads a configuration, applies overrides of the form `--config.key=value` and checks every value.

    Raises InputError for an unknown name or key (naming the nearest), a value of the wrong type, outside its range or not among its
    choices, and for a file that does not run.
    """
    path = find_config(name_or_path)
    defaults = base_config()
    config = run_config_file(path)
    _check_keys(config, known=defaults, source=path.name)
    for override in overrides:
        key = override.removeprefix("--config.").split("=", 1)[0]
        if not override.startswith("--config.") or "=" not in override:
            raise InputError(f"Cannot read {override!r}; write an override as --config.key=value.")
        if key not in config:
            raise InputError(
                f"Unknown configuration key {key!r}{_nearest(key, config)}; `drsn-jax info --config={name_or_path}` lists them all."
            )
    argv, values = ["drsn-jax", *overrides], flags.FlagValues()
    try:
        config_flags.DEFINE_config_dict("config", config, lock_config=True, flag_values=values, sys_argv=argv)
        values(argv)
    except (flags.Error, ValueError, TypeError, SyntaxError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"A value does not fit its key: {reason}; `drsn-jax info --config={name_or_path}` shows one of the right type."
        ) from error
    plain = config.to_dict()
    check_config(plain)
    return plain


def check_config(config: Mapping[str, Any]) -> None:
    """Raises InputError for the first value that is not among its choices or outside its range."""
    for key, choices in CHOICES.items():
        if config[key] not in choices:
            allowed = [str(choice) for choice in choices]
            guess = _nearest(str(config[key]), allowed)
            raise InputError(f"{key}={config[key]!r} is not known{guess}; use one of {', '.join(allowed)} (--config.{key}={allowed[0]}).")
    for key in POSITIVE:
        if config[key] <= 0:
            raise InputError(f"{key}={config[key]} must be more than 0 (--config.{key}={base_config()[key]}).")
    for key in NOT_NEGATIVE:
        if config[key] < 0:
            raise InputError(f"{key}={config[key]} is negative; use 0 or more (--config.{key}={base_config()[key]}).")
    for key in FRACTIONS:
        if not 0 <= config[key] < 1:
            raise InputError(f"{key}={config[key]} must be at least 0 and less than 1 (--config.{key}={base_config()[key]}).")
    if len(config["widths"]) != 3 or min(config["widths"]) < 1:
        raise InputError(f"widths={tuple(config['widths'])} must be three numbers of channels (--config.widths=64,128,256).")
    for variance in config["eval_noise_variances"]:
        if variance < 0:
            raise InputError(f"eval_noise_variances={tuple(config['eval_noise_variances'])} holds a negative variance; use 0 or more.")


def differing_keys(config: Mapping[str, Any], stored: dict[str, Any], *, free: Iterable[str]) -> dict[str, tuple[Any, Any]]:
    """Keys whose value differs from a stored configuration's, but for the `free` ones: key -> (stored, given)."""
    plain = to_plain(config)
    keys = sorted((set(plain) | set(stored)) - set(free))
    return {key: (stored.get(key), plain.get(key)) for key in keys if stored.get(key) != plain.get(key)}


def to_plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration as JSON holds it: lists for tuples."""

    def plain(value: Any) -> Any:
        return [plain(v) for v in value] if isinstance(value, (tuple, list)) else value

    return {key: plain(value) for key, value in config.items()}


def run_config_file(path: Path) -> ConfigDict:
    """What get_config() of a file returns. Raises InputError, naming the line, for a file that does not run or returns something else."""
    spec = importlib.util.spec_from_file_location(f"drsn_jax_config_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path} is no Python file; a configuration is a file that defines get_config().")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config()
    except InputError:
        raise
    except Exception as error:  # whatever the user's file does wrong is theirs, and where it happened is what helps
        line = error.lineno if isinstance(error, SyntaxError) else traceback.extract_tb(error.__traceback__)[-1].lineno
        raise InputError(f"{path} line {line}: {type(error).__name__}: {error}; a configuration defines get_config().") from error
    if not isinstance(config, ConfigDict):
        raise InputError(f"get_config() in {path} returned {type(config).__name__}; return an ml_collections.ConfigDict (see base_config).")
    return config


def _check_keys(config: ConfigDict, *, known: ConfigDict, source: str) -> None:
    for key in config:
        if key not in known:
            raise InputError(f"{source} sets an unknown key {key!r}{_nearest(key, known)}; start from drsn_jax.config.base_config().")
    missing = sorted(set(known) - set(config))
    if missing:
        raise InputError(f"{source} lacks {', '.join(missing[:3])}; start from drsn_jax.config.base_config() and change keys.")


def _nearest(given: str, known: Iterable[str]) -> str:
    matches = difflib.get_close_matches(given, list(known), n=1, cutoff=0.5)
    return f" (did you mean {matches[0]}?)" if matches else ""

"""Configuration files: Python files that return an ml_collections.ConfigDict, found by name or path, with --config.key=value on top.

Defaults are in configs/default.py only. Every other file starts from it (`base_config`) and changes keys. A mistyped name is reported
in one line with the most similar one.
"""

import importlib.util
import traceback
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from drsn_jax.config.values import ADDED, BLURRING, check_values, kind_of, shown
from drsn_jax.system.errors import InputError, nearest
from drsn_jax.system.paths import local_path

_BAD_VALUE = (flags.Error, ValueError, TypeError, SyntaxError)
# In the wheel these files are in the package, in a checkout at its top level.
_PACKAGE = Path(__file__).parents[1]
OF_FRAMES = ("frames_averaged", "frames_share", "frames_odd", "frames_sharpness")  # the averaging of the clips of `frames_dir`
CONFIG_FOLDERS = (_PACKAGE / "configs" if (_PACKAGE / "configs").is_dir() else _PACKAGE.parent / "configs",)


def config_names() -> list[str]:
    """Return the names of the shipped configurations."""
    return sorted({path.stem for folder in CONFIG_FOLDERS for path in folder.glob("*.py") if path.stem != "__init__"})


def base_config(name: str = "default") -> ConfigDict:
    """Return a shipped configuration as a start: by default configs/default.py, which has every key with its default."""
    return run_config_file(find_config(name))


def find_config(name_or_path: str) -> Path:
    """Find the file of --config=NAME or --config=FILE.py. Raises InputError with the most similar name if there is none."""
    path = local_path(name_or_path)
    if path.suffix == ".py":
        if path.is_file():
            return path
        raise InputError(f"There is no configuration file {path}; give a path to one, or a name: {', '.join(config_names())}.")
    for folder in CONFIG_FOLDERS:
        if (folder / f"{name_or_path}.py").is_file():
            return folder / f"{name_or_path}.py"
    names = config_names()
    raise InputError(f"There is no configuration {name_or_path!r}{nearest(name_or_path, names)}; use {', '.join(names)}, or a FILE.py.")


def load_config(name_or_path: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Read a configuration, apply overrides of the form `--config.key=value` and check every value.

    Raises InputError for an unknown name or key (with the most similar one), and for a file that raises an error. Raises it also for a
    value of the wrong type, out of range or not among its choices.
    """
    path = find_config(name_or_path)
    defaults = base_config()
    config = run_config_file(path)
    _check_keys(config, known=defaults, source=path.name)
    _apply_overrides(overrides, config, name=name_or_path)
    given = overridden_keys(overrides)
    if path.parent not in CONFIG_FOLDERS:  # shipped files may set unused keys; in a user's file they are a mistake
        # A file may set the keys of clips whose folder is given on the command line.
        given |= {key for key in config if config[key] != defaults[key]} - set(OF_FRAMES)
    plain = config.to_dict()
    check_values(plain, defaults=defaults.to_dict())
    _check_effect(given, config)
    return plain


def overridden_keys(overrides: Sequence[str]) -> set[str]:
    """Return the keys that overrides of the form `--config.key=value` set."""
    return {override.removeprefix("--config.").split("=", 1)[0] for override in overrides}


def _apply_overrides(overrides: Sequence[str], config: ConfigDict, *, name: str) -> None:
    for override in overrides:
        key, equals, _ = override.removeprefix("--config.").partition("=")
        if not override.startswith("--config.") or not equals:
            raise InputError(f"Cannot read {override!r}; write an override as --config.key=value.")
        if key not in config:
            raise InputError(f"Unknown configuration key {key!r}{nearest(key, config)}; `drsn-jax info --config={name}` lists them all.")
    try:
        _parse(overrides, config)
    except _BAD_VALUE:
        for override in overrides:  # one at a time, to name the bad one; parsing describes the whole configuration, which takes longest
            key, _, value = override.removeprefix("--config.").partition("=")
            try:
                _parse([override], config)
            except _BAD_VALUE as error:
                raise InputError(f"{key}={value!r} must be {kind_of(config[key])} (--config.{key}={shown(config[key])}).") from error
        raise


def _parse(overrides: Sequence[str], config: ConfigDict) -> None:
    argv, values = ["drsn-jax", *overrides], flags.FlagValues()
    config_flags.DEFINE_config_dict("config", config, lock_config=True, flag_values=values, sys_argv=argv)
    values(argv)


def _check_effect(given: set[str], config: ConfigDict) -> None:
    """Raise InputError if a key of the user has no effect, so that nothing is ignored silently."""
    if "num_train_steps" in given and config.num_epochs:
        raise InputError(f"num_train_steps has no effect, because num_epochs={config.num_epochs} determines it; add --config.num_epochs=0.")
    for key in sorted({"crop_size", "batch_size"} & given):
        if config.stages:
            raise InputError(f"{key} has no effect, since stages={config.stages} sets it; add '--config.stages=()', or change the stages.")
    pairs, resident = ("pairs", "resident"), "photos, resident or demo"
    without = [(key, pairs, "photos or demo") for key in BLURRING]
    without += [("train_dir", ("demo",), "photos, resident or pairs"), ("frames_dir", ("pairs",), resident)]
    without += [("crop_candidates", ("pairs",), resident)]
    for key, sources, others in without:
        if key in given and config[key] and config.data in sources:
            raise InputError(
                f"{key} has no effect with data={config.data}; it is for {others} (--config.data={others.split()[0].rstrip(',')})."
            )
    if "adam_form" in given and config.optimizer == "muon" and not config.adversarial_weight:
        raise InputError("adam_form has no effect with optimizer=muon and no critic (adversarial_weight=0); use --config.optimizer=adam.")
    if "parameter_groups" in given and config.optimizer == "adam" and not config.weight_decay:
        raise InputError(
            "parameter_groups has no effect with optimizer=adam and weight_decay=0; use --config.optimizer=muon or"
            " --config.weight_decay=1e-4."
        )
    if "middle_blocks" in given and config.middle_blocks and config.trunk == "quarter":
        raise InputError("middle_blocks has no effect with trunk=quarter; use num_blocks, or --config.trunk=unet.")
    if "object_masks" in given and config.object_masks and not config.blur_object:
        raise InputError("object_masks has no effect without objects; add --config.blur_object=0.3.")
    if "text_fonts" in given and config.text_fonts and not config.text_share:
        raise InputError("text_fonts has no effect without text; add --config.text_share=0.1.")
    for key in OF_FRAMES:
        if key in given and config[key] and not config.frames_dir:
            raise InputError(f"{key} has no effect without a clip of frames; add --config.frames_dir=FOLDER.")


def differing_keys(config: Mapping[str, Any], stored: dict[str, Any], *, free: Iterable[str]) -> dict[str, tuple[Any, Any]]:
    """Return the keys that differ from a stored configuration, except the `free` ones: key -> (stored, given).

    A key that is newer than the stored configuration has the value of the old behaviour.
    """
    plain = to_plain(config)
    stored = to_plain({key: value for key, value in ADDED.items() if key in plain}) | stored
    keys = sorted((set(plain) | set(stored)) - set(free))
    return {key: (stored.get(key), plain.get(key)) for key in keys if stored.get(key) != plain.get(key)}


def to_plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a configuration to plain values as in JSON: lists for tuples."""

    def plain(value: Any) -> Any:
        return [plain(v) for v in value] if isinstance(value, (tuple, list)) else value

    return {key: plain(value) for key, value in config.items()}


def run_config_file(path: Path) -> ConfigDict:
    """Return the result of get_config() in a file. Raises InputError with the line if the file fails or returns another type."""
    spec = importlib.util.spec_from_file_location(f"drsn_jax_config_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path} is not a Python file; a configuration is a file that defines get_config().")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        if not hasattr(module, "get_config"):
            raise InputError(f"{path} defines no get_config(); a configuration file needs one that returns a ConfigDict.")
        config = module.get_config()
    except InputError:
        raise
    except Exception as error:  # any error in the user's file; the line where it happened helps most
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        line = error.lineno if isinstance(error, SyntaxError) else (lines or [1])[-1]
        reason = " ".join(str(error).split())
        raise InputError(
            f"{path} line {line}: {type(error).__name__}: {reason}; correct the file, or start from drsn_jax.config.base_config()."
        ) from error
    if not isinstance(config, ConfigDict):
        raise InputError(f"get_config() in {path} returned {type(config).__name__}; return an ml_collections.ConfigDict (see base_config).")
    return config


def _check_keys(config: ConfigDict, *, known: ConfigDict, source: str) -> None:
    for key in config:
        if key not in known:
            raise InputError(f"{source} sets an unknown key {key!r}{nearest(key, known)}; start from drsn_jax.config.base_config().")
    missing = sorted(set(known) - set(config))
    if missing:
        raise InputError(f"{source} lacks {', '.join(missing[:3])}; start from drsn_jax.config.base_config() and change keys.")

"""A run's folder: one process at a time, one configuration."""

import contextlib
import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import jax

from drsn_jax.config.files import differing_keys, to_plain
from drsn_jax.config.values import complete
from drsn_jax.run.writer import say
from drsn_jax.system.errors import InputError
from drsn_jax.system.files import write_atomically
from drsn_jax.system.locks import lock_folder
from drsn_jax.system.paths import AnyPath, check_bucket, is_bucket
from drsn_jax.system.processes import first_process

CONFIG_FILE = "config.json"
# Keys that may change between the runs of one workdir: it remains the same experiment.
FREE_KEYS = (
    "num_train_steps",
    "num_epochs",
    "log_every_steps",
    "eval_every_steps",
    "checkpoint_every_steps",
    "eval_images",
    "sample_images",
)
FREE_KEYS += ("train_dir", "eval_dir", "frames_dir", "object_masks", "text_fonts", "vgg19")
FREE_KEYS += ("tensorboard", "cache", "prefetch", "eval_noise_variances", "remat")
FREE_KEYS += ("on_nonfinite", "max_nonfinite_steps", "on_bad_image")
# Free keys that are newer than some workdirs: these keep their old behaviour until a command sets the key.
KEPT_KEYS = ("parameter_groups",)
FREE_KEYS += KEPT_KEYS
# The effects of changing these keys in a run that is resumed.
CONSEQUENCES = {
    "num_train_steps": ": a schedule that depends on the last step follows the new one",
    "num_epochs": ": a schedule that depends on the last step follows the new one",
    "remat": ": the same to rounding, no longer bit for bit",
    "on_nonfinite": ": the same to rounding, no longer bit for bit",
    "train_dir": ": the data differ, so this is no longer the same run bit for bit",
    "parameter_groups": ": weight decay applies to other parameters, and with optimizer=muon Adam updates other ones",
    "text_fonts": ": the data differ, so this is no longer the same run bit for bit",
    "object_masks": ": the data differ, so this is no longer the same run bit for bit",
    "frames_dir": ": the data differ, so this is no longer the same run bit for bit",
}


def keep_stored(config: Mapping[str, Any], workdir: AnyPath, *, given: Collection[str] = ()) -> dict[str, Any]:
    """Return the configuration with the workdir's own values of `KEPT_KEYS`, reported in a message. Keys in `given` are not replaced.

    A new workdir changes nothing. Raises InputError if the workdir's configuration is damaged.
    """
    check_bucket(workdir)
    try:
        stored = read_stored(workdir / CONFIG_FILE)
    except PermissionError:  # `open_workdir` reports it
        stored = None
    if stored is None:
        return dict(config)
    kept = {key: complete(stored)[key] for key in KEPT_KEYS if key not in given and complete(stored)[key] != config[key]}
    for key, value in kept.items():
        say(f"{key} stays {value!r}, the value of {workdir}; --config.{key}={config[key]} changes it.")
    return {**config, **kept}


@contextlib.contextmanager
def open_workdir(workdir: AnyPath, config: Mapping[str, Any]) -> Iterator[None]:
    """Make the folder and keep it to this run while the block lasts; store the configuration, or compare it with the stored one.

    In a run of several processes the first one does this for all. Raises InputError if the folder cannot be written, is in use, or is not
    shared by all processes. Raises it also if it belongs to another configuration, because its checkpoints would not fit.
    """
    with contextlib.ExitStack() as stack:
        first_process(lambda: _open(workdir, config, stack))
        if not (workdir / CONFIG_FILE).exists():
            raise InputError(f"--workdir={workdir} is not there for process {jax.process_index()}; choose a folder that all share.")
        yield


def _open(workdir: AnyPath, config: Mapping[str, Any], stack: contextlib.ExitStack) -> None:
    path = workdir / CONFIG_FILE
    try:
        check_bucket(workdir, write=True)
        if not is_bucket(workdir):
            workdir.mkdir(parents=True, exist_ok=True)
        stack.enter_context(lock_folder(workdir, doing="training"))
        stored = read_stored(path)
        if stored is not None:
            differing = differing_keys(config, stored, free=FREE_KEYS)
            if differing:
                changes = "; ".join(f"{key} was {was!r}, now {now!r}" for key, (was, now) in list(differing.items())[:4])
                raise InputError(
                    f"{workdir} belongs to another configuration ({changes}); choose another --workdir, or go back to those values."
                )
            for key, (was, now) in differing_keys(config, stored, free=()).items():
                say(f"{key} was {was!r} before, {now!r} now{CONSEQUENCES.get(key, '')}.")
        write_atomically(path, (json.dumps(to_plain(config), indent=2) + "\n").encode())
    except FileExistsError as error:
        raise InputError(f"--workdir={workdir} is a file; choose a folder.") from error
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"--workdir={workdir} cannot be written ({error.strerror}); choose a folder that can.") from error


def read_stored(path: AnyPath) -> dict[str, Any] | None:
    """Return the configuration stored in a workdir, None for a new one. Raises InputError if the file contains none."""
    try:
        stored = json.loads(path.read_text()) if path.exists() else None
    except ValueError:
        stored = ()
    if stored is not None and not isinstance(stored, dict):
        raise InputError(f"{path} is damaged: it holds no configuration; choose another --workdir, or remove that file to continue.")
    return stored

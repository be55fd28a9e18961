"""A run's folder: one run at a time, of one configuration."""

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
# What may change between the runs of one workdir, without making it another experiment.
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
# A free key whose default is another than what was done before it existed: a workdir keeps its own until a command names the key.
KEPT_KEYS = ("parameter_groups",)
FREE_KEYS += KEPT_KEYS
# What a change of those does to a run that goes on.
CONSEQUENCES = {
    "num_train_steps": ": a schedule that falls to the last step falls to the new one",
    "num_epochs": ": a schedule that falls to the last step falls to the new one",
    "remat": ": the same to rounding, no longer bit for bit",
    "on_nonfinite": ": the same to rounding, no longer bit for bit",
    "train_dir": ": the data are others, so this is no longer the same run bit for bit",
    "parameter_groups": ": other parameters decay, and with optimizer=muon other ones are left to Adam",
    "text_fonts": ": the data are others, so this is no longer the same run bit for bit",
    "object_masks": ": the data are others, so this is no longer the same run bit for bit",
    "frames_dir": ": the data are others, so this is no longer the same run bit for bit",
}


def keep_stored(config: Mapping[str, Any], workdir: AnyPath, *, given: Collection[str] = ()) -> dict[str, Any]:
    """The configuration with what a workdir began with of `KEPT_KEYS`, said; as it is where it is new, or where the keys are `given`.

    Raises InputError if the workdir's configuration is damaged.
    """
    check_bucket(workdir)
    try:
        stored = read_stored(workdir / CONFIG_FILE)
    except PermissionError:  # which `open_workdir` tells
        stored = None
    if stored is None:
        return dict(config)
    kept = {key: complete(stored)[key] for key in KEPT_KEYS if key not in given and complete(stored)[key] != config[key]}
    for key, value in kept.items():
        say(f"{key} stays {value!r}, as {workdir} began; --config.{key}={config[key]} changes it.")
    return {**config, **kept}


@contextlib.contextmanager
def open_workdir(workdir: AnyPath, config: Mapping[str, Any]) -> Iterator[None]:
    """Makes the folder, keeps it to this run while the block lasts, stores the configuration there or checks it against the one stored.

    Of several processes the first does so for all. Raises InputError if the folder cannot be written, is another run's, belongs to
    another configuration (its checkpoints would not fit), or is not the same for all processes.
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
    """The configuration stored in a workdir, None in a new one. Raises InputError if the file holds none."""
    try:
        stored = json.loads(path.read_text()) if path.exists() else None
    except ValueError:
        stored = ()
    if stored is not None and not isinstance(stored, dict):
        raise InputError(f"{path} is damaged: it holds no configuration; choose another --workdir, or remove that file to go on.")
    return stored

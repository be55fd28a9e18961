"""Saved models of any kind: a checkpoint of a run or a compact model."""

from pathlib import Path
from typing import Any, NamedTuple

import jax

from drsn_jax.system.errors import InputError
from drsn_jax.system.paths import AnyPath, check_bucket, size_of
from drsn_jax.weights.checkpoints import find_checkpoint, read_checkpoint
from drsn_jax.weights.compact import FIELDS, INFERENCE_FIELDS, is_compact, read_compact, write_compact


class Saved(NamedTuple):
    """Fields of a training state as numpy arrays, {} if missing; the configuration; the step; and the path."""

    path: AnyPath
    fields: dict[str, Any]
    config: dict[str, Any]
    step: int | None


def read_saved(path: AnyPath, fields: tuple[str, ...]) -> Saved:
    """Read some fields of the state, and the configuration, of a workdir (its best checkpoint), a checkpoint or a compact model.

    Raises InputError if there is none, or it is damaged.
    """
    check_bucket(path)
    if is_compact(path):
        compact = read_compact(path)
        return Saved(path, {name: compact.fields.get(name, {}) for name in fields}, compact.config, compact.step)
    checkpoint = find_checkpoint(path)
    found, config = read_checkpoint(checkpoint, fields)
    step = int(checkpoint.name) if checkpoint.name.isdigit() else None
    return Saved(checkpoint, {name: tree or {} for name, tree in found.items()}, config, step)


# The folders of these keys are private, so only the names are published.
PATHS = ("train_dir", "eval_dir", "frames_dir", "object_masks", "text_fonts", "init_from", "vgg19")


def compact_model(model: AnyPath, output: AnyPath, *, training: bool) -> str:
    """Write a model (a workdir, a checkpoint or a compact model) as a compact one into a new folder; returns a line of report.

    Only the last parts of the paths in its configuration are kept. With `training` the trained parameters and the critic are included;
    otherwise only the running mean, or the parameters if there is none. Raises InputError if the model cannot be read, or the folder
    is not empty.
    """
    saved = read_saved(model, FIELDS)
    fields = dict(saved.fields)
    if training and not jax.tree.leaves(fields["generator_params"]):
        raise InputError(f"{model} was itself written without --training and only contains the parameters for restoring; omit --training.")
    if not training:
        fields["ema_params"] = fields["ema_params"] or fields["generator_params"]
        fields = {name: fields[name] for name in INFERENCE_FIELDS}
    elif not saved.config["adversarial_weight"]:  # the critic was never trained
        fields |= {"critic_params": {}, "critic_stats": {}}
    # A value may be a list of folders with commas.
    names = {key: ",".join(Path(path).name for path in saved.config[key].split(",")) for key in PATHS if saved.config.get(key)}
    config = saved.config | names
    files = write_compact(output, fields=fields, config=config, step=saved.step or 0)
    numbers = sum(x.size for x in jax.tree.leaves(fields))
    megabytes = sum(map(size_of, files)) / 1e6
    return f"{output}: {len(files)} files, {megabytes:.3g} MB, {numbers:,} numbers in float16, of step {saved.step}\n"

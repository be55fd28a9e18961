"""The loop: batches -> training step -> log, checkpoint, evaluation. It resumes by itself and continues bit for bit."""

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax

from drsn_jax.config import differing_keys, to_plain
from drsn_jax.errors import InputError
from drsn_jax.evaluation.panels import save_png
from drsn_jax.evaluation.validation import Validation, validate
from drsn_jax.experiment import Training, make_keys, make_stages, make_training
from drsn_jax.files import write_atomically
from drsn_jax.interop.vgg19 import describe_vgg19
from drsn_jax.restoration.tiling import EVALUATION_TILE, restore_uint8
from drsn_jax.training.batches import Data, open_data
from drsn_jax.training.checkpoint import Checkpoints
from drsn_jax.training.feed import Feed, StopSignal
from drsn_jax.training.log import Log
from drsn_jax.training.schedule import is_due, steps_for
from drsn_jax.training.sharding import make_mesh, replicated, with_sharding
from drsn_jax.training.state import TrainState
from drsn_jax.training.writer import Writer, say

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
FREE_KEYS += ("train_dir", "eval_dir", "tensorboard", "cache", "prefetch", "vgg19", "eval_noise_variances", "remat")
# What a change of those does to a run that goes on.
CONSEQUENCES = {
    "num_train_steps": ": a schedule that falls to the last step falls to the new one",
    "num_epochs": ": a schedule that falls to the last step falls to the new one",
    "remat": ": the same to rounding, no longer bit for bit",
    "train_dir": ": the data are others, so this is no longer the same run bit for bit",
}


def train_and_evaluate(config: Mapping[str, Any], workdir: Path) -> TrainState:
    """Trains as the configuration says in `workdir`, from its newest checkpoint if it has one; returns the last state.

    Writes metrics.jsonl, checkpoints/, samples/ and config.json there. On SIGTERM it saves, without an evaluation,
    and returns early. Raises InputError for what the user can mend (data, folders, values that exclude each other, a workdir of another
    configuration) and TrainingDivergedError when a loss or gradient stops being finite.
    """
    mesh = make_mesh()
    data = open_data(config, mesh=mesh)
    total = count_steps(config, data.num_images)
    training = make_training(config, num_train_steps=total)
    open_workdir(workdir, config)
    with Checkpoints(workdir, config=to_plain(config)) as checkpoints, StopSignal() as stop:
        state = resume_or_init(training, checkpoints, config=config, mesh=mesh)
        start = int(state.step)
        say(f"Training on {data.description}; {mesh.size} {jax.devices()[0].platform} device(s); step {start} of {total}; in {workdir}")
        if config["content_weight"] and config["vgg19"] and not config["vgg19"].endswith(".npz"):
            say(describe_vgg19(Path(config["vgg19"]).expanduser()))  # with its SHA-256: whose weights these are is for the user to check
        train_step = jax.jit(training.train_step, donate_argnums=0)
        feed = Feed(data.stream_fn(start, total))
        with Writer(workdir, start_step=start, tensorboard=config["tensorboard"]) as writer:
            log = Log(writer, start_step=start, num_train_steps=total, critic_output=config["critic_output"])
            evaluate_fn = make_evaluate_fn(training, data, writer, config=config, workdir=workdir)
            for step in range(start + 1, total + 1):
                batch, waited = feed.next(after=log.newest)
                state, metrics = train_step(state, batch)
                log.add(metrics, images=len(batch["sharp"]), waited=waited)
                stopping = stop.requested and step < total
                evaluating = is_due(step, every=config["eval_every_steps"], last=total) and not stopping
                saving = stopping or evaluating or is_due(step, every=config["checkpoint_every_steps"], last=total)
                if saving or is_due(step, every=config["log_every_steps"], last=total):
                    log.flush(step, last_checkpoint=max(checkpoints.steps(), default=None), workdir=workdir)
                try:
                    validation = evaluate_fn(state, step) if evaluating else None
                except InputError:  # a bad validation image must not cost the steps since the last checkpoint
                    checkpoints.save(step, state)
                    raise
                if saving:
                    checkpoints.save(step, state, psnr=validation.psnr if validation else None)
                    log.restart_clock()
                if stopping:
                    break
            checkpoints.wait()
    done = int(state.step)
    say(
        f"Done: {done} steps, in {workdir}"
        if done >= total
        else f"Stopped by a signal at step {done}, saved; run the same command to go on."
    )
    return state


def count_steps(config: Mapping[str, Any], num_images: int) -> int:
    """The number of steps: num_train_steps, or num_epochs passes over the training images where that is set."""
    if not config["num_epochs"]:
        return config["num_train_steps"]
    return steps_for(config["num_epochs"] * num_images, make_stages(config))


def open_workdir(workdir: Path, config: Mapping[str, Any]) -> None:
    """Makes the folder and stores the configuration, or checks it against the one stored there.

    Raises InputError if the folder cannot be written or belongs to another configuration: its checkpoints would not fit.
    """
    path = workdir / CONFIG_FILE
    try:
        workdir.mkdir(parents=True, exist_ok=True)
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
    except OSError as error:
        raise InputError(f"--workdir={workdir} cannot be written ({error.strerror}); choose a folder that can.") from error


def read_stored(path: Path) -> dict[str, Any] | None:
    """The configuration stored in a workdir, None in a new one. Raises InputError if the file holds none."""
    try:
        stored = json.loads(path.read_text()) if path.exists() else None
    except ValueError:
        stored = ()
    if stored is not None and not isinstance(stored, dict):
        raise InputError(f"{path} is damaged: it holds no configuration; choose another --workdir, or remove that file to go on.")
    return stored


def resume_or_init(training: Training, checkpoints: Checkpoints, *, config: Mapping[str, Any], mesh: jax.sharding.Mesh) -> TrainState:
    """The state of the newest readable checkpoint, or a new one, on every device."""
    rng = make_keys(config["seed"]).state
    abstract_state = jax.eval_shape(training.init_fn, rng=rng)
    state = checkpoints.restore(with_sharding(abstract_state, replicated(mesh)), say=say)
    if state is not None:
        say(f"Resumed from step {int(state.step)}.")
        return state
    return jax.jit(training.init_fn, out_shardings=replicated(mesh))(rng=rng)


def make_evaluate_fn(
    training: Training, data: Data, writer: Writer, *, config: Mapping[str, Any], workdir: Path
) -> Callable[[TrainState, int], Validation | None]:
    """Builds the evaluation of a state after a step: prints and logs the figures, draws the panels; None without validation images."""
    apply_fn = jax.jit(training.generator.apply)

    def evaluate(state: TrainState, step: int) -> Validation | None:
        if data.validation_fn is None:
            say("No validation images (--config.eval_dir=DIR): not evaluated.")
            return None
        variables = {"params": state.inference_params, "batch_stats": state.generator_stats}
        validation = validate(
            data.validation_fn,
            restore_fn=partial(
                restore_uint8, predict_fn=partial(apply_fn, variables), stride=training.generator.stride, tile=EVALUATION_TILE
            ),
            noise_variances=config["eval_noise_variances"],
            protocol=config["eval_protocol"],
            num_panels=config["sample_images"],
        )
        writer.scalars(step, validation.scalars())
        say(validation.table(protocol=config["eval_protocol"]))
        if validation.picture is not None:
            path = workdir / "samples" / f"step_{step:08d}.png"
            path.parent.mkdir(exist_ok=True)
            save_png(validation.picture, path)
            writer.image(step, "samples", validation.picture)
            say(f"Panels: {path}")
        return validation

    return evaluate

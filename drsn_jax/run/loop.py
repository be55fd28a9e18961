"""The loop: batches -> training step -> log, checkpoint, evaluation. It resumes by itself and continues bit for bit."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import jax

from drsn_jax.config.build import make_keys, make_stages, make_training
from drsn_jax.config.files import to_plain
from drsn_jax.data.synthesis.photos import Sample
from drsn_jax.evaluation.validation import validate
from drsn_jax.restoration.core.tiling import EVALUATION_TILE, restore_uint8
from drsn_jax.run.checkpoint import Checkpoints
from drsn_jax.run.data import Data, open_data
from drsn_jax.run.feed import Feed, StopSignal
from drsn_jax.run.log import Log
from drsn_jax.run.warm_start import start_from
from drsn_jax.run.workdir import open_workdir
from drsn_jax.run.writer import Writer, say
from drsn_jax.system.errors import InputError
from drsn_jax.system.panels import save_png
from drsn_jax.system.paths import AnyPath, any_path, local_path
from drsn_jax.system.processes import first_process
from drsn_jax.training.functional import Training
from drsn_jax.training.schedule import is_due, steps_for
from drsn_jax.training.sharding import local_copy, make_mesh, meet, replicate, replicated, with_sharding
from drsn_jax.training.state import TrainState
from drsn_jax.weights.shipped import find_model
from drsn_jax.weights.vgg19_files import describe_vgg19


def train_and_evaluate(
    config: Mapping[str, Any],
    workdir: AnyPath,
    *,
    minutes: float | None = None,
    on_panels: Callable[[AnyPath], object] | None = None,
    command: str = "",
) -> TrainState:
    """Trains as the configuration says in `workdir`, from its newest checkpoint if it has one; returns the last state.

    Writes metrics.jsonl, checkpoints/, samples/ and config.json there; `on_panels` is given the path of each picture in samples/ when it
    is there. On SIGTERM, and after `minutes`, it saves, breaking an evaluation off, and returns early; on Ctrl-C it saves likewise and
    raises KeyboardInterrupt. `command` is what goes on with the run, for the message. Raises InputError for what the user can mend (data,
    folders, values that exclude each other, a workdir of another configuration) and TrainingDivergedError when a loss or gradient stops
    being finite.
    """
    workdir, mesh = any_path(workdir), make_mesh()
    meet(mesh)
    data = open_data(config, mesh=mesh)
    total = count_steps(config, data.num_images)
    training = make_training(config, num_train_steps=total)
    with (
        open_workdir(workdir, config),
        Checkpoints(workdir, config=to_plain(config)) as checkpoints,
        StopSignal(mesh, minutes=minutes) as stop,
    ):
        state = resume_or_init(training, checkpoints, config=config, mesh=mesh)
        start = int(state.step)
        say(f"Training on {data.description}; {describe_devices()}; step {start} of {total}; in {workdir}")
        if config["content_weight"] and config["vgg19"] and not config["vgg19"].endswith(".npz"):
            say(describe_vgg19(local_path(config["vgg19"])))  # with its SHA-256: whose weights these are is for the user to check
        train_step = jax.jit(training.train_step, donate_argnums=0, out_shardings=replicated(mesh))
        feed = Feed(data.stream_fn(start, total))
        with Writer(workdir, start_step=start, tensorboard=config["tensorboard"]) as writer:
            shared = {key: config[key] for key in ("critic_output", "max_nonfinite_steps")}
            log = Log(writer, start_step=start, num_train_steps=total, **shared)
            evaluate_fn = make_evaluate_fn(training, data, writer, stop, config=config, workdir=workdir, on_panels=on_panels)
            for step in range(start + 1, total + 1):
                batch, waited = feed.next(after=log.newest)
                state, metrics = train_step(state, batch)
                log.add(metrics, images=len(batch["sharp"]), waited=waited)
                stopping = stop.agreed() and step < total
                evaluating = is_due(step, every=config["eval_every_steps"], last=total) and not stopping
                saving = stopping or evaluating or is_due(step, every=config["checkpoint_every_steps"], last=total)
                if saving or is_due(step, every=config["log_every_steps"], last=total):
                    log.flush(step, last_checkpoint=max(checkpoints.steps(), default=None), workdir=workdir)
                try:
                    psnr = evaluate_fn(state, step) if evaluating else None
                except InputError:  # a bad validation image must not cost the steps since the last checkpoint
                    checkpoints.save(step, state)
                    raise
                if saving:
                    checkpoints.save(step, state, psnr=psnr)
                    log.restart_clock()
                if stopping:
                    break
            checkpoints.wait()
    done = int(state.step)
    say(
        f"Done: {done} steps, in {workdir}"
        if done >= total
        else f"Stopped {stop.reason} at step {done}, saved; run the same command to go on{f': {command}' if command else '.'}"
    )
    if stop.interrupted:
        raise KeyboardInterrupt
    return state


def describe_devices() -> str:
    """How many devices of which kind, in how many processes."""
    processes = f" of {jax.process_count()} processes" if jax.process_count() > 1 else ""
    return f"{jax.device_count()} {jax.devices()[0].platform} device(s){processes}"


def count_steps(config: Mapping[str, Any], num_images: int) -> int:
    """The number of steps: num_train_steps, or num_epochs passes over the training images where that is set."""
    if not config["num_epochs"]:
        return config["num_train_steps"]
    return steps_for(config["num_epochs"] * num_images, make_stages(config))


def resume_or_init(training: Training, checkpoints: Checkpoints, *, config: Mapping[str, Any], mesh: jax.sharding.Mesh) -> TrainState:
    """The state of the newest readable checkpoint, or a new one, on every device.

    Raises InputError where another process reads another checkpoint.
    """
    rng = replicate(make_keys(config["seed"]).state, mesh)
    abstract_state = jax.eval_shape(training.init, rng)
    state = checkpoints.restore(with_sharding(abstract_state, replicated(mesh)), say=say)
    step = None if state is None else int(state.step)
    if (first := first_process(lambda: step)) != step:
        raise InputError(f"Process 0 goes on from step {first}, process {jax.process_index()} from {step}; do they share the --workdir?")
    if state is not None:
        say(f"Resumed from step {step}.")
        return state
    state = jax.jit(training.init, out_shardings=replicated(mesh))(rng)
    if not config["init_from"]:
        return state
    say(f"Begins with the weights of {config['init_from']}.")
    return start_from(state, find_model(config["init_from"]))


class _BrokenOffError(Exception):
    """The signal to stop came in the middle of an evaluation, which can take longer than there is time."""


def _until_stopped(samples_fn: Callable[[], Iterator[Sample | None]], stop: StopSignal) -> Iterator[Sample | None]:
    for sample in samples_fn():
        if stop.requested:
            raise _BrokenOffError
        yield sample


def make_evaluate_fn(
    training: Training,
    data: Data,
    writer: Writer,
    stop: StopSignal,
    *,
    config: Mapping[str, Any],
    workdir: AnyPath,
    on_panels: Callable[[AnyPath], object] | None = None,
) -> Callable[[TrainState, int], float | None]:
    """Builds the evaluation of a state after a step: prints and logs the figures, draws the panels, gives the PSNR in dB.

    None without validation images, and where it is broken off by the signal to stop. Of several processes the first evaluates, on one
    device, and the others wait for its PSNR: that takes no longer than if all did the same, and the images are needed in one place.
    """
    apply_fn = jax.jit(training.generator.apply)

    def evaluate(state: TrainState, step: int) -> float | None:
        if data.validation_fn is None:
            say("No validation images (--config.eval_dir=DIR): not evaluated.")
            return None
        variables = local_copy(state.variables)
        try:
            validation = validate(
                partial(_until_stopped, data.validation_fn, stop),
                restore_fn=partial(
                    restore_uint8, predict_fn=partial(apply_fn, variables), stride=training.generator.stride, tile=EVALUATION_TILE
                ),
                noise_variances=config["eval_noise_variances"],
                protocol=config["eval_protocol"],
                num_panels=config["sample_images"],
            )
        except _BrokenOffError:
            say(f"The evaluation after step {step} was broken off {stop.reason}; `drsn-jax evaluate --model={workdir}` makes one.")
            return None
        writer.scalars(step, validation.scalars())
        say(validation.table(protocol=config["eval_protocol"]))
        if validation.picture is not None:
            path = workdir / "samples" / f"step_{step:08d}.png"
            save_png(validation.picture, path)
            writer.image(step, "samples", validation.picture)
            say(f"Panels: {path}")
            if on_panels:
                on_panels(path)
        return validation.psnr

    return lambda state, step: first_process(lambda: evaluate(state, step))

"""The training loop: batches -> training step -> log, checkpoint, evaluation. It resumes automatically, bit for bit."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax

from drsn_jax.config.build import count_parts, make_parts, make_stages, make_step_spec
from drsn_jax.config.files import to_plain
from drsn_jax.run.checkpoint import Checkpoints
from drsn_jax.run.data import open_data
from drsn_jax.run.evaluation import make_evaluate_fn
from drsn_jax.run.feed import Feed, StopSignal, warm_up_collectives
from drsn_jax.run.log import Log
from drsn_jax.run.resume import resume_or_init
from drsn_jax.run.workdir import open_workdir
from drsn_jax.run.writer import Writer, say
from drsn_jax.system.errors import InputError
from drsn_jax.system.paths import AnyPath, any_path, local_path
from drsn_jax.training.schedule import is_due, steps_for
from drsn_jax.training.sharding import make_mesh, replicate, replicated
from drsn_jax.training.state import TrainState, init_state
from drsn_jax.training.step import make_train_step
from drsn_jax.weights.vgg19 import load_frozen
from drsn_jax.weights.vgg19_files import describe_vgg19


class Run(NamedTuple):
    """The parts of a run that act between its steps."""

    checkpoints: Checkpoints
    stop: StopSignal
    log: Log
    evaluate_fn: Callable[[TrainState, int], float | None]
    config: Mapping[str, Any]
    workdir: Path
    total: int  # steps


def train_and_evaluate(
    config: Mapping[str, Any],
    workdir: AnyPath,
    *,
    minutes: float | None = None,
    on_panels: Callable[[AnyPath], object] | None = None,
    command: str = "",
) -> TrainState:
    """Train as configured in `workdir`, from its newest checkpoint if there is one; return the last state.

    Writes metrics.jsonl, checkpoints/, samples/ and config.json; `on_panels` receives the path of each new picture in samples/. On SIGTERM,
    and after `minutes`, it interrupts an evaluation, saves and returns early. On Ctrl-C it saves and raises KeyboardInterrupt. `command` is
    the command that resumes the run, for a message. Raises InputError for mistakes of the user (data, folders, contradictory values, a
    workdir of another configuration). Raises TrainingDivergedError if a loss or gradient is no longer finite.
    """
    workdir, mesh = any_path(workdir), make_mesh()
    warm_up_collectives(mesh)
    data = open_data(config, mesh=mesh)
    total = count_steps(config, data.num_images)
    parts, spec = make_parts(config, num_train_steps=total), make_step_spec(config)
    train_step = jax.jit(make_train_step(parts, spec), donate_argnums=0, out_shardings=replicated(mesh))
    init = partial(init_state, parts=parts, spec=spec, image_size=make_stages(config)[0].crop_size)
    frozen = replicate(load_frozen(config), mesh)
    with (
        open_workdir(workdir, config),
        Checkpoints(workdir, config=to_plain(config)) as checkpoints,
        StopSignal(mesh, minutes=minutes) as stop,
    ):
        state = resume_or_init(init, checkpoints, config=config, mesh=mesh)
        start = int(state.step)
        say(f"Training on {data.description}; {describe_devices()}; step {start} of {total}; in {workdir}")
        if config["content_weight"] and config["vgg19"] and not config["vgg19"].endswith(".npz"):
            say(describe_vgg19(local_path(config["vgg19"])))  # with its SHA-256, so that users can verify the file
        feed = Feed(data.stream_fn(start, total))
        with Writer(workdir, start_step=start, tensorboard=config["tensorboard"]) as writer:
            shared = {key: config[key] for key in ("critic_output", "max_nonfinite_steps")}
            log = Log(writer, start_step=start, num_train_steps=total, **shared)
            options = {"config": config, "workdir": workdir}
            evaluate_fn = make_evaluate_fn(parts.generator, data, writer, stop, on_panels=on_panels, **options)
            run = Run(checkpoints, stop, log, evaluate_fn, total=total, **options)
            for step in range(start + 1, total + 1):
                batch, waited = feed.next(after=log.newest)
                state, metrics = train_step(state, batch, frozen)
                log.add(metrics, images=len(batch["sharp"]), waited=waited)
                if finish_step(run, state, step):
                    break
            checkpoints.wait()
    _say_end(int(state.step), run, command=command)
    if stop.interrupted:
        raise KeyboardInterrupt
    return state


def finish_step(run: Run, state: TrainState, step: int) -> bool:
    """Log, evaluate and save if due after a step; return whether to stop here.

    Raises InputError, after saving the state, for a validation image that cannot be read.
    """
    due = partial(is_due, step, last=run.total)
    stopping = run.stop.agreed() and step < run.total
    evaluating = due(every=run.config["eval_every_steps"]) and not stopping
    saving = stopping or evaluating or due(every=run.config["checkpoint_every_steps"])
    if saving or due(every=run.config["log_every_steps"]):
        run.log.flush(step, last_checkpoint=max(run.checkpoints.steps(), default=None), workdir=run.workdir)
    try:
        psnr = run.evaluate_fn(state, step) if evaluating else None
    except InputError:  # save first: a bad validation image must not cost the steps since the last checkpoint
        run.checkpoints.save(step, state)
        raise
    if saving:
        run.checkpoints.save(step, state, psnr=psnr)
        run.log.restart_clock()
    return stopping


def _say_end(step: int, run: Run, *, command: str) -> None:
    if step >= run.total:
        say(f"Done: {step} steps, in {run.workdir}")
    else:
        say(f"Stopped {run.stop.reason} at step {step}, saved; run the same command to resume{f': {command}' if command else '.'}")


def describe_devices() -> str:
    """Describe the number, kind and processes of the devices."""
    processes = f" of {jax.process_count()} processes" if jax.process_count() > 1 else ""
    return f"{jax.device_count()} {jax.devices()[0].platform} device(s){processes}"


def count_steps(config: Mapping[str, Any], num_images: int) -> int:
    """Return the number of steps: num_train_steps, or if num_epochs is set, that many passes over the training images.

    Fresh batches for the critic count: a step that reads six batches advances a pass by six.
    """
    if not config["num_epochs"]:
        return config["num_train_steps"]
    return steps_for(config["num_epochs"] * num_images, make_stages(config), parts=count_parts(config))

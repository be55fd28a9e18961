"""The evaluation between steps: restoring, scoring and drawing the validation images."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import jax

from drsn_jax.data.synthesis.photos import Sample
from drsn_jax.evaluation.validation import validate
from drsn_jax.models.generator import Generator
from drsn_jax.restoration.core.spread import make_parallel
from drsn_jax.restoration.core.tiling import EVALUATION_TILE, restore_uint8
from drsn_jax.run.data import Data
from drsn_jax.run.feed import StopSignal
from drsn_jax.run.writer import Writer, say
from drsn_jax.system.panels import save_png
from drsn_jax.system.paths import AnyPath
from drsn_jax.system.processes import first_process
from drsn_jax.training.sharding import local_copy
from drsn_jax.training.state import TrainState


class _BrokenOffError(Exception):
    """A stop signal arrived during an evaluation, which may take longer than the time that is left."""


def _until_stopped(samples_fn: Callable[[], Iterator[Sample | None]], stop: StopSignal) -> Iterator[Sample | None]:
    for sample in samples_fn():
        if stop.requested:
            raise _BrokenOffError
        yield sample


def make_evaluate_fn(
    generator: Generator,
    data: Data,
    writer: Writer,
    stop: StopSignal,
    *,
    config: Mapping[str, Any],
    workdir: AnyPath,
    on_panels: Callable[[AnyPath], object] | None = None,
) -> Callable[[TrainState, int], float | None]:
    """Build the evaluation of a state after a step. It logs the figures, draws panels, and returns the PSNR in dB.

    It returns None without validation images, and if a stop signal interrupts it. In a run of several processes the first one evaluates on
    its own devices and sends its PSNR to the others. This takes no longer than all doing the same, and the images are needed in one place.
    """
    parallel = make_parallel(generator.apply, devices=jax.local_devices())
    input_scores = {}

    def evaluate(state: TrainState, step: int) -> float | None:
        if data.validation_fn is None:
            say("No validation images (--config.eval_dir=DIR): not evaluated.")
            return None
        nonlocal input_scores
        predict_fn = partial(parallel.apply_fn, parallel.place_fn(local_copy(state.variables)))
        try:
            validation = validate(
                partial(_until_stopped, data.validation_fn, stop),
                restore_fn=partial(restore_uint8, predict_fn=predict_fn, stride=generator.stride, tile=EVALUATION_TILE),
                together=parallel.devices,
                input_scores=input_scores,
                noise_variances=config["eval_noise_variances"],
                protocol=config["eval_protocol"],
                num_panels=config["sample_images"],
            )
        except _BrokenOffError:
            say(f"The evaluation after step {step} was interrupted {stop.reason}; `drsn-jax evaluate --model={workdir}` repeats it.")
            return None
        input_scores = validation.input_scores
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

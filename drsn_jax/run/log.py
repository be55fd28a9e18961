"""The log of the loop: metrics of each step until they are flushed, speed, and health checks."""

import math
import time
from collections.abc import Mapping, Sequence

import jax

from drsn_jax.run.writer import Writer, say
from drsn_jax.system.errors import TrainingDivergedError
from drsn_jax.system.paths import AnyPath
from drsn_jax.training.nonfinite import SKIPPED


class Log:
    """A buffer for the metrics of each step on the device; it sends their means to the terminal and the writer when due."""

    def __init__(self, writer: Writer, *, start_step: int, num_train_steps: int, critic_output: str, max_nonfinite_steps: int):
        """Start after `start_step`."""
        self._writer, self._total, self._critic_output = writer, num_train_steps, critic_output
        self._max_nonfinite_steps, self._skipped_in_a_row = max_nonfinite_steps, 0
        self._progress = Throughput(start_step=start_step, num_train_steps=num_train_steps)
        self._pending: list[dict[str, jax.Array]] = []
        self._step, self._warned = start_step, False

    @property
    def newest(self) -> dict[str, jax.Array] | None:
        """Metrics of the step in flight; None after a flush."""
        return self._pending[-1] if self._pending else None

    def add(self, metrics: dict[str, jax.Array], *, images: int, waited: float) -> None:
        """Store the metrics of one step, its number of images, and the seconds that the device waited before it."""
        self._pending.append(metrics)
        self._progress.add(images=images, waited=waited)

    def flush(self, step: int, *, last_checkpoint: int | None, workdir: AnyPath) -> None:
        """Fetch, check, write and print the means since the last flush; nothing if there was no step since.

        For skipped steps only their number is reported. Raises TrainingDivergedError, naming the steps, if a mean is not finite, or if
        `max_nonfinite_steps` in a row were skipped.
        """
        if not self._pending:
            return
        collected = [{name: float(value) for name, value in metrics.items()} for metrics in jax.device_get(self._pending)]
        first = self._step + 1
        skipped = [bool(metrics.get(SKIPPED, False)) for metrics in collected]
        limit = self._max_nonfinite_steps
        self._skipped_in_a_row = count_skipped(skipped, before=self._skipped_in_a_row, limit=limit, first_step=first)
        figures = mean_metrics([metrics for metrics, skip in zip(collected, skipped, strict=True) if not skip])
        check_finite(figures, first_step=first, last_step=step, last_checkpoint=last_checkpoint, workdir=workdir)
        if SKIPPED in collected[0]:
            figures[SKIPPED] = sum(skipped)
        self._pending, self._step = [], step
        warning = saturation_warning(figures, critic_output=self._critic_output)
        figures |= self._progress.report(step)
        self._writer.scalars(step, figures)
        say(format_progress(step, self._total, figures))
        if warning and not self._warned:
            say(f"Warning: {warning}")
            self._warned = True

    def restart_clock(self) -> None:
        """Exclude the time since the last flush (an evaluation, a save) from the next one."""
        self._progress.restart_clock()


class Throughput:
    """A timer of the steps: images per second, time left, and the share of time in which the device waited for data."""

    def __init__(self, *, start_step: int, num_train_steps: int):
        """Start counting after `start_step`."""
        self._total, self._begin = num_train_steps, time.perf_counter()
        self._since, self._step, self._images, self._waited = self._begin, start_step, 0, 0.0

    def add(self, *, images: int, waited: float) -> None:
        """Count one step, its number of images, and the seconds that the device waited before it."""
        self._images += images
        self._waited += waited

    def report(self, step: int) -> dict[str, float]:
        """Return images and steps per second, waiting share and seconds left, over the steps since the last report."""
        now = time.perf_counter()
        elapsed, steps = max(now - self._since, 1e-9), max(step - self._step, 1)
        figures = {
            "images_per_second": self._images / elapsed,
            "seconds_per_step": elapsed / steps,
            "waiting_share": min(self._waited / elapsed, 1.0),
            "seconds_left": elapsed / steps * (self._total - step),
        }
        self._since, self._step, self._images, self._waited = now, step, 0, 0.0
        return figures

    def restart_clock(self) -> None:
        """Exclude the time since the last report (an evaluation, a save) from the next one."""
        self._since = time.perf_counter()


def format_progress(step: int, total: int, figures: Mapping[str, float]) -> str:
    """Format one line: step, loss terms, speed, time left, waiting share."""
    terms = ("generator/loss", "generator/pixel", "generator/content", "critic/distance", "generator/threshold")
    shown = "  ".join(f"{name.split('/')[1]} {figures[name]:.4g}" for name in terms if name in figures)
    if figures.get(SKIPPED):
        shown += f"  skipped {figures[SKIPPED]:.0f}"
    left = figures["seconds_left"]
    clock = f"{int(left // 3600)}h{int(left % 3600 // 60):02d}m" if left >= 3600 else f"{int(left // 60)}m{int(left % 60):02d}s"
    speed = f"{figures['images_per_second']:.1f} images/s  {figures['seconds_per_step']:.2f} s/step"
    return f"step {step}/{total}  {shown}  {speed}  {clock} left  waiting {figures['waiting_share']:.0%}"


def mean_metrics(collected: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each metric over the steps; a single non-finite value makes the mean non-finite."""
    names = sorted({name for metrics in collected for name in metrics})
    means = {}
    for name in names:
        values = [metrics[name] for metrics in collected if name in metrics]
        means[name] = sum(values) / len(values) if all(map(math.isfinite, values)) else math.nan
    return means


SATURATED_DISTANCE = 0.99  # for a sigmoid critic, whose scores differ by at most 1
DEAD_GRADIENT = 1e-7


_REMEDY = "Try a smaller --config.learning_rate or --config.clip_norm=1, in a new --workdir"


def check_finite(metrics: Mapping[str, float], *, first_step: int, last_step: int, last_checkpoint: int | None, workdir: AnyPath) -> None:
    """Raise TrainingDivergedError, naming the metrics and the steps, if a mean over the steps is not finite.

    Gradient norms are among the metrics. If all are finite, the parameters after these steps are finite too.
    """
    broken = [name for name, value in metrics.items() if not math.isfinite(value)]
    if broken:
        good = (
            f"the newest checkpoint before them is step {last_checkpoint}"
            if last_checkpoint is not None
            else "there is no checkpoint before them"
        )
        raise TrainingDivergedError(
            f"{', '.join(broken)} became infinite or not a number within steps {first_step} to {last_step}; {good}, in {workdir}."
            f" {_REMEDY}; or --config.on_nonfinite=skip in this one, which skips single steps."
        )


def count_skipped(skipped: Sequence[bool], *, before: int, limit: int, first_step: int) -> int:
    """Count the skipped steps in a row up to the last of these; `before` of them came directly before `first_step`.

    Raises TrainingDivergedError, naming the steps, if the count reached `limit` at any step.
    """
    for step, skip in enumerate(skipped, start=first_step):
        before = before + 1 if skip else 0
        if before == limit:
            raise TrainingDivergedError(
                f"All of steps {step - limit + 1} to {step} gave figures that are infinite or not a number, and were skipped"
                f" (on_nonfinite=skip, max_nonfinite_steps={limit}). {_REMEDY}."
            )
    return before


def saturation_warning(metrics: Mapping[str, float], *, critic_output: str) -> str | None:
    """Return a sentence if the critic has saturated (a loss that stays at -1), else None."""
    if "critic/distance" not in metrics:
        return None
    distance, slope = metrics["critic/distance"], metrics["critic/grad_norm"]
    if critic_output == "sigmoid" and abs(distance) > SATURATED_DISTANCE:
        reason = f"its bounded scores differ by {distance:.4f} of at most 1"
    elif slope < DEAD_GRADIENT:
        reason = f"its gradient has a norm of {slope:.1e}"
    else:
        return None
    remedy = "try a smaller --config.critic_learning_rate"
    if critic_output == "sigmoid":
        remedy = "this happens with the paper's recipe; to avoid it use"
        remedy += " --config.critic_output=linear --config.lipschitz=gradient_penalty --config.critic_norm=none"
    return f"The critic has saturated: {reason}, so the generator hardly learns from it; {remedy}."

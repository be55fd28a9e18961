"""What a run watches in its own metrics: losses that are no longer finite, a critic that no longer learns."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from drsn_jax.errors import TrainingDivergedError

SATURATED_DISTANCE = 0.99  # of a sigmoid critic, whose scores differ by 1 at most
DEAD_GRADIENT = 1e-7


_REMEDY = "Try a smaller --config.learning_rate or --config.clip_norm=1, in a new --workdir"


def check_finite(metrics: Mapping[str, float], *, first_step: int, last_step: int, last_checkpoint: int | None, workdir: Path) -> None:
    """Raises TrainingDivergedError, naming the metrics and the steps, if a mean over the steps is not finite.

    Gradient norms are among the metrics, so that where all are finite, the parameters that these steps made are too.
    """
    broken = [name for name, value in metrics.items() if not math.isfinite(value)]
    if broken:
        good = (
            f"the newest checkpoint from before them is step {last_checkpoint}"
            if last_checkpoint is not None
            else "there is no checkpoint from before them"
        )
        raise TrainingDivergedError(
            f"{', '.join(broken)} became infinite or not a number within steps {first_step} to {last_step}; {good}, in {workdir}."
            f" {_REMEDY}; or --config.on_nonfinite=skip in this one, which passes over single steps."
        )


def count_skipped(skipped: Sequence[bool], *, before: int, limit: int, first_step: int) -> int:
    """How many steps in a row, up to the last of these, were skipped; `before` of them right before `first_step`.

    Raises TrainingDivergedError, naming the steps, where that was ever `limit`.
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
    """One sentence if the critic has saturated (a loss that stays at -1 for ever), else None."""
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
        remedy = "the paper's recipe does that; it is mended by"
        remedy += " --config.critic_output=linear --config.lipschitz=gradient_penalty --config.critic_norm=none"
    return f"The critic has saturated: {reason}, so it hardly teaches the generator any more; {remedy}."

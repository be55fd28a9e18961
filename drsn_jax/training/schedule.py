"""Learning rates, stages and intervals as functions of the step."""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import jax.numpy as jnp
import optax

from drsn_jax.system.errors import InputError


def make_learning_rate(
    *,
    learning_rate: float,
    num_train_steps: int,
    schedule: Literal["constant", "cosine", "linear_decay"] = "constant",
    warmup_steps: int = 0,
) -> optax.Schedule:
    """Build the learning rate as a function of the step: linear warm-up from 0, then the schedule.

    The schedule cosine falls to 1 % of the peak at `num_train_steps`. The schedule linear_decay is constant for the first half and falls to
    0 over the second, as in DeblurGAN. Raises InputError if the warm-up is longer than the training.
    """
    if warmup_steps > num_train_steps:
        raise InputError(
            f"warmup_steps={warmup_steps} is more than num_train_steps={num_train_steps}; use at most that many"
            f" (--config.warmup_steps={num_train_steps // 10})."
        )
    steps = max(num_train_steps - warmup_steps, 1)
    if schedule == "constant":
        after = optax.constant_schedule(learning_rate)
    elif schedule == "cosine":
        after = optax.cosine_decay_schedule(learning_rate, steps, alpha=0.01)
    else:
        after = optax.linear_schedule(learning_rate, 0.0, steps - steps // 2, transition_begin=steps // 2)
    if not warmup_steps:
        return after
    return optax.join_schedules([optax.linear_schedule(0.0, learning_rate, warmup_steps), after], [warmup_steps])


def schedule_per_critic_update(learning_rate_fn: optax.Schedule, updates_per_step: int) -> optax.Schedule:
    """Return the same learning rate for an optimiser that counts several updates per step, such as the critic's."""
    return lambda count: learning_rate_fn(jnp.asarray(count) // updates_per_step)


def is_due(step: int, *, every: int, last: int) -> bool:
    """Return whether an action with this interval (0: only at the end) is due after this step. It always is after the last one."""
    return step == last or (every > 0 and step % every == 0)


class Stage(NamedTuple):
    """Crop and batch size from a step on."""

    first_step: int
    crop_size: int
    batch_size: int


def stage_spans(stages: Sequence[Stage], *, start_step: int, num_train_steps: int) -> Iterator[tuple[Stage, int, int]]:
    """Return the remaining stages: (stage, first step, end), with steps counted from 0 and the end excluded."""
    ends = [stage.first_step for stage in stages[1:]] + [num_train_steps]
    for stage, end in zip(stages, ends, strict=True):
        first, end = max(stage.first_step, start_step), min(end, num_train_steps)
        if first < end:
            yield stage, first, end


def steps_for(images: int, stages: Sequence[Stage], *, parts: int = 1) -> int:
    """Return the number of steps that read this number of images. Each step reads `parts` batches of its stage."""
    steps = 0
    for stage, following in zip(stages, [*stages[1:], None], strict=True):
        each = stage.batch_size * parts
        needed = -(-images // each)
        if following is None or needed <= following.first_step - stage.first_step:
            return steps + needed
        span = following.first_step - stage.first_step
        steps, images = steps + span, images - span * each
    return steps

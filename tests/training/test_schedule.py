"""Learning rates at the steps that matter, cadence with its last step, stages."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drsn_jax.system.errors import InputError
from drsn_jax.training.schedule import Stage, is_due, make_learning_rate, schedule_per_critic_update, stage_spans, steps_for


def rates(steps, **options):
    return [float(make_learning_rate(**options)(step)) for step in steps]


def test_constant():
    assert rates([0, 1, 99, 1000], learning_rate=1e-4, num_train_steps=100) == pytest.approx([1e-4] * 4)


def test_cosine_ends_at_a_hundredth():
    seen = rates([0, 50, 100, 150], learning_rate=2.0, num_train_steps=100, schedule="cosine")
    assert seen == pytest.approx([2.0, 2.0 * (0.99 * 0.5 + 0.01), 0.02, 0.02])


def test_linear_decay_is_deblurgans():
    """Constant for the first half, then straight to 0."""
    seen = rates([0, 49, 50, 75, 99, 100, 120], learning_rate=1.0, num_train_steps=100, schedule="linear_decay")
    assert seen == pytest.approx([1, 1, 1, 0.5, 0.02, 0, 0], abs=1e-6)
    assert rates([0, 2, 3, 5], learning_rate=1.0, num_train_steps=5, schedule="linear_decay") == pytest.approx([1, 1, 2 / 3, 0], abs=1e-6)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "linear_decay"])
def test_warm_up_rises_from_0_and_shortens_the_rest(schedule):
    options = {"learning_rate": 1.0, "num_train_steps": 110, "schedule": schedule}
    assert rates([0, 1, 5, 10], **options, warmup_steps=10) == pytest.approx([0, 0.1, 0.5, 1.0])
    options["num_train_steps"] = 100
    after = rates([0, 30, 60, 99, 100], **options)
    options["num_train_steps"] = 110
    assert rates([10, 40, 70, 109, 110], **options, warmup_steps=10) == pytest.approx(after, abs=1e-6)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "linear_decay"])
@pytest.mark.parametrize(("total", "warmup"), [(1, 0), (1, 1), (2, 0), (7, 7)])
def test_the_shortest_runs_have_a_rate(schedule, total, warmup):
    seen = rates(range(total + 1), learning_rate=1.0, num_train_steps=total, schedule=schedule, warmup_steps=warmup)
    assert np.isfinite(seen).all()
    assert max(seen) == pytest.approx(1)
    assert min(seen) >= 0


def test_warm_up_longer_than_the_training_is_refused():
    with pytest.raises(InputError, match="warmup_steps=11 is more than num_train_steps=10"):
        make_learning_rate(learning_rate=1.0, num_train_steps=10, warmup_steps=11)


def test_rates_work_inside_jit_and_are_float32():
    for schedule in ("constant", "cosine", "linear_decay"):
        rate = jax.jit(make_learning_rate(learning_rate=1.0, num_train_steps=10, schedule=schedule, warmup_steps=2))(jnp.int32(1))
        assert rate == pytest.approx(0.5)


def test_schedule_per_critic_update_counts_several_updates_a_step():
    every_fifth = schedule_per_critic_update(lambda step: step, 5)
    assert [int(every_fifth(count)) for count in (0, 4, 5, 9, 10, 24)] == [0, 0, 1, 1, 2, 4]
    cosine = make_learning_rate(learning_rate=1.0, num_train_steps=10, schedule="cosine")
    assert schedule_per_critic_update(cosine, 10)(jnp.int32(57)) == pytest.approx(float(cosine(5)))


def test_cadence():
    assert [step for step in range(1, 11) if is_due(step, every=4, last=10)] == [4, 8, 10]
    assert [step for step in range(1, 11) if is_due(step, every=5, last=10)] == [5, 10]
    assert [step for step in range(1, 11) if is_due(step, every=0, last=10)] == [10], "0: only at the end"
    assert [step for step in range(1, 4) if is_due(step, every=100, last=3)] == [3]


@given(st.integers(1, 400), st.integers(0, 90))
def test_the_last_step_is_always_due_and_gaps_are_never_longer(last, every):
    due = [step for step in range(1, last + 1) if is_due(step, every=every, last=last)]
    assert due[-1] == last
    assert every == 0 or max(np.diff([0, *due])) <= every


STAGES = (Stage(0, 64, 16), Stage(10, 128, 8), Stage(25, 256, 2))


@pytest.mark.parametrize(
    ("start", "total", "expected"),
    [
        (0, 30, [(0, 0, 10), (1, 10, 25), (2, 25, 30)]),
        (7, 30, [(0, 7, 10), (1, 10, 25), (2, 25, 30)]),
        (10, 30, [(1, 10, 25), (2, 25, 30)]),
        (24, 25, [(1, 24, 25)]),
        (26, 30, [(2, 26, 30)]),
        (0, 10, [(0, 0, 10)]),
        (0, 5, [(0, 0, 5)]),
        (30, 30, []),
        (40, 30, []),
    ],
)
def test_stage_spans(start, total, expected):
    spans = list(stage_spans(STAGES, start_step=start, num_train_steps=total))
    assert spans == [(STAGES[i], first, end) for i, first, end in expected]


@given(st.integers(0, 60), st.integers(0, 60))
def test_spans_cover_every_step_once_with_the_right_stage(start, total):
    steps = [
        (step, stage) for stage, first, end in stage_spans(STAGES, start_step=start, num_train_steps=total) for step in range(first, end)
    ]
    assert [step for step, _ in steps] == list(range(start, total))
    assert all(stage == [s for s in STAGES if s.first_step <= step][-1] for step, stage in steps)


@pytest.mark.parametrize(
    ("images", "expected"),
    [(1, 1), (32, 1), (33, 2), (320, 10), (321, 11), (320 + 16, 12), (10_000, 10 + 1210)],
)
def test_steps_for_so_many_images_walk_the_stages(images, expected):
    stages = (Stage(0, 128, 32), Stage(10, 256, 8))
    steps = steps_for(images, stages)
    assert steps == expected
    read = sum((end - first) * stage.batch_size for stage, first, end in stage_spans(stages, start_step=0, num_train_steps=steps))
    assert images <= read < images + 32


@given(st.integers(1, 3000), st.integers(1, 7))
def test_steps_that_read_several_batches_are_fewer(images, parts):
    steps = steps_for(images, STAGES, parts=parts)
    spans = stage_spans(STAGES, start_step=0, num_train_steps=steps)
    read = [stage.batch_size * parts for stage, first, end in spans for _ in range(first, end)]
    assert sum(read[:-1]) < images <= sum(read)

"""What a run says about itself: what is not finite, what has saturated, what it waited for, which lines it keeps."""

import json
import math
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import jax.numpy as jnp
import pytest

from drsn_jax.run import feed, log
from drsn_jax.run.feed import Feed
from drsn_jax.run.log import Log, Throughput, check_finite, format_progress, mean_metrics, saturation_warning
from drsn_jax.run.writer import Writer
from drsn_jax.system.errors import InputError, TrainingDivergedError
from drsn_jax.training.nonfinite import SKIPPED

GOOD = {"critic/distance": 0.3, "critic/grad_norm": 0.1, "generator/loss": 1.0}


class Clock:
    """time.perf_counter() that moves when it is told to."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        for module in (feed, log):
            monkeypatch.setattr(module.time, "perf_counter", lambda: self.now)

    def wait(self, seconds):
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


class Memory(Writer):
    """A writer that remembers."""

    def __init__(self):
        self.lines = []

    def scalars(self, step, values):
        self.lines.append((step, dict(values)))


def figures(**changes):
    names = {name.replace("/", "_"): name for name in GOOD}
    values = GOOD | {names[key]: value for key, value in changes.items()}
    return {name: jnp.float32(value) for name, value in values.items()}


def new_log(critic_output="sigmoid", start_step=0, total=100, max_nonfinite_steps=10):
    memory = Memory()
    options = {"critic_output": critic_output, "max_nonfinite_steps": max_nonfinite_steps}
    return Log(memory, start_step=start_step, num_train_steps=total, **options), memory


# Means and what is not finite


def test_means_over_the_steps_since_the_last_flush(capsys):
    diary, memory = new_log()
    for value in (1.0, 2.0, 6.0):
        diary.add(figures(generator_loss=value), images=4, waited=0.0)
    assert diary.newest["generator/loss"] == 6
    diary.flush(3, last_checkpoint=None, workdir=Path("runs/x"))
    assert diary.newest is None
    diary.flush(3, last_checkpoint=None, workdir=Path("runs/x"))
    assert [(step, values["generator/loss"]) for step, values in memory.lines] == [(3, 3.0)], "nothing is written twice"
    assert "step 3/100" in capsys.readouterr().out
    diary.add(figures(generator_loss=10.0), images=4, waited=0.0)
    diary.flush(4, last_checkpoint=None, workdir=Path("runs/x"))
    assert memory.lines[-1][1]["generator/loss"] == 10


def test_means_of_metrics_that_only_some_steps_have():
    assert mean_metrics([{"a": 1.0, "b": 2.0}, {"a": 3.0}]) == {"a": 2.0, "b": 2.0}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_bad_step_among_many_is_named_with_the_range(bad):
    diary, memory = new_log(start_step=40)
    for value in (1.0, bad, 1.0):
        diary.add(figures(generator_loss=value), images=1, waited=0.0)
    with pytest.raises(TrainingDivergedError) as caught:
        diary.flush(43, last_checkpoint=30, workdir=Path("runs/x"))
    message = str(caught.value)
    for part in ("generator/loss", "steps 41 to 43", "checkpoint before them is step 30", "runs/x", "--config.learning_rate"):
        assert part in message
    assert "critic/distance" not in message
    assert "\n" not in message
    assert not memory.lines, "nothing that is not JSON reaches the file"


def test_opposite_infinities_do_not_cancel():
    assert math.isnan(mean_metrics([{"a": math.inf}, {"a": -math.inf}])["a"])
    assert math.isnan(mean_metrics([{"a": math.inf}, {"a": 1.0}])["a"])


def test_the_range_begins_after_the_last_flush():
    diary, _ = new_log()
    diary.add(figures(), images=1, waited=0.0)
    diary.flush(10, last_checkpoint=None, workdir=Path("x"))
    diary.add(figures(critic_grad_norm=math.nan), images=1, waited=0.0)
    with pytest.raises(TrainingDivergedError, match=r"critic/grad_norm .*steps 11 to 20; there is no checkpoint"):
        diary.flush(20, last_checkpoint=None, workdir=Path("x"))


def test_several_metrics_are_all_named_and_large_ones_pass():
    check_finite({"a": 1e38, "b": -1e-38}, first_step=1, last_step=2, last_checkpoint=0, workdir=Path("x"))
    with pytest.raises(TrainingDivergedError, match=r"^a, c became .*checkpoint before them is step 0"):
        check_finite({"a": math.inf, "b": 1.0, "c": math.nan}, first_step=1, last_step=2, last_checkpoint=0, workdir=Path("x"))


# Steps that were skipped


def step_figures(skip, **changes):
    return figures(**changes) | {SKIPPED: jnp.float32(skip)}


def flushed(diary, step, *skips):
    for skip in skips:
        diary.add(step_figures(skip, generator_loss=math.nan if skip else 2.0), images=1, waited=0.0)
    diary.flush(step, last_checkpoint=None, workdir=Path("x"))


def test_skipped_steps_are_counted_and_left_out_of_the_means(capsys):
    diary, memory = new_log()
    flushed(diary, 4, 0, 1, 1, 0)
    flushed(diary, 6, 0, 0)
    (_, first), (_, second) = memory.lines
    assert (first["generator/loss"], first[SKIPPED]) == (2, 2)
    assert (second["generator/loss"], second[SKIPPED]) == (2, 0)
    said = capsys.readouterr().out.splitlines()
    assert "skipped 2" in said[0]
    assert "skipped" not in said[1]


def test_a_line_of_skipped_steps_alone_is_still_a_line():
    diary, memory = new_log()
    flushed(diary, 3, 1, 1, 1)
    [(step, values)] = memory.lines
    assert (step, values[SKIPPED]) == (3, 3)
    assert "generator/loss" not in values
    assert all(map(math.isfinite, values.values())), "what is not a number is not JSON"


def flush_all(diary, flushes):
    step = 0
    for skips in flushes:
        step += len(skips)
        flushed(diary, step, *skips)


@pytest.mark.parametrize(
    ("flushes", "first", "last"),
    [
        ([(0, 1), (1, 1)], 2, 4),
        ([(1,), (1,), (1,)], 1, 3),
        ([(0, 1, 1, 1, 0, 0)], 2, 4),
        ([(0, 0, 1), (1,), (0,), (1, 1), (1,)], 6, 8),
    ],
)
def test_so_many_in_a_row_stop_the_run_wherever_the_log_cuts(flushes, first, last):
    diary, memory = new_log(max_nonfinite_steps=3)
    with pytest.raises(TrainingDivergedError, match=rf"All of steps {first} to {last} gave figures .*max_nonfinite_steps=3"):
        flush_all(diary, flushes)
    assert len(memory.lines) == len(flushes) - 1


def test_fewer_in_a_row_do_not_however_many_there_are():
    diary, memory = new_log(max_nonfinite_steps=3)
    flush_all(diary, [(1, 1), (0, 1), (1, 0), (1, 1, 0), (1, 1, 0)])
    assert [values[SKIPPED] for _, values in memory.lines] == [2, 1, 1, 2, 2]


def test_a_step_that_was_not_skipped_is_still_to_be_finite():
    diary, _ = new_log()
    diary.add(step_figures(0, generator_loss=math.nan), images=1, waited=0.0)
    with pytest.raises(TrainingDivergedError, match="generator/loss became"):
        diary.flush(1, last_checkpoint=None, workdir=Path("x"))


# Saturation


@pytest.mark.parametrize(
    ("change", "critic_output", "warns"),
    [
        ({}, "sigmoid", False),
        ({"critic/distance": 0.98}, "sigmoid", False),
        ({"critic/distance": 0.999}, "sigmoid", True),
        ({"critic/distance": -0.999}, "sigmoid", True),
        ({"critic/distance": 500.0}, "linear", False),
        ({"critic/grad_norm": 0.0}, "sigmoid", True),
        ({"critic/grad_norm": 1e-8}, "linear", True),
        ({"critic/grad_norm": 1e-5}, "linear", False),
    ],
)
def test_what_saturation_is(change, critic_output, warns):
    warning = saturation_warning(GOOD | change, critic_output=critic_output)
    assert (warning is not None) == warns
    if warning:
        assert ("--config.critic_output=linear" in warning) == (critic_output == "sigmoid"), "no advice to do what is done already"
        assert "\n" not in warning


def test_without_a_critic_nothing_saturates():
    assert saturation_warning({"generator/loss": 1.0}, critic_output="sigmoid") is None


def test_saturation_is_said_once(capsys):
    diary, _ = new_log()
    for step, distance in enumerate([0.2, 0.9999, 0.9999, 0.1, 0.9999], start=1):
        diary.add(figures(critic_distance=distance), images=1, waited=0.0)
        diary.flush(step, last_checkpoint=None, workdir=Path("x"))
        assert capsys.readouterr().out.count("Warning") == (1 if step == 2 else 0), step


# The file of figures


def lines(path):
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def test_lines_after_the_resumed_step_are_dropped(tmp_path):
    with Writer(tmp_path, start_step=0, tensorboard=False) as writer:
        for step in (10, 20, 30):
            writer.scalars(step, {"a": step / 10})
        writer.scalars(20, {"eval/psnr": 30.0})
    with Writer(tmp_path, start_step=20, tensorboard=False) as writer:
        assert [line["step"] for line in lines(tmp_path)] == [10, 20, 20]
        writer.scalars(30, {"a": 33.0})
    assert lines(tmp_path) == [{"step": 10, "a": 1.0}, {"step": 20, "a": 2.0}, {"step": 20, "eval/psnr": 30.0}, {"step": 30, "a": 33.0}]
    with Writer(tmp_path, start_step=0, tensorboard=False):
        assert lines(tmp_path) == []
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"], "no temporary file stays"


@pytest.mark.parametrize("torn", ['{"step": 20, "a', '{"step"', "{", "\x00\x00"])
def test_a_line_cut_by_a_kill_is_dropped_and_the_next_stands_alone(tmp_path, torn):
    (tmp_path / "metrics.jsonl").write_text('{"step": 10, "a": 1.0}\n' + torn)
    with Writer(tmp_path, start_step=20, tensorboard=False) as writer:
        writer.scalars(30, {"a": 3.0})
    assert lines(tmp_path) == [{"step": 10, "a": 1.0}, {"step": 30, "a": 3.0}]


def test_lines_are_on_disk_at_once(tmp_path):
    with Writer(tmp_path, start_step=0, tensorboard=False) as writer:
        writer.scalars(1, {"a": 1.0})
        assert lines(tmp_path) == [{"step": 1, "a": 1.0}]


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "a file").touch()
    with pytest.raises(InputError, match=r"metrics\.jsonl cannot be written"):
        Writer(tmp_path / "a file" / "run", start_step=0, tensorboard=False)


def test_tensorflow_leaves_the_accelerators_to_jax_before_it_writes(tmp_path, monkeypatch):
    """Its first figure would take all memory of a GPU that JAX has left: Colab's TensorFlow has been built for GPUs."""
    called = []
    tensorflow, clu = ModuleType("tensorflow"), ModuleType("clu")
    tensorflow.config = SimpleNamespace(set_visible_devices=lambda devices, kind: called.append((devices, kind)))
    clu.metric_writers = SimpleNamespace(SummaryWriter=lambda folder: SimpleNamespace(close=lambda: called.append(folder)))
    monkeypatch.setitem(sys.modules, "tensorflow", tensorflow)
    monkeypatch.setitem(sys.modules, "clu", clu)
    with Writer(tmp_path, start_step=0, tensorboard=True):
        assert called == [([], "GPU")]
    assert called[1:] == [str(tmp_path)]

    def refuse(devices, kind):
        raise RuntimeError("Visible devices cannot be modified after being initialized")

    tensorflow.config.set_visible_devices = refuse
    with Writer(tmp_path, start_step=0, tensorboard=True):
        pass


# Waiting and speed, by a clock that is told the time


def test_progress_arithmetic(clock):
    progress = Throughput(start_step=10, num_train_steps=110)
    for _ in range(4):
        progress.add(images=8, waited=0.5)
    clock.wait(20)
    report = progress.report(14)
    assert report == pytest.approx({"images_per_second": 1.6, "seconds_per_step": 5.0, "waiting_share": 0.1, "seconds_left": 480.0})
    progress.add(images=8, waited=0.0)
    clock.wait(3)
    progress.restart_clock()
    clock.wait(2)
    assert progress.report(15) == pytest.approx(
        {"images_per_second": 4.0, "seconds_per_step": 2.0, "waiting_share": 0.0, "seconds_left": 190.0}
    )


def test_the_waiting_share_is_at_most_all_and_a_stopped_clock_divides_nothing(clock):
    progress = Throughput(start_step=0, num_train_steps=2)
    progress.add(images=1, waited=9.0)
    clock.wait(3)
    assert progress.report(1)["waiting_share"] == 1
    assert all(map(math.isfinite, progress.report(1).values()))


class Arrays:
    """Stands for a result in flight: ready or not, and for how long one has to wait for it."""

    def __init__(self, clock, ready, seconds=0.0):
        self.clock, self.ready, self.seconds, self.waited = clock, ready, seconds, False

    def is_ready(self):
        return self.ready

    def block_until_ready(self):
        self.waited = True
        self.clock.wait(self.seconds)
        return self


def slow_batches(clock, seconds, number=9):
    for i in range(number):
        clock.wait(seconds)
        yield {"sharp": jnp.full(2, i)}


def test_the_first_batch_is_all_waiting(clock):
    batch, waited = Feed(slow_batches(clock, 7.0)).next(after=None)
    assert waited == pytest.approx(7)
    assert batch["sharp"][0] == 0


@pytest.mark.parametrize(("ready", "expected"), [(True, 7.0), (False, 0.0)])
def test_fetching_counts_only_if_the_device_was_idle(clock, ready, expected):
    step = Arrays(clock, ready, seconds=5.0)
    batch, waited = Feed(slow_batches(clock, 7.0)).next(after={"loss": step})
    assert waited == pytest.approx(expected), "the wait for the step itself never counts"
    assert not step.waited, "the device keeps a step to go on with"
    assert batch["sharp"][0] == 0


def test_a_step_with_one_figure_missing_is_not_idle(clock):
    after = {"a": Arrays(clock, True), "b": Arrays(clock, False)}
    assert Feed(slow_batches(clock, 7.0)).next(after=after)[1] == 0


def test_batches_come_in_order_and_end(clock):
    source = Feed(slow_batches(clock, 1.0, number=2))
    assert [source.next(after=None)[0]["sharp"][0] for _ in range(2)] == [0, 1]
    with pytest.raises(StopIteration):
        source.next(after=None)


@pytest.mark.parametrize(("seconds", "text"), [(5, "0m05s"), (3599, "59m59s"), (3600, "1h00m"), (93784, "26h03m")])
def test_the_line_on_the_terminal(seconds, text):
    speed = {"images_per_second": 12.34, "seconds_per_step": 0.5, "waiting_share": 0.256, "seconds_left": float(seconds)}
    line = format_progress(7, 100, {"generator/loss": 0.123456, "critic/distance": -2.0} | speed)
    assert line == f"step 7/100  loss 0.1235  distance -2  12.3 images/s  0.50 s/step  {text} left  waiting 26%"

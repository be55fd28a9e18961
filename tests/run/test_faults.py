"""What happens to a run when the world around it fails: figures, signals, disks and clocks, by a loop whose step costs nothing.

Real networks that are killed are in test_resume.py and test_soak.py, processes that lose each other in test_processes.py.
"""

import contextlib
import dataclasses
import gc
import json
import os
import resource
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from drsn_jax.cli.main import main
from drsn_jax.models.critic import Critic
from drsn_jax.models.generator import Generator
from drsn_jax.run import loop as train
from drsn_jax.run.checkpoint import Checkpoints
from drsn_jax.run.data import Data
from drsn_jax.system.errors import InputError
from drsn_jax.training.nonfinite import SKIPPED, skip_nonfinite
from drsn_jax.training.sharding import over_data
from drsn_jax.training.spec import Parts
from drsn_jax.training.state import TrainState

BATCH = 8


def make_state(rng=None, *, size=1):
    names = ("generator_stats", "generator_opt_state", "ema_params", "critic_params", "critic_stats", "critic_opt_state")
    params = {"sum": jnp.zeros([]), "noise": jax.random.normal(jax.random.key(0), [size])}
    return TrainState(step=jnp.int32(0), rng=jax.random.key(0), generator_params=params, **{name: {} for name in names})


def add(state, batch, frozen=None):
    """Add the number of the batch."""
    value = batch["sharp"].mean()
    params = state.generator_params | {"sum": state.generator_params["sum"] + value}
    return dataclasses.replace(state, step=state.step + 1, generator_params=params), {"generator/loss": value, "learning_rate": 0 * value}


class Identity(Generator):
    """Restores nothing."""

    def apply(self, variables, images):
        return images


class World:
    """Training on batches that are the number of their step, in the place of networks and images."""

    def __init__(self, monkeypatch):
        self.bad_steps, self.validation, self.on_batch = (), None, lambda step: None
        monkeypatch.setattr(train, "make_parts", lambda config, **_: Parts(Identity(), Critic(), None, None, None))
        monkeypatch.setattr(train, "make_train_step", lambda parts, spec: skip_nonfinite(add) if spec.on_nonfinite == "skip" else add)
        monkeypatch.setattr(train, "init_state", lambda rng, **_: make_state(rng))
        monkeypatch.setattr(train, "open_data", self._open_data)

    def _open_data(self, config, *, mesh):
        put = jax.jit(lambda value: jnp.full([BATCH, 1, 1, 3], value), out_shardings=over_data(mesh))

        def stream(start, total):
            for step in range(start + 1, total + 1):
                self.on_batch(step)
                yield {"sharp": put(np.float32(np.nan if step in self.bad_steps else step))}

        return Data("numbers", 100, stream, self.validation)


@pytest.fixture
def world(monkeypatch):
    return World(monkeypatch)


def run(workdir, **changes):
    """Through the command line, in this process; the exit code."""
    return main(tiny.train_arguments(workdir, **{"batch_size": BATCH, "num_train_steps": 12} | changes))


def stored_sum(workdir, step):
    with Checkpoints(workdir, config={}) as checkpoints:
        assert checkpoints.steps()[-1] == step
        found = checkpoints.restore(jax.eval_shape(make_state), say=print)
    return float(found.state.generator_params["sum"])


def assert_strict_json(workdir):
    for line in (workdir / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)


# A batch that gives no figures


def test_stop_names_the_steps_and_the_checkpoint_before_them(world, tmp_path, capsys):
    world.bad_steps = (8,)
    assert run(tmp_path, log_every_steps=5) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1, err
    assert "generator/loss, learning_rate became infinite or not a number within steps 7 to 9" in err
    assert "the newest checkpoint before them is step 6" in err
    assert "--config.on_nonfinite=skip" in err
    assert tiny.steps_on_disk(tmp_path)[-1] == 6
    assert_strict_json(tmp_path)


def test_skip_goes_on_as_if_that_batch_had_not_been_there(world, tmp_path, capsys):
    """Also where `stop` has stopped before, from its checkpoint."""
    world.bad_steps = (5, 8)
    assert run(tmp_path, log_every_steps=4, checkpoint_every_steps=2) == 1
    assert run(tmp_path, log_every_steps=4, checkpoint_every_steps=2, on_nonfinite="skip") == 0
    out = capsys.readouterr().out
    assert "on_nonfinite was 'stop' before, 'skip' now" in out
    assert "Resumed from step 4." in out
    assert stored_sum(tmp_path, 12) == sum(range(1, 13)) - 5 - 8
    lines = tiny.losses_by_log(tmp_path)
    assert {step: line.get(SKIPPED) for step, line in lines.items()} == {2: None, 4: None, 6: 1, 8: 1, 10: 0, 12: 0}
    assert {step: line["generator/loss"] for step, line in lines.items()} == {2: 1.5, 4: 3.5, 6: 6, 8: 7, 10: 9.5, 12: 11.5}
    assert_strict_json(tmp_path)


def test_skip_gives_up_in_the_end_and_keeps_what_was_saved(world, tmp_path, capsys):
    world.bad_steps = range(5, 100)
    assert run(tmp_path, log_every_steps=2, on_nonfinite="skip", max_nonfinite_steps=4) == 1
    err = capsys.readouterr().err
    assert "All of steps 5 to 8 gave figures that are infinite or not a number" in err
    assert err.count("\n") == 1
    assert stored_sum(tmp_path, 6) == 10, "saved meanwhile, as it was after step 4"


# Signals


@pytest.mark.parametrize("last", [False, True])
def test_sigterm_breaks_an_evaluation_off_and_saves(last, world, tmp_path, capsys):
    """A preempted machine leaves 30 s, and an evaluation of full frames takes minutes."""
    image, seen = np.zeros([16, 16, 3], np.uint8), []

    def samples():
        for number in range(10):
            seen.append(number)
            if number == 3:
                signal.raise_signal(signal.SIGTERM)
            yield f"{number}", image, image

    world.validation = samples
    assert run(tmp_path, eval_every_steps=0 if last else 4, checkpoint_every_steps=100) == 0
    out = capsys.readouterr().out
    step = 12 if last else 4
    assert len(seen) < 7, "it is interrupted; a few images are read ahead"
    assert f"The evaluation after step {step} was interrupted by a signal; `drsn-jax evaluate --model={tmp_path}` repeats it." in out
    assert ("Done: 12 steps" if last else "Stopped by a signal at step 5, saved") in out
    assert tiny.steps_on_disk(tmp_path) == ([12] if last else [4, 5])
    assert not any("eval/psnr" in line for line in tiny.read_metrics(tmp_path))
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, "as it was before"


# Disks


@contextlib.contextmanager
def small_files(limit):
    """No file may grow beyond so many bytes, as under a quota; Python makes an error of the signal for it."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def mounted(tmp_path):
    """Mount a file system of 8 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here, which takes root: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=False)


def large_state(step):
    return dataclasses.replace(make_state(size=100_000), step=jnp.int32(step))


def save(folder, step):
    with Checkpoints(folder, config={}) as checkpoints:
        checkpoints.save(step, large_state(step))


def assert_still_whole(folder, steps):
    """Check that the earlier checkpoints exist and can be read and resumed."""
    assert tiny.steps_on_disk(folder) == steps
    with Checkpoints(folder, config={}) as checkpoints:
        found = checkpoints.restore(jax.eval_shape(lambda: large_state(0)), say=print)
        assert found is not None
        assert int(found.state.step) == steps[-1]
        checkpoints.save(9, large_state(9))
    assert tiny.steps_on_disk(folder) == [*steps, 9]


def test_a_quota_in_the_middle_of_a_save(tmp_path):
    save(tmp_path, 1)
    with small_files(10_000), pytest.raises(InputError, match=r"could not be written .* make room .* newest complete checkpoint is 1\."):
        save(tmp_path, 2)
    assert_still_whole(tmp_path, [1])


def test_a_disk_that_fills_up_in_the_middle_of_a_save(mounted, monkeypatch):
    """Others write too: there was room when it was asked for."""
    save(mounted, 1)
    free = os.statvfs(mounted).f_bavail * os.statvfs(mounted).f_frsize
    (mounted / "filler").write_bytes(bytes(free - 200_000))
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=10**9))
        with pytest.raises(InputError, match=r"could not be written .*No space left.* newest complete checkpoint is 1\."):
            save(mounted, 2)
    (mounted / "filler").unlink()
    assert_still_whole(mounted, [1])


def test_a_disk_that_turns_read_only(mounted):
    """As the kernel makes one that fails."""
    with Checkpoints(mounted, config={}) as checkpoints:
        checkpoints.save(1, large_state(1))
        checkpoints.wait()
        subprocess.run(["mount", "-o", "remount,ro", mounted], check=True)
        with pytest.raises(InputError, match=r"could not be written .*Read-only file system.* newest complete checkpoint is 1\."):
            checkpoints.save(2, large_state(2))
        subprocess.run(["mount", "-o", "remount,rw", mounted], check=True)
    assert_still_whole(mounted, [1])


def read_only_folder():
    """Return a folder of a file system that is read-only even for root, such as /sys in containers."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()] if Path("/proc/self/mounts").exists() else []
    folders = [Path(fields[1]) for fields in mounts if "ro" in fields[3].split(",") and Path(fields[1]).is_dir()]
    return next(iter(folders), None)


@pytest.mark.parametrize("below", [".", "new/run"])
def test_a_workdir_on_a_read_only_file_system(below, world, capsys):
    folder = read_only_folder()
    if folder is None:
        pytest.skip("no read-only file system here: /proc/self/mounts lists none")
    assert run(folder / below) == 2
    err = capsys.readouterr().err
    assert err == f"drsn-jax: --workdir={folder / below} cannot be written (Read-only file system); choose a folder that can.\n"


def test_figures_on_a_full_disk(world, tmp_path, capsys, monkeypatch):
    full, files, opened = Path("/dev/full"), [], Path.open
    if not full.exists():
        pytest.skip("no /dev/full here, which is how a disk is full for everybody")

    def remember(path, *arguments, **options):
        file = opened(path, *arguments, **options)
        files.extend([file] if path.name == "metrics.jsonl" else [])
        return file

    def fill(step):
        if step == 5 and len(files) == 1:  # of the first run
            os.dup2(os.open(full, os.O_WRONLY), files[0].fileno())

    monkeypatch.setattr(Path, "open", remember)
    world.on_batch = fill
    assert run(tmp_path) == 2
    err = capsys.readouterr().err
    assert "metrics.jsonl cannot be written (No space left on device); make room there and run the same command" in err
    assert err.count("\n") == 1
    assert run(tmp_path) == 0
    assert stored_sum(tmp_path, 12) == sum(range(1, 13))
    assert sorted(tiny.losses(tmp_path)) == list(range(1, 13))


# Two runs


def test_a_second_run_in_a_workdir_is_refused_and_the_first_goes_on(world, tmp_path, capsys):
    codes = []
    world.on_batch = lambda step: codes.append(run(tmp_path, seed=1)) if step == 5 and not codes else None
    assert run(tmp_path) == 0
    assert codes == [2]
    err = capsys.readouterr().err
    holder = f"process {os.getpid()} on {socket.gethostname()}"
    assert err == f"drsn-jax: {tmp_path} is in use, {holder} is training there; wait for it, or choose another folder\n"
    assert stored_sum(tmp_path, 12) == sum(range(1, 13))
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 0


# Clocks


def test_a_clock_that_goes_backwards(world, tmp_path, monkeypatch):
    """Each look at the clock of the wall is a minute earlier than the one before."""
    looks = iter(range(10**9))
    monkeypatch.setattr(time, "time", lambda: 2e9 - 60 * next(looks))
    monkeypatch.setattr(time, "time_ns", lambda: int(2e18) - 60 * 10**9 * next(looks))
    assert run(tmp_path, checkpoint_every_steps=1, num_train_steps=6) == 0
    assert next(looks) > 0, "somebody looked"
    lines = tiny.losses_by_log(tmp_path)
    assert sorted(lines) == [1, 2, 3, 4, 5, 6]
    for line in lines.values():
        assert line["images_per_second"] > 0
        assert line["seconds_per_step"] > 0
        assert 0 <= line["waiting_share"] <= 1
    assert tiny.steps_on_disk(tmp_path) == [4, 5, 6], "the newest by step"
    assert run(tmp_path, checkpoint_every_steps=1, num_train_steps=8) == 0
    assert tiny.steps_on_disk(tmp_path) == [6, 7, 8]
    assert stored_sum(tmp_path, 8) == sum(range(1, 9))


# Memory


def test_nothing_is_held_of_steps_gone_by(world, tmp_path):
    alive = []

    def count(step):
        if step % 20 == 1:  # right after a save
            gc.collect()
            alive.append(len(jax.live_arrays()))

    world.on_batch = count
    assert run(tmp_path, num_train_steps=80, checkpoint_every_steps=20, log_every_steps=10) == 0
    assert len(set(alive[1:])) == 1, alive

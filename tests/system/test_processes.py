"""Two processes of two devices are one run: equal to one process, saved, killed, stopped and refused together. Nothing here is timed."""

import contextlib
import functools
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import tiny
import warm

from drsn_jax.cli.main import main
from drsn_jax.system import processes
from drsn_jax.system.errors import InputError
from drsn_jax.weights.checkpoints import read_checkpoint

TIMEOUT = 1200  # other work may share the cores, and stop this for a while
NETWORKS = ("generator_params", "generator_stats", "critic_params", "critic_stats")
# Everything that a wrong order of rows would change: fresh parts, penalties and dropout drawn by row; and statistics over all rows.
OPTIONS = {"norm": "batch", "dropout": 0.5, "lipschitz": "gradient_penalty", "critic_batches": "fresh", "critic_steps": 1, "batch_size": 4}
OPTIONS |= {"ema_decay": 0.0, "schedule": "constant"}
# Adam divides by the size of a gradient, and makes steps of rounding noise where there is none. And two processes that are stopped for
# minutes, as on a machine that is lent to others, are not to lose each other.
SGD = """
import optax
import drsn_jax.config.build, drsn_jax.system.processes
drsn_jax.config.build.make_optimizer = lambda **options: optax.sgd(0.01)
drsn_jax.system.processes.HEARTBEAT_SECONDS = drsn_jax.system.processes.JOIN_SECONDS = 10_000
"""


class Run:
    """Two processes that train. All are killed at the end of `started`, whatever becomes of them."""

    def __init__(self, workdir, folder, *, pause=(0, 0), own=({}, {}), heartbeat=10_000, **changes):
        """Start the processes. Process r stops before its batch number pause[r] (0: never) until `go`, with its own options own[r]."""
        self.program = f"{SGD}drsn_jax.system.processes.HEARTBEAT_SECONDS = {heartbeat}\n{tiny.PAUSING}"
        self.folders, self.processes = [folder / f"process{process}" for process in range(2)], []
        arguments = [tiny.train_arguments(workdir, **OPTIONS | changes | own[process]) for process in range(2)]
        for _ in range(5):
            together = [f"--coordinator=127.0.0.1:{free_port()}", "--num-processes=2"]
            self.processes = [self._start(process, pause[process], arguments[process] + together) for process in range(2)]
            if not self._port_was_taken():
                return
            self.kill()
        raise AssertionError("no free port in five attempts")

    def _start(self, process, pause, arguments):
        folder = self.folders[process]
        folder.mkdir(parents=True, exist_ok=True)
        argv = [sys.executable, "-c", self.program, str(pause), str(folder), ".", *arguments, f"--process-id={process}"]
        with (folder / "out").open("w") as out, (folder / "err").open("w") as err:
            return subprocess.Popen(argv, env=tiny.environment(JAX_NUM_CPU_DEVICES="2"), stdout=out, stderr=err)

    def _port_was_taken(self):
        """Whether somebody took the port before process 0 did: it ends at once, and the other would wait."""
        while self.processes[0].poll() is None:
            if "waits for the others" in self._text(0, "out"):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.processes[0].wait(timeout=1)
                break
            time.sleep(0.05)
        return "Address already in use" in self._text(0, "err")

    def _text(self, process, name):
        return (self.folders[process] / name).read_text()

    def wait_until_paused(self, process):
        end = time.monotonic() + TIMEOUT
        while not (self.folders[process] / "paused").exists():
            if any(p.poll() is not None for p in self.processes) or time.monotonic() > end:
                raise AssertionError([self._text(r, name) for r in range(2) for name in ("out", "err")])
            time.sleep(0.05)

    def go(self, process):
        (self.folders[process] / "go").touch()

    def ends(self):
        """Exit code, standard output and error of both."""
        codes = [process.wait(timeout=TIMEOUT) for process in self.processes]
        return [(code, self._text(process, "out"), self._text(process, "err")) for process, code in enumerate(codes)]

    def kill(self):
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.fixture
def started(tmp_path):
    """Start runs, each in its own folder, and end them afterwards."""
    runs = []

    def start(workdir, **changes):
        runs.append(Run(workdir, tmp_path / f"run{len(runs)}", **changes))
        return runs[-1]

    yield start
    for run in runs:
        run.kill()


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@functools.cache
def server():
    """Start a separate warm process with one device."""
    return warm.Server(tiny.environment(JAX_NUM_CPU_DEVICES="1"), prelude=SGD)


def train_alone(workdir, **changes):
    done = server().run(tiny.train_arguments(workdir, **OPTIONS | changes), cwd=None, timeout=TIMEOUT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def networks(workdir, step):
    state, _ = read_checkpoint(workdir / "checkpoints" / str(step), NETWORKS)
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state)}


def furthest(first, second):
    assert first.keys() == second.keys()
    return max(float(np.abs(first[name] - second[name]).max()) for name in first)


def assert_equal_runs(workdir, other, *, steps):
    """Check for equality to rounding: 1e-6 in every parameter, statistic and loss. The changes are a thousand times larger."""
    assert furthest(networks(workdir, steps), networks(other, steps)) < 1e-6
    assert furthest(networks(workdir, tiny.steps_on_disk(workdir)[0]), networks(workdir, steps)) > 1e-3
    losses, expected = tiny.losses(workdir), tiny.losses(other)
    assert sorted(losses) == sorted(expected) == list(range(1, steps + 1))
    for step, figures in losses.items():
        assert figures == pytest.approx(expected[step], rel=1e-4, abs=1e-6), step


def last_line(err):
    """Return the last line of our own code. Lines of XLA about the network may precede or follow it."""
    [line] = [line for line in err.splitlines() if line.startswith("drsn-jax: ")]
    return line


@pytest.fixture(scope="module")
def data(tmp_path_factory, photograph):
    """Return the options of both kinds of data."""
    folder = tmp_path_factory.mktemp("processes")
    photos, pairs = tiny.write_photos(folder / "photos", photograph), tiny.write_gopro(folder / "gopro", photograph)
    return {"resident": {"data": "photos", "train_dir": photos}, "pairs": {"data": "pairs", "train_dir": pairs, "eval_dir": pairs}}


@pytest.fixture(scope="module")
def whole(tmp_path_factory, data):
    """Make the resident run of one process with one device, without interruption."""
    workdir = tmp_path_factory.mktemp("whole") / "run"
    train_alone(workdir, **data["resident"], num_train_steps=12)
    return workdir


def test_two_processes_that_read_their_own_rows_equal_one(data, started, tmp_path):
    run = started(tmp_path / "two", **data["pairs"])
    train_alone(tmp_path / "one", **data["pairs"])
    (code, out, err), (other_code, other_out, other_err) = run.ends()
    assert (code, other_code) == (0, 0), err + other_err
    assert "4 cpu device(s) of 2 processes; step 0 of 6" in out
    assert_equal_runs(tmp_path / "two", tmp_path / "one", steps=6)
    figures = [[line["eval/psnr"] for line in tiny.read_metrics(tmp_path / name) if "eval/psnr" in line] for name in ("one", "two")]
    assert figures[0] == pytest.approx(figures[1], abs=1e-3)
    for word in ("step ", "Training on", "Done", "Panels"):
        assert not any(line.startswith(word) for line in other_out.splitlines()), "the first process speaks for all"
    assert sorted(p.name for p in (tmp_path / "two").iterdir()) == sorted(p.name for p in (tmp_path / "one").iterdir())


@pytest.mark.parametrize("killed", [1, pytest.param(0, marks=pytest.mark.soak)])
def test_one_is_killed_the_other_ends_and_one_process_goes_on(killed, data, whole, started, tmp_path):
    """The other waits inside a computation that needs the first one's devices. Process 0 holds what the processes meet at."""
    workdir, other = tmp_path / "run", 1 - killed
    changes = data["resident"] | {"num_train_steps": 12}
    # Gloo does not always notice a peer that died before a transfer began. Then JAX's heartbeat ends the other.
    run = started(workdir, pause=[5 * (process == killed) for process in range(2)], heartbeat=100, **changes)
    run.wait_until_paused(killed)
    run.processes[killed].send_signal(signal.SIGKILL)
    ends = run.ends()
    assert ends[killed][0] == -signal.SIGKILL
    code, out, err = ends[other]
    assert code not in (0, 2), out + err
    if "drsn-jax: " in err:  # gloo told of it first, where JAX did not
        assert f"process {other} stopped (" in last_line(err)
        assert "run the same commands again to go on from the newest checkpoint" in last_line(err)
    else:
        assert "JAX distributed service detected fatal errors. This most likely indicates that another task died" in err
    assert tiny.steps_on_disk(workdir) == [3]
    if killed == 1:
        assert "Resumed from step 3." in train_alone(workdir, **changes)
        assert_equal_runs(workdir, whole, steps=12)


def test_sigterm_to_one_stops_both_after_the_same_step_and_a_second_run_is_refused_meanwhile(data, whole, started, tmp_path):
    workdir = tmp_path / "run"
    changes = data["resident"] | {"num_train_steps": 12}
    run = started(workdir, pause=(0, 4), **changes)
    run.wait_until_paused(1)

    second = started(workdir, **changes)
    (code, _, err), (other_code, _, other_err) = second.ends()
    assert (code, other_code) == (2, 2), err + other_err
    assert re.fullmatch(
        rf"drsn-jax: {workdir} is in use, process \d+ on .* is training there; wait for it, or choose another folder", last_line(err)
    )
    assert f"{workdir} is in use" in last_line(other_err)

    run.processes[1].send_signal(signal.SIGTERM)
    run.go(1)
    (code, out, err), (other_code, _, other_err) = run.ends()
    assert (code, other_code) == (0, 0), err + other_err
    [stopped] = [line for line in out.splitlines() if line.startswith("Stopped by a signal at step ")]
    step = int(stopped.split("step ")[1].split(",")[0])
    assert 4 <= step <= 8
    assert tiny.steps_on_disk(workdir)[-1] == step
    assert not any("eval/psnr" in line for line in tiny.read_metrics(workdir)), "nobody waits for an evaluation on SIGTERM"

    assert f"Resumed from step {step}." in train_alone(workdir, **changes)
    assert_equal_runs(workdir, whole, steps=12)
    assert ".lock" not in os.listdir(workdir)


@pytest.mark.soak
def test_an_image_that_one_alone_finds_damaged_ends_both_and_that_one_names_it(data, started, tmp_path):
    """On a disk of its own, and in its second step: the other waits inside a computation."""
    copy = shutil.copytree(data["pairs"]["train_dir"], tmp_path / "copy")
    path = copy / "GOPR1" / "sharp" / "000001.png"
    os.truncate(path, path.stat().st_size // 2)
    (code, _, err), (other_code, _, other_err) = started(tmp_path / "run", own=({}, {"train_dir": copy}), **data["pairs"]).ends()
    assert other_code == 2, other_err
    assert code not in (0, 2), err
    assert last_line(other_err).startswith(f"drsn-jax: '{path}' is damaged or cut short")


# How they join


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--process-id=0"], "--coordinator and --num-processes are missing; start each process with the same --coordinator=HOST:PORT"),
        (["--coordinator=a:1", "--num-processes=2"], "--process-id is missing"),
        (["--process-id=0", "--num-processes=1"], "--coordinator is missing"),
        (["--coordinator=host", "--num-processes=2", "--process-id=0"], "--coordinator=host is not a HOST:PORT"),
        (["--coordinator=host:0", "--num-processes=2", "--process-id=0"], "a port from 1 to 65535"),
        (["--coordinator=a:1", "--num-processes=0", "--process-id=0"], "--num-processes=0 is too small; use 1 or more"),
        (["--coordinator=a:1", "--num-processes=2", "--process-id=2"], "--process-id=2 is not among 2 processes; use 0 to 1"),
        (["--coordinator=a:1", "--num-processes=2", "--process-id=-1"], "--process-id=-1 is not among 2 processes"),
    ],
)
def test_options_that_do_not_fit_together(options, words, tmp_path, capsys):
    assert main([*tiny.train_arguments(tmp_path / "run"), *options]) == 2
    err = capsys.readouterr().err
    assert words in err
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.fixture
def initialize(monkeypatch):
    """Record the arguments of jax.distributed.initialize."""
    calls = []

    def record(*given, **options):
        calls.append((given, options, "KUBERNETES_SERVICE_HOST" in os.environ))
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", record)
    monkeypatch.setattr(jax.config, "update", lambda name, value: None)
    for name in ("OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    return calls


@pytest.mark.parametrize(
    ("environment", "asked"),
    [
        ({}, True),
        ({"SLURM_NTASKS": "1"}, False),
        ({"SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "1"}, False),  # an interactive shell in an allocation for four
        ({"SLURM_NTASKS": "4"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "2", "SLURM_NTASKS": "1"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "1"}, False),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, True),
    ],
)
def test_jax_looks_for_a_cluster_unless_one_task_was_started(environment, asked, initialize, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with processes.joined():
        assert jax.process_count() == 1
    assert len(initialize) == asked
    for given, options, kubernetes in initialize:
        assert (given, options["heartbeat_timeout_seconds"], kubernetes) == ((), processes.HEARTBEAT_SECONDS, False)
    assert "KUBERNETES_SERVICE_HOST" not in environment or os.environ["KUBERNETES_SERVICE_HOST"] == "10.0.0.1"


def test_where_devices_were_used_before_as_in_a_notebook_it_is_alone():
    assert jax.device_count() == 8
    with processes.joined():
        assert not jax.distributed.is_initialized()


def test_one_process_by_hand_is_alone_whatever_the_cluster_says(initialize, monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "4")
    for options in ({"num_processes": 1}, {"coordinator": "a:1", "num_processes": 1, "process_id": 0}):
        with processes.joined(**options):
            pass
    assert initialize == []


def test_a_cluster_that_cannot_be_joined_and_a_port_that_is_taken_are_one_line_each(initialize, monkeypatch):
    def fail(**options):
        raise RuntimeError("no answer\nand more")

    monkeypatch.setattr(jax.distributed, "initialize", fail)
    refused = r"could not join \(RuntimeError: no answer\); .*--num-processes=1 if it is alone\."
    with pytest.raises(InputError, match=refused), processes.joined():
        pass
    with socket.create_server(("127.0.0.1", 0)) as server:
        coordinator = f"127.0.0.1:{server.getsockname()[1]}"
        refused = f"could not join the others at {coordinator} .*Address already in use"
        with pytest.raises(InputError, match=refused), processes.joined(coordinator=coordinator, num_processes=2, process_id=0):
            pass


def test_alone_process_0_decides_without_asking_anybody():
    assert processes.first_process(lambda: {"psnr": 1.5}) == {"psnr": 1.5}
    with pytest.raises(InputError, match="bad image"):
        processes.first_process(lambda: (_ for _ in ()).throw(InputError("bad image")))


TALKING = """
import sys
from drsn_jax.system import processes
processes.HEARTBEAT_SECONDS = 5
process = int(sys.argv[1])
with processes.joined(coordinator=sys.argv[2], num_processes=2, process_id=process):
    assert processes.first_process(lambda: {"text": "é" * 3000}) == {"text": "é" * 3000}
    print("talked", flush=True)
    if sys.argv[3] == str(process):
        sys.stdin.read()
    processes.wait_for_all()
"""


def test_jax_ends_the_other_of_one_that_hangs():
    """Two pairs at once: in one process 0 hangs, in the other process 1. A process that is stopped answers nobody."""
    pairs = []
    for hanging in ("0", "1"):
        argv = [sys.executable, "-c", TALKING]
        together = [f"127.0.0.1:{free_port()}", hanging]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        pairs.append([subprocess.Popen([*argv, str(r), *together], env=tiny.environment(), **pipes) for r in range(2)])
    try:
        for hanging, pair in enumerate(pairs):
            for process in pair:
                assert process.stdout is not None
                assert "talked\n" in iter(process.stdout.readline, ""), process.communicate()
            pair[hanging].send_signal(signal.SIGSTOP)
        for hanging, pair in enumerate(pairs):
            _, err = pair[1 - hanging].communicate(timeout=TIMEOUT)
            assert pair[1 - hanging].returncode not in (0, 2)
            assert "heartbeat" in err.lower()
    finally:
        for process in (process for pair in pairs for process in pair):
            process.kill()
            process.communicate()
    assert processes.HEARTBEAT_SECONDS <= 30

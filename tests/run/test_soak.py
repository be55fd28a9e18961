"""What only time shows, in minutes rather than seconds: many kills, many steps, a process that hangs. `pytest -m soak` runs it."""

import re
import signal
import subprocess
import sys

import numpy as np
import pytest
import test_processes
import tiny
from test_processes import started  # noqa: F401

pytestmark = pytest.mark.soak

STEPS = 2000
# Says the memory that the process holds, in kB, each hundred steps.
WATCHED = """
import sys
from drsn_jax.cli.main import main
from drsn_jax.run.feed import Feed

fetch, steps = Feed.next, []

def watching(self, *, after):
    steps.append(1)
    if len(steps) % 100 == 0:
        with open("/proc/self/status") as status:
            [held] = [line.split()[1] for line in status if line.startswith("VmRSS")]
        print("held", len(steps), held, flush=True)
    return fetch(self, after=after)

Feed.next = watching
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def data(tmp_path, photograph):
    photos, pairs = tiny.write_photos(tmp_path / "photos", photograph), tiny.write_gopro(tmp_path / "gopro", photograph)
    return {"resident": {"data": "photos", "train_dir": photos}, "pairs": {"data": "pairs", "train_dir": pairs, "eval_dir": pairs}}


def test_twenty_kills_at_random_moments(data, tmp_path):
    """A save after every step, so that most kills meet one; five meet the start. What is resumed is the newest save each time."""
    changes = data["resident"] | {"norm": "batch", "dropout": 0.5, "ema_decay": 0.9, "schedule": "constant"}
    changes |= {"num_train_steps": 200, "checkpoint_every_steps": 1}
    rng, workdir = np.random.default_rng(1), tmp_path / "run"
    for number in range(20):
        lines, seconds = (0, 12.0) if number % 4 == 3 else (12, 0.5)
        tiny.kill_at_random(workdir, rng, lines=lines, seconds=seconds, **changes)
        print(f"kill {number + 1}: newest save {tiny.steps_on_disk(workdir)[-1:]}")  # noqa: T201
    newest = tiny.steps_on_disk(workdir)[-1]
    ended = [tiny.fresh_command(*tiny.train_arguments(folder, **changes), timeout=3600) for folder in (workdir, tmp_path / "whole")]
    assert [done.returncode for done in ended] == [0, 0], ended
    assert f"Resumed from step {newest}." in ended[0].stdout
    tiny.assert_same_state(tiny.read_state(workdir, 200), tiny.read_state(tmp_path / "whole", 200))
    assert tiny.losses(workdir) == tiny.losses(tmp_path / "whole")
    assert {path.name for path in (workdir / "checkpoints").iterdir()} == {"198", "199", "200"}


@pytest.mark.parametrize("kind", ["resident", "pairs"])
def test_memory_does_not_grow_over_two_thousand_steps(kind, data, tmp_path):
    changes = data[kind] | {"num_train_steps": STEPS, "log_every_steps": 20, "checkpoint_every_steps": 100, "eval_every_steps": 500}
    argv = [sys.executable, "-c", WATCHED, *tiny.train_arguments(tmp_path / "run", **changes)]
    done = subprocess.run(argv, env=tiny.environment(), capture_output=True, text=True, timeout=3600, check=False)
    assert done.returncode == 0, done.stderr
    held = {int(step): int(kilobytes) / 1000 for step, kilobytes in re.findall(r"^held (\d+) (\d+)$", done.stdout, re.MULTILINE)}
    print({step: round(megabytes) for step, megabytes in held.items()})  # noqa: T201
    assert held[STEPS] < held[600] + 30, f"megabytes by step: {held}"


@pytest.mark.parametrize("stopped", [0, 1])
def test_a_process_that_hangs_is_noticed_by_the_heartbeat(stopped, data, started, tmp_path, monkeypatch):  # noqa: F811
    """After 20 s here, 25 s in use. It is JAX that ends the other one, by a message of its own."""
    monkeypatch.setattr(test_processes, "SGD", test_processes.SGD.replace("HEARTBEAT_SECONDS = drsn", "HEARTBEAT_SECONDS = 20; drsn"))
    run = started(tmp_path / "run", pause=[5 * (process == stopped) for process in range(2)], **data["resident"], num_train_steps=12)
    run.wait_until_paused(stopped)
    run.processes[stopped].send_signal(signal.SIGSTOP)
    assert run.processes[1 - stopped].wait(timeout=test_processes.TIMEOUT) not in (0, 2)
    run.processes[stopped].kill()
    _, _, err = run.ends()[1 - stopped]
    assert "heartbeat" in err.lower()
    assert tiny.steps_on_disk(tmp_path / "run") == [3]

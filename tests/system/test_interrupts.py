"""Ctrl-C at any moment: code 130, one line, nothing half-written; in training it saves first. Never a crash of jaxlib's clean-up."""

import signal
import subprocess
import sys
import time

import pytest
import tiny

from drsn_jax.system.interrupts import EXIT_CODE

# A process that a shell started in the background ignores Ctrl-C, and so does what it starts. {body} is told by its `ready`.
PROGRAM = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
from drsn_jax.cli import main as cli

def ready():
    print("ready", flush=True)

{body}
"""
COMPUTING = """
import hashlib

def compute(arguments):
    ready()
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # minutes in one call that no signal breaks off, as a compilation is
    return 0
cli.VERBS["info"] = cli.VERBS["info"]._replace(run=compute)
sys.argv = ["drsn-jax", "info"]
cli.run_process()
"""
SWALLOWING = """
class Broken:
    def __del__(self):  # whatever a callback raises, the interpreter reports and forgets
        ready()
        time.sleep(60)

def swallow(arguments):
    broken = Broken()
    del broken
    time.sleep(60)
    return 0
cli.VERBS["info"] = cli.VERBS["info"]._replace(run=swallow)
sys.argv = ["drsn-jax", "info"]
cli.run_process()
"""
TRAINING = "sys.argv = ['drsn-jax', *{arguments}]\ncli.run_process()"


def start(body):
    argv = [sys.executable, "-c", PROGRAM.format(body=body)]
    options = {"env": tiny.environment(), "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(argv, **options)


def interrupt_when(process, line, *, times=1):
    """Send Ctrl-C after a line of the process with this beginning; return its later output and the seconds until its end."""
    said = next(text for text in process.stdout if text.startswith(line))
    begin = time.monotonic()
    for _ in range(times):
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    return said + out, err, time.monotonic() - begin


def test_a_second_one_leaves_at_once_from_within_compiled_code():
    out, err, seconds = interrupt_when(start(COMPUTING), "ready", times=2)
    assert err.strip() == "drsn-jax: stopped at once by the second Ctrl-C", out
    assert seconds < 30


def test_one_that_a_callback_swallows_is_raised_again():
    process = start(SWALLOWING)
    _, err, seconds = interrupt_when(process, "ready")
    assert (process.returncode, err) == (EXIT_CODE, "drsn-jax: interrupted\n")
    assert seconds < 30


@pytest.fixture(scope="module")
def photos(tmp_path_factory, photograph):
    return tiny.write_photos(tmp_path_factory.mktemp("photos"), photograph)


def train(workdir, photos, **changes):
    arguments = tiny.train_arguments(workdir, data="photos", train_dir=photos, **changes)
    return start(TRAINING.format(arguments=arguments))


def test_training_saves_and_says_what_goes_on(tmp_path, photos):
    process = train(tmp_path / "run", photos, num_train_steps=100_000, checkpoint_every_steps=100_000)
    out, err, _ = interrupt_when(process, "step 2/")
    assert process.returncode == EXIT_CODE, err
    assert err.splitlines() == ["", "Ctrl-C: finishing and saving this step; press Ctrl-C again to stop at once.", "drsn-jax: interrupted"]
    [step] = tiny.steps_on_disk(tmp_path / "run")
    assert f"Stopped by Ctrl-C at step {step}, saved; run the same command to resume: drsn-jax train" in out
    assert str(tmp_path / "run") in out.splitlines()[-1]
    assert int(tiny.read_state(tmp_path / "run", step)[".step"]) == step


def test_before_the_first_step_training_has_nothing_to_save(tmp_path, photos):
    process = train(tmp_path / "run", photos)
    _, err, _ = interrupt_when(process, "Training on")
    assert (process.returncode, err) == (EXIT_CODE, "drsn-jax: interrupted\n")
    assert tiny.steps_on_disk(tmp_path / "run") == []


@pytest.mark.soak
@pytest.mark.parametrize("verb", ["restore", "train"])
def test_at_any_moment(verb, tmp_path, photos):
    for tenths in range(5, 120, 5):
        output = tmp_path / f"{tenths}"
        arguments = ["restore", str(photos / "0.png"), f"--output={output}"]
        if verb == "train":
            arguments = tiny.train_arguments(output, data="photos", train_dir=photos, num_train_steps=100_000)
        process = start(TRAINING.format(arguments=arguments))
        time.sleep(tenths / 10)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
        assert process.returncode in (EXIT_CODE, 0), err
        assert "Traceback" not in err or tenths < 20, err  # Python's own, while it starts
        assert not list(output.glob(".*")) or verb == "train"

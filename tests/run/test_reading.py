"""Checkpoints that cannot be read: what a drive refuses for a moment is tried again, and only what is damaged is set aside."""

import errno
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from drsn_jax.run import reading
from drsn_jax.run.checkpoint import Checkpoints
from drsn_jax.system.errors import InputError
from drsn_jax.training.state import TrainState


def make_state(step=0):
    array = {"w": jnp.arange(4000.0)}
    names = ("generator_params", "generator_opt_state", "critic_params", "critic_opt_state")
    return TrainState(
        step=jnp.int32(step), rng=jax.random.key(0), generator_stats={}, ema_params={}, critic_stats={}, **dict.fromkeys(names, array)
    )


@pytest.fixture
def workdir(tmp_path):
    with Checkpoints(tmp_path, config={}) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, make_state(step))
    return tmp_path


@pytest.fixture
def waited(monkeypatch):
    """Record the seconds of each wait instead of waiting."""

    class Waited(list):
        def call(self, function):
            monkeypatch.setattr(reading.time, "sleep", lambda seconds: (self.append(seconds), function()))

    waited = Waited()
    waited.call(lambda: None)
    return waited


def arrays(workdir, step=2):
    """Return the file with the arrays of a checkpoint, which is the largest."""
    return max((workdir / "checkpoints" / str(step)).rglob("d/*"), key=lambda path: path.stat().st_size)


def restore(workdir, said):
    with Checkpoints(workdir, config={}) as checkpoints:
        return checkpoints.restore(jax.eval_shape(make_state), say=said.append)


def names(workdir):
    return {path.name for path in (workdir / "checkpoints").iterdir()}


def refuse(path):
    """Make reading it a system error, as of a drive that does not answer: too many links."""
    contents = path.read_bytes()
    path.unlink()
    path.symlink_to(path)

    def mend():
        path.unlink(missing_ok=True)
        path.write_bytes(contents)

    return mend


def test_what_a_drive_refuses_for_a_moment_is_tried_again(workdir, waited):
    tries = iter((lambda: None, refuse(arrays(workdir))))
    waited.call(lambda: next(tries)())
    said = []
    found = restore(workdir, said)
    assert int(found.state.step) == 2
    np.testing.assert_array_equal(found.state.generator_params["w"], np.arange(4000))
    assert waited == list(reading.WAITS[:2])
    assert [line.startswith("Could not read checkpoint 2 in ") for line in said] == [True, True]
    assert names(workdir) == {"1", "2"}


def test_what_it_goes_on_refusing_ends_the_run_and_nothing_is_renamed(workdir, waited):
    refuse(arrays(workdir))
    with pytest.raises(InputError, match=r"Could not read checkpoint 2 in .* in 4 tries .* nothing was changed\. .* move it away"):
        restore(workdir, [])
    assert waited == list(reading.WAITS)
    assert names(workdir) == {"1", "2"}, "the one before would lose the steps in between, of a checkpoint that is whole"


def test_a_file_that_is_missing_for_a_moment_is_no_damage(workdir, waited):
    path = arrays(workdir)
    path.rename(workdir / "elsewhere")
    waited.call(lambda: (workdir / "elsewhere").rename(path))
    assert int(restore(workdir, []).state.step) == 2
    assert waited == [reading.WAITS[0]]
    assert names(workdir) == {"1", "2"}


@pytest.mark.parametrize(("pattern", "size"), [("d/*", 0.5), ("d/*", None), ("_METADATA", 0.5), ("_METADATA", None), ("_sharding", 0)])
def test_files_that_stay_missing_or_cut_short_are_damage(pattern, size, workdir, waited):
    for path in (workdir / "checkpoints" / "2" / "state").rglob(pattern):
        if size is None:
            path.unlink()
        else:
            os.truncate(path, int(size * path.stat().st_size))
    said = []
    assert int(restore(workdir, said).state.step) == 1
    assert waited == [reading.WAITS[0]], "once more, to be sure"
    assert names(workdir) == {"1", "2.damaged"}
    assert said[-1] == "Checkpoint 2 is set aside as 2.damaged."


def test_damaged_versions_cost_no_state(workdir, waited):
    (workdir / "checkpoints" / "2" / "versions" / "metadata").write_text('{"data_k')
    found = restore(workdir, [])
    assert (int(found.state.step), found.data_keys, waited) == (2, 1, [])


def caused(error, cause):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ConnectionResetError("gone"), False),
        (TimeoutError("late"), False),
        (PermissionError(errno.EACCES, "no"), False),
        (OSError(errno.EIO, "Input/output error"), False),
        (OSError(errno.ESTALE, "Stale file handle"), False),
        (ValueError("UNAVAILABLE: try later"), False),
        (ValueError("FAILED_PRECONDITION: Failed to open: Transport endpoint is not connected [os_error_code='107']"), False),
        (KeyError("unknown"), False),
        (FileNotFoundError("data"), True),
        (json.JSONDecodeError("Expecting value", "", 0), True),
        (ValueError("DATA_LOSS: Invalid checksum"), True),
        (caused(Exception("Encountered error while reading"), ValueError("OUT_OF_RANGE: Requested byte range [0, 9) is not valid")), True),
        (caused(Exception("Encountered error while reading"), OSError(errno.EIO, "Input/output error")), False),
    ],
)
def test_damage_is_what_says_so(error, expected):
    assert reading.is_damage(error) is expected

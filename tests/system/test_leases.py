"""A folder without locks is one process's at a time: by a lease that its owner renews, and that ends with it."""

import json
import os
import time

import pytest
from etils import epath

from drsn_jax.system import leases
from drsn_jax.system.errors import InputError
from drsn_jax.system.leases import LEASE, hold_lease

# etils' paths of this machine: what a lease asks of a bucket they do as well.


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(leases, "LEASE_SECONDS", 2.0)
    monkeypatch.setattr(leases, "RENEW_SECONDS", 0.2)
    monkeypatch.setattr(leases, "_POLL_SECONDS", 0.05)


@pytest.fixture
def folder(tmp_path):
    return epath.Path(tmp_path)


def leave_behind(folder, *, machine="another", pid=1, expires=60.0):
    lease = {"owner": "process 1 on another", "machine": machine, "pid": pid, "expires": time.time() + expires}
    (folder / f"{LEASE}left").write_text(json.dumps(lease))


def names(folder):
    return [path.name for path in folder.iterdir()]


def test_it_is_there_while_it_is_held_and_gone_after_that(folder):
    with hold_lease(folder, doing="training"):
        [name] = names(folder)
        assert name.startswith(LEASE)
        assert json.loads((folder / name).read_text())["pid"] == os.getpid()
    assert names(folder) == []
    with pytest.raises(RuntimeError), hold_lease(folder, doing="training"):
        raise RuntimeError
    assert names(folder) == []


def test_a_second_one_is_refused_and_told_who_holds_it(folder, capsys):
    with hold_lease(folder, doing="training"):
        with pytest.raises(InputError) as raised, hold_lease(folder, doing="training"):
            pass
        assert f"{folder} is in use, process {os.getpid()} on " in str(raised.value)
        assert " is training there; wait for it, or choose another folder" in str(raised.value)
        assert len(names(folder)) == 1
    assert "waiting up to 2 s, in case it was killed" in capsys.readouterr().err


def test_what_a_killed_owner_of_this_machine_left_counts_no_more(folder):
    gone = os.fork()
    if not gone:
        os._exit(0)
    os.waitpid(gone, 0)
    leave_behind(folder, machine=leases._machine(), pid=gone)
    begin = time.monotonic()
    with hold_lease(folder, doing="training"):
        assert len(names(folder)) == 1
    assert time.monotonic() - begin < 1


def test_what_a_killed_owner_of_another_machine_left_is_waited_for(folder):
    leave_behind(folder, expires=0.5)
    begin = time.monotonic()
    with hold_lease(folder, doing="training"):
        assert time.monotonic() - begin >= 0.4
        assert len(names(folder)) == 1


def test_it_is_renewed(folder):
    def expiry():
        return [json.loads(path.read_text())["expires"] for path in folder.iterdir()]

    with hold_lease(folder, doing="training"):
        first, end = expiry(), time.monotonic() + 20
        while expiry() <= first:
            assert time.monotonic() < end
            time.sleep(0.05)


def test_of_two_that_begin_together_no_more_than_one_goes_on(folder, monkeypatch):
    """The other one's lease appears after this one has looked, and before it has written its own."""
    write = leases._write

    def late(own):
        leave_behind(folder)
        write(own)

    monkeypatch.setattr(leases, "_write", late)
    with pytest.raises(InputError, match="process 1 on another is training there"), hold_lease(folder, doing="training"):
        pass
    assert names(folder) == [f"{LEASE}left"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_owner_that_was_taken_over_ends(folder, monkeypatch, capsys):
    left = []
    monkeypatch.setattr(leases, "leave", lambda code: left.append(code) or exit_thread())

    def exit_thread():
        raise SystemExit

    with hold_lease(folder, doing="training"):
        for path in folder.iterdir():
            path.unlink()
        end = time.monotonic() + 20
        while not left:
            assert time.monotonic() < end
            time.sleep(0.05)
    assert left == [1]
    assert "was taken over by another process" in capsys.readouterr().err

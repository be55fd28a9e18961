"""A folder is one process's at a time, and nothing of that is left behind."""

import contextlib
import errno
import os
import socket
import subprocess
import sys

import pytest

from drsn_jax.data.pairs.folders import find_pairs
from drsn_jax.system.errors import InputError
from drsn_jax.system.locks import LOCK_FILE, lock_folder

fcntl = pytest.importorskip("fcntl", reason="no locks on Windows")

HOLDING = """
import sys
from pathlib import Path
from drsn_jax.system.locks import lock_folder
with lock_folder(Path(sys.argv[1]), doing="testing"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds tmp_path/out until its input ends."""
    argv = [sys.executable, "-c", HOLDING, str(tmp_path / "out")]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def _refused(path, doing="training"):
    with pytest.raises(InputError) as raised, lock_folder(path, doing=doing):
        pass
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_another_process_is_refused_until_the_first_ends(tmp_path, holder):
    named = f"{tmp_path / 'out'} is in use, process {holder.pid} on {socket.gethostname()} is training there; wait for it"
    assert named in _refused(tmp_path / "out")
    with lock_folder(tmp_path / "other", doing="testing"):
        pass
    holder.communicate()
    assert not (tmp_path / "out").exists(), "the folder was made for nothing"
    with lock_folder(tmp_path / "out", doing="testing"):
        pass


def test_a_lock_ends_with_a_process_that_is_killed(tmp_path, holder):
    holder.kill()
    holder.wait()
    assert (tmp_path / "out" / LOCK_FILE).exists()
    with lock_folder(tmp_path / "out", doing="testing"):
        (tmp_path / "out" / "made").touch()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["made"]


def test_whoever_gets_the_file_that_was_just_removed_does_not_count_as_holder(tmp_path, monkeypatch):
    """The holder ends, and a newcomer takes the lock, between our opening of the file and our locking of it."""
    flock, newcomer = fcntl.flock, []

    def late(file, how):
        if not newcomer:
            (tmp_path / LOCK_FILE).unlink()
            newcomer.append((tmp_path / LOCK_FILE).open("a"))
            flock(newcomer[0], how)
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    assert " is training there" in _refused(tmp_path)
    newcomer[0].close()
    with lock_folder(tmp_path, doing="training"):
        assert f"process {os.getpid()} on " in _refused(tmp_path)


def test_folders_made_for_nothing_go_and_others_stay(tmp_path):
    (tmp_path / "mine").mkdir()
    for path in (tmp_path / "a" / "b" / "c", tmp_path / "mine", tmp_path / "mine" / "new"):
        with contextlib.suppress(RuntimeError), lock_folder(path, doing="testing"):
            assert path.is_dir()
            raise RuntimeError
    assert [path.name for path in tmp_path.rglob("*")] == ["mine"]


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "x", tmp_path / "file" / "x" / "y"):
        assert f"{tmp_path / 'file'} is a file" in _refused(path)
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    assert "choose another place" in _refused(tmp_path / "nowhere")


def test_a_held_folder_is_still_read_as_pairs(tmp_path, photograph):
    from PIL import Image

    for side in ("blur", "sharp"):
        (tmp_path / side).mkdir()
        Image.fromarray(photograph).save(tmp_path / side / "1.png")
    with lock_folder(tmp_path, doing="testing"):
        assert [pair.name for pair in find_pairs(tmp_path)] == ["1"]


def test_where_there_are_no_locks_it_goes_without(tmp_path, monkeypatch):
    def none(file, how):
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    with lock_folder(tmp_path / "out", doing="testing"):
        pass
    monkeypatch.setitem(sys.modules, "fcntl", None)  # Windows
    with lock_folder(tmp_path / "out", doing="testing"):
        assert list((tmp_path / "out").iterdir()) == []
    assert not (tmp_path / "out").exists()

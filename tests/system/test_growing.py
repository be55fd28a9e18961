"""Files that grow line by line in a bucket: at no moment is a line lost or doubled."""

import contextlib

import pytest
from etils import epath
from hypothesis import given, settings
from hypothesis import strategies as st

from drsn_jax.system import growing
from drsn_jax.system.growing import Growing, discard, read_grown
from drsn_jax.system.paths import BucketError


class Kill(BaseException):
    """Whatever ends a process between two writes."""


@pytest.fixture(params=["disk", "bucket"])
def path(request, tmp_path):
    """Handle a local path of etils as one in a bucket."""
    return tmp_path / "m[1].jsonl" if request.param == "disk" else epath.Path(tmp_path) / "m[1].jsonl"


def test_lines_are_there_at_once_and_in_one_file_at_the_end(path):
    file = Growing(path, b"a\n")
    for number in range(250):
        file.append(b"%d\n" % number)
        assert read_grown(path) == b"a\n" + b"".join(b"%d\n" % i for i in range(number + 1))
    file.close()
    assert path.read_bytes() == read_grown(path)
    assert [other.name for other in path.parent.iterdir()] == [path.name]


def test_opening_again_replaces_what_was_there(path):
    Growing(path, b"a\nb\n").append(b"c\n")  # killed
    file = Growing(path, b"a\n")
    file.append(b"d\n")
    assert read_grown(path) == b"a\nd\n"
    file.close()
    discard(path)
    assert read_grown(path) == b""
    assert list(path.parent.iterdir()) == []


@settings(max_examples=50)
@given(before=st.integers(0, 9), kept=st.integers(0, 9), killed_at=st.integers(0, 4))
def test_a_kill_at_any_write_loses_and_doubles_nothing(before, kept, killed_at, tmp_path_factory):
    """Of opening with some of the lines, as a run does that goes on from an earlier step, and of closing."""
    path = epath.Path(tmp_path_factory.mktemp("bucket")) / "m.jsonl"
    lines = [b"%d\n" % i for i in range(before)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(growing, "PIECE_LINES", 3)
        file = Growing(path, b"")
        for line in lines:
            file.append(line)
    kept = min(kept, before)
    allowed = {b"".join(lines), b"".join(lines[:kept])}
    writes = []

    def write(place, content):
        writes.append(place)
        if len(writes) > killed_at:
            raise Kill
        place.write_bytes(content)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(growing, "write_atomically", write)
        with contextlib.suppress(Kill):
            Growing(path, b"".join(lines[:kept])).close()
    assert read_grown(path) in allowed


def test_what_a_bucket_refuses_is_one_line():

    error = BucketError(epath.Path("gs://b/x"), RuntimeError("no\nway"))
    assert isinstance(error, OSError)
    assert str(error) == "gs://b/x: RuntimeError: no; check the bucket's name, the credentials and the network"
    assert error.strerror == "RuntimeError: no"

"""Files and folders that appear whole or not at all, and never replace an existing path."""

from pathlib import Path

import pytest

from drsn_jax.system.files import appearing, write_atomically


def make(path, kind, meanwhile=lambda: None):
    """Write a file or a folder that will become `path`, and do something else before it appears."""
    with appearing(path, overwrite=False) as name:
        if kind == "folder":
            (name / "inner").mkdir(parents=True)
            (name / "inner" / "a").write_text("new")
        else:
            name.write_text("new")
        assert not path.exists()
        meanwhile()


def interrupt():
    raise KeyboardInterrupt


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_it_appears_whole_or_not_at_all(kind, tmp_path):
    path = tmp_path / "result.png"
    with pytest.raises(KeyboardInterrupt):
        make(path, kind, interrupt)
    assert list(tmp_path.iterdir()) == []
    make(path, kind)
    assert [one.name for one in tmp_path.iterdir()] == ["result.png"]
    assert next(one for one in [path, *path.rglob("*")] if one.is_file()).read_text() == "new"


@pytest.mark.parametrize("kind", ["file", "folder"])
@pytest.mark.parametrize("taken", ["file", "folder", "empty folder", "link to nowhere"])
def test_a_name_that_was_taken_meanwhile_is_left_to_whoever_has_it(kind, taken, tmp_path):
    path = tmp_path / "result"

    def take():
        if taken == "link to nowhere":
            path.symlink_to("nowhere")
        elif taken == "file":
            path.write_text("theirs")
        else:
            path.mkdir()
            if taken == "folder":
                (path / "theirs").touch()

    with pytest.raises(FileExistsError):
        make(path, kind, take)
    assert [one.name for one in tmp_path.iterdir()] == ["result"]
    assert not (path / "inner").exists()
    assert path.is_symlink() or path.is_dir() or path.read_text() == "theirs"


def test_a_file_replaces_a_file_where_it_may(tmp_path):
    path = tmp_path / "deep" / "er" / "a.txt"
    write_atomically(path, b"old")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    with pytest.raises(FileExistsError):
        write_atomically(path, b"newer", overwrite=False)
    assert ([one.name for one in path.parent.iterdir()], path.read_bytes()) == (["a.txt"], b"new")


def test_the_temporary_name_fits_where_the_name_itself_does(tmp_path):
    with appearing(tmp_path / f"{'n' * 251}.png", overwrite=False) as name:
        assert isinstance(name, Path)
        assert name.name.startswith(".")
        assert name.suffix == ".png"
        name.touch()

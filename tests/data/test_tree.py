"""Folders and .zip files as one list of files."""

import zipfile
from concurrent.futures import ThreadPoolExecutor

import downloads
import pytest

from drsn_jax.data.benchmarks.tree import open_tree
from drsn_jax.data.images.rgb import image_size, read_rgb
from drsn_jax.system.errors import InputError

FILES = {"train/b/1.txt": b"one", "train/a.txt": b"two" * 1000, "readme.md": b"three"}
HIDDEN = {"__MACOSX/train/._a.txt": b"x", ".DS_Store": b"x", "train/.hidden": b"x", ".git/config": b"x"}


def _refused(function, *args, **kwargs):
    with pytest.raises(InputError) as caught:
        function(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("wrapper", ["", "GOPRO_Large/", "outer/inner/"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_folder_and_an_archive_are_the_same(tmp_path, packed, wrapper):
    files = {wrapper + name: contents for name, contents in FILES.items()} | HIDDEN
    path = downloads.write_zip(tmp_path / "set.zip", files) if packed else downloads.write_folder(tmp_path / "set.zip", files)
    before = sorted(tmp_path.rglob("*"))
    tree = open_tree(path)
    assert tree.name == "set.zip"
    assert list(tree.files) == sorted(FILES)
    assert {name: tree.read_bytes(name) for name in tree.files} == FILES
    assert {name: file.num_bytes for name, file in tree.files.items()} == {name: len(contents) for name, contents in FILES.items()}
    assert sorted(tmp_path.rglob("*")) == before, "something was extracted"


def test_folders_that_mean_something_are_not_looked_through(tmp_path):
    tree = open_tree(downloads.write_folder(tmp_path, {"GOPRO/train/s/blur/1.png": b"x"}))
    assert list(tree.files) == ["train/s/blur/1.png"]


def test_archives_in_a_folder_stand_for_their_contents_and_extracted_files_come_first(tmp_path):
    downloads.write_zip(tmp_path / "train_blur.zip", {"train/blur/1.png": b"packed", "train/blur/2.png": b"packed"})
    downloads.write_zip(tmp_path / "other.zip", {"no.png": b"x"})
    downloads.write_folder(tmp_path, {"train/blur/1.png": b"extracted"})
    tree = open_tree(tmp_path, archives=("train_*.zip",))
    assert {name: file.read_bytes() for name, file in tree.files.items() if name != "other.zip"} == {
        "train/blur/1.png": b"extracted",
        "train/blur/2.png": b"packed",
    }
    assert "other.zip" in tree.files


def test_images_are_read_out_of_an_archive_in_many_threads(tmp_path):
    files = downloads.images(*(f"{number}.png" for number in range(40)))
    tree = open_tree(downloads.write_zip(tmp_path / "a.zip", files))
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(image_size, tree.files.values())) == [downloads.SIZE] * 40
        shapes = pool.map(lambda file: read_rgb(file).shape, tree.files.values())
        assert set(shapes) == {(*downloads.SIZE, 3)}
        assert list(pool.map(lambda file: file.read_bytes(), tree.files.values())) == [files[name] for name in tree.files]


def test_what_is_no_archive_is_said_in_one_line(tmp_path):
    whole = downloads.write_zip(tmp_path / "whole.zip", FILES).read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.zip").write_bytes(b"")
    (tmp_path / "set.tar").write_bytes(b"ustar" * 100)
    assert "does not exist" in _refused(open_tree, tmp_path / "nowhere.zip")
    assert "half-downloaded" in _refused(open_tree, tmp_path / "cut.zip")
    assert "is empty (0 bytes)" in _refused(open_tree, tmp_path / "empty.zip")
    assert "is not a .zip file" in _refused(open_tree, tmp_path / "set.tar")


def test_a_damaged_file_of_an_archive_is_named(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("deep/1.png", b"contents" * 9)
    path.write_bytes(path.read_bytes().replace(b"contents", b"c0ntents", 1))
    tree = open_tree(path)
    assert "a.zip:deep/1.png is damaged" in _refused(tree.read_bytes, "1.png")
    assert "a.zip has no file 2.png" in _refused(tree.read_bytes, "2.png")
    assert "a.zip:deep/1.png" in _refused(image_size, tree.files["1.png"])


def test_files_are_named_from_the_folder_on(tmp_path):
    """The name is stored with a data set, and must not tell where on this machine it was."""
    tree = open_tree(downloads.write_folder(tmp_path / "mine", {"a/1.png": b"", "b/1.png": b"x"}))
    assert str(tree.files["a/1.png"]) == "mine/a/1.png"
    assert "'mine/a/1.png' is empty (0 bytes)" in _refused(read_rgb, tree.files["a/1.png"])

"""Preparing data sets by the command line: what is stored, and that nothing half-made is ever taken for whole."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import downloads
import pytest

from drsn_jax.cli.main import main
from drsn_jax.data.prepared import prepare
from drsn_jax.data.prepared.prepare import prepare_dataset
from drsn_jax.data.prepared.sets import list_prepared
from drsn_jax.data.prepared.stored import open_prepared
from drsn_jax.system.errors import InputError

tfds = pytest.importorskip("tensorflow_datasets", reason="pip install 'drsn-jax[data]'")
pytest.importorskip("array_record", reason="pip install 'drsn-jax[data]'")


@pytest.fixture(autouse=True)
def tiny_sets(monkeypatch):
    downloads.expect_tiny(monkeypatch)


@pytest.fixture
def data_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    return tmp_path / "tfds"


@pytest.fixture
def source(tmp_path):
    return downloads.write_zip(tmp_path / "GOPRO_Large.zip", {f"GOPRO_Large/{k}": v for k, v in downloads.gopro_files().items()})


@pytest.fixture
def cli(capsys):
    """Run a command line: (exit code, stdout, stderr)."""

    def run(*arguments):
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as stopped:
            code = stopped.code
        return code, *capsys.readouterr()

    return run


def _refused(result, *words):
    code, _, stderr = result
    assert code == 2
    assert stderr.count("\n") == 1, stderr
    assert all(word in stderr for word in words), stderr


def _left(data_dir):
    """Everything but whole versions and tfds' own notes."""
    return [path for path in data_dir.rglob("*") if path.is_file() and "1.0.0" not in path.parts and ".config" not in path.parts]


VERBS = {
    "gopro/linear": (["gopro"], downloads.gopro_files, {"train": 4, "validation": 4, "test": 2}),
    "gopro/gamma": (["gopro", "--blur=gamma"], downloads.gopro_files, {"train": 4, "validation": 4, "test": 2}),
    "hide": (["hide"], downloads.hide_files, {"train": 2, "test": 2}),
    "realblur/r": (["realblur", "--variant=r"], downloads.realblur_files, {"train": 4, "test": 2}),
    "realblur/j": (["realblur", "--variant=j"], downloads.realblur_files, {"train": 4, "test": 2}),
    "koehler": (["koehler"], downloads.koehler_files, {"blurred": 4, "truth": 12}),
    "lai/real": (["lai", "--part=real"], downloads.lai_files, {"test": 2}),
    "lai/uniform": (["lai", "--part=uniform"], downloads.lai_files, {"test": 4}),
    "lai/nonuniform": (["lai", "--part=nonuniform"], downloads.lai_files, {"test": 4}),
    "reds": (["reds"], downloads.reds_files, {"train": 4, "validation": 4}),
    "deblurring_pairs/mine": (["pairs", "--name=mine"], lambda: downloads.images("input/1.png", "target/1.png"), {"train": 1}),
}


@pytest.mark.parametrize("title", VERBS)
def test_every_set_is_stored_and_said(tmp_path, cli, title, capsys):
    verb, make, counts = VERBS[title]
    files = make()
    source = downloads.write_folder(tmp_path / "mine", files)
    code, stdout, stderr = cli("prepare", *verb, f"--source={source}", f"--data-dir={tmp_path / 'tfds'}")
    assert (code, stderr) == (0, "")
    assert f"{title} in mine" in stdout
    assert "Downloading" not in stdout
    assert list_prepared(tmp_path / "tfds") == [title]
    for split, count in counts.items():
        assert f"{title}:{split} ({count})" in stdout
    assert ("Use it as koehler, both of koehler:blurred" in stdout) == (title == "koehler"), "neither can be used alone"
    builder = tfds.builder_from_directory(tmp_path / "tfds" / title / "1.0.0")
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == counts
    images = {name for name in builder.info.features if name in ("blurred", "sharp", "image")}
    stored = []
    for split in counts:
        for record in builder.as_data_source(split, decoders={name: tfds.decode.SkipDecoding() for name in images}):
            stored += [record[name] for name in images]
            if title == "koehler":
                assert (
                    record["name"]
                    .decode()
                    .endswith("_".join(str(record[k]) for k in ("scene", "trajectory", "frame")[: 2 + (split == "truth")]))
                )
    assert set(stored) <= set(files.values()), "bytes are stored as they are"
    assert len(stored) == sum(counts.values()) * len(images)
    assert _left(tmp_path / "tfds") == []


def test_metadata_tells_what_was_stored_and_nothing_of_this_machine(tmp_path, source, data_dir, cli):
    assert cli("prepare", "gopro", f"--source={source}")[0] == 0
    text = (data_dir / "gopro/linear/1.0.0/metadata.json").read_text()
    metadata = json.loads(text)
    assert metadata["complete"] is True
    assert (metadata["source"], metadata["kind"], metadata["blur"]) == ("GOPRO_Large.zip", "pairs", "linear")
    assert metadata["validation_scenes"] == ["GOPR0374_11_00", "GOPR0374_11_01"]
    assert metadata["parts"]["train"] == {"scenes": {"found": 4, "expected": 4}, "examples": {"found": 8, "expected": 8}}
    files, digest = downloads.gopro_files(), hashlib.sha256()
    for name in ("T/000000", "T/000001"):
        digest.update(f"{name}\n".encode())
        for side in ("blur", "sharp"):
            contents = files[f"test/T/{side}/{name[2:]}.png"]
            digest.update(f"{hashlib.sha256(contents).hexdigest()}\n".encode())
    assert metadata["splits"]["test"]["sha256"] == digest.hexdigest()
    folder = downloads.write_folder(tmp_path / "extracted", files | {"test/T/sharp/000009.png": b"no image"})
    downloads.write_folder(folder, downloads.images("test/T/blur/000009.png"))
    assert cli("prepare", "gopro", f"--source={folder}", "--allow-incomplete", "--overwrite")[0] == 0
    other = (data_dir / "gopro/linear/1.0.0/metadata.json").read_text()
    assert json.loads(other)["splits"]["test"]["sha256"] == digest.hexdigest(), "the same from a folder"
    assert json.loads(other)["complete"] is False
    assert "test: 1 left out: 'extracted/test/T/sharp/000009.png' is not an image" in json.loads(other)["problems"][0]
    assert str(tmp_path) not in text + other


def test_check_writes_nothing(source, data_dir, cli):
    code, stdout, _ = cli("prepare", "gopro", f"--source={source}", "--check")
    assert code == 0
    assert "Splits: train 4, validation 4, test 2" in stdout
    assert not data_dir.exists()


def test_incomplete_is_shown_then_refused_unless_allowed(tmp_path, data_dir, cli):
    files = {name: contents for name, contents in downloads.gopro_files().items() if not name.startswith("train/B")}
    arguments = ["prepare", "gopro", f"--source={downloads.write_folder(tmp_path / 'mine', files)}"]
    for more in ([], ["--check"]):
        result = cli(*arguments, *more)
        _refused(result, "mine is not the complete gopro/linear: train: 6 of 8 pairs (and 1 more, see above)", "--allow-incomplete")
        assert "train  3 of 4  6 of 8" in result[1]
    assert not data_dir.exists()
    assert cli(*arguments, "--allow-incomplete")[0] == 0
    metadata = open_prepared("gopro:train").metadata
    assert metadata["complete"] is False
    assert metadata["problems"] == ["train: 6 of 8 pairs", "train: 3 of 4 scenes"]


def test_a_part_of_which_nothing_is_there_is_no_split(tmp_path, data_dir, cli):
    files = {name: contents for name, contents in downloads.gopro_files().items() if name.startswith("test")}
    assert cli("prepare", "gopro", "--allow-incomplete", f"--source={downloads.write_folder(tmp_path / 'mine', files)}")[0] == 0
    assert list(open_prepared("gopro").metadata["splits"]) == ["test"]


@pytest.mark.parametrize("suffix", ["PNG", "JPEG"])  # a WebP cut short does not open at all: the survey finds it
def test_an_image_cut_short_is_found_before_it_is_stored(tmp_path, data_dir, cli, suffix):
    """Its header is whole."""
    whole = downloads.image("whole", size=(64, 64), suffix=suffix)
    files = {f"{side}/{name}.{suffix.lower()}": whole for side in ("blur", "sharp") for name in "abc"}
    files[f"sharp/b.{suffix.lower()}"] = whole[: len(whole) * 2 // 3]
    arguments = ["prepare", "pairs", "--name=mine", f"--source={downloads.write_folder(tmp_path / 'mine', files)}"]
    _refused(cli(*arguments), f"'mine/sharp/b.{suffix.lower()}' is damaged or cut short")
    assert list_prepared(data_dir) == []
    assert _left(data_dir) == []
    code, stdout, _ = cli(*arguments, "--allow-incomplete")
    assert code == 0
    assert f"Left out, damaged: 1 ('mine/sharp/b.{suffix.lower()}' is damaged" in stdout
    opened = open_prepared("deblurring_pairs/mine")
    assert [pair.name for pair in opened.pairs] == ["a", "c"]
    assert opened.metadata["complete"] is False
    assert len(opened.metadata["splits"]["train"]["damaged"]) == 1
    assert "already exists" in cli(*arguments, "--allow-incomplete")[1]


def test_a_png_with_one_wrong_byte_is_found(tmp_path, data_dir, cli):
    files = downloads.images("blur/a.png", "sharp/a.png")
    middle = len(files["sharp/a.png"]) // 2
    files["sharp/a.png"] = files["sharp/a.png"][:middle] + bytes([files["sharp/a.png"][middle] ^ 1]) + files["sharp/a.png"][middle + 1 :]
    source = downloads.write_folder(tmp_path / "mine", files)
    _refused(cli("prepare", "pairs", "--name=mine", f"--source={source}"), "'mine/sharp/a.png' is damaged")


def test_again_is_said_and_changes_nothing(source, data_dir, cli):
    arguments = ["prepare", "gopro", f"--source={source}"]
    cli(*arguments)
    before = {path: path.stat().st_mtime_ns for path in data_dir.rglob("*") if path.is_file()}
    code, stdout, _ = cli(*arguments)
    assert code == 0
    assert f"gopro/linear already exists: {data_dir / 'gopro/linear/1.0.0'}" in stdout
    assert {path: path.stat().st_mtime_ns for path in data_dir.rglob("*") if path.is_file()} == before


def test_other_examples_replace_what_is_there_only_when_asked(source, data_dir, cli):
    arguments = ["prepare", "gopro", f"--source={source}"]
    cli(*arguments)
    _refused(cli(*arguments, "--validation-scenes=A"), "contains different examples (train: 4, here 6)", "--overwrite")
    assert len(open_prepared("gopro:validation").pairs) == 4
    assert cli(*arguments, "--validation-scenes=A", "--overwrite")[0] == 0
    assert [pair.name for pair in open_prepared("gopro:validation").pairs] == ["A/000000", "A/000001"]
    assert _left(data_dir) == []
    assert cli(*arguments, "--validation-scenes=", "--overwrite")[0] == 0
    assert "validation" not in open_prepared("gopro:train").metadata["splits"]


def test_an_overwrite_that_fails_leaves_the_old_one(tmp_path, data_dir, cli):
    files = downloads.images("blur/a.png", "sharp/a.png", "blur/b.png", "sharp/b.png")
    source = downloads.write_folder(tmp_path / "mine", files)
    arguments = ["prepare", "pairs", "--name=mine", f"--source={source}"]
    cli(*arguments)
    before = open_prepared("deblurring_pairs").pairs[1].sharp.read_bytes()
    (source / "sharp/b.png").write_bytes(before[:-30])
    _refused(cli(*arguments, "--overwrite"), "'mine/sharp/b.png' is damaged")
    assert open_prepared("deblurring_pairs").pairs[1].sharp.read_bytes() == before
    (source / "sharp/b.png").write_bytes(downloads.image("new"))
    assert cli(*arguments, "--overwrite")[0] == 0
    assert open_prepared("deblurring_pairs").pairs[1].sharp.read_bytes() == downloads.image("new")
    assert _left(data_dir) == []


@pytest.mark.parametrize("rename", [1, 2])
def test_an_overwrite_stopped_at_one_of_its_renames_loses_nothing(source, data_dir, cli, monkeypatch, rename):
    arguments, calls, replace = ["prepare", "gopro", f"--source={source}"], [], os.replace
    cli(*arguments)

    def stopping(*paths):
        calls.append(paths)
        if len(calls) == rename:
            raise KeyboardInterrupt
        replace(*paths)

    with monkeypatch.context() as patched:
        patched.setattr(prepare.os, "replace", stopping)
        assert cli(*arguments, "--overwrite", "--validation-scenes=A")[0] == 130
    assert "already exists" in cli(*arguments)[1]
    assert len(open_prepared("gopro:train").pairs) == 4
    assert _left(data_dir) == []


KILLED = """
import sys, time
from pathlib import Path
from drsn_jax.cli.main import main
from drsn_jax.data.prepared import builders

calls, check = [], builders.check_whole

def stopping(contents, *, name):
    calls.append(name)
    if len(calls) == 9:
        Path(sys.argv[1]).touch()
        time.sleep(300)
    check(contents, name=name)

builders.check_whole = stopping
main(sys.argv[2:])
"""


@pytest.mark.parametrize("overwrite", [False, True])
def test_killed_in_the_middle_is_never_taken_for_whole(tmp_path, source, data_dir, cli, overwrite):
    arguments = ["prepare", "gopro", f"--source={source}", "--allow-incomplete", *(["--overwrite"] if overwrite else [])]
    if overwrite:
        cli(*arguments, "--validation-scenes=A")
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path / "there"), *arguments], stdout=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while not (tmp_path / "there").exists() and time.monotonic() < end and process.poll() is None:
        time.sleep(0.02)
    _refused(cli(*arguments), " is preparing gopro/linear there")
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert _left(data_dir), "the test killed too late"
    if overwrite:
        assert [pair.name for pair in open_prepared("gopro:validation").pairs] == ["A/000000", "A/000001"]
    else:
        with pytest.raises(InputError, match="not prepared"):
            open_prepared("gopro")
    code, stdout, _ = cli(*arguments)
    assert code == 0
    assert "Removed what 1 interrupted preparation had left" in stdout
    assert len(open_prepared("gopro:validation").pairs) == 4
    assert _left(data_dir) == []


def test_no_room_is_said_before_anything_is_written(source, data_dir, cli, monkeypatch):
    data_dir.mkdir()
    monkeypatch.setattr(prepare.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    _refused(cli("prepare", "gopro", f"--source={source}"), "0.0 GB left", "--data-dir")
    assert _left(data_dir) == []


def test_mistakes_on_the_command_line(tmp_path, source, cli):
    _refused(cli("prepare", "gopro", "--source=nowhere.zip"), "nowhere.zip does not exist")
    _refused(cli("prepare", "realblur", f"--source={source}"), "--variant")
    _refused(cli("prepare", "lai", f"--source={source}", "--part=best"), "'best'", "uniform")
    _refused(cli("prepare", "pairs", f"--source={source}", "--name=../x"), "--name=../x cannot name a data set")
    _refused(cli("prepare", "gopro", f"--source={source}", "--validation-scenes=Z"), "No training scene starts with 'Z'")
    _refused(cli("prepare", "gopro", f"--source={downloads.write_zip(tmp_path / 'e.zip', {})}"), "e.zip contains nothing of gopro/linear")
    _refused(cli("prepare", "nonsense", f"--source={source}"), "nonsense")


def test_tfds_itself_prepares_from_a_manual_dir(tmp_path, source):
    import drsn_jax.data.prepared.builders

    for title in VERBS:
        if not title.startswith("deblurring_pairs"):
            assert tfds.builder(title, data_dir=tmp_path / "tfds").info.full_name == f"{title}/1.0.0"
    builder = tfds.builder("gopro/linear", data_dir=tmp_path / "tfds")
    assert builder.info.citation.startswith("@inproceedings{nah2017deep")
    config = tfds.download.DownloadConfig(manual_dir=source.parent)
    builder.download_and_prepare(download_config=config)
    assert [pair.name for pair in open_prepared("gopro:test", data_dir=tmp_path / "tfds").pairs] == ["T/000000", "T/000001"]
    assert issubclass(drsn_jax.data.prepared.builders.Gopro, tfds.core.DatasetBuilder)


def test_shards_are_cut_by_size_and_keep_the_order(source, data_dir, monkeypatch):
    from drsn_jax.data.prepared import builders

    monkeypatch.setattr(builders, "SHARD_BYTES", 13000)  # a pair has about 6,000
    done = prepare_dataset("gopro", source=source, variant="linear", data_dir=data_dir, validation_scenes=(), say_fn=len)
    assert done is not None
    shards = sorted(done.folder.glob("*train*"))
    assert len(shards) == 4
    files, pairs = downloads.gopro_files(), open_prepared("gopro:train", data_dir=data_dir).pairs
    assert [pair.sharp.read_bytes() for pair in pairs] == [
        files[f"train/{pair.name.split('/')[0]}/sharp/{pair.name.split('/')[1]}.png"] for pair in pairs
    ]


def test_without_array_record_it_says_what_to_install(source, data_dir, cli, monkeypatch):
    monkeypatch.setitem(sys.modules, "array_record.python.array_record_data_source", None)
    _refused(cli("prepare", "gopro", f"--source={source}"), "array_record", "pip install 'drsn-jax[data]'")


def test_no_tensorflow_is_needed_and_no_bars_are_drawn(source, tmp_path):
    code = f"""
import sys
from drsn_jax.cli.main import main
assert main(["prepare", "gopro", "--source={source}", "--data-dir={tmp_path / "tfds"}", "--allow-incomplete"]) == 0
from pathlib import Path
from drsn_jax.data.prepared.stored import open_prepared
from drsn_jax.data.pairs.folders import read_rgb
assert read_rgb(open_prepared("gopro:test", data_dir=Path({str(tmp_path / "tfds")!r})).pairs[0].sharp).shape == (24, 40, 3)
print([name for name in ("tensorflow", "jax") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "[]"


def _pairs(tmp_path, names="ab"):
    """Make a folder of pairs, and the verb that prepares it."""
    source = downloads.write_folder(
        tmp_path / "mine", downloads.images(*(f"{side}/{name}.png" for side in ("blur", "sharp") for name in names))
    )
    return source, ["prepare", "pairs", "--name=mine", f"--source={source}"]


def _flip(path):
    """One byte changes, where it makes no difference to whether the file is whole: the metadata of a PNG keep their length."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    for comment in "ab":
        info = PngInfo()
        info.add_text("comment", comment)
        with Image.open(path) as image:
            image.load()
        image.save(path, pnginfo=info)
        yield path.stat().st_size


@pytest.mark.parametrize("archive", [False, True])
def test_other_pixels_under_the_same_names_are_noticed(tmp_path, data_dir, cli, archive):
    source, arguments = _pairs(tmp_path)
    change = _flip(source / "sharp/b.png")

    def offer():
        if archive:
            files = {path.relative_to(source).as_posix(): path.read_bytes() for path in source.rglob("*.png")}
            arguments[-1] = f"--source={downloads.write_zip(tmp_path / 'mine.zip', files)}"
        return cli(*arguments)

    size = next(change)
    assert offer()[0] == 0
    assert "already exists" in offer()[1]
    before = open_prepared("deblurring_pairs").pairs[1].sharp.read_bytes()
    assert next(change) == size, "the sizes alone would tell"
    _refused(offer(), "contains different examples (train: b differs)", "--overwrite")
    (source / "sharp/b.png").write_bytes(downloads.image("new") + b"\0")
    _refused(offer(), "(train: b has a different size)", "--overwrite")
    assert open_prepared("deblurring_pairs").pairs[1].sharp.read_bytes() == before


def test_the_same_files_in_an_archive_and_in_a_folder_are_the_same(tmp_path, data_dir, cli):
    source, arguments = _pairs(tmp_path)
    assert cli(*arguments)[0] == 0
    files = {path.relative_to(source).as_posix(): path.read_bytes() for path in source.rglob("*.png")}
    assert "already exists" in cli(*arguments[:-1], f"--source={downloads.write_zip(tmp_path / 'x.zip', files)}")[1]


def test_a_split_that_the_source_has_no_more_is_noticed(tmp_path, data_dir, cli):
    files = downloads.images(*(f"{split}/{side}/a.png" for split in ("train", "test") for side in ("blur", "sharp")))
    source = downloads.write_folder(tmp_path / "mine", files)
    arguments = ["prepare", "pairs", "--name=mine", f"--source={source}"]
    assert cli(*arguments)[0] == 0
    for side in ("blur", "sharp"):
        (source / f"test/{side}/a.png").unlink()
    _refused(cli(*arguments), "contains different examples (test: 1, here 0)", "--overwrite")


def test_a_damaged_image_that_was_mended_is_noticed(tmp_path, data_dir, cli):
    source, arguments = _pairs(tmp_path)
    whole = (source / "sharp/b.png").read_bytes()
    (source / "sharp/b.png").write_bytes(whole[:-40] + b"\0" * 40)
    assert cli(*arguments, "--allow-incomplete")[0] == 0
    assert "already exists" in cli(*arguments, "--allow-incomplete")[1]
    (source / "sharp/b.png").write_bytes(whole)
    _refused(cli(*arguments, "--allow-incomplete"), "(train: b differs)", "--overwrite")


@pytest.mark.parametrize("contents", ["{", "{}", '{"splits": {"train": {"names": ["a", "b"]}}}'])
def test_what_is_there_but_says_nothing_of_its_files_is_replaced_only_when_asked(tmp_path, data_dir, cli, contents):
    _, arguments = _pairs(tmp_path)
    cli(*arguments)
    (data_dir / "deblurring_pairs/mine/1.0.0/metadata.json").write_text(contents)
    _refused(cli(*arguments), "--overwrite")
    assert cli(*arguments, "--overwrite")[0] == 0


@pytest.mark.parametrize("below", [".", "x", "x/y"])
def test_a_file_where_the_data_sets_are_to_be_kept(tmp_path, cli, below):
    _, arguments = _pairs(tmp_path)
    (tmp_path / "afile").write_text("mine")
    _refused(cli(*arguments, f"--data-dir={tmp_path / 'afile' / below}"), "afile is a file, a folder is needed")
    assert (tmp_path / "afile").read_text() == "mine"


def test_a_failure_leaves_no_folder(tmp_path, data_dir, cli):
    source, arguments = _pairs(tmp_path)
    (source / "sharp/b.png").write_bytes((source / "sharp/b.png").read_bytes()[:-40])
    _refused(cli(*arguments), "damaged")
    assert not data_dir.exists()


def test_nothing_is_left_in_the_temporary_folder(tmp_path, data_dir, cli, monkeypatch):
    import tempfile

    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    _, arguments = _pairs(tmp_path)
    assert cli(*arguments)[0] == 0
    assert cli(*arguments, "--overwrite")[0] == 0
    assert cli(*arguments)[0] == 0
    for pair in open_prepared("deblurring_pairs").pairs:
        pair.sharp.read_bytes()
    assert list((tmp_path / "temporary").iterdir()) == []

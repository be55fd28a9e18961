"""Pairs made by a Beam pipeline on this machine are those that the same command writes as files."""

import json
import pickle
import shutil
import sys
import tempfile

import numpy as np
import pytest
import tiny
from test_averaging import panning, texture
from test_making import prepare
from test_video import write_frames, write_video

from drsn_jax.data.images.rgb import read_rgb
from drsn_jax.data.pairs.folders import check_pairs, find_pairs
from drsn_jax.data.prepared.stored import find_pairs_or_prepared, open_prepared
from drsn_jax.system.errors import InputError
from drsn_jax.system.locks import lock_folder

pytest.importorskip("apache_beam", reason="needs Apache Beam: pip install 'drsn-jax[beam]'")
tfds = pytest.importorskip("tensorflow_datasets", reason="needs tensorflow_datasets: pip install 'drsn-jax[data]'")

BEAM = "--beam-runner=DirectRunner"


def read(data_dir, name):
    """name -> (scene, blurred, sharp), read without TensorFlow."""
    source = tfds.builder_from_directory(data_dir / name / "1.0.0").as_data_source(split="train")
    assert set(source[0]) == {"blurred", "sharp", "name", "scene"}
    return {e["name"].decode(): (e["scene"].decode(), e["blurred"], e["sharp"]) for e in source}


def assert_same_as_files(examples, output):
    pairs = find_pairs(output)
    assert sorted(examples) == [pair.name for pair in pairs]
    for pair in pairs:
        _, blurred, sharp = examples[pair.name]
        np.testing.assert_array_equal(blurred, read_rgb(pair.blurred))
        np.testing.assert_array_equal(sharp, read_rgb(pair.sharp))


@pytest.fixture
def photos(tmp_path, photograph):
    return tiny.write_photos(tmp_path / "photos", photograph)


def test_photographs(tmp_path, photos, capsys):
    command = ["photos", f"--source={photos}", "--pairs-per-photo=2", "--blur-length=1,6", "--crop=32", "--seed=7"]
    assert prepare(*command, BEAM, f"--data-dir={tmp_path / 'data'}") == 0
    assert capsys.readouterr().out == f"10 pairs in {tmp_path / 'data' / 'blurred_photos' / '1.0.0'}\n"
    assert prepare(*command, f"--output={tmp_path / 'out'}") == 0
    assert_same_as_files(read(tmp_path / "data", "blurred_photos"), tmp_path / "out")


def test_the_set_can_be_trained_on_and_evaluated_by_name(tmp_path, photos):
    command = ["photos", f"--source={photos}", "--blur-length=1,6", "--crop=32"]
    prepare(*command, BEAM, f"--data-dir={tmp_path / 'data'}")
    prepare(*command, f"--output={tmp_path / 'out'}")
    stored = find_pairs_or_prepared("blurred_photos", default_split="train", data_dir=tmp_path / "data")
    check_pairs(stored, min_size=32)
    assert stored == open_prepared("blurred_photos:train", data_dir=tmp_path / "data").pairs
    pixels = [
        {read_rgb(pair.blurred).tobytes() + read_rgb(pair.sharp).tobytes() for pair in pairs}
        for pairs in (stored, find_pairs(tmp_path / "out"))
    ]
    assert pixels[0] == pixels[1]
    assert len(pixels[0]) == 5
    with pytest.raises(InputError, match=r"drsn-jax prepare video --beam-runner"):
        open_prepared("averaged_video", data_dir=tmp_path / "data")


def test_videos_of_several_blocks_and_folders(tmp_path, rng):
    clip = write_video(tmp_path / "clip.mkv", panning(texture(rng), 120, width=120))
    folder = write_frames(tmp_path / "folder", panning(texture(rng), 30, width=120))
    command = ["video", "--source", clip, folder, "--frames=7-9", "--stride=5"]
    assert prepare(*command, BEAM, f"--data-dir={tmp_path / 'data'}") == 0
    assert prepare(*command, f"--output={tmp_path / 'out'}") == 0
    examples = read(tmp_path / "data", "averaged_video")
    assert len(examples) > 16 + 4
    assert {scene for scene, _, _ in examples.values()} == {"clip", "folder"}
    assert all(name.startswith(f"{scene}/") for name, (scene, _, _) in examples.items())
    assert_same_as_files(examples, tmp_path / "out")


def test_a_set_that_is_there_is_kept_refused_or_replaced(tmp_path, photos, capsys):
    command = ["photos", f"--source={photos}", "--blur-length=1,6", "--crop=32", BEAM, f"--data-dir={tmp_path}"]
    prepare(*command)
    folder = tmp_path / "blurred_photos" / "1.0.0"
    assert json.loads((folder / "metadata.json").read_text())["seed"] == 0
    before = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}
    prepare(*command)
    with pytest.raises(InputError, match="seed=0, now requested is seed=1"):
        prepare(*command, "--seed=1")
    bad = (photos / "3.png").read_bytes()
    (photos / "3.png").write_bytes(bad[: len(bad) // 2])
    with pytest.raises(InputError, match=r"3\.png' is damaged.*remove it\.$"):  # found by a worker, when the old set is set aside
        prepare(*command, "--seed=1", "--overwrite")
    assert {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()} == before
    (photos / "3.png").write_bytes(bad)
    prepare(*command, "--seed=1", "--overwrite")
    assert json.loads((folder / "metadata.json").read_text())["seed"] == 1
    assert [path.name for path in folder.parent.iterdir()] == ["1.0.0"]
    assert len(read(tmp_path, "blurred_photos")) == 5
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("killed", ["between the two", "before the new one"])
def test_a_run_that_was_killed_while_it_replaced_a_set(tmp_path, photos, killed):
    command = ["photos", f"--source={photos}", "--blur-length=1,6", "--crop=32", BEAM, f"--data-dir={tmp_path / 'data'}"]
    prepare(*command)
    folder = tmp_path / "data" / "blurred_photos" / "1.0.0"
    aside, left = folder.with_name("1.0.0.replaced"), folder.with_name("incomplete.ABC123_1.0.0")
    stored = open_prepared("blurred_photos", data_dir=tmp_path / "data").sha256
    folder.rename(aside)
    (aside / "old").touch()
    if killed == "between the two":
        shutil.copytree(aside, folder, ignore=lambda place, names: ["old"])
    else:
        left.mkdir()
    prepare(*command)
    assert [path.name for path in folder.parent.iterdir()] == ["1.0.0"]
    assert (folder / "old").exists() == (killed == "before the new one"), "which one is kept"
    assert open_prepared("blurred_photos", data_dir=tmp_path / "data").sha256 == stored
    with pytest.raises(InputError, match="seed=0, now requested is seed=1"):
        prepare(*command, "--seed=1")
    prepare(*command, "--seed=1", "--overwrite")
    assert [path.name for path in folder.parent.iterdir()] == ["1.0.0"]
    assert open_prepared("blurred_photos", data_dir=tmp_path / "data").sha256 != stored


def test_one_process_at_a_time_and_nothing_in_the_temporary_folder(tmp_path, photos, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    command = ["photos", f"--source={photos}", "--blur-length=1,6", "--crop=32", BEAM]
    held = lock_folder(tmp_path / "data" / "blurred_photos", doing="testing")
    with held, pytest.raises(InputError, match=r"process \d+ on .* is preparing blurred_photos"):
        prepare(*command, f"--data-dir={tmp_path / 'data'}")
    prepare(*command, f"--data-dir={tmp_path / 'data'}")
    open_prepared("blurred_photos", data_dir=tmp_path / "data").pairs[0].sharp.read_bytes()
    assert [path.name for path in (tmp_path / "temporary").iterdir()] == []
    (tmp_path / "afile").touch()
    with pytest.raises(InputError, match="afile is a file"):
        prepare(*command, f"--data-dir={tmp_path / 'afile' / 'x'}")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--beam-runner=NoSuchRunner"], "NoSuchRunner cannot be used"),
        (["--beam-runner=SparkRunner"], "would download its job server.*--spark_job_server_jar"),
        (["--beam-runner=FlinkRunner"], "--flink_job_server_jar"),
        (["--beam-runner=PrismRunner"], "--prism_location"),
        (["--beam-runner=DataflowRunner"], "project|Beam with that runner"),
        ([BEAM, "--beam-options=project=x"], "project=x is not an option"),
    ],
)
def test_mistakes(tmp_path, photos, options, says):
    with pytest.raises(InputError, match=says) as raised:
        prepare("photos", f"--source={photos}", *options, f"--data-dir={tmp_path / 'data'}")
    assert "\n" not in str(raised.value)


def test_a_missing_beam_is_named(tmp_path, photos, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "apache_beam"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(InputError, match=r"pip install 'drsn-jax\[beam\]'"):
        prepare("photos", f"--source={photos}", BEAM, f"--data-dir={tmp_path}")


def test_options_and_blocks():
    from drsn_jax.data.making.beam_pairs import blocks
    from drsn_jax.data.making.beam_runners import parse_options

    assert parse_options(["--project=p,--region=r", "--experiments=a,b"]) == ["--project=p", "--region=r", "--experiments=a,b"]
    lines = [{"scene": "ab"[i > 4], "number": i} for i in range(12)]
    assert [[line["number"] for line in block] for block in blocks(lines, size=3)] == [[0, 1, 2], [3, 4], [5, 6, 7], [8, 9, 10], [11]]


def test_what_a_worker_gets_can_be_pickled(tmp_path):
    from functools import partial

    from drsn_jax.data.making.photo_pairs import PhotoPairs, make_photo_pairs
    from drsn_jax.data.making.video import Source
    from drsn_jax.data.making.video_pairs import VideoPairs, make_video_pairs
    from drsn_jax.data.synthesis.camera_shake import BlurRecipe

    for function in (
        partial(make_photo_pairs, making=PhotoPairs(tmp_path, 1, None, BlurRecipe(), 0)),
        partial(make_video_pairs, making=VideoPairs((Source(tmp_path, "s"),))),
    ):
        assert pickle.loads(pickle.dumps(function)).func is function.func

"""The issue's table of bad input: every mistake through the command line, with one line that helps, code 2 and no traceback."""

import os
import shutil
import stat
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import jax
import pytest
import tiny
from PIL import Image

from drsn_jax.cli.main import main

BATCH = {"batch_size": 8}  # eight devices in this process


@pytest.fixture
def photos(tmp_path, photograph):
    return tiny.write_photos(tmp_path / "photos", photograph)


@pytest.fixture
def gopro(tmp_path, photograph):
    return tiny.write_gopro(tmp_path / "gopro", photograph)


@pytest.fixture
def model(tmp_path_factory, photograph):
    return tiny.trained(tmp_path_factory, photograph)


@pytest.fixture
def refused(capsys, tmp_path):
    """Run a command line that has to fail with code 2 and one line; returns the line."""

    def run(*arguments):
        assert main([str(argument) for argument in arguments]) == 2
        err = capsys.readouterr().err
        assert err.startswith("drsn-jax: ")
        assert err.count("\n") == 1, err
        assert "Traceback" not in err
        return err

    run.train = lambda workdir=tmp_path / "run", **changes: run(*tiny.train_arguments(workdir, **BATCH | changes))
    return run


def damage(path, how):
    """Make one of the table's bad files of an image."""
    if how == "truncated":
        os.truncate(path, path.stat().st_size // 2)
    elif how == "text":
        path.write_text("This is a shopping list.\n")
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "missing":
        path.unlink()
    elif how == "folder":
        path.unlink()
        path.mkdir()
    return path


DAMAGE = {"truncated": "damaged or cut short", "text": "not an image", "empty": "is empty (0 bytes)"}
LAYOUT = "<scene>/{blur,sharp}/*.png"


@pytest.mark.parametrize("data", ["pairs", "resident", "photos"])
def test_folder_that_is_missing_empty_or_a_file(data, refused, tmp_path, photos):
    expected = "--config.train_dir=DIR" if data == "photos" else LAYOUT
    message = refused.train(data=data, train_dir=tmp_path / "nowhere")
    assert str(tmp_path / "nowhere") in message
    assert expected in message
    (tmp_path / "empty").mkdir()
    message = refused.train(data=data, train_dir=tmp_path / "empty")
    assert str(tmp_path / "empty") in message
    assert (".png" if data == "photos" else LAYOUT) in message
    assert str(photos / "0.png") in refused.train(data=data, train_dir=photos / "0.png")
    message = refused.train(data=data)
    assert "--config.train_dir=DIR" in message
    assert not (tmp_path / "run").exists(), "nothing is made of what cannot begin"


@pytest.mark.parametrize("data", ["pairs", "resident"])
def test_unpaired_name(data, refused, gopro):
    (gopro / "GOPR0" / "sharp" / "000002.png").unlink()
    message = refused.train(data=data, train_dir=gopro)
    assert "1 (GOPR0/000002) of the blurred images" in message
    assert "lack a sharp image" in message
    assert "same name" in message


@pytest.mark.parametrize("data", ["pairs", "resident"])
def test_pair_of_unequal_size(data, refused, gopro):
    path = gopro / "GOPR0" / "sharp" / "000002.png"
    Image.open(path).resize((40, 40)).save(path)
    message = refused.train(data=data, train_dir=gopro)
    for part in (str(path), str(gopro / "GOPR0" / "blur" / "000002.png"), "48x64", "40x40", "give both one size"):
        assert part in message


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize("data", ["photos", "resident", "pairs"])
def test_damaged_training_image(data, how, refused, photos, gopro, tmp_path):
    path = damage(photos / "2.png" if data == "photos" else gopro / "GOPR0" / "sharp" / "000002.png", how)
    if (data, how) == ("pairs", "truncated"):  # found when its turn comes, which takes as much as training does
        done = tiny.command(*tiny.train_arguments(tmp_path / "run", data=data, train_dir=gopro))
        assert done.returncode == 2
        [message] = [line for line in done.stderr.splitlines() if line.startswith("drsn-jax: ")]
        assert "Traceback" not in done.stderr
    else:
        message = refused.train(data=data, train_dir=photos if data == "photos" else gopro)
    assert str(path) in message
    assert DAMAGE[how] in message
    assert ("give one of JPEG" if how == "text" else "remove it") in message


@pytest.mark.parametrize("how", DAMAGE)
def test_damaged_image_to_evaluate_on(how, refused, model, gopro, tmp_path):
    path = damage(gopro / "GOPR0" / "blur" / "000002.png", how)
    message = refused("evaluate", f"--model={model}", f"--blurred={gopro}", f"--sharp={gopro}", f"--output={tmp_path / 'report'}")
    assert str(path) in message
    assert DAMAGE[how] in message
    assert not (tmp_path / "report" / "metrics.json").exists()


@pytest.mark.parametrize(
    ("how", "words"),
    [("truncated", "cut short"), ("text", "is not an image"), ("empty", "is empty (0 bytes)"), ("missing", "does not exist")],
)
def test_damaged_image_to_restore(how, words, model, photos, tmp_path, capsys):
    path = damage(photos / "2.png", how)
    inputs = [path, photos / "1.png"]
    assert main(["restore", f"--model={model}", f"--output={tmp_path / 'out'}", *map(str, inputs)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3, "the other one is done"
    assert lines[2] == "drsn-jax: 1 of 2 were not restored; their lines above say why."
    [message] = [line for line in lines if str(path) in line]
    assert words in message
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["1.png"]


@pytest.mark.parametrize("data", ["photos", "resident", "pairs"])
def test_image_smaller_than_the_crop(data, refused, photos, gopro):
    path = photos / "3.png" if data == "photos" else gopro / "GOPR1" / "blur" / "000003.png"
    for side in [path] if data == "photos" else [path, gopro / "GOPR1" / "sharp" / "000003.png"]:
        Image.open(side).crop((0, 0, 24, 40)).save(side)
    message = refused.train(data=data, train_dir=photos if data == "photos" else gopro)
    assert ("3.png" if data == "photos" else "GOPR1") in message
    assert "32" in message
    assert "--config.crop_size" in message


def test_half_crop_needs_twice_the_crop(refused, gopro):
    message = refused.train(data="pairs", train_dir=gopro, frame="half_crop")
    assert "48x64" in message
    assert "at least 64x64" in message


@contextmanager
def nobody():
    """Test as a user without root's rights, because root may write files in spite of their permissions."""
    if os.getuid() != 0:
        yield
        return
    os.setresuid(65534, 65534, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


@pytest.fixture
def closed():
    """Make a folder that may be read but not written, inside one that every user may enter."""
    folder = Path(tempfile.mkdtemp(prefix="drsn_jax_test_"))
    folder.chmod(0o755)
    (folder / "closed").mkdir()
    (folder / "closed").chmod(stat.S_IRUSR | stat.S_IXUSR | stat.S_IROTH | stat.S_IXOTH)
    yield folder
    (folder / "closed").chmod(0o755)
    shutil.rmtree(folder)


@pytest.mark.parametrize("workdir", ["closed", "closed/new"])
def test_workdir_without_permission_to_write(workdir, refused, closed, photograph):
    gopro = tiny.write_gopro(closed / "gopro", photograph)
    with nobody():
        message = refused.train(closed / workdir, data="resident", train_dir=gopro)
    assert f"--workdir={closed / workdir} cannot be written (Permission denied)" in message
    assert list((closed / "closed").iterdir()) == []


def test_output_without_permission_to_write(refused, closed, model, photograph, capsys):
    shutil.copytree(model, closed / "model")
    photos, gopro = tiny.write_photos(closed / "photos", photograph), tiny.write_gopro(closed / "gopro", photograph)
    with nobody():
        message = refused(
            "evaluate", f"--model={closed / 'model'}", f"--blurred={gopro}", f"--sharp={gopro}", f"--output={closed / 'closed'}"
        )
        assert "Permission denied" in message
        assert str(closed / "closed") in message
        assert main(["restore", f"--model={closed / 'model'}", f"--output={closed / 'closed'}", str(photos / "0.png")]) == 2
    err = capsys.readouterr().err
    assert "ermission" in err
    assert "choose another --output" in err
    assert err.count("\n") == 1
    assert list((closed / "closed").iterdir()) == []


def test_images_without_permission_to_read(refused, closed, photograph):
    gopro = tiny.write_gopro(closed / "gopro", photograph)
    path = gopro / "GOPR0" / "blur" / "000002.png"
    path.chmod(0)
    with nobody():
        message = refused.train(closed / "run", data="resident", train_dir=gopro)
    assert str(path) in message
    assert "permission" in message


def test_workdir_that_is_a_file(refused, gopro, tmp_path):
    (tmp_path / "file").write_text("")
    message = refused.train(tmp_path / "file", data="resident", train_dir=gopro)
    assert f"--workdir={tmp_path / 'file'} is a file; choose a folder." in message
    message = refused.train(tmp_path / "file" / "below", data="resident", train_dir=gopro)
    assert "cannot be written (Not a directory)" in message


def test_batch_that_does_not_divide_over_the_devices(refused, gopro):
    message = refused.train(data="resident", train_dir=gopro, batch_size=12)
    assert "Batch size 12 does not divide over 8 devices; use a multiple of 8 (--config.batch_size=16, or in --config.stages)." in message


def test_configuration(refused, gopro):
    assert "did you mean learning_rate?" in refused.train(learning_rat=1)
    assert "content_weight=-1.0 is negative; use 0 or more" in refused.train(content_weight=-1)
    message = refused.train(data="resident", train_dir=gopro, adversarial_weight=0, pixel_weight=0, frequency_weight=0)
    assert "there is nothing to learn" in message
    message = refused.train(data="resident", train_dir=gopro, crop_size=30)
    assert "Crops of 30" in message
    assert "multiple of 4, as 32 (crop_size or stages)" in message
    message = refused.train(data="resident", train_dir=gopro, critic_norm="batch")
    assert "gradient_penalty" in message
    assert "--config.critic_norm=none" in message
    message = refused.train(data="resident", train_dir=gopro, critic_update="alternating")
    assert "--config.critic_update=joint" in message


def test_thresholds_by_batch_norm_of_one_image(gopro, tmp_path):
    """A batch of 1 does not divide over the eight devices here, so this is a process of its own, with one."""
    done = tiny.command(*tiny.train_arguments(tmp_path / "run", data="resident", train_dir=gopro, batch_size=1, threshold_norm="batch"))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr
    assert "one image has no variance" in done.stderr
    assert "--config.batch_size=2 or more, or --config.threshold_norm=none" in done.stderr
    assert not (tmp_path / "run").exists()


def test_dense_critic_with_growing_crops(refused, gopro, tmp_path):
    changes = {"data": "resident", "train_dir": gopro, "critic": "dense", "stages": "((0,32,8),(3,48,8))"}
    arguments = [a for a in tiny.train_arguments(tmp_path / "run", **changes) if not a.startswith(("--config.crop", "--config.batch_size"))]
    message = refused(*arguments)
    assert "dense critic is bound to one crop size" in message
    assert "--config.critic=patch" in message


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        ("conv4_1", ["up to conv3_3, not conv4_1", "--config.content_layer=conv3_3", "--config.vgg19=FILE"]),
        ("conv9_9", ["'conv9_9'", "conv5_4"]),
    ],
)
def test_content_layer_that_is_not_there(layer, words, refused, gopro):
    message = refused.train(data="resident", train_dir=gopro, content_weight=1, content_layer=layer)
    assert all(word in message for word in words), message


def test_file_of_vgg19_weights_that_is_none(refused, gopro, tmp_path):
    common = {"data": "resident", "train_dir": gopro, "content_weight": 1}
    assert "nowhere.npz" in refused.train(vgg19=tmp_path / "nowhere.npz", **common)
    assert "000000.png" in refused.train(vgg19=gopro / "GOPR0" / "blur" / "000000.png", **common)


def test_demo_without_its_packages(refused, tmp_path, monkeypatch):
    for package in ("skimage", "sklearn"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, package, None)
            message = refused("train", "--config=demo", f"--workdir={tmp_path / 'run'}", "--config.batch_size=8")
        assert package in message
        assert "pip install 'drsn-jax[demo]'" in message


def test_photographs_too_few_to_hold_any_out(refused, photos):
    for path in sorted(photos.iterdir())[1:]:
        path.unlink()
    assert "--config.eval_dir" in refused.train(data="photos", train_dir=photos)


def test_validation_folder(refused, photos, gopro, tmp_path):
    for data in ("photos", "resident", "pairs"):
        message = refused.train(data=data, train_dir=photos if data == "photos" else gopro, eval_dir=tmp_path / "nowhere")
        assert str(tmp_path / "nowhere") in message
    assert "not laid out as pairs" in refused.train(data="photos", train_dir=photos, eval_dir=photos)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--protocol=quarter"], ["'quarter'", "full, half, resize256"]),
        (["--noise-variance=-0.001"], ["-0.001", "0 for none"]),
        (["--noise-variance=nan"], ["nan"]),
        (["--panels=-1"], ["-1 panels"]),
        (["--tile=30"], ["multiple of the network's stride 8", "--tile=32"]),
        (["--overlap=1280"], ["Overlap 1280", "--overlap=106"]),
    ],
)
def test_evaluate_options(options, words, refused, model, gopro, tmp_path):
    message = refused("evaluate", f"--model={model}", f"--blurred={gopro}", f"--sharp={gopro}", f"--output={tmp_path / 'report'}", *options)
    assert all(word in message for word in words), message
    assert not (tmp_path / "report").exists()


def test_evaluate_folders(refused, model, gopro, photos, tmp_path):
    def run(blurred, sharp, output=tmp_path / "report"):
        return refused("evaluate", f"--model={model}", f"--blurred={blurred}", f"--sharp={sharp}", f"--output={output}")

    (tmp_path / "empty").mkdir()
    assert "nowhere does not exist" in run(tmp_path / "nowhere", gopro)
    assert "No image found" in run(tmp_path / "empty", gopro)
    assert "lack a sharp image" in run(photos, gopro)
    assert str(photos / "0.png") in run(gopro, gopro, output=photos / "0.png")


@pytest.mark.parametrize("verb", ["evaluate", "restore", "info"])
def test_model_that_is_none(verb, refused, gopro, photos, tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    rest = {
        "evaluate": [f"--blurred={gopro}", f"--sharp={gopro}", f"--output={tmp_path / 'out'}"],
        "restore": [photos, f"--output={tmp_path / 'out'}"],
        "info": [],
    }[verb]
    message = refused(verb, f"--model={tmp_path / 'nowhere'}", *rest)
    assert f"There is no {tmp_path / 'nowhere'}" in message
    assert "--workdir" in message
    for path in (tmp_path / "run", photos):
        assert f"{path} holds no checkpoint" in refused(verb, f"--model={path}", *rest)
    said = "holds no checkpoint" if verb == "info" else "is not an export of drsn-jax"
    assert f"{photos / '0.png'} {said}" in refused(verb, f"--model={photos / '0.png'}", *rest)
    assert not (tmp_path / "out").exists()


def test_checkpoint_with_files_missing(refused, model, photos, tmp_path):
    for missing in ("config", "state"):
        copy = shutil.copytree(model, tmp_path / missing)
        shutil.rmtree(copy / "checkpoints" / "2" / missing)
        message = refused("restore", f"--model={copy}", photos, f"--output={tmp_path / 'out'}")
        assert str(copy / "checkpoints" / "2") in message
        assert "not a readable checkpoint" in message


def test_restore_options(refused, model, photos, tmp_path):
    def run(*rest):
        return refused("restore", f"--model={model}", *rest)

    (tmp_path / "empty").mkdir()
    assert "holds no images" in run(tmp_path / "empty", f"--output={tmp_path / 'out'}")
    assert "'raw' is not known" in run(photos, f"--output={tmp_path / 'out'}", "--output-format=raw")
    message = run(photos / "0.png", f"--output={tmp_path / 'out.jpg'}", "--output-format=png")
    assert "--output-format png contradict" in message
    assert "--tile=32" in run(photos, f"--output={tmp_path / 'out'}", "--tile=30")
    assert not (tmp_path / "out").exists()


def test_restored_files_are_never_replaced_unasked(model, photos, tmp_path, capsys):
    out, path = tmp_path / "out", photos / "0.png"
    assert main(["restore", f"--model={model}", f"--output={out}", str(path)]) == 0
    before = (out / "0.png").read_bytes()
    assert main(["restore", f"--model={model}", f"--output={out}", str(path)]) == 2
    assert "already exists" in capsys.readouterr().err
    assert (out / "0.png").read_bytes() == before
    assert main(["restore", f"--model={model}", f"--output={out}", "--overwrite", str(path)]) == 0


def test_frame_and_cache_where_they_do_nothing(refused, photos):
    assert "frame=resize is for pairs" in refused.train(data="photos", train_dir=photos, frame="resize")
    assert "cache=True is for data=pairs" in refused.train(data="photos", train_dir=photos, cache=True)


def test_pairs_that_do_not_fit_into_memory(refused, gopro, monkeypatch):
    monkeypatch.setattr("drsn_jax.run.images.fitted_size", lambda size, **fit: (20_000, 20_000))
    monkeypatch.setattr("drsn_jax.run.images.fit_frame", lambda *a, **k: pytest.fail("decoded before it was refused"))
    monkeypatch.setattr("drsn_jax.data.synthesis.bank.half_of_memory", lambda: 8 * 10**9)
    message = refused.train(data="resident", train_dir=gopro)
    assert "2000 megapixels take 12 GB, and half of this machine's memory is 8 GB" in message


def test_somebody_elses_report_is_not_written_over(refused, model, gopro, tmp_path):
    output = tmp_path / "report"
    output.mkdir()
    (output / "report.md").write_text("# Mine\n")
    arguments = ("evaluate", f"--model={model}", f"--blurred={gopro}", f"--sharp={gopro}", f"--output={output}")
    assert "already holds a report.md" in refused(*arguments)
    assert (output / "report.md").read_text() == "# Mine\n"


def test_out_of_device_memory_is_one_line(refused, monkeypatch, photos):
    def full(*_, **__):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 99 bytes")

    monkeypatch.setattr("drsn_jax.run.loop.train_and_evaluate", full)
    assert "the device is out of memory; use a smaller batch_size" in refused.train(data="photos", train_dir=photos)

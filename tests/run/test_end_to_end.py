"""From folders of images to figures and restored photographs, as a user goes: train, evaluate, restore, on both data paths."""

import csv
import importlib.util
import json

import numpy as np
import pytest
import tiny
from PIL import Image

from drsn_jax.cli.main import main
from drsn_jax.system.panels import make_panel


@pytest.fixture(scope="module")
def gopro(tmp_path_factory, photograph):
    return tiny.write_gopro(tmp_path_factory.mktemp("data") / "gopro", photograph)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, gopro):
    """data -> (workdir, what was printed) of a training on the pairs, made once."""
    made = {}

    def get(data):
        if data not in made:
            workdir = tmp_path_factory.mktemp("runs") / data
            changes = {"data": data, "train_dir": gopro, "eval_dir": gopro, "eval_images": 2, "sample_images": 2}
            changes |= tiny.UNET | {"cache": True} if data == "pairs" else {}
            made[data] = workdir, tiny.train(workdir, **changes, tensorboard=data == "pairs").stdout
        return made[data]

    return get


def load(path):
    return np.asarray(Image.open(path).convert("RGB"))


def psnr(first, second):
    return 20 * np.log10(255 / np.sqrt(np.mean((first.astype(np.float64) - second) ** 2)))


@pytest.mark.parametrize("data", ["pairs", "resident"])
def test_train_evaluate_restore(data, runs, gopro, tmp_path, capsys):
    workdir, out = runs(data)
    assert "Training on 5 pairs" in out
    assert ("through tf.data" if data == "pairs" else "held on the device") in out
    assert "step 6/6  loss " in out
    assert "waiting " in out
    assert f"Done: 6 steps, in {workdir}" in out

    assert main(["evaluate", f"--model={workdir}", f"--blurred={gopro}", f"--sharp={gopro}", f"--output={tmp_path / 'report'}"]) == 0
    summary = json.loads((tmp_path / "report" / "metrics.json").read_text())
    pairs = sorted(gopro.glob("*/blur/*.png"))
    expected = [psnr(load(path), load(path.parent.parent / "sharp" / path.name)) for path in pairs]
    assert summary["images"] == len(pairs) == 5
    assert summary["input"]["psnr"] == pytest.approx(np.mean(expected), abs=1e-3)
    assert summary["restored"]["psnr"] == pytest.approx(summary["input"]["psnr"] + summary["gain"]["psnr"])
    assert summary["gain"]["psnr"] != 0, "the network does something"
    assert summary["model"]["step"] == 6
    assert summary["model"]["path"] == str(workdir)
    assert f"{summary['restored']['psnr']:.2f}" in capsys.readouterr().out

    photos = tmp_path / "photos"
    photos.mkdir()
    Image.open(pairs[0]).save(photos / "a.jpg", quality=95)
    Image.open(pairs[1]).save(photos / "b.png")
    (photos / "c.png").write_bytes(b"no image at all")
    assert main(["restore", f"--model={workdir}", f"--output={tmp_path / 'out'}", str(photos)]) == 2
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.jpg", "b.png"]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert "c.png' is not an image" in lines[2]
    assert "1 of 3 were not restored" in lines[3]
    restored = load(tmp_path / "out" / "b.png")
    assert restored.shape == load(pairs[1]).shape
    rows = {row["name"]: row for row in csv.DictReader((tmp_path / "report" / "per_image.csv").open(newline=""))}
    scene = pairs[1].parent.parent
    row = rows[f"{scene.name}/{pairs[1].stem}"]
    assert float(row["restored_psnr"]) == pytest.approx(psnr(restored, load(scene / "sharp" / pairs[1].name)), abs=1e-3)


def test_validation_while_training_is_what_evaluate_says(runs, gopro, tmp_path):
    """Two of the five pairs, the first and the last by name, without noise and with."""
    workdir, out = runs("resident")
    [line] = [line for line in tiny.read_metrics(workdir) if "eval/psnr" in line]
    for kind in ("blur", "sharp"):
        (tmp_path / kind).mkdir()
    for i, (scene, name) in enumerate([("GOPR0", "000000"), ("GOPR1", "000003")]):
        for kind in ("blur", "sharp"):
            (tmp_path / kind / f"{i}.png").write_bytes((gopro / scene / kind / f"{name}.png").read_bytes())
    for variance, prefix in ((0.0, "eval/"), (0.001, "eval/noise_0.001/")):
        report = tmp_path / f"report{variance}"
        arguments = [f"--blurred={tmp_path / 'blur'}", f"--sharp={tmp_path / 'sharp'}", f"--noise-variance={variance}"]
        assert main(["evaluate", f"--model={workdir}", f"--output={report}", *arguments]) == 0
        summary = json.loads((report / "metrics.json").read_text())
        assert line[f"{prefix}psnr"] == pytest.approx(summary["restored"]["psnr"], abs=0.01)
        assert line[f"{prefix}psnr_input"] == pytest.approx(summary["input"]["psnr"], abs=1e-4)
        assert line[f"{prefix}ssim_gaussian"] == pytest.approx(summary["restored"]["ssim_gaussian"], abs=1e-3)
    assert "2 validation images, full protocol" in out


@pytest.mark.parametrize("data", ["pairs", "resident"])
def test_samples_are_drawn(data, runs):
    workdir, _ = runs(data)
    [path] = (workdir / "samples").iterdir()
    assert path.name == "step_00000006.png"
    image = np.zeros((tiny.SIZE[1], tiny.SIZE[0], 3), np.uint8)
    panel = make_panel([image] * 3, labels=["blurred 00.00 dB", "restored 00.00 dB", "sharp"], zoom_box="auto")
    height, width = load(path).shape[:2]
    assert (height, width) == (4 * panel.shape[0], panel.shape[1]), "two photographs, each without and with noise"


def test_what_a_workdir_holds(runs):
    for data in ("pairs", "resident"):
        workdir, _ = runs(data)
        names = {path.name for path in workdir.iterdir() if not path.name.startswith("events.out")}
        assert names == {"checkpoints", "config.json", "metrics.jsonl", "samples"}
        for step, figures in tiny.losses(workdir).items():
            assert {"generator/loss", "generator/pixel", "critic/distance", "critic/grad_norm", "learning_rate"} <= set(figures), step


@pytest.mark.skipif(not importlib.util.find_spec("clu"), reason="clu is not installed")
def test_tensorboard_has_scalars_and_pictures(runs):
    workdir, out = runs("pairs")
    assert "TensorBoard: off" not in out
    [events] = workdir.glob("events.out.tfevents*")
    from tensorflow.core.util import event_pb2
    from tensorflow.data import TFRecordDataset

    tags = set()
    for record in TFRecordDataset(str(events)).as_numpy_iterator():
        tags |= {value.tag for value in event_pb2.Event.FromString(record).summary.value}
    assert {"generator/loss", "eval/psnr", "waiting_share"} <= tags
    assert any(tag.startswith("samples") for tag in tags)
    assert not list(runs("resident")[0].glob("events.out.tfevents*")), "tensorboard=False"


def test_cached_pairs_wait_for_little(runs):
    shares = {line["step"]: line["waiting_share"] for line in tiny.read_metrics(runs("pairs")[0]) if "waiting_share" in line}
    assert all(0 <= share <= 1 for share in shares.values())
    assert shares[1] > 0, "the first batch is always waited for"


def test_learning_really_happens(gopro, tmp_path):
    """A pixel loss alone, a blur that is always the same: the network has to undo some of it."""
    changes = {"data": "resident", "train_dir": gopro, "eval_dir": gopro, "adversarial_weight": 0.0, "frequency_weight": 0.0}
    changes |= {"trunk": "unet", "widths": "8,8,8", "learning_rate": 5e-3, "num_train_steps": 60, "batch_size": 4, "ema_decay": 0.0}
    changes |= {"noise_variance": "0,0", "log_every_steps": 15, "checkpoint_every_steps": 0, "eval_images": 0}
    tiny.train(tmp_path / "run", **changes)
    losses = [figures["generator/loss"] for figures in tiny.losses_by_log(tmp_path / "run").values()]
    assert len(losses) == 4
    assert losses[-1] < 0.9 * losses[0], losses
    assert losses[-1] == pytest.approx(tiny.losses_by_log(tmp_path / "run")[60]["generator/pixel"]), "weight 1, and nothing else"
    [evaluated] = [line for line in tiny.read_metrics(tmp_path / "run") if "eval/psnr" in line]
    assert evaluated["eval/psnr_gain"] > 0.3
    assert not any(name.startswith("critic/") for figures in tiny.losses_by_log(tmp_path / "run").values() for name in figures)


def test_non_finite_loss_leaves_the_last_good_checkpoint(gopro, tmp_path):
    """The learning rate of the critic is 0 at the first step and absurd from the second on."""
    workdir = tmp_path / "run"
    changes = {"data": "resident", "train_dir": gopro, "critic_learning_rate": 1e30, "warmup_steps": 2}
    changes |= {"num_train_steps": 9, "log_every_steps": 100, "checkpoint_every_steps": 1}
    done = tiny.command(*tiny.train_arguments(workdir, **changes))
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    assert "within steps 2 to 2; the newest checkpoint before them is step 1, in " in done.stderr
    assert "critic/loss" in done.stderr
    assert "--config.learning_rate" in done.stderr
    assert tiny.steps_on_disk(workdir) == [1]
    for name, array in tiny.read_state(workdir, 1).items():
        assert np.isfinite(array).all(), name
    assert [line["step"] for line in tiny.read_metrics(workdir)] == [1], "what is not finite is not written"
    photo = gopro / "GOPR0" / "blur" / "000000.png"
    assert main(["restore", f"--model={workdir}", f"--output={tmp_path / 'out'}", str(photo)]) == 0


def test_non_finite_loss_names_the_range_of_steps(gopro, tmp_path):
    changes = {"data": "resident", "train_dir": gopro, "pixel_weight": 1e38, "log_every_steps": 4, "checkpoint_every_steps": 0}
    done = tiny.command(*tiny.train_arguments(tmp_path / "run", **changes))
    assert done.returncode == 1
    assert "generator/grad_norm" in done.stderr
    assert "within steps 1 to 4; there is no checkpoint before them" in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert tiny.steps_on_disk(tmp_path / "run") == []


def test_saturated_critic_is_warned_about_once(gopro, tmp_path):
    changes = {"critic_output": "sigmoid", "lipschitz": "none", "adversarial_weight": 1.0, "critic_learning_rate": 1.0}
    changes |= {"data": "resident", "train_dir": gopro, "num_train_steps": 20, "log_every_steps": 2, "checkpoint_every_steps": 0}
    out = tiny.train(tmp_path / "run", **changes).stdout
    warnings = [line for line in out.splitlines() if "has saturated" in line]
    assert len(warnings) == 1, out
    assert warnings[0].startswith("Warning: The critic has saturated: ")
    assert "--config.lipschitz=gradient_penalty" in warnings[0]

"""A run that is interrupted goes on bit for bit; what is kept, what is refused, and what happens when the disk fails."""

import json
import os
import shutil
import signal
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from drsn_jax.cli.main import main
from drsn_jax.config.files import load_config
from drsn_jax.run.checkpoint import DELETED, Checkpoints
from drsn_jax.run.loop import count_steps
from drsn_jax.system.errors import InputError
from drsn_jax.training.state import TrainState
from drsn_jax.weights.checkpoints import find_checkpoint

# Between them: both data paths and optimisers, batch statistics of both networks, dropout, running mean, penalty keys, fresh critic
# batches, schedules.
KINDS = {
    "resident": {"data": "photos", "norm": "batch", "dropout": 0.5, "ema_decay": 0.9, "warmup_steps": 2, "schedule": "constant"}
    | {"optimizer": "muon"},
    "pairs": {"data": "pairs", "critic_norm": "batch", "lipschitz": "clip", "critic_batches": "fresh", "schedule": "linear_decay"}
    | {"ema_decay": 0.0},
}


@pytest.fixture(scope="module")
def kinds(tmp_path_factory, photograph):
    """Return the options of every kind, with their data."""
    folder = tmp_path_factory.mktemp("data")
    photos, pairs = tiny.write_photos(folder / "photos", photograph), tiny.write_gopro(folder / "gopro", photograph)
    return {kind: options | {"train_dir": pairs if options["data"] == "pairs" else photos} for kind, options in KINDS.items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory, kinds):
    """kind -> the workdir of six steps in one go, made once."""
    runs = {}

    def get(kind):
        if kind not in runs:
            runs[kind] = tmp_path_factory.mktemp("whole") / kind
            tiny.train(runs[kind], **kinds[kind])
        return runs[kind]

    return get


@pytest.fixture
def copied(whole, tmp_path):
    """Copy the resident run, to be damaged."""
    return shutil.copytree(whole("resident"), tmp_path / "copied")


def assert_same_run(first, second, *, step=6):
    tiny.assert_same_state(tiny.read_state(first, step), tiny.read_state(second, step))
    assert tiny.losses(first) == tiny.losses(second)
    assert sorted(tiny.losses(first)) == list(range(1, step + 1))


def truncate(workdir, step):
    """Cut every data file of a checkpoint in half, because some files only hold data of an earlier index."""
    for path in (workdir / "checkpoints" / str(step) / "state").rglob("d/*"):
        os.truncate(path, path.stat().st_size // 2)


def one_line(text):
    assert text.count("\n") == 1, text
    assert text.startswith("drsn-jax: ")
    return text


def test_the_state_holds_all_that_has_to_be_equal(whole):
    for kind, present, absent in (("resident", "ema_params", "critic_stats"), ("pairs", "critic_stats", "ema_params")):
        names = set(tiny.read_state(whole(kind), 6))
        for part in ("generator_params", "critic_params", "generator_opt_state", "critic_opt_state", ".step", ".rng", present):
            assert any(part in name for name in names), f"{kind}: {part}"
        assert not any(absent in name for name in names)
    assert any("generator_stats" in name for name in tiny.read_state(whole("resident"), 6))
    before, after = (tiny.read_state(whole("pairs"), step) for step in (3, 6))
    assert (before[".step"], after[".step"]) == (3, 6)
    assert any(before[name].tobytes() != after[name].tobytes() for name in before if "critic_stats" in name)


def test_killed_and_resumed_equals_one_go(kinds, whole, tmp_path):
    workdir = tmp_path / "run"
    process = tiny.start_pausing(workdir, tmp_path, before=5, wait_for="run/checkpoints/3", **kinds["pairs"])
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert tiny.steps_on_disk(workdir) == [3]
    assert max(tiny.losses(workdir)) == 4, "a later step was done and logged: it is to be done again, and to stand there once"
    done = tiny.train(workdir, **kinds["pairs"])
    assert "Resumed from step 3." in done.stdout
    assert_same_run(workdir, whole("pairs"))


@pytest.mark.soak
def test_killed_twice_while_saving_after_every_step(kinds, whole, tmp_path):
    """The other kind, at random moments, most of them within a save. Twenty more are in test_soak.py."""
    workdir, rng, changes = tmp_path / "run", np.random.default_rng(0), kinds["resident"] | {"checkpoint_every_steps": 1}
    tiny.kill_at_random(workdir, rng, lines=2, seconds=0.2, **changes)
    left = tiny.steps_on_disk(workdir)
    tiny.kill_at_random(workdir, rng, lines=2, seconds=0.2, **changes)
    assert tiny.steps_on_disk(workdir) >= left
    newest = tiny.steps_on_disk(workdir)[-1:]
    done = tiny.train(workdir, **changes)
    assert [line for line in done.stdout.splitlines() if "Resumed" in line] == [f"Resumed from step {step}." for step in newest]
    assert_same_run(workdir, whole("resident"))
    assert {path.name for path in (workdir / "checkpoints").iterdir()} == {"4", "5", "6"}, "nothing half-written stays"


def test_sigterm_saves_at_once_and_the_rest_is_the_same(kinds, whole, tmp_path):
    workdir = tmp_path / "run"
    process = tiny.start_pausing(workdir, tmp_path, before=5, wait_for="run/checkpoints/3", **kinds["resident"])
    process.send_signal(signal.SIGTERM)
    (tmp_path / "go").touch()
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert tiny.steps_on_disk(workdir) == [3, 5]
    assert "Stopped by a signal at step 5, saved; run the same command to resume: drsn-jax train" in out
    assert not any("eval/psnr" in line for line in tiny.read_metrics(workdir)), "nobody waits for an evaluation on SIGTERM"
    assert "Resumed from step 5." in tiny.train(workdir, **kinds["resident"]).stdout
    assert_same_run(workdir, whole("resident"))


def test_stages_change_crop_and_batch_and_resume_inside_the_second(kinds, tmp_path):
    changes = {"data": "resident", "train_dir": kinds["pairs"]["train_dir"], "dropout": 0.5, "ema_decay": 0.9}
    changes |= {"stages": "((0,32,2),(3,48,1))", "checkpoint_every_steps": 2}
    for key in ("crop_size", "batch_size"):
        changes[key] = tiny.OPTIONS[key]
    arguments = [a for a in tiny.options(**changes) if not a.startswith(("--config.crop_size", "--config.batch_size"))]

    def run(workdir):
        done = tiny.command("train", "--config=default", f"--workdir={workdir}", *arguments)
        assert done.returncode == 0, done.stderr
        return done

    run(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    shutil.rmtree(tmp_path / "two" / "checkpoints" / "6")
    assert "Resumed from step 4." in run(tmp_path / "two").stdout
    assert_same_run(tmp_path / "one", tmp_path / "two")
    images = {line["step"]: line["images_per_second"] * line["seconds_per_step"] for line in tiny.read_metrics(tmp_path / "one")
              if "images_per_second" in line}  # fmt: skip
    assert {step: round(number) for step, number in images.items()} == {1: 2, 2: 2, 3: 2, 4: 1, 5: 1, 6: 1}


def test_the_last_step_is_evaluated_and_saved_whatever_the_cadences(kinds, tmp_path):
    workdir = tmp_path / "run"
    changes = {"num_train_steps": 5, "log_every_steps": 100, "eval_every_steps": 3, "checkpoint_every_steps": 2}
    tiny.train(workdir, **kinds["resident"] | changes)
    lines = tiny.read_metrics(workdir)
    assert [line["step"] for line in lines if "eval/psnr" in line] == [3, 5]
    assert tiny.steps_on_disk(workdir) == [3, 4, 5]
    assert sorted(path.name for path in (workdir / "samples").iterdir()) == ["step_00000003.png", "step_00000005.png"]
    assert [line["step"] for line in lines if "generator/loss" in line] == [2, 3, 4, 5], "what is saved is checked before"


def test_log_every_steps_writes_means_of_so_many_steps(kinds, whole, tmp_path):
    workdir = tmp_path / "run"
    tiny.train(workdir, **kinds["resident"] | {"log_every_steps": 4, "checkpoint_every_steps": 0})
    lines = {line["step"]: line["generator/loss"] for line in tiny.read_metrics(workdir) if "generator/loss" in line}
    each = {step: figures["generator/loss"] for step, figures in tiny.losses(whole("resident")).items()}
    assert lines == {4: pytest.approx(sum(each[s] for s in (1, 2, 3, 4)) / 4), 6: pytest.approx((each[5] + each[6]) / 2)}
    assert tiny.steps_on_disk(workdir) == [6]


def test_damaged_newest_checkpoint_falls_back_to_the_one_before(kinds, whole, copied):
    truncate(copied, 6)
    done = tiny.train(copied, **kinds["resident"])
    assert "Checkpoint 6 cannot be read (" in done.stdout
    assert "Checkpoint 6 is set aside as 6.damaged." in done.stdout
    assert "Resumed from step 3." in done.stdout
    assert (copied / "checkpoints" / "6.damaged").is_dir()
    assert_same_run(copied, whole("resident"))
    assert find_checkpoint(copied).name == "6"


def test_all_checkpoints_damaged_is_told_and_nothing_is_deleted(kinds, copied):
    for step in (3, 6):
        truncate(copied, step)
    before = sorted(path.relative_to(copied).parts[2:] for path in (copied / "checkpoints").rglob("*") if path.is_file())
    done = tiny.command(*tiny.train_arguments(copied, **kinds["resident"]))
    assert done.returncode == 2
    message = one_line(done.stderr)
    assert "No checkpoint in" in message
    assert "They were not changed" in message
    assert {path.name for path in (copied / "checkpoints").iterdir()} == {"3", "6"}
    assert sorted(path.relative_to(copied).parts[2:] for path in (copied / "checkpoints").rglob("*") if path.is_file()) == before


def small_state():
    array = {"w": jnp.arange(4.0)}
    names = ("generator_params", "generator_opt_state", "critic_params", "critic_opt_state")
    return TrainState(
        step=jnp.int32(0), rng=jax.random.key(0), generator_stats={}, ema_params={}, critic_stats={}, **dict.fromkeys(names, array)
    )


def test_the_same_checkpoint_may_be_damaged_twice(tmp_path):
    said = []
    for number in range(3):
        with Checkpoints(tmp_path, config={}) as checkpoints:
            checkpoints.save(2 * number + 1, small_state())
            checkpoints.save(2 * number + 2, small_state())
    for _ in range(2):
        truncate(tmp_path, 6)
        with Checkpoints(tmp_path, config={}) as checkpoints:
            assert checkpoints.restore(jax.eval_shape(small_state), say=said.append) is not None
            checkpoints.save(6, small_state())
    assert [line.endswith("trying the one before.") for line in said] == [True, False] * 2
    assert {"6", "6.damaged", "6.damaged1"} <= {path.name for path in (tmp_path / "checkpoints").iterdir()}


def test_newest_three_and_the_best_are_kept(tmp_path):
    scores = {1: 20.0, 2: 29.5, 3: None, 4: 25.0, 5: None, 6: 26.0, 7: None}
    with Checkpoints(tmp_path, config={}) as checkpoints:
        for step, psnr in scores.items():
            checkpoints.save(step, small_state(), psnr=psnr)
        checkpoints.wait()
        assert checkpoints.newest_whole() == 7
    assert tiny.steps_on_disk(tmp_path) == [2, 5, 6, 7]
    assert find_checkpoint(tmp_path).name == "2"
    with Checkpoints(tmp_path, config={}) as checkpoints:  # another process goes on
        checkpoints.save(8, small_state(), psnr=30.0)
    assert tiny.steps_on_disk(tmp_path) == [6, 7, 8]


def test_without_an_evaluation_the_newest_three_are_kept(tmp_path):
    with Checkpoints(tmp_path, config={}) as checkpoints:
        for step in range(1, 6):
            checkpoints.save(step, small_state())
    assert tiny.steps_on_disk(tmp_path) == [3, 4, 5]
    assert find_checkpoint(tmp_path).name == "5"


def test_killed_while_an_old_one_is_deleted(tmp_path, monkeypatch):
    """Found by twenty kills: of a checkpoint without its metrics Orbax would never let go."""
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)  # never comes to it
        with Checkpoints(tmp_path, config={}) as checkpoints:
            for step in range(1, 6):
                checkpoints.save(step, small_state())
        assert tiny.steps_on_disk(tmp_path) == [3, 4, 5], "whole, or not there"
        assert {path.name for path in (tmp_path / "checkpoints" / DELETED).iterdir()} == {"1", "2"}
    with Checkpoints(tmp_path, config={}) as checkpoints:
        checkpoints.save(6, small_state())
        checkpoints.wait()
        assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"4", "5", "6"}


def test_workdir_of_another_configuration_is_refused_by_key(kinds, copied):
    before = (copied / "config.json").read_bytes()
    done = tiny.command(*tiny.train_arguments(copied, **kinds["resident"] | {"dropout": 0.25, "seed": 1}))
    assert done.returncode == 2
    message = one_line(done.stderr)
    assert str(copied) in message
    assert "dropout was 0.5, now 0.25" in message
    assert "seed was 0, now 1" in message
    assert "choose another --workdir" in message
    assert (copied / "config.json").read_bytes() == before


def test_a_free_key_may_change_and_is_said(kinds, copied):
    done = tiny.train(copied, **kinds["resident"] | {"num_train_steps": 8})
    assert "num_train_steps was 6 before, 8 now: a schedule that depends on the last step" in done.stdout
    assert "train_dir was" not in done.stdout
    assert sorted(tiny.losses(copied)) == list(range(1, 9))
    assert tiny.steps_on_disk(copied)[-2:] == [6, 8]
    done = tiny.train(copied, **kinds["resident"] | {"num_train_steps": 8})
    assert "step 8 of 8" in done.stdout
    assert sorted(tiny.losses(copied)) == list(range(1, 9)), "a finished run has nothing to do"


def test_damaged_config_of_a_workdir(kinds, copied):
    (copied / "config.json").write_text('{"trunk": ')
    done = tiny.command(*tiny.train_arguments(copied, **kinds["resident"]))
    assert done.returncode == 2
    assert "config.json is damaged" in one_line(done.stderr)


def test_training_on_checkpoints_of_another_architecture(kinds, copied):
    config = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(config | {"widths": [4, 6, 10]}))
    done = tiny.command(*tiny.train_arguments(copied, **kinds["resident"] | {"widths": "4,6,10"}))
    assert done.returncode == 2
    message = one_line(done.stderr)
    assert "Checkpoint 6 in" in message
    assert "another architecture" in message
    assert tiny.steps_on_disk(copied) == [3, 6], "they are whole, and stay"


@pytest.mark.parametrize("verb", ["restore", "evaluate"])
@pytest.mark.parametrize("change", [{"widths": [4, 6, 10]}, {"norm": "none"}, {"trunk": "unet"}, {"num_blocks": 2}])
def test_restoring_with_parameters_of_another_architecture(verb, change, kinds, copied, tmp_path, capsys):
    path = copied / "checkpoints" / "6" / "config" / "metadata"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    sides = [f"--blurred={kinds['pairs']['train_dir']}", f"--sharp={kinds['pairs']['train_dir']}"]
    inputs = [str(kinds["resident"]["train_dir"])] if verb == "restore" else sides
    assert main([verb, f"--model={copied}", f"--output={tmp_path / 'out'}", *inputs]) == 2
    assert "do not fit its own configuration" in one_line(capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_truncated_checkpoint_to_restore_with(copied, kinds, tmp_path, capsys):
    truncate(copied, 6)
    assert main(["restore", f"--model={copied}", f"--output={tmp_path / 'out'}", str(kinds["resident"]["train_dir"])]) == 2
    message = one_line(capsys.readouterr().err)
    assert str(copied / "checkpoints" / "6") in message
    assert "not a readable checkpoint" in message


@pytest.fixture
def small_disk(tmp_path):
    """Mount a file system of 8 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder], capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", folder], check=False)


@pytest.mark.parametrize(
    ("left", "expected"),
    [
        pytest.param(0, ("metrics.jsonl", "No room for a checkpoint"), marks=pytest.mark.soak),
        (64 * 1024, ("No room for a checkpoint",)),
    ],
)
def test_disk_full_while_saving(left, expected, kinds, whole, small_disk, tmp_path):
    workdir = small_disk / "run"
    process = tiny.start_pausing(workdir, tmp_path, before=5, wait_for="disk/run/checkpoints/3", **kinds["resident"])
    free = shutil.disk_usage(small_disk).free
    assert free > left
    with (small_disk / "filler").open("wb") as file:
        file.write(bytes(free - left))
    (tmp_path / "go").touch()
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2, err
    message = one_line(err)
    assert any(words in message for words in expected), "the last block of metrics.jsonl may hold one more line"
    assert "make room" in message
    assert tiny.steps_on_disk(workdir) == [3]
    (small_disk / "filler").unlink()
    if not left:
        return
    assert main(["restore", f"--model={workdir}", f"--output={tmp_path / 'out'}", str(kinds["resident"]["train_dir"])]) == 0
    assert "Resumed from step 3." in tiny.train(workdir, **kinds["resident"]).stdout
    assert_same_run(workdir, whole("resident"))


def test_epochs_become_steps():
    config = load_config("default") | {"num_train_steps": 7, "num_epochs": 0, "stages": (), "crop_size": 32, "batch_size": 4}
    config |= {"critic_batches": "same", "critic_steps": 2, "adversarial_weight": 1.0}
    assert count_steps(config, 10) == 7
    assert count_steps(config | {"num_epochs": 2}, 10) == 5
    assert count_steps(config | {"num_epochs": 3}, 10) == 8, "rounded up: every image is seen so often"
    fresh = config | {"num_epochs": 3, "critic_batches": "fresh"}
    assert count_steps(fresh, 10) == 3, "a step reads three batches of 4: for each critic update one, and the generator's"
    assert count_steps(fresh | {"adversarial_weight": 0.0}, 10) == 8, "without a critic nothing else is read"


def test_short_memory_is_no_damage(tmp_path, monkeypatch):
    with Checkpoints(tmp_path, config={}) as checkpoints:
        checkpoints.save(1, small_state())
        checkpoints.wait()
        restore = checkpoints._manager.restore
        monkeypatch.setattr(checkpoints._manager, "restore", lambda *a, **k: (_ for _ in ()).throw(ValueError("RESOURCE_EXHAUSTED: out")))
        with pytest.raises(InputError, match="There is not enough memory for checkpoint 1"):
            checkpoints.restore(small_state(), say=print)
        monkeypatch.setattr(checkpoints._manager, "restore", restore)
        assert checkpoints.restore(small_state(), say=print) is not None, "nothing was renamed"


def test_a_checkpoint_of_eight_devices_restores_on_one(tmp_path, photograph):
    """In this process there are eight devices; the subprocess has one."""
    photos = tiny.write_photos(tmp_path / "photos", photograph)
    arguments = tiny.train_arguments(tmp_path / "run", data="photos", train_dir=photos, num_train_steps=1, batch_size=8)
    assert main(arguments) == 0
    done = tiny.command("restore", f"--model={tmp_path / 'run'}", photos / "0.png", f"--output={tmp_path / 'out'}")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "0.png").is_file()

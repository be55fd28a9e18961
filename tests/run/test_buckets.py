"""Runs in buckets, s3:// and gs://: trained, killed, gone on with, evaluated, exported; what is refused is one line."""

import json
import signal
import time

import buckets
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from drsn_jax.cli.main import main
from drsn_jax.run.checkpoint import Checkpoints
from drsn_jax.system import paths
from drsn_jax.system.errors import InputError
from drsn_jax.system.paths import any_path, download, filesystem, upload
from drsn_jax.training.sharding import make_mesh, replicated, with_sharding
from drsn_jax.training.state import TrainState
from drsn_jax.weights.checkpoints import COMMIT_FILE, find_checkpoint, list_whole

pytest.importorskip("moto", reason="an S3 for tests: pip install 'moto[server]'")
pytest.importorskip("gcp_storage_emulator", reason="a Google storage for tests: pip install gcp-storage-emulator")
SCHEMES = ("s3", "gs")


@pytest.fixture(scope="module")
def stores():
    """Both, for this process and those that it starts."""
    stops = [buckets.start_s3(), buckets.start_gs()]
    yield
    for stop in stops:
        stop()


@pytest.fixture(params=SCHEMES)
def store(request, stores):
    return f"{request.param}://{buckets.NAME}/{request.node.originalname}"


def make_state(step=0, size=20):
    """Make a state with the step in its arrays."""
    fields = {"step": jnp.int32(step), "rng": jax.random.key(0), "generator_params": {"a": jnp.full(size, float(step))}}
    empty = {name: {} for name in TrainState.__dataclass_fields__ if name not in fields}
    return TrainState(**fields, **empty)


def abstract():
    return with_sharding(jax.eval_shape(make_state), replicated(make_mesh()))


def restored(folder, said=print):
    with Checkpoints(folder, config={"x": 1}) as checkpoints:
        found = checkpoints.restore(abstract(), say=said)
    return None if found is None else (int(found.state.step), float(found.state.generator_params["a"][0]))


def test_checkpoints_the_newest_and_the_best_are_kept(store):
    workdir = any_path(store)
    assert restored(workdir) is None
    with Checkpoints(workdir, config={"x": 1}, keep=2) as checkpoints:
        for step in range(1, 6):
            checkpoints.save(step, make_state(step), psnr=30.0 if step == 2 else None)
        checkpoints.wait()
        assert checkpoints.newest_whole() == 5
    assert [path.name for path in list_whole(workdir / "checkpoints")] == ["2", "4", "5"]
    assert find_checkpoint(workdir).name == "2", "the best"
    assert restored(workdir) == (5, 5.0)


def test_a_checkpoint_counts_once_its_commit_file_is_there(store):
    workdir = any_path(store)
    with Checkpoints(workdir, config={"x": 1}) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, make_state(step))
    (workdir / "checkpoints" / "2" / COMMIT_FILE).unlink()
    assert find_checkpoint(workdir).name == "1"
    assert restored(workdir) == (1, 1.0)


def test_a_copy_is_committed_after_all_else(stores, tmp_path, monkeypatch):
    """Also where Orbax has written a file of that name on this machine."""
    for name in ("_A", COMMIT_FILE, "config", "state"):
        (tmp_path / name).write_text(name)
    target, before = any_path(f"s3://{buckets.NAME}/committed"), []
    files, root = filesystem(target)

    class Watched:  # fsspec keeps an object a thread, with methods of its own: one of its class would not be asked
        pipe_file = staticmethod(files.pipe_file)

        def put_file(self, *arguments):
            before.append((target / COMMIT_FILE).exists())
            return files.put_file(*arguments)

    monkeypatch.setattr(paths, "filesystem", lambda path: (Watched(), root))
    upload(tmp_path, target, commit=COMMIT_FILE)
    assert before == [False] * 3
    assert sorted(path.name for path in target.iterdir()) == ["_A", COMMIT_FILE, "config", "state"]


@pytest.mark.parametrize("store", ["s3", pytest.param("gs", marks=pytest.mark.soak)], indirect=True)  # the second waits 20 s in retries
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_it_read(store):
    workdir, said = any_path(store), []
    with Checkpoints(workdir, config={"x": 1}) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, make_state(step, size=20))
    (workdir / "checkpoints" / "2" / "state" / "_METADATA").write_bytes(b"{")
    assert restored(workdir, said.append) == (1, 1.0)
    assert said[-1] == "Checkpoint 2 is set aside as 2.damaged."
    assert [path.name for path in list_whole(workdir / "checkpoints")] == ["1"]
    assert (workdir / "checkpoints" / "2.damaged" / "config" / "metadata").exists()


@pytest.fixture(scope="module")
def photos(tmp_path_factory, photograph):
    return tiny.write_photos(tmp_path_factory.mktemp("photos"), photograph)


def kill_after_the_first_save(workdir, tmp_path, **options):
    (tmp_path / "at once").touch()
    process = tiny.start_pausing(workdir, tmp_path, before=5, wait_for="at once", **options)
    while not list_whole(any_path(workdir) / "checkpoints"):
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.communicate()


@pytest.mark.parametrize("scheme", ["s3", pytest.param("gs", marks=pytest.mark.soak)])
def test_train_kill_resume_evaluate(scheme, stores, photos, tmp_path, tmp_path_factory, photograph, capsys):
    address, options = f"{scheme}://{buckets.NAME}/runs/one", {"data": "photos", "train_dir": photos}
    kill_after_the_first_save(address, tmp_path, **options)
    run = any_path(address)
    assert [path.name.split("-")[0] for path in run.iterdir() if "lease" in path.name] == [".lease"], "what the killed owner left"
    assert [line["step"] for line in pieces(run)] == [1, 2, 3, 4], "each line in a piece of its own, at once"
    done = tiny.command(*tiny.train_arguments(address, **options))
    assert done.returncode == 0, done.stderr
    assert "Resumed from step 3." in done.stdout
    names = {path.name for path in run.iterdir()}
    assert names == {"checkpoints", "config.json", "metrics.jsonl", "samples"}, "one file of lines, no lease"
    download(run, tmp_path / "copy")
    assert sorted(tiny.losses(tmp_path / "copy")) == [1, 2, 3, 4, 5, 6]
    assert tiny.steps_on_disk(tmp_path / "copy") == [3, 6]

    report = f"{scheme}://{buckets.NAME}/reports/one"
    folder = tiny.write_gopro(tmp_path / "gopro", photograph) / "GOPR0"
    arguments = ["evaluate", f"--model={address}", f"--blurred={folder / 'blur'}", f"--sharp={folder / 'sharp'}", f"--output={report}"]
    assert main([*arguments, "--panels=1"]) == 0
    summary = json.loads((any_path(report) / "metrics.json").read_text())
    assert summary["images"] == 3
    assert (any_path(report) / summary["panels"][0]).exists()
    assert not [path for path in any_path(report).iterdir() if "scores" in path.name], "the journal is gone"
    assert main(["compare", report, f"{report}/metrics.json", "--resamples=100"]) == 0
    assert "3 images" in capsys.readouterr().out

    for kind, place in (("compact", f"{address}-compact"), ("stablehlo", f"{address}.jax")):
        assert main(["export", f"--model={address}", f"--format={kind}", f"--output={place}"]) == 0
        assert main(["restore", str(photos / "0.png"), f"--model={place}", f"--output={tmp_path / kind}"]) == 0
        assert (tmp_path / kind / "0.png").exists()
        assert main(["export", f"--model={address}", f"--format={kind}", f"--output={place}"]) == 2, "it is there"


def pieces(run):
    content = b"".join(path.read_bytes() for path in sorted(path for path in run.iterdir() if ".part-" in path.name))
    return [json.loads(line) for line in content.splitlines()]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_bucket_that_is_not_there_is_one_line_before_the_first_step(scheme, stores, photos, capsys):
    place = f"{scheme}://no-such-bucket/run"
    for arguments in (
        tiny.train_arguments(place, data="photos", train_dir=photos, batch_size=8),
        ["info", f"--model={place}"],
        ["compare", place, place],
    ):
        assert main(arguments) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1, err
        assert place in err
        assert "check the bucket's name, the credentials and the network" in err


def test_several_processes_need_another_store(stores, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(InputError, match=r"several processes cannot keep its checkpoints in s3://.*gs://"):
        Checkpoints(any_path(f"s3://{buckets.NAME}/several"), config={})


def test_the_state_is_stored_bit_for_bit(store):
    values = np.random.default_rng(0).standard_normal(20).astype(np.float32)
    state = make_state(1)
    state = state.replace(generator_params={"a": jnp.asarray(values)})
    with Checkpoints(any_path(store), config={"x": 1}) as checkpoints:
        checkpoints.save(1, state)
        checkpoints.wait()
        found = checkpoints.restore(abstract(), say=print)
    assert found is not None
    assert np.asarray(found.state.generator_params["a"]).tobytes() == values.tobytes()

"""Compact models: what is kept, in which precision and pieces; damage; runs that begin with one; training by the clock."""

import errno
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from flax.traverse_util import flatten_dict
from networks import draw_state, quick_compiles  # noqa: F401
from PIL import Image

from drsn_jax.cli.main import main
from drsn_jax.config.build import make_generator, make_training
from drsn_jax.run.feed import StopSignal
from drsn_jax.run.warm_start import start_from
from drsn_jax.system.errors import InputError
from drsn_jax.system.files import write_atomically
from drsn_jax.training.sharding import make_mesh
from drsn_jax.weights import compact
from drsn_jax.weights.compact import FIELDS, read_compact, write_compact
from drsn_jax.weights.model import load_model, read_generator
from drsn_jax.weights.saved import compact_model, read_saved
from drsn_jax.weights.shipped import find_model


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, photograph):
    return tiny.trained(tmp_path_factory, photograph)


@pytest.fixture
def small(workdir, tmp_path):
    compact_model(workdir, tmp_path / "small", training=False)
    return tmp_path / "small"


@pytest.fixture
def full(workdir, tmp_path):
    compact_model(workdir, tmp_path / "full", training=True)
    return tmp_path / "full"


def in_half(tree):
    return jax.tree.map(lambda x: np.asarray(x, np.float16).astype(np.float32), tree)


def test_a_compact_model_is_the_run_in_half_precision(workdir, small, full):
    stored = read_saved(workdir, FIELDS)
    for folder, names in ((small, ("ema_params",)), (full, ("ema_params", "generator_params", "critic_params"))):
        saved = read_saved(folder, FIELDS)
        assert (saved.config, saved.step) == (stored.config | {"train_dir": "photos"}, stored.step)
        assert {name for name in FIELDS if jax.tree.leaves(saved.fields[name])} == set(names)
        for name in names:
            jax.tree.map(np.testing.assert_array_equal, saved.fields[name], in_half(stored.fields[name]))


def test_it_restores_as_the_run_does_to_a_level(workdir, small, photograph):
    image = jnp.asarray(photograph[None, :64, :64] / 127.5 - 1, jnp.float32)
    models = [load_model(path) for path in (workdir, small)]
    restored = [np.asarray(model.predict_fn(image)) for model in models]
    assert np.abs(restored[0] - restored[1]).max() < 2 / 255
    assert models[0].info["parameters"] == models[1].info["parameters"]


def test_restore_takes_it_and_info_describes_it(small, photograph, tmp_path, capsys):
    Image.fromarray(photograph[:40, :56]).save(tmp_path / "photo.png")
    assert main(["restore", f"--model={small}", f"--output={tmp_path / 'out'}", str(tmp_path / "photo.png")]) == 0
    assert Image.open(tmp_path / "out" / "photo.png").size == (56, 40)
    assert main(["info", f"--model={small}"]) == 0
    assert "widths = [4, 6, 8]" in capsys.readouterr().out


def test_pieces_hold_so_much_and_no_more(tmp_path, monkeypatch, rng):
    monkeypatch.setattr(compact, "PIECE_BYTES", 1000)
    fields = {"ema_params": {f"layer{i}": {"kernel": rng.normal(size=(20, 10))} for i in range(7)}, "generator_stats": {}}
    files = write_compact(tmp_path / "model", fields=fields, config={"a": 1}, step=3)
    sizes = [sum(array.nbytes for array in np.load(file).values()) for file in files[:-1]]
    assert sizes == [800, 800, 800, 400]
    read = read_compact(tmp_path / "model")
    assert (read.config, read.step, read.fields["generator_stats"]) == ({"a": 1}, 3, {})
    jax.tree.map(np.testing.assert_array_equal, read.fields["ema_params"], in_half(fields["ema_params"]))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e5])
def test_what_half_precision_cannot_hold_is_refused(tmp_path, value):
    with pytest.raises(InputError, match="stem/kernel"):
        write_compact(tmp_path / "model", fields={"ema_params": {"stem": {"kernel": np.array([value])}}}, config={}, step=0)
    assert not (tmp_path / "model").exists()


def test_a_disk_that_fills_up_is_one_line_and_leaves_nothing(workdir, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(compact, "PIECE_BYTES", 1000)
    written = []

    def write(path, content):
        if len(written) == 2:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        written.append(path)
        write_atomically(path, content)

    monkeypatch.setattr(compact, "write_atomically", write)
    command = ["export", f"--model={workdir}", "--format=compact", f"--output={tmp_path / 'model'}"]
    assert main(command) == 2
    assert "No space left on device; make room there" in capsys.readouterr().err
    assert not list((tmp_path / "model").iterdir())
    monkeypatch.undo()
    assert main(command) == 0


def test_a_folder_that_holds_something_is_left_as_it_is(workdir, small, capsys):
    before = {file: file.read_bytes() for file in small.iterdir()}
    assert main(["export", f"--model={workdir}", "--format=compact", f"--output={small}"]) == 2
    assert "already exists" in capsys.readouterr().err
    assert {file: file.read_bytes() for file in small.iterdir()} == before


def flip_a_bit(folder):
    content = bytearray((folder / "weights-0.npz").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "weights-0.npz").write_bytes(bytes(content))


def change(folder, *, config=(), **values):
    path = folder / "compact.json"
    description = json.loads(path.read_text())
    path.write_text(json.dumps(description | values | {"config": description["config"] | dict(config)}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip_a_bit, "has changed since it was written"),
        (lambda folder: (folder / "weights-0.npz").unlink(), "No such file"),
        (lambda folder: (folder / "compact.json").write_text("{"), "damaged"),
        (lambda folder: (folder / "compact.json").write_text("[]"), "damaged"),
        (lambda folder: change(folder, pieces=[]), "damaged"),
        (lambda folder: change(folder, pieces={"compact.json": 1}), "damaged"),
        (lambda folder: change(folder, format="another"), "of another format"),
        (lambda folder: change(folder, version=99), "newer drsn-jax"),
        (
            lambda folder: change(folder, config=json.loads((folder / "compact.json").read_text())["config"] | {"widths": [2, 2, 2]}),
            "another",
        ),
    ],
)
def test_damage_is_told_in_one_line(small, damage, message):
    damage(small)
    with pytest.raises(InputError, match=message):
        read_generator(small)


def test_a_model_without_what_was_trained_cannot_be_exported_for_training(small, tmp_path):
    with pytest.raises(InputError, match="omit --training"):
        compact_model(small, tmp_path / "again", training=True)


def new_state(config, **changes):
    return draw_state(make_training(config | changes, num_train_steps=6).init)


def test_a_run_begins_with_all_that_is_there(full, small):
    _, fields, config, _ = read_saved(full, FIELDS)
    fresh = new_state(config)
    begun = start_from(fresh, full)
    for name in ("generator_params", "ema_params", "critic_params"):
        jax.tree.map(np.testing.assert_array_equal, getattr(begun, name), fields[name])
    assert int(begun.step) == 0
    jax.tree.map(np.testing.assert_array_equal, begun.generator_opt_state, fresh.generator_opt_state)
    begun = start_from(fresh, small)  # the running mean alone
    jax.tree.map(np.testing.assert_array_equal, begun.generator_params, fields["ema_params"])
    jax.tree.map(np.testing.assert_array_equal, begun.critic_params, fresh.critic_params)
    assert not jax.tree.leaves(start_from(new_state(config, ema_decay=0.0), full).ema_params)


def restored_by(config, params, photograph):
    image = jnp.asarray(photograph[None, :64, :64] / 127.5 - 1, jnp.float32)
    return np.asarray(jax.jit(make_generator(config).apply)({"params": params}, image))


def moves_everywhere(config, params, image):
    """Whether a step of gradient descent moves every kernel of the network."""
    loss = jax.jit(lambda params: jnp.square(make_generator(config).apply({"params": params}, jnp.asarray(image[:, :32, :32]))).sum())
    gradient = jax.grad(loss)(params)
    return {"/".join(path): np.abs(x).max() > 0 for path, x in flatten_dict(gradient).items() if path[-1] == "kernel"}


@pytest.mark.parametrize(
    ("changes", "new"),
    [
        ({"middle_blocks": 2}, {"middle_block1", "middle_block2"}),
        ({"num_blocks": 2}, {f"{side}_block2" for side in ("encoder0", "encoder1", "encoder2", "decoder0", "decoder1")}),
    ],
)
def test_a_run_with_more_blocks_begins_with_what_the_others_do(full, photograph, changes, new):
    config = read_saved(full, ()).config
    trained = start_from(new_state(config), full).generator_params
    initial = jax.jit(make_training(config | changes, num_train_steps=6).init)(jax.random.key(0))  # new blocks as they begin in use
    begun = start_from(initial, full)
    assert set(begun.generator_params) == set(begun.ema_params) == set(trained) | new
    jax.tree.map(np.testing.assert_array_equal, {k: begun.generator_params[k] for k in trained}, trained)
    jax.tree.map(np.testing.assert_array_equal, *({k: x[k] for k in new} for x in (begun.generator_params, begun.ema_params)))
    expected, found = restored_by(config, trained, photograph), restored_by(config | changes, begun.generator_params, photograph)
    np.testing.assert_allclose(found, expected, atol=0.5 / 127.5)  # half a level
    moves = moves_everywhere(config | changes, begun.generator_params, expected)
    assert all(moved for name, moved in moves.items() if name.split("/")[0] in new and "conv" in name), moves
    jax.jit(lambda state: state, donate_argnums=0)(begun)  # as the step does: no buffer may be there twice


@pytest.mark.parametrize(("trunk", "norm"), [("unet", "none"), ("quarter", "instance")])
def test_a_wider_run_begins_with_what_the_narrow_one_does(full, photograph, rng, tmp_path, trunk, norm):
    config = read_saved(full, ()).config | {"trunk": trunk, "norm": norm, "widths": (4, 6, 10), "zero_head": False}
    params = jax.tree.map(lambda x: np.asarray(x + rng.normal(0, 0.01, x.shape), np.float32), new_state(config).generator_params)
    write_compact(tmp_path / "narrow", config=config, fields={"generator_params": params, "ema_params": params}, step=1)
    narrow = start_from(new_state(config), tmp_path / "narrow").generator_params
    wider = config | {"widths": (8, 6, 16)}
    begun = start_from(new_state(wider), tmp_path / "narrow")
    assert begun.generator_params["stem"]["conv"]["kernel"].shape[-1] == 8
    expected, found = restored_by(config, narrow, photograph), restored_by(wider, begun.generator_params, photograph)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(expected - photograph[None, :64, :64] / 127.5 + 1).max() > 0.01  # it does something
    moves = moves_everywhere(wider, begun.generator_params, expected)
    assert all(moved for name, moved in moves.items() if "conv" in name), moves
    jax.jit(lambda state: state, donate_argnums=0)(begun)


@pytest.mark.parametrize("changes", [{"widths": (2, 8, 8)}, {"unshuffle": 1}, {"trunk": "quarter"}, {"convs_per_block": 1}])
def test_another_network_is_refused_with_what_to_do(full, changes):
    config = read_saved(full, ()).config
    assert all(config[key] != value for key, value in changes.items()), config
    with pytest.raises(InputError, match=r"holds a generator that differs from this configuration\. Make them equal"):
        start_from(new_state(config, **changes), full)


def test_a_run_with_fewer_middle_blocks_is_refused(full, tmp_path):
    config = read_saved(full, ()).config
    deeper = start_from(new_state(config | {"middle_blocks": 1}), full)
    fields = {name: jax.device_get(getattr(deeper, name)) for name in ("ema_params", "generator_params")}
    write_compact(tmp_path / "deeper", config=config | {"middle_blocks": 1}, fields=fields, step=1)
    with pytest.raises(InputError, match="holds a generator that differs from this configuration"):
        start_from(new_state(config), tmp_path / "deeper")


def test_a_critic_that_was_never_trained_is_no_reason_to_refuse(workdir, full, tmp_path):
    config, fields = read_saved(full, ()).config, read_saved(workdir, FIELDS).fields
    wider = new_state(config, critic_widths=(4, 8))
    with pytest.raises(InputError, match="holds a critic that differs"):
        start_from(wider, full)
    never = config | {"adversarial_weight": 0.0}
    write_compact(tmp_path / "never", config=never, fields={name: fields[name] for name in ("ema_params", "critic_params")}, step=1)
    begun = start_from(wider, tmp_path / "never")
    jax.tree.map(np.testing.assert_array_equal, begun.critic_params, wider.critic_params)
    jax.tree.map(np.testing.assert_array_equal, begun.ema_params, in_half(fields["ema_params"]))


def test_training_begins_with_it_from_the_command_line(full, photograph, tmp_path):
    options = tiny.UNET | {"data": "photos", "train_dir": tiny.write_photos(tmp_path / "photos", photograph), "init_from": full}
    options |= {"learning_rate": 1e-12, "critic_learning_rate": 1e-12, "weight_decay": 0.0, "num_train_steps": 1, "ema_decay": 0.0}
    assert "Starting with the weights of" in tiny.train(tmp_path / "run", **options).stdout
    begun, ended = (read_saved(path, ("generator_params",)).fields["generator_params"] for path in (full, tmp_path / "run"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-9), begun, ended)
    # what already exists goes on, and does not begin anew
    assert "Starting with" not in tiny.train(tmp_path / "run", **options | {"num_train_steps": 2}).stdout


def test_a_run_stops_when_its_time_is_over_and_goes_on(photograph, tmp_path):
    changes = {"data": "photos", "train_dir": tiny.write_photos(tmp_path / "photos", photograph), "checkpoint_every_steps": 0}
    changes |= {"num_train_steps": 10**6, "log_every_steps": 10**5}
    done = tiny.command(*tiny.train_arguments(tmp_path / "run", **changes), "--minutes=0.02")
    assert done.returncode == 0, done.stderr
    assert "Stopped since the time was over at step" in done.stdout
    [step] = tiny.steps_on_disk(tmp_path / "run")
    assert f"at step {step}, saved" in done.stdout


def test_the_clock_alone_asks_to_stop():
    assert not StopSignal(make_mesh()).requested
    assert not StopSignal(make_mesh(), minutes=1e6).requested
    assert StopSignal(make_mesh(), minutes=0.0).requested


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "inf", "ten"])
def test_times_that_are_none(minutes, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["train", "--config=default", "--workdir=unused", f"--minutes={minutes}"])
    assert stopped.value.code == 2
    assert "--minutes" in capsys.readouterr().err


def test_models_by_name():
    assert find_model("small").parts[-2:] == ("shipped", "small")
    assert find_model("./small").parts == ("small",)

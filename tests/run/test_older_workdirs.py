"""A workdir of before goes on: what changed since then starts anew and is said, and all else stays."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from networks import draw_state

from drsn_jax.config.build import make_training
from drsn_jax.config.files import load_config
from drsn_jax.config.values import ADDED
from drsn_jax.run.checkpoint import Checkpoints
from drsn_jax.run.resume import draws_changed, resume_or_init
from drsn_jax.training.sharding import make_mesh

OPTIONS = {"data": "photos", "ema_decay": 0.9, "adversarial_weight": 0.0, "content_weight": 0.0, "blur_softness": "0.5,1"}
OPTIONS |= {"weight_decay": 0.1, "learning_rate": 0.01}
DRAWN_ANEW = "Step 3 was stored before each random draw had a key of its own: from here on the batches are drawn anew."
ANEW = "The optimiser of the generator differs from the stored one, so its moments start anew"


@pytest.fixture(scope="module")
def photos(tmp_path_factory, photograph):
    return tiny.write_photos(tmp_path_factory.mktemp("photos"), photograph)


@pytest.fixture(scope="module")
def older(tmp_path_factory, photos):
    """Make a workdir of three steps as written before versions and groups existed."""
    workdir = tmp_path_factory.mktemp("older") / "run"
    train(workdir, photos, parameter_groups="by_shape")
    shutil.rmtree(workdir / "checkpoints" / "6")
    shutil.rmtree(workdir / "checkpoints" / "3" / "versions")
    for path in (workdir / "config.json", workdir / "checkpoints" / "3" / "config" / "metadata"):
        path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != "parameter_groups"}))
    return workdir


def train(workdir, photos, **changes):
    return tiny.train(workdir, train_dir=photos, **OPTIONS | {"optimizer": "muon"} | changes).stdout


def test_the_same_command_goes_on_with_the_optimiser_of_before(older, photos, tmp_path):
    workdir = shutil.copytree(older, tmp_path / "run")
    said = train(workdir, photos)
    assert "Resumed from step 3." in said
    assert f"parameter_groups stays 'by_shape', the value of {workdir}; --config.parameter_groups=by_role changes it." in said
    assert DRAWN_ANEW in said
    assert ANEW not in said
    assert json.loads((workdir / "config.json").read_text())["parameter_groups"] == "by_shape"
    counts = [int(leaf) for name, leaf in tiny.read_state(workdir, 6).items() if "generator_opt_state" in name and "count" in name]
    assert set(counts) == {6}, "no moment began anew"
    again = train(workdir, photos, num_train_steps=7)
    assert "Resumed from step 6." in again
    assert "parameter_groups stays 'by_shape'" in again
    assert "drawn anew" not in again, "only once: the new checkpoint has the new keys"


def test_another_group_is_a_choice_of_the_command_and_is_said(older, photos, tmp_path):
    workdir = shutil.copytree(older, tmp_path / "run")
    said = train(workdir, photos, parameter_groups="by_role")
    assert "parameter_groups was 'by_shape' before, 'by_role' now: weight decay applies to other parameters" in said
    assert [line.partition(";")[0] for line in said.splitlines() if "anew" in line] == [DRAWN_ANEW, ANEW]
    assert sorted(tiny.losses(workdir)) == [1, 2, 3, 4, 5, 6]


def resume(workdir, config):
    """Return the first state of a run of a configuration."""
    mesh = make_mesh()
    with Checkpoints(workdir, config=config) as checkpoints:
        state = resume_or_init(make_training(config, num_train_steps=6).init, checkpoints, config=config, mesh=mesh)
    assert all(leaf.sharding.is_fully_replicated and len(leaf.sharding.device_set) == mesh.size for leaf in jax.tree.leaves(state))
    return state


def by_name(state):
    leaves = jax.tree_util.tree_leaves_with_path(state.replace(rng=jax.random.key_data(state.rng)))
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def is_schedule(node):
    return isinstance(node, optax.ScaleByScheduleState)


def test_networks_mean_and_step_go_on_where_the_moments_do_not(older, capsys):
    """Muon's groups are other trees; the learning rate is where it was, since it counts updates and not moments."""
    state = resume(older, json.loads((older / "config.json").read_text()) | {"parameter_groups": "by_role"})
    seen = by_name(state)
    assert capsys.readouterr().out.count(ANEW) == 1
    stored = tiny.read_state(older, 3)
    kept = [name for name in stored if "generator_opt_state" not in name]
    assert all(seen[name].tobytes() == stored[name].tobytes() for name in kept)
    assert {name.split("[")[0] for name in kept} >= {".step", ".rng", ".generator_params", ".ema_params", ".critic_opt_state"}
    schedules = [node for node in jax.tree.leaves(state.generator_opt_state, is_leaf=is_schedule) if is_schedule(node)]
    assert [int(node.count) for node in schedules] == [3]
    moments = [moment for name in ("mu", "nu") for _, moment in optax.tree.get_all_with_path(state.generator_opt_state, name)]
    assert not any(map(np.any, jax.tree.leaves(moments)))


def test_the_moments_of_adam_go_on_whatever_decays(older, tmp_path, capsys):
    config = json.loads((older / "config.json").read_text()) | {"optimizer": "adam", "parameter_groups": "by_shape"}
    state = draw_state(make_training(config, num_train_steps=6).init)
    moments = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf) + 3, leaf.dtype), state.generator_opt_state)
    state = state.replace(step=jnp.int32(3), generator_opt_state=moments)
    with Checkpoints(tmp_path, config=config) as checkpoints:
        checkpoints.save(3, state)
    resumed = resume(tmp_path, config | {"parameter_groups": "by_role"})
    assert "anew" not in capsys.readouterr().out
    tiny.assert_same_state(by_name(resumed), by_name(state))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"data": "photos"}, False),
        ({"data": "photos", "blur_softness": (0.0, 1.0)}, True),
        ({"data": "demo", "blur_moment": "middle"}, True),
        ({"data": "photos", "blur_moment": "middle", "blur_length": (0.0, 0.0)}, False),
        ({"data": "resident", "blur_softness": (0.0, 1.0)}, False),
        ({"data": "resident", "noise_share": 0.5}, True),
        ({"data": "resident", "noise_share": 0.5, "noise_variance": (0.0, 0.0)}, False),
        ({"data": "pairs", "noise_share": 0.5}, False),
    ],
)
def test_which_recipes_draw_other_batches(changes, expected):
    assert draws_changed(load_config("default") | changes) is expected


def test_the_shipped_models_are_of_the_groups_of_before():
    assert ADDED["parameter_groups"] == "by_shape"
    assert load_config("small")["parameter_groups"] == "by_role"

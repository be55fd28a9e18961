"""Steps that are skipped: all that learns stays as it was, all that counts steps goes on, and nobody is asked on the host."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from networks import quick_compiles  # noqa: F401
from test_train_step import Setting, all_equal, bits, largest_difference, make_batch

from drsn_jax.config.build import make_training
from drsn_jax.config.files import load_config
from drsn_jax.config.values import ADDED
from drsn_jax.training.nonfinite import SKIPPED, skip_nonfinite
from drsn_jax.training.optimizer import make_optimizer
from drsn_jax.training.sharding import make_mesh, replicated, shard_batch
from drsn_jax.training.state import TrainState

NETWORKS = ("generator_params", "generator_stats", "ema_params", "critic_params", "critic_stats")


def make_adam():
    """Every part that an optimiser of ours may have; the learning rate grows with each update."""
    return make_optimizer(learning_rate_fn=lambda count: 0.01 * (1 + count), weight_decay=0.01, clip_norm=1.0)


def counts(opt_state):
    """Return (updates counted by Adam, updates counted by the learning rate)."""
    [adam] = [part for part in opt_state if isinstance(part, optax.ScaleByAdamState)]
    [schedule] = [part for part in opt_state if isinstance(part, optax.ScaleByScheduleState)]
    return int(adam.count), int(schedule.count)


def moments(opt_state):
    return [(part.mu, part.nu) for part in opt_state if isinstance(part, optax.ScaleByAdamState)]


# What is kept, by a step that is told what to make


def told_step(state, batch, frozen=None):
    """Add the batch's value to everything, and return it as a metric."""

    def add(x):
        return x + batch["change"].astype(x.dtype)

    changes = {name: jax.tree.map(add, getattr(state, name)) for name in NETWORKS}
    changes |= {f"{name}_opt_state": jax.tree.map(add, getattr(state, f"{name}_opt_state")) for name in ("generator", "critic")}
    changes["generator_stats"] = {"var": state.generator_stats["var"] + batch["variance"]}
    return dataclasses.replace(state, step=state.step + 1, **changes), {"loss": batch["loss"]}


@pytest.fixture
def told_state(unchecked):  # its batches are no images
    params = {"w": jnp.ones(3)}
    optimizers = {f"{name}_opt_state": make_adam().init(params) for name in ("generator", "critic")}
    networks = dict.fromkeys(NETWORKS, params) | {"generator_stats": {"var": jnp.ones(2)}}
    return TrainState(step=jnp.int32(7), rng=jax.random.key(1), **networks, **optimizers)


def told(**changes):
    return {name: jnp.float32(value) for name, value in ({"change": 1.0, "variance": 0.0, "loss": 0.0} | changes).items()}


@pytest.mark.parametrize("wrong", [{"loss": np.nan}, {"loss": -np.inf}, {"variance": np.inf}, {"variance": np.nan}])
def test_what_learns_is_kept_and_what_counts_steps_goes_on(told_state, wrong):
    """A variance can overflow where every metric is finite: the state is looked at too."""
    step = jax.jit(skip_nonfinite(told_step))
    after, metrics = step(told_state, told(**wrong))
    assert (float(metrics[SKIPPED]), int(after.step)) == (1, 8)
    assert all_equal([getattr(after, name) for name in NETWORKS], [getattr(told_state, name) for name in NETWORKS])
    for name in ("generator_opt_state", "critic_opt_state"):
        assert counts(getattr(after, name)) == (0, 1), "Adam's own count belongs to its moments"
        assert all_equal(moments(getattr(after, name)), moments(getattr(told_state, name)))
    assert all_equal(jax.random.key_data(after.rng), jax.random.key_data(told_state.rng))
    assert float(metrics["loss"]) == pytest.approx(wrong.get("loss", 0.0), nan_ok=True), "the metrics are what they were"


def test_a_finite_step_is_the_step_itself(told_state):
    after, metrics = jax.jit(skip_nonfinite(told_step))(told_state, told(loss=3.0))
    expected, _ = jax.jit(told_step)(told_state, told(loss=3.0))
    assert all_equal(bits(after), bits(expected))
    assert {name: float(value) for name, value in metrics.items()} == {"loss": 3.0, SKIPPED: 0.0}


# By a real step


def test_one_bad_row_in_one_micro_batch_on_one_of_eight_devices_leaves_every_device_as_it_was():
    tx = optax.chain(optax.trace(0.9), optax.scale_by_learning_rate(lambda count: 0.002 * (1 + count)))
    setting = Setting(norm="batch", critic_norm="batch", ema=True, critic_steps=1, accumulation_steps=2, unroll=False, tx=tx)
    mesh, batch = make_mesh(), jax.device_get(make_batch(16))
    bad = batch | {"blurred": batch["blurred"].copy()}
    bad["blurred"][5, 3, 3, 1] = np.nan
    state, *batches = jax.device_put(setting.state, replicated(mesh)), shard_batch(bad, mesh), shard_batch(batch, mesh)
    step = jax.jit(skip_nonfinite(setting.step_fn), out_shardings=replicated(mesh))
    with jax.transfer_guard("disallow"):
        (after, metrics), (good, figures) = (step(state, x) for x in batches)
    assert (float(metrics[SKIPPED]), float(figures[SKIPPED])) == (1, 0)
    assert (int(after.step), int(good.step)) == (1, 1)
    assert all_equal([getattr(after, name) for name in NETWORKS], [getattr(state, name) for name in NETWORKS])
    for name in ("generator_opt_state", "critic_opt_state"):
        (trace, schedule), (old_trace, _) = getattr(after, name), getattr(state, name)
        assert all_equal(trace, old_trace)
        assert int(schedule.count) == 1
    for leaf in jax.tree.leaves(bits(after)):
        assert len({np.asarray(shard.data).tobytes() for shard in leaf.addressable_shards}) == 1
    for name in NETWORKS:
        assert largest_difference(getattr(good, name), getattr(state, name)) > 1e-5, name


# From the configuration


@pytest.mark.parametrize(("stored", "skips"), [({}, False), ({"on_nonfinite": "skip"}, True)])
def test_the_configuration_decides_also_one_stored_before_there_was_such_a_key(stored, skips):
    options = [f"--config.{key}={value}" for key, value in {"widths": "4,4,4", "num_blocks": 1, "content_weight": 0.0}.items()]
    config = load_config("demo", options)
    config = {key: value for key, value in config.items() if key not in ADDED} | stored
    training = make_training(config, num_train_steps=100)
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    state = jax.eval_shape(training.init, jax.random.key(0))
    after, metrics = jax.eval_shape(training.train_step, state, {"blurred": images, "sharp": images})
    assert (SKIPPED in metrics) == skips
    assert jax.tree.structure(after) == jax.tree.structure(state), "checkpoints do not know of it"

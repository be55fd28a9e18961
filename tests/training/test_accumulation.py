"""Updates in micro-batches: equal to the whole batch where images do not meet, and of one micro-batch's size in memory."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from networks import quick_compiles  # noqa: F401
from test_train_step import SIZE, Setting, bits, close, largest_difference, make_batch, tracing_sgd

from drsn_jax.config.build import make_training
from drsn_jax.config.files import load_config
from drsn_jax.models.generator import Generator
from drsn_jax.ops.backend import CPU, PLAIN
from drsn_jax.system.errors import InputError
from drsn_jax.training.accumulation import MicroBatches
from drsn_jax.training.sharding import check_batch_size, make_mesh, over_data, replicated, shard_batch
from drsn_jax.training.spec import LossWeights

KEY = jax.random.key(0)

# Means over micro-batches


@pytest.mark.parametrize("unroll", [False, True])
def test_rows_are_dealt_out_and_put_back_in_order(unroll):
    parts = MicroBatches(3, CPU if unroll else PLAIN)
    rows = jnp.arange(12.0)
    assert np.array_equal(parts.map(lambda x, key: x * 2, rows[:, None], key=KEY), 2 * rows[:, None])
    largest = parts.map(lambda x, key: jnp.broadcast_to(x.max(), x.shape), rows, key=KEY)
    assert np.array_equal(largest, [9, 10, 11] * 4), "row r is in part r % 3"
    mean = parts.mean(lambda x, y, key: {"largest": x.max(), "sum": (x * y).sum()}, rows, rows, key=KEY)
    assert mean == {"largest": 10, "sum": np.square(np.arange(12)).sum() / 3}


@pytest.mark.parametrize("unroll", [False, True])
def test_each_part_draws_from_a_key_of_its_own(unroll):
    drawn = MicroBatches(2, CPU if unroll else PLAIN).map(lambda x, key: x + jax.random.uniform(key), jnp.zeros(4), key=KEY)
    expected = [float(jax.random.uniform(jax.random.fold_in(KEY, j))) for j in range(2)]
    np.testing.assert_allclose(drawn, expected * 2)
    assert float(MicroBatches().mean(lambda x, key: jax.random.uniform(key), drawn, key=KEY)) == float(jax.random.uniform(KEY))


def test_what_does_not_divide():
    with pytest.raises(InputError, match="A batch of 4 does not divide into 3 micro-batches"):
        MicroBatches(3).mean(lambda x, key: x.sum(), jnp.zeros(4), key=KEY)


# Whole steps

CLIPPED = optax.chain(optax.clip_by_global_norm(0.05), tracing_sgd())
STEPS = {
    "gradient penalty, running mean, clipped gradient": {"lipschitz": "gradient_penalty", "ema": True, "tx": CLIPPED},
    "rolled loops": {"lipschitz": "gradient_penalty", "unroll": False},
    "alternating, clipped parameters, restored in inference": {
        "critic_update": "alternating",
        "lipschitz": "clip",
        "fake_mode": "inference",
    },
    "fresh batches": {"critic_batches": "fresh"},
    "no critic": {"weights": LossWeights(0.0, 0.5, 1.0, 0.1)},
}


@pytest.mark.parametrize("options", STEPS.values(), ids=STEPS)
def test_a_step_equals_that_of_the_whole_batch(options):
    """Under SGD, without norm and dropout; what is drawn for the penalty is drawn for the whole batch."""
    whole, parts = Setting(**options), Setting(accumulation_steps=2, **options)
    batch = make_batch(12 if "critic_batches" in options else 4)
    (expected, figures), (got, seen) = (jax.jit(setting.step_fn)(setting.state, batch) for setting in (whole, parts))
    for name in ("generator_params", "critic_params", "ema_params"):
        close(getattr(got, name), getattr(expected, name), atol=1e-6)
    scale = max(1.0, float(optax.tree.norm((expected.generator_opt_state, expected.critic_opt_state))))
    close(got.generator_opt_state, expected.generator_opt_state, atol=1e-6 * scale)
    close(got.critic_opt_state, expected.critic_opt_state, atol=1e-6 * scale)
    assert seen.keys() == figures.keys()
    for name, value in figures.items():
        assert float(seen[name]) == pytest.approx(float(value), rel=1e-4, abs=1e-5), name
    assert largest_difference(got.generator_params, whole.state.generator_params) > 1e-5
    assert int(got.step) == 1


def test_under_batch_norm_the_statistics_are_those_of_the_micro_batches():
    setting = Setting(norm="batch", critic_norm="batch", accumulation_steps=2, critic_steps=1)
    state, batch = setting.state, make_batch(4)
    after, _ = jax.jit(setting.step_fn)(state, batch)
    restore = jax.jit(lambda x: setting.restore(state.generator_params, state.generator_stats, x, KEY))
    halves = [restore(batch["blurred"][j::2]) for j in range(2)]
    close(after.generator_stats, jax.tree.map(lambda x, y: (x + y) / 2, *(updated["batch_stats"] for _, updated in halves)))
    _, whole = restore(batch["blurred"])
    assert largest_difference(after.generator_stats, whole["batch_stats"]) > 1e-6

    def statistics(sharp, restored):
        variables = {"params": state.critic_params, "batch_stats": state.critic_stats}
        both = jnp.concatenate([sharp, restored])
        return setting.critic.apply(variables, both, train=True, mutable=["batch_stats"])[1]["batch_stats"]

    found = [jax.jit(statistics)(batch["sharp"][j::2], halves[j][0]) for j in range(2)]
    close(after.critic_stats, jax.tree.map(lambda x, y: (x + y) / 2, *found))


def test_the_generator_is_judged_by_the_restorations_that_the_critic_saw():
    """Dropout of the second pass is that of the first; two micro-batches of the same images are restored differently."""
    options = {"dropout": 0.5, "tx": optax.sgd(0.0), "critic_steps": 1, "weights": LossWeights(1, 0, 1, 0)}
    one = {name: jnp.repeat(x, 2, axis=0) for name, x in make_batch(1).items()}
    setting = Setting(accumulation_steps=2, **options)
    _, metrics = jax.jit(setting.step_fn)(setting.state, one)
    assert float(metrics["critic/restored"]) == pytest.approx(-float(metrics["generator/adversarial"]), abs=1e-7)
    keys = [jax.random.fold_in(setting.keys(setting.state)[0], j) for j in range(2)]
    params, first = setting.state.generator_params, one["blurred"][:1]
    restore = jax.jit(setting.restore)
    restored = [restore(params, {}, first, key)[0] for key in keys]
    assert largest_difference(*restored) > 1e-3
    pixel = np.mean([np.sqrt(np.square(x - one["sharp"][:1]) + 1e-6).mean() for x in restored])
    assert float(metrics["generator/pixel"]) == pytest.approx(float(pixel), rel=1e-5)


def test_eight_devices_equal_one_and_keep_their_rows():
    # Without the frequency loss: XLA gathers what goes into an FFT, whatever the batch is split into.
    setting = Setting(lipschitz="gradient_penalty", accumulation_steps=2, unroll=False, weights=LossWeights(0.5, 2.0, 1.0, 0.0))
    batch, results = jax.device_get(make_batch(16)), []
    for mesh in (jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,)), make_mesh()):
        whole, state = replicated(mesh), jax.device_put(setting.state, replicated(mesh))
        shardings = (whole, {name: over_data(mesh) for name in batch})
        compiled = jax.jit(setting.step_fn, in_shardings=shardings, out_shardings=whole).lower(state, shard_batch(batch, mesh)).compile()
        results.append(jax.device_get(compiled(state, shard_batch(batch, mesh))))
    assert mesh.size == 8
    close(bits(results[0][0]), bits(results[1][0]))
    moved = [word for word in ("all-to-all", "collective-permute", "all-gather") if word in compiled.as_text()]
    assert moved == [], "images are not to travel"


def test_memory_shrinks_with_the_micro_batch():
    jax.config.update("jax_disable_most_optimizations", False)  # until the end of this test: what is compiled for use is meant
    try:
        needed = []
        for accumulation_steps in (1, 4):
            setting = Setting(lipschitz="gradient_penalty", critic_steps=1, accumulation_steps=accumulation_steps)
            batch = {name: jax.ShapeDtypeStruct((8, 2 * SIZE, 2 * SIZE, 3), jnp.float32) for name in ("blurred", "sharp")}
            compiled = jax.jit(setting.step_fn).lower(setting.state, batch).compile()
            needed.append(compiled.memory_analysis().temp_size_in_bytes)
    finally:
        jax.config.update("jax_disable_most_optimizations", True)
    assert needed[1] < 0.5 * needed[0], needed


# From the configuration


def test_batches_that_do_not_divide_are_refused_with_the_nearest_that_do():
    check_batch_size(16, devices=4, accumulation_steps=4)
    with pytest.raises(InputError, match=r"Batch size 12 does not divide over 4 devices in 2 micro-batches .*--config.batch_size=(8|16)"):
        check_batch_size(12, devices=4, accumulation_steps=2)
    with pytest.raises(InputError, match=r"over 1 device in 4 micro-batches .* multiple of 4 \(--config.batch_size=4"):
        make_training(load_config("demo", ["--config.accumulation_steps=4", "--config.batch_size=5"]), num_train_steps=100)
    config = load_config("keras_reference", ["--config.accumulation_steps=4", "--config.batch_size=4"])
    with pytest.raises(InputError, match=r"--config\.batch_size=8 or more"):
        make_training(config, num_train_steps=10)


def test_the_configuration_reaches_the_step_and_the_network():
    config = load_config("demo", ["--config.accumulation_steps=2", "--config.remat=True", "--config.content_weight=0.0"])
    training = make_training(config, num_train_steps=100)
    assert isinstance(training.generator, Generator)
    assert training.generator.remat
    state = jax.eval_shape(training.init, KEY)
    images = jax.ShapeDtypeStruct((4, 64, 64, 3), jnp.float32)
    text = str(jax.make_jaxpr(training.train_step)(state, {"blurred": images, "sharp": images}))
    assert "2,2,64,64,3" in text, "two micro-batches of two"

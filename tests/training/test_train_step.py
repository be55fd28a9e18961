"""The training step against the same mathematics written out, and what holds it together: keys, compiles, transfers, devices, configs."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from jax.sharding import AxisType
from networks import draw_state, quick_compiles  # noqa: F401

from drsn_jax.config.build import make_training
from drsn_jax.config.files import load_config
from drsn_jax.models import shrinkage
from drsn_jax.models.critic import Critic
from drsn_jax.models.generator import Generator
from drsn_jax.models.shrinkage import THRESHOLDS
from drsn_jax.ops.backend import forms_here
from drsn_jax.system.errors import InputError
from drsn_jax.training.critic import UPDATES, CriticState
from drsn_jax.training.generator import update_ema
from drsn_jax.training.sharding import check_batch_size, make_mesh, over_data, replicated, shard_batch
from drsn_jax.training.spec import LossWeights, Parts, StepSpec
from drsn_jax.training.state import init_state
from drsn_jax.training.step import make_train_step
from drsn_jax.weights.vgg19 import load_frozen

SIZE = 16
WEIGHTS = LossWeights(adversarial=0.5, content=2.0, pixel=1.0, frequency=0.3)


def features_fn(frozen, images):
    """Replace VGG19: local, not linear, of another size. Without a `frozen` argument its parameter is 0.1."""
    return jnp.square(images[:, ::2, ::2] - (0.1 if frozen is None else frozen) * images[:, 1::2, 1::2])


def make_batch(number, seed=0):
    rng = np.random.default_rng(seed)
    sharp = rng.uniform(-0.8, 0.8, (number, SIZE, SIZE, 3)).astype(np.float32)
    blurred = (sharp + np.roll(sharp, 1, axis=1) + np.roll(sharp, 1, axis=2)) / 3
    return {"blurred": jnp.asarray(blurred), "sharp": jnp.asarray(sharp)}


def tracing_sgd(rate=0.002):
    """Gradient descent that keeps the last gradient in its state, as it came."""
    return optax.chain(optax.trace(0.0), optax.scale(-rate))


class Setting:
    """Tiny networks, a state and the step made of them, not jitted."""

    def __init__(self, *, norm="none", critic_norm="none", dropout=0.0, output="linear", tx=None, ema=False, unroll=True, **options):
        dtype, generator_output = options.pop("dtype", jnp.float32), options.pop("generator_output", "clip_residual")
        self.generator = Generator(widths=(4, 4, 4), num_blocks=1, norm=norm, dropout=dropout, output=generator_output, dtype=dtype)
        self.critic = Critic(head="patch", widths=(4, 6), norm=critic_norm, critic_output=output, dtype=dtype)
        self.tx = tx or tracing_sgd()
        self.parts = Parts(self.generator, self.critic, self.tx, self.tx, lambda step: 0.05 * (1 + step), features_fn)
        forms = dataclasses.replace(forms_here(), unroll_loops=unroll)
        self.spec = StepSpec(**{"weights": WEIGHTS, "critic_steps": 2, "ema_decay": 0.9 if ema else 0.0, "forms": forms} | options)
        self.step_fn = make_train_step(self.parts, self.spec)
        self.init = jax.jit(partial(init_state, parts=self.parts, spec=self.spec, image_size=SIZE))
        self.update_critic = partial(UPDATES[self.spec.critic_update], parts=self.parts, spec=self.spec)
        self.state = self.make_state()

    def make_state(self, seed=0):
        """Make the result of `init` by numpy, without a compilation."""
        return draw_state(lambda key: self.init(rng=key), seed=seed)

    def keys(self, state):
        """Dropout, critic and fresh keys of a step, as its docstring and SPEC have them: one stream folded with the step."""
        return jax.random.split(jax.random.fold_in(state.rng, state.step), 3)

    def restore(self, params, stats, blurred, key):
        variables = {"params": params, "batch_stats": stats}
        return self.generator.apply(variables, blurred, train=True, rngs={"dropout": key}, mutable=["batch_stats", THRESHOLDS])


def close(a, b, atol=1e-6):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=atol), a, b)


def largest_difference(a, b):
    return max(float(np.abs(np.asarray(x) - np.asarray(y)).max()) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def all_equal(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def bits(state):
    return dataclasses.replace(state, rng=jax.random.key_data(state.rng))


# The critic's loop


@pytest.mark.parametrize(
    ("critic_update", "lipschitz", "critic_norm", "unroll", "adam"),
    [
        ("joint", "gradient_penalty", "none", False, False),
        ("joint", "none", "batch", True, True),
        ("alternating", "none", "batch", False, True),
        ("alternating", "none", "batch", True, False),
    ],
)
def test_five_looped_updates_equal_five_by_hand(critic_update, lipschitz, critic_norm, unroll, adam):
    tx = optax.adam(1e-3, eps=1e-3) if adam else tracing_sgd()
    options = {"critic_update": critic_update, "lipschitz": lipschitz}
    setting = Setting(norm="batch", dropout=0.5, critic_norm=critic_norm, tx=tx, critic_steps=5, unroll=unroll, **options)
    batch, state = make_batch(2), setting.state
    after, metrics = jax.jit(setting.step_fn)(state, batch)

    dropout_key, critic_key, _ = setting.keys(state)
    restored, _ = jax.jit(setting.restore)(state.generator_params, state.generator_stats, batch["blurred"], dropout_key)
    update = jax.jit(setting.update_critic)
    critic, seen = CriticState.of(state), []
    for i in range(5):
        critic, figures = update(critic, batch["sharp"], restored, jax.random.fold_in(critic_key, i))
        seen.append(figures)
    atol = 2e-5 if adam else 1e-6
    close(after.critic_params, critic.params, atol)
    close(after.critic_stats, critic.stats, atol)
    close(after.critic_opt_state, critic.opt_state, atol)
    for name in seen[0]:
        mean = np.mean([float(figures[name]) for figures in seen])
        assert metrics[name] == pytest.approx(mean, rel=1e-3, abs=1e-5), name
    assert largest_difference(after.critic_params, state.critic_params) > 1e-4


def test_a_joint_update_is_one_gradient_step_on_the_papers_loss():
    """The critic's side alone, written from SPEC section 2: mean D(G(I_B)) - mean D(I_S) + 10 x penalty."""
    setting = Setting(lipschitz="gradient_penalty", tx=optax.sgd(0.1))
    critic, params = setting.critic, setting.state.critic_params
    batch, key = make_batch(2), jax.random.key(3)

    def loss(params):
        def score(x):
            return critic.apply({"params": params}, x)

        weight = jax.random.uniform(key, (2, 1, 1, 1))
        between = weight * batch["sharp"] + (1 - weight) * batch["blurred"]
        slopes = jnp.stack([jax.grad(lambda x: score(x[None])[0])(x) for x in between])
        penalty = jnp.square(jnp.sqrt(jnp.square(slopes).sum((1, 2, 3))) - 1).mean()
        return score(batch["blurred"]).mean() - score(batch["sharp"]).mean() + 10 * penalty

    value, gradient = jax.jit(jax.value_and_grad(loss))(params)
    expected = jax.tree.map(lambda p, g: np.asarray(p) - np.float32(0.1) * np.asarray(g), params, gradient)
    state, metrics = jax.jit(setting.update_critic)(CriticState.of(setting.state), batch["sharp"], batch["blurred"], key)
    close(state.params, expected)
    assert metrics["critic/loss"] == pytest.approx(float(value), rel=1e-5)
    assert metrics["critic/distance"] == pytest.approx(float(metrics["critic/sharp"] - metrics["critic/restored"]), rel=1e-5)


def test_alternating_is_sharp_first_then_restored_each_with_its_own_statistics():
    setting = Setting(critic_norm="batch", output="sigmoid", tx=optax.sgd(0.5), critic_update="alternating")
    critic, start, batch = setting.critic, CriticState.of(setting.state), make_batch(2)
    state, _ = jax.jit(setting.update_critic)(start, batch["sharp"], batch["blurred"], jax.random.key(0))

    @partial(jax.jit, static_argnums=3)
    def one(params, stats, images, sign):
        def loss(params):
            scores, new = critic.apply({"params": params, "batch_stats": stats}, images, train=True, mutable=["batch_stats"])
            return sign * scores.mean(), new["batch_stats"]

        grads, stats = jax.grad(loss, has_aux=True)(params)
        return jax.tree.map(lambda p, g: p - 0.5 * g, params, grads), stats

    params, stats = one(start.params, start.stats, batch["sharp"], -1)
    params, stats = one(params, stats, batch["blurred"], 1)
    close(state.params, params)
    close(state.stats, stats)


@pytest.mark.parametrize(
    ("options", "norm", "message"),
    [
        ({"lipschitz": "gradient_penalty"}, "batch", "--config.critic_norm=none"),
        ({"lipschitz": "gradient_penalty", "critic_update": "alternating"}, "none", "--config.critic_update=joint"),
        ({"weights": LossWeights(0, 0, 0, 0)}, "none", "nothing to learn"),
        ({"weights": LossWeights(1, -1, 0, 0)}, "none", "content_weight=-1 is negative"),
    ],
)
def test_impossible_combinations_are_refused(options, norm, message):
    with pytest.raises(InputError, match=message) as caught:
        Setting(critic_norm=norm, **options)
    assert "\n" not in str(caught.value)


def test_clipping_bounds_every_parameter_of_the_critic_alone():
    setting = Setting(lipschitz="clip", clip_value=0.02, critic_norm="batch")
    after, _ = jax.jit(setting.step_fn)(setting.state, make_batch(2))
    leaves = [np.abs(np.asarray(leaf)).max() for leaf in jax.tree.leaves(after.critic_params)]
    assert max(leaves) == np.float32(0.02), "up to the bound and no further"
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(after.generator_params)) > 0.1


# The whole step: one compile for all of these


@pytest.fixture(scope="module")
def whole():
    setting = Setting(norm="batch", dropout=0.5, lipschitz="gradient_penalty", ema=True)
    setting.jitted = jax.jit(setting.step_fn)
    setting.batch = make_batch(2)
    setting.after, setting.metrics = setting.jitted(setting.state, setting.batch)
    return setting


def test_the_generators_gradient_is_plain_grad_of_the_total_loss(whole):
    state, batch = whole.state, whole.batch
    dropout_key, _, _ = whole.keys(state)

    def loss(params):
        restored, _ = whole.restore(params, state.generator_stats, batch["blurred"], dropout_key)
        scores = whole.critic.apply({"params": whole.after.critic_params}, restored)  # the critic after its updates
        difference = jnp.fft.rfft2(restored - batch["sharp"], axes=(1, 2))
        frequency = jnp.mean(jnp.abs(difference.real) + jnp.abs(difference.imag)) / 2
        content = jnp.mean((features_fn(None, restored) - features_fn(None, batch["sharp"])) ** 2)
        pixel = jnp.mean(jnp.sqrt((restored - batch["sharp"]) ** 2 + 1e-6))
        terms = {"adversarial": -scores.mean(), "content": content, "pixel": pixel, "frequency": frequency}
        return 0.5 * terms["adversarial"] + 2 * content + pixel + 0.3 * frequency, terms

    (total, terms), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(state.generator_params)
    close(whole.after.generator_opt_state[0].trace, grads, 1e-5 * float(optax.tree.norm(grads)))
    close(whole.after.generator_params, jax.tree.map(lambda p, g: p - 0.002 * g, state.generator_params, grads), 1e-5)
    assert whole.metrics["generator/loss"] == pytest.approx(float(total), rel=1e-5)
    assert whole.metrics["generator/grad_norm"] == pytest.approx(float(optax.tree.norm(grads)), rel=1e-4)
    for name, term in terms.items():
        assert whole.metrics[f"generator/{name}"] == pytest.approx(float(term), rel=1e-4), f"{name}, unweighted"


def test_metrics_are_complete_finite_float32_scalars(whole):
    generator = {"loss", "adversarial", "content", "pixel", "frequency", "grad_norm", "threshold"}
    critic = {"loss", "distance", "sharp", "restored", "grad_norm", "gradient_penalty"}
    expected = {f"generator/{name}" for name in generator} | {f"critic/{name}" for name in critic} | {"learning_rate"}
    assert {name for name in whole.metrics if not name.startswith("generator/threshold/")} == expected
    for name, value in whole.metrics.items():
        assert value.shape == (), name
        assert value.dtype == jnp.float32, name
        assert np.isfinite(value), name
    assert whole.metrics["learning_rate"] == pytest.approx(0.05)


def test_the_threshold_metric_is_the_mean_of_what_the_blocks_sowed(whole):
    state = whole.state
    _, sown = jax.jit(whole.restore)(state.generator_params, state.generator_stats, whole.batch["blurred"], whole.keys(state)[0])
    thresholds = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(sown[THRESHOLDS])])
    assert thresholds.size == 2 * 4
    assert whole.metrics["generator/threshold"] == pytest.approx(thresholds.mean(), rel=1e-4)
    by_block = {name: np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]).mean() for name, tree in sown[THRESHOLDS].items()}
    assert len(by_block) >= 1
    for name, mean in by_block.items():
        assert whole.metrics[f"generator/threshold/{name}"] == pytest.approx(mean, rel=1e-4)
    close(whole.after.generator_stats, sown["batch_stats"])
    assert largest_difference(whole.after.generator_stats, state.generator_stats) > 1e-5


def test_same_seed_same_bits(whole):
    results = [whole.jitted(whole.init(rng=jax.random.key(seed)), whole.batch) for seed in (1, 1, 2)]
    (first, metrics), (again, same), (other, _) = results
    assert all_equal(bits(first), bits(again))
    assert all_equal(metrics, same)
    assert largest_difference(other.generator_params, first.generator_params) > 1e-3
    assert largest_difference(other.critic_params, first.critic_params) > 1e-3


def test_the_step_number_changes_dropout_and_penalty_and_nothing_else_is_carried(whole):
    later = dataclasses.replace(whole.state, step=jnp.int32(1))
    after, metrics = whole.jitted(later, whole.batch)
    assert abs(float(metrics["generator/pixel"] - whole.metrics["generator/pixel"])) > 1e-6, "other dropout"
    assert float(metrics["critic/gradient_penalty"]) != float(whole.metrics["critic/gradient_penalty"])
    assert np.array_equal(*(jax.random.key_data(state.rng) for state in (after, whole.state))), "the stream is never advanced"
    assert (int(after.step), int(whole.after.step)) == (2, 1)
    assert metrics["learning_rate"] == pytest.approx(0.1)


def test_the_penalty_draws_anew_for_each_update_of_a_step():
    """Without dropout, and with a critic that stands still, the penalty of two updates in one step still differs from that of one."""
    penalties = []
    for critic_steps in (1, 2):
        tx = optax.sgd(0.0)
        setting = Setting(lipschitz="gradient_penalty", tx=tx, critic_steps=critic_steps, weights=LossWeights(1, 0, 0, 0))
        _, metrics = jax.jit(setting.step_fn)(setting.state, make_batch(2))
        penalties.append(float(metrics["critic/gradient_penalty"]))
    assert penalties[0] != pytest.approx(penalties[1], rel=1e-6)


def test_running_mean(whole):
    def expected(warm):
        return jax.tree.map(lambda e, p: warm * e + (1 - warm) * p, whole.state.ema_params, whole.after.generator_params)

    close(whole.after.ema_params, expected(0.1))
    assert whole.after.inference_params is whole.after.ema_params
    for step, warm in ((0, 0.1), (8, 0.5), (1000, 0.9)):
        moved = update_ema(whole.state.ema_params, whole.after.generator_params, decay=0.9, step=jnp.int32(step))
        close(moved, expected(warm))


def test_without_a_running_mean_restoration_uses_the_parameters():
    state = Setting().state
    assert state.ema_params == {}
    assert state.inference_params is state.generator_params


def test_one_trace_no_transfer_and_the_state_is_donated(whole):
    traces, compiles = [], []

    def counted(state, batch):
        traces.append(1)
        return whole.step_fn(state, batch)

    def listen(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compiles.append(duration)

    step = jax.jit(counted, donate_argnums=0)
    state = whole.init(rng=jax.random.key(1))
    batches = [make_batch(2, seed) for seed in range(4)]
    states = []
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        with jax.transfer_guard("disallow"):
            for batch in batches:
                states.append(state)
                state, metrics = step(state, batch)
                state.step.block_until_ready()
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert len(traces) == 1
    assert len(compiles) <= 1, "0 where the compile cache had it"
    assert int(state.step) == 4
    leaves = [leaf for leaf in jax.tree.leaves(dataclasses.replace(states[0], rng=0)) if isinstance(leaf, jax.Array)]
    alive = [leaf for leaf in leaves if not leaf.is_deleted()]
    assert not alive, f"{len(alive)} of {len(leaves)} buffers of the old state live on"
    assert not any(leaf.is_deleted() for batch in batches for leaf in batch.values())
    assert np.isfinite(metrics["generator/loss"])


# Switches


def test_frozen_parameters_are_an_argument_of_the_step_not_a_constant_of_its_program():
    setting, batch = Setting(), make_batch(2)
    step = jax.jit(setting.step_fn)
    contents = [float(step(setting.state, batch, jnp.float32(frozen))[1]["generator/content"]) for frozen in (0.1, 0.7)]
    assert contents[0] == pytest.approx(float(step(setting.state, batch)[1]["generator/content"]), rel=1e-5)
    assert contents[1] != pytest.approx(contents[0], rel=1e-2)


def test_fresh_batches_give_each_update_its_own_part_and_the_generator_the_last():
    setting = Setting(critic_batches="fresh", critic_steps=2)
    state, batch = setting.state, make_batch(6)
    after, metrics = jax.jit(setting.step_fn)(state, batch)
    restore = jax.jit(lambda x: setting.generator.apply({"params": state.generator_params}, x))
    update, critic = jax.jit(setting.update_critic), CriticState.of(state)
    for i in range(2):
        critic, _ = update(critic, batch["sharp"][i::3], restore(batch["blurred"][i::3]), jax.random.key(0))
    close(after.critic_params, critic.params)
    last = np.asarray(restore(batch["blurred"][2::3])) - batch["sharp"][2::3]
    assert metrics["generator/pixel"] == pytest.approx(np.sqrt(last**2 + 1e-6).mean(), rel=1e-5)

    for part in range(3):  # each part counts, and where it should
        changed = {name: x.at[part::3].multiply(0.5) for name, x in batch.items()}
        other, figures = jax.jit(setting.step_fn)(state, changed)
        assert (largest_difference(other.critic_params, after.critic_params) > 1e-5) == (part < 2)
        assert (float(figures["generator/pixel"]) != float(metrics["generator/pixel"])) == (part == 2)


def test_dropout_of_fresh_batches_differs_between_updates():
    """The same images in every part: with dropout the critic still sees other restorations in each update."""
    one = make_batch(1)
    batch = {name: jnp.repeat(x, 3, axis=0) for name, x in one.items()}
    seen = []
    for dropout in (0.0, 0.5):
        setting = Setting(critic_batches="fresh", critic_steps=2, dropout=dropout, tx=optax.sgd(0.0), weights=LossWeights(1, 0, 0, 0))
        _, metrics = jax.jit(setting.step_fn)(setting.state, batch)
        mean_over_updates, last = float(metrics["critic/restored"]), -float(metrics["generator/adversarial"])
        seen.append(abs(mean_over_updates - last))
    assert seen[0] < 1e-6
    assert seen[1] > 1e-6


def test_an_adversarial_weight_of_0_leaves_the_critic_bitwise_alone():
    setting = Setting(weights=LossWeights(adversarial=0.0, content=0.0, pixel=1.0, frequency=0.0), critic_norm="batch")
    after, metrics = jax.jit(setting.step_fn)(setting.state, make_batch(2))
    for name in ("critic_params", "critic_stats", "critic_opt_state"):
        assert all_equal(getattr(after, name), getattr(setting.state, name))
    names = {name for name in metrics if not name.startswith("generator/threshold/")}
    assert names == {"generator/loss", "generator/pixel", "generator/grad_norm", "generator/threshold", "learning_rate"}
    assert largest_difference(after.generator_params, setting.state.generator_params) > 1e-5


@pytest.fixture(scope="module")
def switched():
    """Compute the state after one step for the Keras reference's three switches: none, each alone, all three."""
    results = {}
    first, second = ("joint", "train", "batch"), ("alternating", "inference", "moving")
    alone = [(*first[:i], second[i], *first[i + 1 :]) for i in range(3)]
    for update, fake, norm in (first, *alone, second):
        options = {"critic_update": update, "fake_mode": fake, "critic_norm_in_generator_step": norm}
        setting = Setting(
            dropout=0.5,
            critic_norm="batch",
            output="sigmoid",
            critic_steps=1,
            tx=tracing_sgd(0.5),
            weights=LossWeights(1, 0, 0, 0),
            **options,
        )
        results[update, fake, norm] = jax.jit(setting.step_fn)(setting.state, make_batch(2))
    return results


def test_every_choice_of_the_switches_runs(switched):
    for choice, (state, metrics) in switched.items():
        assert all(np.isfinite(value) for value in metrics.values()), choice
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(bits(state))), choice


@pytest.mark.parametrize("index", [0, 1, 2])
def test_each_switch_changes_what_it_is_about(switched, index):
    choices = list(switched)
    (a, _), (b, _) = switched[choices[0]], switched[choices[1 + index]]
    same_critic = index == 2  # the scores in the generator's step do not affect the critic
    assert (largest_difference(a.critic_params, b.critic_params) < 1e-6) == same_critic
    assert (largest_difference(a.critic_stats, b.critic_stats) < 1e-6) == same_critic
    assert largest_difference(a.generator_params, b.generator_params) > 1e-5


# Devices


@pytest.fixture
def smooth_float64(monkeypatch):
    """Compute in float64 and without kinks, so another order of summation changes results by a rounding at most."""
    monkeypatch.setattr(jnp, "float32", jnp.float64)
    monkeypatch.setattr(nn, "relu", nn.softplus)
    monkeypatch.setattr(nn, "leaky_relu", lambda x, slope: slope * x + (1 - slope) * nn.softplus(x))
    monkeypatch.setattr(shrinkage, "soft_threshold", lambda x, threshold: x - threshold * jnp.tanh(x / threshold))
    with jax.enable_x64(True):
        yield


def in_float64(tree):
    return jax.tree.map(lambda x: x.astype(np.float64) if jnp.issubdtype(x.dtype, np.floating) else x, tree)


@pytest.mark.usefixtures("smooth_float64")
@pytest.mark.parametrize("critic_batches", [pytest.param("same", marks=pytest.mark.soak), "fresh"])
def test_eight_devices_equal_one(critic_batches):
    """Over six steps, each mesh on its own way."""
    setting = Setting(
        norm="batch",
        dropout=0.5,
        lipschitz="gradient_penalty",
        ema=True,
        dtype=jnp.float64,
        generator_output="average",
        critic_batches=critic_batches,
        critic_steps=1,
    )
    batch = {name: np.asarray(x, np.float64) for name, x in make_batch(8 if critic_batches == "same" else 16).items()}
    one = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:1])
    assert make_mesh().size == 8
    step = jax.jit(setting.step_fn, donate_argnums=0)  # as run.loop does it
    places = []
    for mesh in (one, make_mesh()):
        state, sharded = jax.device_put(in_float64(setting.make_state()), replicated(mesh)), shard_batch(batch, mesh)
        assert {x.sharding for x in sharded.values()} == {over_data(mesh)}
        places.append((state, sharded))
    for number in range(6):
        with jax.transfer_guard("disallow"):
            results = [step(*place) for place in places]
        assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(results[1][0]))
        a, b = (jax.device_get((bits(state), metrics)) for state, metrics in results)
        assert {x.dtype for x in jax.tree.leaves((a[0].generator_params, a[1]))} == {np.dtype(np.float64)}
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-10, err_msg=f"step {number}"), a, b)
        places = [(state, batch) for (state, _), (_, batch) in zip(results, places, strict=True)]


def test_a_batch_that_does_not_divide_is_refused_with_the_nearest_that_does():
    check_batch_size(16, devices=8)
    with pytest.raises(InputError, match=r"Batch size 12 does not divide over 8 devices; .*--config.batch_size=(8|16)"):
        check_batch_size(12, devices=8)
    with pytest.raises(InputError, match=r"--config.batch_size=8"):
        check_batch_size(1, devices=8)


# The configurations that ship

SHRUNKEN = {"widths": "4,4,4", "num_blocks": 1, "crop_size": 32, "stages": "()", "critic_steps": 2, "warmup_steps": 0, "dense_features": 8}
OWN = {"keras_reference": {"batch_size": 2}, "paper": {"batch_size": 1}}


def shrunken(name, **changes):
    critic_widths = "4,4,4,4,4" if name in ("paper", "keras_reference") else "4,4,4,4"
    overrides = SHRUNKEN | {"batch_size": 1, "critic_widths": critic_widths} | OWN.get(name, {}) | changes
    return load_config(name, [f"--config.{key}={value}" for key, value in overrides.items()])


@pytest.mark.parametrize(
    "name", ["best", "keras_reference", "demo", *(pytest.param(name, marks=pytest.mark.soak) for name in ("default", "paper"))]
)
def test_shipped_configurations_take_a_step(name):
    config = shrunken(name)
    training = make_training(config, num_train_steps=10)
    state = draw_state(training.init)
    sharp = np.random.default_rng(0).uniform(-1, 1, (config["batch_size"], 32, 32, 3)).astype(np.float32)
    batch = {"blurred": jnp.asarray((sharp + np.roll(sharp, 1, 1)) / 2), "sharp": jnp.asarray(sharp)}
    after, metrics = jax.jit(training.train_step)(state, batch, load_frozen(config))
    assert all(np.isfinite(value) for value in metrics.values())
    terms = {f"generator/{term}" for term in LossWeights._fields if config[f"{term}_weight"]}
    assert terms <= set(metrics)
    assert "generator/content" in terms
    assert metrics["learning_rate"] == pytest.approx(config["learning_rate"])
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((after.generator_params, after.critic_params)))
    moved = largest_difference(after.generator_params, state.generator_params)
    assert 0.3 * config["learning_rate"] < moved < 2 * config["learning_rate"], "Adam's first step"
    updates = config["critic_steps"] * (2 if config["critic_update"] == "alternating" else 1)
    moved = largest_difference(after.critic_params, state.critic_params)
    assert 0.1 * config["critic_learning_rate"] < moved < 2 * updates * config["critic_learning_rate"]


def test_batch_norm_of_thresholds_at_batch_one_is_refused_when_training_but_can_be_counted():
    with pytest.raises(InputError, match="threshold_norm=batch and a batch of 1"):
        make_training(shrunken("keras_reference", batch_size=1), num_train_steps=10)
    make_training(shrunken("keras_reference", batch_size=1, shrinkage=False), num_train_steps=10)
    with pytest.raises(InputError, match="batch of 1"):
        make_training(shrunken("keras_reference") | {"stages": ((0, 32, 4), (5, 32, 1))}, num_train_steps=10)

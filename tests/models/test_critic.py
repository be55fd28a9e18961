"""The critic: counts to the unit, scores' shape and range, sizes, and where biases and statistics are."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import draw_variables, images, quick_compiles  # noqa: F401
from scipy import signal

from drsn_jax.models.critic import DENSE_WIDTHS, PATCH_WIDTHS, Critic
from drsn_jax.models.generator import Generator

TINY = {"dense": (4, 4, 6, 6, 8), "patch": (4, 6, 6, 8)}


def count(module, size=256):
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, size, size, 3)))
    trainable, statistics = (
        sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes.get(name, {}))) for name in ("params", "batch_stats")
    )
    return np.array([trainable, trainable + statistics])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"head": "dense", "widths": DENSE_WIDTHS}, (3_096_450, 3_098_370)),
        ({"head": "patch", "widths": PATCH_WIDTHS}, (2_765_633, 2_767_425)),
        ({"head": "patch", "widths": PATCH_WIDTHS, "norm": "instance"}, (2_764_737, 2_764_737)),
    ],
)
def test_parameter_counts(options, expected):
    assert tuple(count(Critic(**options))) == expected


def test_generator_and_critic_together_are_the_papers_15_7_million():
    assert tuple(count(Generator(threshold_norm="batch")) + count(Critic())) == (15_673_989, 15_691_013)


@pytest.mark.parametrize("norm", ["batch", "instance", "layer", "none"])
@pytest.mark.parametrize("head", ["dense", "patch"])
def test_one_score_an_image_in_its_range(head, norm):
    linear = Critic(head=head, widths=TINY[head], norm=norm, critic_output="linear", dense_features=8)
    sigmoid = linear.clone(critic_output="sigmoid")
    x = images(3)

    variables = draw_variables(linear, x)

    @jax.jit
    def run(variables):
        last = "dense2" if head == "dense" else "conv5"  # loud enough for linear scores to leave (0, 1)
        loud = variables | {"params": variables["params"] | {last: jax.tree.map(lambda p: 30 * p, variables["params"][last])}}
        return sigmoid.apply(variables, x), linear.apply(variables, x), sigmoid.apply(loud, x), linear.apply(loud, x)

    scores = run(variables)
    assert ("batch_stats" in variables) == (norm == "batch")
    for score in scores:
        assert score.shape == (3,)
        assert score.dtype == np.float32
        assert len(set(score.tolist())) == 3, "each image has its own"
    for bounded in scores[::2]:
        assert ((np.asarray(bounded) >= 0) & (np.asarray(bounded) <= 1)).all()
    assert not ((np.asarray(scores[3]) >= 0) & (np.asarray(scores[3]) <= 1)).all()
    if head == "dense":
        np.testing.assert_allclose(scores[0], 1 / (1 + np.exp(-np.asarray(scores[1]))), rtol=1e-5)


def test_patch_scores_are_averaged_after_the_sigmoid():
    """Every patch gives its own probability, as PatchGAN's loss over a map of sigmoids does."""
    options = {"head": "patch", "widths": TINY["patch"], "norm": "none"}
    x = images(2)
    critic = Critic(**options)
    variables = draw_variables(critic, x)
    variables = {"params": jax.tree.map(lambda p: 4 * p, variables["params"])}
    _, seen = jax.jit(partial(critic.apply, capture_intermediates=True))(variables, x)
    patches = np.asarray(seen["intermediates"]["conv5"]["__call__"][0], np.float64)
    assert patches.shape == (2, 4, 4, 1)
    np.testing.assert_allclose(critic.apply(variables, x), (1 / (1 + np.exp(-patches))).mean((1, 2, 3)), rtol=1e-4)


def test_strides():
    critic = Critic()
    shapes = jax.eval_shape(lambda x: critic.init_with_output(jax.random.key(0), x, capture_intermediates=True)[1], images(1, 256, 256))
    layers = shapes["intermediates"]
    sizes = [layers[f"conv{i}"]["__call__"][0].shape[1:] for i in range(1, 7)]
    assert sizes == [(128, 128, 64), (64, 64, 64), (32, 32, 128), (16, 16, 256), (16, 16, 512), (16, 16, 1)]
    assert layers["dense1"]["__call__"][0].shape == (1, 1024)


def test_patch_takes_any_size_and_dense_one():
    patch = Critic(head="patch", widths=TINY["patch"], norm="none")
    variables = draw_variables(patch, images(1, 16, 16))
    for height, width in ((20, 36), (8, 8)):
        scores = jax.jit(patch.apply)(variables, images(2, height, width))
        assert scores.shape == (2,)
        assert np.isfinite(scores).all()
    dense = Critic(head="dense", widths=TINY["dense"], norm="none")
    variables = jax.eval_shape(dense.init, jax.random.key(0), images(1, 32, 32))
    with pytest.raises(Exception, match="shape"):
        jax.eval_shape(dense.apply, variables, images(1, 64, 64))


@pytest.mark.parametrize(
    ("head", "norm", "without"),
    [("patch", "batch", {"conv2", "conv3", "conv4"}), ("patch", "none", set()), ("patch", "instance", set()), ("dense", "batch", set())],
)
def test_biases_only_where_they_act(head, norm, without):
    init = Critic(head=head, widths=TINY[head], norm=norm).init
    params = jax.eval_shape(init, jax.random.key(0), images(2))["params"]
    convolutions = {name: p for name, p in params.items() if name.startswith("conv")}
    assert len(convolutions) == len(TINY[head]) + 1
    assert {name for name, p in convolutions.items() if "bias" not in p} == without
    norms = {name for name in params if name.startswith("norm")}
    assert norms == ({f"norm{i}" for i in range(2, len(TINY[head]) + 1)} if norm == "batch" else set())


def test_first_layer_equals_scipy():
    """4x4, stride 2, SAME on an even size: one row of zeros on each side; then LeakyReLU 0.2 before the next."""
    critic = Critic(head="patch", widths=(4, 6), norm="none")
    x = images(1, 12, 10)
    variables = draw_variables(critic, x)
    _, seen = jax.jit(partial(critic.apply, capture_intermediates=True))(variables, x)
    first = np.asarray(seen["intermediates"]["conv1"]["__call__"][0])[0]

    def correlate(image, params, pad):
        padded = np.pad(np.asarray(image, np.float64), (pad, pad, (0, 0)))
        kernel = np.asarray(params["kernel"], np.float64)
        planes = [
            sum(signal.correlate(padded[..., c], kernel[..., c, o], mode="valid") for c in range(kernel.shape[2]))
            for o in range(kernel.shape[3])
        ]
        return np.stack(planes, -1) + np.asarray(params["bias"])

    expected = correlate(x[0], variables["params"]["conv1"], (1, 1))[::2, ::2]
    np.testing.assert_allclose(first, expected, rtol=1e-4, atol=1e-5)
    activated = np.where(expected > 0, expected, 0.2 * expected)
    second = np.asarray(seen["intermediates"]["conv2"]["__call__"][0])[0]
    np.testing.assert_allclose(second, correlate(activated, variables["params"]["conv2"], (1, 2)), rtol=1e-4, atol=1e-5)


def test_training_mode_scores_by_this_batch_and_inference_by_the_moving_statistics():
    critic = Critic(head="patch", widths=TINY["patch"], norm="batch", critic_output="linear")
    x = images(4)
    variables = draw_variables(critic, x)
    apply_fn, train_fn = jax.jit(critic.apply), jax.jit(partial(critic.apply, train=True, mutable=["batch_stats"]))
    together, updated = train_fn(variables, x)
    alone, _ = train_fn(variables, x[:1])
    assert np.abs(together[0] - alone[0]) > 1e-4, "the other images matter"
    moving = apply_fn(variables, x)
    np.testing.assert_allclose(moving[0], apply_fn(variables, x[:1])[0], rtol=1e-4)
    changed = jax.tree.map(lambda a, b: float(np.abs(np.asarray(a) - b).max()), updated["batch_stats"], variables["batch_stats"])
    assert min(jax.tree.leaves(changed)) > 1e-6


@pytest.mark.parametrize("head", ["dense", "patch"])
def test_bfloat16_scores_are_float32_and_close(head):
    options = {"head": head, "widths": TINY[head], "norm": "none", "critic_output": "linear", "dense_features": 16}
    x = images(2)
    variables = draw_variables(Critic(**options), x)
    fast = Critic(**options, dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(jax.eval_shape(fast.init, jax.random.key(0), x))} == {jnp.dtype("float32")}
    scores = jax.jit(fast.apply)(variables, x)
    assert scores.dtype == jnp.float32
    np.testing.assert_allclose(scores, jax.jit(Critic(**options).apply)(variables, x), atol=0.05)

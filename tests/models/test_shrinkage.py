"""Soft thresholding and the residual shrinkage block, against numpy and against what the SPEC says about thresholds."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import quick_compiles  # noqa: F401

from drsn_jax.models.shrinkage import THRESHOLDS, ResidualShrinkageBlock, ThresholdNet, soft_threshold

CHANNELS = 5
values = st.floats(-8, 8, width=32, allow_subnormal=False)
thresholds = st.floats(0, 8, width=32, allow_subnormal=False)


def images(seed=0, batch=2, size=7, channels=CHANNELS, offset=0.0):
    return jnp.array(np.random.default_rng(seed).normal(offset, 1, (batch, size, size + 2, channels)).astype(np.float32))


def relu(x):
    return np.maximum(x, 0)


def proximal_l1(x, threshold):
    """argmin_y |y - x|^2 / 2 + threshold |y|, in the form that has no sign in it."""
    return relu(x - threshold) - relu(-x - threshold)


def randomised(variables, seed=1):
    """Every leaf drawn anew, so that zeros (biases) and ones (scales) cannot hide a missing term; variances stay positive."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name = path[-1].key
        centre = 1.0 if name in ("scale", "var") else 0.0
        return jnp.asarray((centre + rng.uniform(-0.4, 0.4, leaf.shape)).astype(np.float32))

    return jax.tree_util.tree_map_with_path(draw, variables)


# The soft threshold


@settings(max_examples=60, deadline=None)
@given(values, values, thresholds)
def test_it_is_the_proximal_operator_of_the_l1_norm(x, y, threshold):
    pair, t = jnp.array([[x, y]], jnp.float32), jnp.array([[threshold]], jnp.float32)
    out = np.asarray(soft_threshold(pair, t))
    np.testing.assert_allclose(out, proximal_l1(np.asarray(pair), np.float32(threshold)), atol=1e-6)
    assert (np.abs(out) <= np.abs(pair)).all(), "shrinks"
    assert (np.sign(out) * np.sign(pair) >= 0).all(), "never changes a sign"
    assert np.abs(out[0, 0] - out[0, 1]) <= np.abs(np.float32(x) - np.float32(y)) + 1e-6, "moves no two values apart"
    if x <= y:
        assert out[0, 0] <= out[0, 1] + 1e-6, "keeps their order"
    np.testing.assert_array_equal(soft_threshold(-pair, t), -out)


def test_values_by_hand():
    x = jnp.array([[-3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0]])
    np.testing.assert_array_equal(soft_threshold(x, jnp.array([[1.0]])), [[-2, 0, 0, 0, 0, 0, 2]])
    np.testing.assert_array_equal(soft_threshold(x, jnp.array([[0.0]])), x)


def test_negative_features_survive_unlike_under_relu():
    assert soft_threshold(jnp.array([[-2.0]]), jnp.array([[0.5]]))[0, 0] == -1.5


def test_each_channel_of_each_image_has_its_own_threshold():
    x, t = images(), np.random.default_rng(1).uniform(0, 1.5, (2, 1, 1, CHANNELS)).astype(np.float32)
    np.testing.assert_allclose(soft_threshold(x, jnp.array(t)), proximal_l1(x, t), atol=1e-6)


def test_gradients():
    def out(x, t):
        return soft_threshold(x[None, None], t[None, None])[0, 0]

    for x, t, expected in [(2.0, 0.5, (1, -1)), (-2.0, 0.5, (1, 1)), (0.3, 0.5, (0, 0)), (-0.3, 0.5, (0, 0))]:
        assert jax.grad(out, (0, 1))(jnp.float32(x), jnp.float32(t)) == expected
    assert np.isfinite(jax.grad(out, (0, 1))(jnp.float32(0), jnp.float32(0))).all()


# The block, re-implemented


def convolve(x, params):
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), "reflect"), (3, 3), axis=(1, 2))
    return np.einsum("bhwcij,ijco->bhwo", windows, params["conv"]["kernel"]) + params["conv"]["bias"]


def normalise(x, kind, params, stats, name):
    if kind == "none":
        return x
    if kind == "layer":
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    if kind == "instance":
        return (x - x.mean((1, 2), keepdims=True)) / np.sqrt(x.var((1, 2), keepdims=True) + 1e-5)
    if kind == "batch":
        x = (x - stats[name]["mean"]) / np.sqrt(stats[name]["var"] + 1e-3)
    return x * params[name]["scale"] + params[name]["bias"]


def residual_of(x, variables, *, order, norm, convs):
    params, stats = variables["params"], variables.get("batch_stats", {})
    for i in range(1, convs + 1):
        if order == "pre":
            x = convolve(relu(normalise(x, norm, params, stats, f"norm{i}")), params[f"conv{i}"])
        else:
            x = normalise(convolve(x, params[f"conv{i}"]), norm, params, stats, f"norm{i}")
            x = relu(x) if i == 1 else x
    return x


def thresholds_of(residual, params, stats, kind):
    magnitude = np.abs(residual).mean((1, 2))
    x = magnitude @ params["dense1"]["kernel"] + params["dense1"]["bias"]
    x = relu(normalise(x, kind, params, stats, "norm")) @ params["dense2"]["kernel"] + params["dense2"]["bias"]
    return magnitude / (1 + np.exp(-x)), magnitude


@pytest.mark.parametrize("convs", [1, 2])
@pytest.mark.parametrize("order", ["pre", "post"])
@pytest.mark.parametrize(
    ("norm", "threshold_norm"), [("none", "none"), ("batch", "batch"), ("instance", "layer"), ("layer", "none"), ("none", None)]
)
def test_block_equals_numpy(order, convs, norm, threshold_norm):
    shrinkage = threshold_norm is not None
    block = ResidualShrinkageBlock(
        train=False, block_order=order, shrinkage=shrinkage, convs_per_block=convs, norm=norm, threshold_norm=threshold_norm or "none"
    )
    x = images()
    variables = jax.eval_shape(block.init, jax.random.key(0), x)
    variables = randomised({name: variables[name] for name in variables if name != THRESHOLDS})
    out, sown = block.apply(variables, x, mutable=[THRESHOLDS])
    plain = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables)
    residual = residual_of(np.asarray(x, np.float64), plain, order=order, norm=norm, convs=convs)
    if shrinkage:
        stats = plain.get("batch_stats", {}).get("threshold", {})
        tau, magnitude = thresholds_of(residual, plain["params"]["threshold"], stats, threshold_norm)
        (seen,) = jax.tree.leaves(sown)
        assert seen.shape == (2, CHANNELS)
        assert seen.dtype == jnp.float32
        np.testing.assert_allclose(seen, tau, rtol=1e-4, atol=1e-6)
        assert (np.asarray(seen) > 0).all()
        assert (np.asarray(seen) < magnitude).all()
        residual = proximal_l1(residual, tau[:, None, None])
    else:
        assert not jax.tree.leaves(sown)
        assert "threshold" not in variables["params"]
    np.testing.assert_allclose(out, x + residual, rtol=1e-4, atol=1e-5)


def test_pre_and_post_order_differ_where_the_paper_says():
    """Both convolutions multiply by -1: after pre's two ReLUs nothing is left, after post's one what was negative is."""
    x = images()
    outputs = {}
    for order in ("pre", "post"):
        block = ResidualShrinkageBlock(train=False, block_order=order, shrinkage=False, norm="none", convs_per_block=2)
        variables = block.init(jax.random.key(0), x)
        identity = np.zeros((3, 3, CHANNELS, CHANNELS), np.float32)
        identity[1, 1] = np.eye(CHANNELS)
        params = {"conv1": {"conv": {"kernel": -identity}}, "conv2": {"conv": {"kernel": -identity}}}
        for conv in params.values():
            conv["conv"]["bias"] = np.zeros(CHANNELS, np.float32)
        assert jax.tree.structure(params) == jax.tree.structure(dict(variables["params"]))
        outputs[order] = np.asarray(block.apply({"params": params}, x)) - x
    np.testing.assert_allclose(outputs["pre"], 0, atol=1e-6)
    np.testing.assert_allclose(outputs["post"], np.minimum(x, 0), atol=1e-6, err_msg="no ReLU after the last convolution")


def test_pre_ends_in_a_convolution_and_begins_with_a_relu():
    x = images()
    block = ResidualShrinkageBlock(train=False, block_order="pre", shrinkage=False, norm="none")
    variables = block.init(jax.random.key(0), x)
    negative = -jnp.abs(x)
    np.testing.assert_allclose(
        block.apply(variables, negative), negative, atol=1e-6, err_msg="all below 0: nothing gets through (zero biases)"
    )
    post = ResidualShrinkageBlock(train=False, block_order="post", shrinkage=False, norm="none")
    assert np.abs(np.asarray(post.apply(variables, negative)) - negative).max() > 0.1


def test_without_shrinkage_the_parameters_are_deblurgans():
    x = images()
    with_, without = (
        jax.eval_shape(ResidualShrinkageBlock(train=False, shrinkage=s, norm="batch", threshold_norm="batch").init, jax.random.key(0), x)[
            "params"
        ]
        for s in (True, False)
    )
    assert set(with_) - set(without) == {"threshold"}
    dense = CHANNELS * CHANNELS + CHANNELS
    assert sum(leaf.size for leaf in jax.tree.leaves(with_["threshold"])) == 2 * dense + 2 * CHANNELS


# Thresholds and the image (SPEC section 1)


def alphas(norm, seed, *, batch=1, train=True):
    """threshold / mean|r| of a threshold net with fixed, random parameters, for one random residual."""
    net = ThresholdNet(norm=norm, train=train)
    residual = images(seed, batch=batch) * np.linspace(0.2, 3, CHANNELS, dtype=np.float32).reshape(1, 1, 1, -1)
    variables = jax.eval_shape(net.init, jax.random.key(0), residual)
    variables = randomised({name: variables[name] for name in variables if name != THRESHOLDS})
    threshold, _ = net.apply(variables, residual, mutable=["batch_stats", THRESHOLDS])
    assert threshold.shape == (batch, 1, 1, CHANNELS)
    return np.asarray(threshold)[:, 0, 0] / np.abs(residual).mean((1, 2))


@pytest.mark.parametrize("norm", ["none", "layer"])
def test_thresholds_depend_on_a_single_image(norm):
    first, second = alphas(norm, 0), alphas(norm, 5)
    assert np.abs(first - second).max() > 1e-3
    assert ((first > 0) & (first < 1)).all()


def test_batch_norm_at_batch_one_makes_the_share_removed_a_constant():
    np.testing.assert_allclose(alphas("batch", 0), alphas("batch", 5), rtol=1e-5)
    assert np.abs(alphas("batch", 0, train=False) - alphas("batch", 5, train=False)).max() > 1e-3, "not so in inference mode"
    two, other = alphas("batch", 0, batch=2), alphas("batch", 5, batch=2)
    assert np.abs(two[0] - two[1]).max() > 1e-3, "nor at batch 2"
    assert np.abs(two - other).max() > 1e-3


def block_gradient(threshold_norm, batch):
    x = images(batch=batch)
    block = ResidualShrinkageBlock(train=True, threshold_norm=threshold_norm, norm="batch")
    variables = block.init({"params": jax.random.key(0), "dropout": jax.random.key(1)}, x)

    def loss(params):
        out, _ = block.apply(
            {"params": params, "batch_stats": variables.get("batch_stats", {})},
            x,
            rngs={"dropout": jax.random.key(2)},
            mutable=["batch_stats", THRESHOLDS],
        )
        return jnp.square(out - 0.3).mean()

    return jax.jit(jax.grad(loss))(variables["params"])["threshold"]


@pytest.mark.parametrize(("threshold_norm", "batch"), [("none", 1), ("layer", 1), ("none", 2), ("batch", 2)])
def test_the_threshold_net_learns(threshold_norm, batch):
    for name, gradient in block_gradient(threshold_norm, batch).items():
        if name == "dense1" and threshold_norm == "batch":  # its bias stands before a batch norm, which takes it away again
            gradient = gradient["kernel"]
        for leaf in jax.tree.leaves(gradient):
            assert np.abs(leaf).max() > 1e-9, name


def test_the_first_dense_layer_learns_nothing_under_batch_norm_at_batch_one():
    gradient = block_gradient("batch", 1)
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(gradient["dense1"])) < 1e-7
    assert np.abs(gradient["dense2"]["bias"]).max() > 1e-9


def test_thresholds_are_averaged_in_float32():
    """A mean over 128 x 130 positions in bfloat16 would stop growing: 256 + 1 is 256 there."""
    residual = jnp.ones((1, 128, 130, 2), jnp.bfloat16)
    net = ThresholdNet(norm="none", train=False, dtype=jnp.bfloat16)
    variables = jax.tree.map(jnp.zeros_like, {"params": net.init(jax.random.key(0), residual)["params"]})
    np.testing.assert_allclose(np.asarray(net.apply(variables, residual), np.float32), 0.5)


# Dropout


def test_dropout_only_in_training_and_where_it_belongs():
    x = images()
    block = ResidualShrinkageBlock(train=True, norm="none", dropout=0.5)
    variables = {"params": block.init({"params": jax.random.key(0), "dropout": jax.random.key(1)}, x)["params"]}
    first, again, other = (block.apply(variables, x, rngs={"dropout": jax.random.key(i)}) for i in (2, 2, 3))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-3
    quiet = ResidualShrinkageBlock(train=False, norm="none", dropout=0.5).apply(variables, x)
    none = ResidualShrinkageBlock(train=True, norm="none", dropout=0.0).apply(variables, x)
    np.testing.assert_allclose(quiet, none, atol=1e-6)


def test_dropout_follows_the_first_convolution():
    """With one convolution of pre order, a dropped value is a residual of exactly 0, and a kept one is doubled."""
    x = images()
    block = ResidualShrinkageBlock(train=True, norm="none", shrinkage=False, convs_per_block=1, dropout=0.5)
    variables = {"params": block.init({"params": jax.random.key(0), "dropout": jax.random.key(1)}, x)["params"]}
    kept = np.asarray(block.apply(variables, x, rngs={"dropout": jax.random.key(2)})) - x
    full = np.asarray(nn.Module.apply(block.clone(train=False), variables, x)) - x
    dropped = kept == 0
    assert 0.4 < dropped.mean() < 0.6
    np.testing.assert_allclose(kept[~dropped], 2 * full[~dropped], rtol=1e-4, atol=1e-5)

"""VGG19's features against numpy and scipy; the file inside the package; layers by name down to conv5_4."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import signal

from drsn_jax.models.vgg19 import LAYERS, VGG19
from drsn_jax.system.errors import InputError
from drsn_jax.weights.vgg19 import VGG19_PATH, load_vgg19

HELD = ("conv1_1", "conv1_2", "conv2_1", "conv2_2", "conv3_1", "conv3_2", "conv3_3")


@pytest.fixture(scope="module")
def stored():
    with np.load(VGG19_PATH) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def params():
    return load_vgg19("conv3_3")


def keys(name):
    block, index = name.removeprefix("conv").split("_")
    return f"block{block}_conv{index}"


def test_the_packages_file_reaches_conv3_3(params):
    assert tuple(params) == HELD
    assert params["conv3_3"]["kernel"].shape == (3, 3, 256, 256)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    assert tuple(load_vgg19("conv2_1")) == HELD[:3]


@pytest.mark.parametrize("name", ["conv1_1", "conv2_1", "conv3_1"])
def test_kernels_are_the_code_book_at_the_codes(name, params, stored):
    codes, table = stored[f"{keys(name)}_W_q"], stored[f"{keys(name)}_W_table"]
    kernel = np.asarray(params[name]["kernel"])
    out, into = codes.shape[:2]
    assert kernel.shape == (3, 3, into, out)
    for o, i, u, v in np.random.default_rng(0).integers(0, (out, into, 3, 3), (200, 4)):
        assert kernel[u, v, i, o] == table[codes[o, i, u, v]]
    np.testing.assert_array_equal(params[name]["bias"], stored[f"{keys(name)}_b"])


def features(image, stored, layer, content_input):
    """VGG19 as its paper draws it, for one image [h w 3] in [-1, 1], by scipy in float64."""
    x = image.astype(np.float64)
    if content_input == "imagenet":
        red, green, blue = ((x[..., i] + 1) / 2 * 255 for i in range(3))
        x = np.stack([blue - 103.939, green - 116.779, red - 123.68], axis=-1)
    for name in LAYERS[: LAYERS.index(layer) + 1]:
        if name in ("conv2_1", "conv3_1"):
            x = np.maximum.reduce([x[i::2, j::2][: x.shape[0] // 2, : x.shape[1] // 2] for i in (0, 1) for j in (0, 1)])
        weight = stored[f"{keys(name)}_W_table"].astype(np.float64)[stored[f"{keys(name)}_W_q"]]
        padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(0, 1))
        x = np.maximum(np.einsum("hwcij,ocij->hwo", windows, weight, optimize=True) + stored[f"{keys(name)}_b"], 0)
    return x


@pytest.mark.parametrize("content_input", ["raw", "imagenet"])
@pytest.mark.parametrize("layer", ["conv1_1", "conv2_2", "conv3_3"])
def test_features_equal_numpy(layer, content_input, params, stored):
    image = np.random.default_rng(0).uniform(-1, 1, (12, 16, 3)).astype(np.float32)
    seen = VGG19(layer, content_input).apply({"params": load_vgg19(layer)}, jnp.array(image[None]))[0]
    expected = features(image, stored, layer, content_input)
    assert seen.shape == expected.shape
    np.testing.assert_allclose(seen, expected, rtol=1e-4, atol=1e-5 * expected.max())
    assert (np.asarray(seen) >= 0).all()
    assert 0.05 < (np.asarray(seen) == 0).mean() < 0.95, "after the ReLU"


def test_one_convolution_by_scipy(stored):
    """The orientation: cross-correlation, rows before columns, no flip."""
    image = np.random.default_rng(1).uniform(-1, 1, (6, 9, 3))
    weight = stored["block1_conv1_W_table"][stored["block1_conv1_W_q"]].astype(np.float64)
    plane = sum(signal.correlate2d(image[..., c], weight[5, c], mode="same") for c in range(3)) + stored["block1_conv1_b"][5]
    np.testing.assert_allclose(features(image, stored, "conv1_1", "raw")[..., 5], np.maximum(plane, 0), atol=1e-6)


def test_layers_and_pooling_down_to_conv5_4():
    expected = {
        "conv1_1": (64, 48, 64), "conv1_2": (64, 48, 64), "conv2_1": (32, 24, 128), "conv2_2": (32, 24, 128), "conv3_1": (16, 12, 256),
        "conv3_4": (16, 12, 256), "conv4_1": (8, 6, 512), "conv4_4": (8, 6, 512), "conv5_1": (4, 3, 512), "conv5_4": (4, 3, 512),
    }  # fmt: skip
    image = jnp.zeros((1, 64, 48, 3))
    for layer, shape in expected.items():
        net = VGG19(layer)
        seen, variables = jax.eval_shape(lambda net=net: net.init_with_output(jax.random.key(0), image))
        assert seen.shape == (1, *shape)
        assert tuple(sorted(variables["params"])) == LAYERS[: LAYERS.index(layer) + 1]
    assert len(LAYERS) == 16, "and three dense layers make 19"
    total = sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))
    assert total == 20_024_384, "Keras' VGG19(include_top=False)"


def test_bfloat16_is_close(params):
    image = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (1, 16, 16, 3)), jnp.float32)
    a, b = (jax.jit(VGG19("conv3_3", "imagenet", dtype).apply)({"params": params}, image) for dtype in (jnp.float32, jnp.bfloat16))
    assert b.dtype == jnp.bfloat16
    assert np.abs(np.asarray(a) - np.asarray(b, np.float32)).mean() < 0.02 * np.asarray(a).max()


@pytest.mark.parametrize("content_input", ["raw", "imagenet"])
def test_the_first_convolution_is_in_float32_whatever_the_dtype(content_input, params):
    """Pixels up to 151 lose what tells neighbours apart in bfloat16's eight bits; so the features differ by their own rounding alone."""
    image = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (1, 16, 16, 3)), jnp.float32)
    networks = [VGG19("conv1_1", content_input, dtype) for dtype in (jnp.float32, jnp.bfloat16)]
    exact, seen = (jax.jit(network.apply)({"params": params}, image) for network in networks)
    assert seen.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(seen, np.float32), exact, rtol=2**-8, atol=1e-5 * exact.max())


# Messages


def test_unknown_layer_lists_the_known():
    with pytest.raises(ValueError, match=r"no layer 'conv9_1'.*conv1_1, .*conv5_4"):
        VGG19("conv9_1").init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
    with pytest.raises(InputError, match=r"no layer 'conv3_5'.*--config.content_layer=conv3_3"):
        load_vgg19("conv3_5")


def test_a_deeper_layer_than_the_file_holds():
    with pytest.raises(InputError, match=r"up to conv3_3, not conv5_4; .*content_layer=conv3_3.*--config.vgg19=FILE"):
        load_vgg19("conv5_4")


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 broken", b"no archive at all"])
def test_a_file_that_cannot_be_read(tmp_path, content):
    path = tmp_path / "weights.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"weights\.npz.*cannot be read") as caught:
        load_vgg19("conv1_1", path)
    assert "\n" not in str(caught.value)


def test_a_file_of_something_else(tmp_path):
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(InputError, match=r"one\.npy cannot be read"):
        load_vgg19("conv1_1", tmp_path / "one.npy")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    with pytest.raises(InputError, match=r"other\.npz holds VGG19 up to none"):
        load_vgg19("conv1_1", tmp_path / "other.npz")


def test_ones_own_file(tmp_path, stored):
    np.savez(tmp_path / "mine.npz", **{k: v for k, v in stored.items() if k.startswith("block1_conv1")})
    mine, ours = load_vgg19("conv1_1", str(tmp_path / "mine.npz")), load_vgg19("conv1_1")
    np.testing.assert_array_equal(mine["conv1_1"]["kernel"], ours["conv1_1"]["kernel"])
    with pytest.raises(InputError, match="up to conv1_1, not conv1_2"):
        load_vgg19("conv1_2", tmp_path / "mine.npz")

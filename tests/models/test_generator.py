"""The generator and its layers: sizes, ranges, counts of parameters, and convolutions against numpy, scipy and PyTorch's definition."""

import dataclasses
import itertools
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import draw_variables, images, quick_compiles  # noqa: F401
from scipy import signal

from drsn_jax.models.generator import Generator, pixel_shuffle, pixel_unshuffle
from drsn_jax.models.layers import ReflectConv, make_norm
from drsn_jax.ops.backend import CPU, Forms
from drsn_jax.ops.convolution import upsample_nearest

TINY = {"widths": (4, 6, 8), "num_blocks": 1, "norm": "none", "dropout": 0.0}


def count(generator):
    shapes = jax.eval_shape(generator.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    trainable, statistics = (
        sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes.get(name, {}))) for name in ("params", "batch_stats")
    )
    return trainable, trainable + statistics


# Parameter counts (SPEC section 1; PEERS B.4)

DEBLURGAN = {"block_order": "post", "shrinkage": False, "norm": "instance", "upsampling": "transposed"}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"threshold_norm": "batch"}, (12_577_539, 12_592_643)),
        ({"threshold_norm": "layer"}, (12_577_539, 12_588_035)),
        ({"threshold_norm": "none"}, (12_572_931, 12_583_427)),
        ({"threshold_norm": "batch", "block_order": "post"}, (12_577_539, 12_592_643)),
        ({"shrinkage": False}, (11_388_675, 11_399_171)),  # the Keras reference's generator
        (DEBLURGAN, (11_378_179, 11_378_179)),
        (DEBLURGAN | {"convs_per_block": 1}, (6_067_459, 6_067_459)),
    ],
)
def test_parameter_counts(options, expected):
    assert count(Generator(**options)) == expected


@pytest.mark.parametrize("width_option", [(64, 128, 256), (4, 6, 8)])
def test_counts_by_formula(width_option):
    """Convolutions with biases everywhere, two dense layers a block: counted by hand."""
    a, b, c = width_option

    def conv(k, i, o):
        return k * k * i * o + o

    expected = conv(7, 3, a) + conv(3, a, b) + conv(3, b, c) + conv(3, c, b) + conv(3, b, a) + conv(7, a, 3)
    expected += 9 * (2 * conv(3, c, c) + 2 * conv(1, c, c))
    assert count(Generator(widths=width_option, norm="none")) == (expected, expected)
    unshuffled = expected - conv(7, 3, a) - conv(7, a, 3) + conv(7, 48, a) + conv(7, a, 48)
    assert count(Generator(widths=width_option, norm="none", unshuffle=4))[0] == unshuffled


def test_the_literal_widths_are_no_15_million_either():
    trainable, _ = count(Generator(widths=(64, 256, 512)))
    assert trainable == pytest.approx(49.9e6, rel=0.02), "all blocks 512 wide (PEERS B.4: 49,908,483 with 256/64 upsampling)"


# Sizes and ranges


@pytest.mark.parametrize("output", ["clip_residual", "average"])
@pytest.mark.parametrize("upsampling", ["nearest", "transposed"])
@pytest.mark.parametrize("trunk", ["quarter", "unet"])
def test_shapes_and_range_for_all_switches(trunk, upsampling, output):
    unshuffle = {"nearest": 1, "transposed": 2}[upsampling] * (2 if output == "average" else 1)
    generator = Generator(**TINY, trunk=trunk, upsampling=upsampling, output=output, unshuffle=unshuffle)
    assert generator.stride == 4 * unshuffle
    x = images(2, 16, 48)
    variables = draw_variables(generator, x)
    loud = jax.tree.map(lambda p: 5 * p, variables)
    apply = jax.jit(generator.apply)
    for v in (variables, loud):
        restored = np.asarray(apply(v, x))
        assert restored.shape == x.shape
        assert restored.dtype == np.float32
        assert np.abs(restored).max() <= 1
        assert np.abs(restored - x).max() > 0.01
    assert np.isfinite(restored).all()
    assert np.abs(restored).max() > 0.9, "the bound was put to the test"


@pytest.mark.parametrize("trunk", ["quarter", "unet"])
@pytest.mark.parametrize("unshuffle", [1, 2, 4])
def test_any_multiple_of_the_stride_and_nothing_else(trunk, unshuffle):
    generator = Generator(**TINY, trunk=trunk, unshuffle=unshuffle)
    s = 4 * unshuffle
    init = partial(jax.eval_shape, generator.init, jax.random.key(0))
    variables = init(jnp.zeros((1, 2 * s, 2 * s, 3)))
    out = jax.eval_shape(generator.apply, variables, jnp.zeros((3, 3 * s, 5 * s, 3)))
    assert out.shape == (3, 3 * s, 5 * s, 3)
    for height, width in ((2 * s + 2, 2 * s), (2 * s, 2 * s + s // 2)):
        with pytest.raises(ValueError, match=f"{height}x{width} do not fit.* multiples of {s}"):
            init(jnp.zeros((1, height, width, 3)))


@pytest.mark.parametrize("trunk", ["quarter", "unet"])
def test_the_smallest_image_goes_through(trunk):
    generator = Generator(**TINY, trunk=trunk)
    x = images(1, 4, 4)
    assert np.isfinite(jax.jit(generator.apply)(draw_variables(generator, x), x)).all()


def reach(middle_blocks):
    """Measure the generator's reach in pixels above an output pixel, without thresholds: they depend on the whole image."""
    generator = Generator(**TINY, trunk="unet", shrinkage=False, middle_blocks=middle_blocks)
    x = jnp.full((1, 128, 16, 3), 1e-6)
    variables = draw_variables(generator, x)
    positive = jax.tree.map(lambda p: 0.1 * jnp.abs(p), variables)  # so that no paths cancel, no ReLU is shut and tanh is not full
    gradient = jax.jit(jax.grad(lambda x: generator.apply(positive, x)[0, 64, 8].sum()))(x)
    return 64 - np.flatnonzero(np.abs(gradient).sum(axis=(0, 2, 3)))[0]


def test_middle_blocks_see_further():
    # Two convolutions of 3x3 at a quarter of the resolution are four pixels each.
    without, one, three = map(reach, (0, 1, 3))
    assert [one - without, three - without] == [2 * 4, 3 * 2 * 4]


def test_middle_blocks_are_the_unets():
    with pytest.raises(ValueError, match="middle_blocks=1 is for the unet"):
        Generator(**TINY, trunk="quarter", middle_blocks=1).init(jax.random.key(0), images())


@pytest.mark.parametrize("trunk", ["quarter", "unet"])
def test_a_zero_head_gives_the_input_back(trunk):
    generator = Generator(**TINY, trunk=trunk, zero_head=True, unshuffle=2)
    x = images()
    variables = jax.jit(generator.init)(jax.random.key(0), x)
    np.testing.assert_array_equal(jax.jit(generator.apply)(variables, x), x)
    gradient = jax.jit(jax.grad(lambda p: generator.apply({"params": p}, 0.5 * x).sum()))(variables["params"])
    assert np.abs(gradient["head"]["conv"]["kernel"]).max() > 0, "and can leave it"


def test_output_average_starts_at_half_contrast():
    generator = Generator(**TINY, output="average", zero_head=True)
    np.testing.assert_array_equal(jax.jit(generator.apply)(jax.jit(generator.init)(jax.random.key(0), images()), images()), images() / 2)


def test_tanh_is_added_to_the_input():
    """With the head's kernel 0, its bias is all there is: tanh(bias) a channel, in the right place after unshuffling."""
    for unshuffle in (1, 2):
        generator = Generator(**TINY, unshuffle=unshuffle)
        x = images() * 0.1
        variables = draw_variables(generator, x)
        bias = np.linspace(-0.5, 0.5, 3 * unshuffle**2).astype(np.float32)
        variables["params"]["head"]["conv"] = {"kernel": jnp.zeros_like(variables["params"]["head"]["conv"]["kernel"]), "bias": bias}
        expected = np.tile(np.tanh(bias).reshape(unshuffle, unshuffle, 3), (32 // unshuffle, 32 // unshuffle, 1))[None] + x
        np.testing.assert_allclose(jax.jit(generator.apply)(variables, x), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("kernel_init", "deviation"), [("normal", 0.02), ("glorot_uniform", (2 / (9 * 128)) ** 0.5), ("he_normal", (2 / (9 * 64)) ** 0.5)]
)
def test_initialisations(kernel_init, deviation):
    params = jax.jit(Generator(**TINY | {"widths": (4, 4, 64)}, kernel_init=kernel_init).init)(jax.random.key(0), images())["params"]
    kernel = np.asarray(params["block1"]["conv1"]["conv"]["kernel"])
    assert kernel.std() == pytest.approx(deviation, rel=0.02)
    assert abs(kernel.mean()) < 0.02 * deviation
    bounded = np.abs(kernel).max() < 1.001 * np.sqrt(3) * deviation
    assert bounded == (kernel_init == "glorot_uniform")
    assert not any(np.any(layer["conv"]["bias"]) for name, layer in params["block1"].items() if name.startswith("conv"))


@pytest.mark.usefixtures("unchecked")
def test_unknown_names_say_what_there_is():
    with pytest.raises(ValueError, match="batch, instance, layer, none"):
        make_norm("spectral", train=False, dtype=jnp.float32, name="norm")  # pyright: ignore[reportArgumentType]


# Numbers


def test_bfloat16_keeps_float32_parameters_and_is_close():
    exact, fast = (Generator(**TINY | {"num_blocks": 2}, dtype=dtype) for dtype in (jnp.float32, jnp.bfloat16))
    x = images()
    variables = draw_variables(fast, x)
    assert {leaf.dtype for leaf in jax.tree.leaves(jax.eval_shape(fast.init, jax.random.key(0), x))} == {jnp.dtype("float32")}
    a, b = jax.jit(exact.apply)(variables, x), jax.jit(fast.apply)(variables, x)
    assert b.dtype == jnp.float32
    difference = np.abs(np.asarray(a - b))
    assert 0 < difference.max() < 0.1
    assert difference.mean() < 0.01


def test_training_mode_updates_statistics_and_inference_uses_them():
    generator = Generator(**TINY | {"norm": "batch"})
    x = images(2)
    variables = draw_variables(generator, x)
    train = jax.jit(partial(generator.apply, train=True, mutable=["batch_stats"]))
    restored, updated = train(variables, x, rngs={"dropout": jax.random.key(1)})
    mean = updated["batch_stats"]["stem_norm"]["mean"]
    stem = ReflectConv(4, 7).apply({"params": variables["params"]["stem"]}, x)
    np.testing.assert_allclose(mean, 0.01 * np.asarray(stem).mean((0, 1, 2)), atol=1e-6, err_msg="momentum 0.99")
    variance = updated["batch_stats"]["stem_norm"]["var"]
    np.testing.assert_allclose(variance, 0.99 + 0.01 * np.asarray(stem).var((0, 1, 2)), atol=1e-6, err_msg="biased variance")
    assert np.abs(restored - jax.jit(generator.apply)(variables, x)).max() > 1e-3


def test_batch_norm_is_keras_and_survives_a_large_mean():
    x = (100 + 0.1 * np.random.default_rng(0).normal(size=(4, 8, 8, 2))).astype(np.float32)
    norm = make_norm("batch", train=True, dtype=jnp.float32, name="norm")
    variables = norm.init(jax.random.key(0), jnp.array(x))
    out, _ = norm.apply(variables, jnp.array(x), mutable=["batch_stats"])
    wide = x.astype(np.float64)
    np.testing.assert_allclose(out, (wide - wide.mean((0, 1, 2))) / np.sqrt(wide.var((0, 1, 2)) + 1e-3), atol=2e-3)


# Artefacts


@pytest.mark.parametrize("trunk", ["quarter", "unet"])
@pytest.mark.parametrize("output", ["clip_residual", "average"])
def test_a_constant_image_gets_no_chessboard(trunk, output):
    """Nearest upsampling and convolution treat all pixels alike, so away from the borders a constant image stays constant."""
    generator = Generator(**TINY | {"widths": (4, 4, 4)}, trunk=trunk, output=output, strided_padding="torch")
    x = jnp.full((1, 160, 160, 3), 0.25)
    restored = np.asarray(jax.jit(generator.apply)(draw_variables(generator, x), x))[0, 64:-64, 64:-64]
    np.testing.assert_allclose(restored, np.broadcast_to(restored[:1, :1], restored.shape), atol=1e-5)
    assert np.abs(restored - 0.25).max() > 1e-3, "the generator did something"


def test_transposed_upsampling_is_what_makes_one():
    generator = Generator(**TINY | {"widths": (4, 4, 4)}, upsampling="transposed", strided_padding="torch")
    x = jnp.full((1, 96, 96, 3), 0.25)
    restored = np.asarray(jax.jit(generator.apply)(draw_variables(generator, x), x))[0, 40:-40, 40:-40]
    assert np.abs(restored[::2] - restored[1::2]).max() > 1e-3


# Convolutions, each against an independent form


def convolve_strided(x, kernel, before):
    """Stride 2 after zero padding of `before` on top and left (and enough at the ends), written out."""
    padded = np.pad(x.astype(np.float64), ((before, 3), (before, 3), (0, 0)))
    size = [(n + 1) // 2 for n in x.shape[:2]]
    out = np.zeros((*size, kernel.shape[-1]))
    for i, j in itertools.product(range(size[0]), range(size[1])):
        out[i, j] = np.tensordot(padded[2 * i : 2 * i + 3, 2 * j : 2 * j + 3], kernel, 3)
    return out


class Down(Generator):
    """The generator's stride-2 convolution alone."""

    @nn.compact
    def __call__(self, x):
        return self._down(x, 6, "conv")


class Up(Generator):
    """The generator's upsampling stage alone."""

    @nn.compact
    def __call__(self, x):
        return self._up(x, 6, "conv")


def conv_params(seed=0, channels=4, features=6, size=3):
    rng = np.random.default_rng(seed)
    return {
        "kernel": rng.normal(size=(size, size, channels, features)).astype(np.float32),
        "bias": rng.normal(size=features).astype(np.float32),
    }


@pytest.mark.parametrize(("padding", "before"), [("keras", 0), ("torch", 1)])
def test_strided_padding(padding, before):
    x, params = np.random.default_rng(1).normal(size=(12, 10, 4)).astype(np.float32), conv_params()
    out = Down(strided_padding=padding).apply({"params": {"conv": params}}, jnp.array(x[None]))[0]
    np.testing.assert_allclose(out, convolve_strided(x, params["kernel"], before) + params["bias"], rtol=1e-4, atol=1e-4)
    other = convolve_strided(x, params["kernel"], 1 - before) + params["bias"]
    assert np.abs(out - other).max() > 0.1, "they differ"


def test_transposed_upsampling_is_pytorchs():
    """ConvTranspose2d(3, stride=2, padding=1, output_padding=1): pixel (i, j) scatters its kernel, flipped or not, to 2i - 1 + u."""
    x, params = np.random.default_rng(1).normal(size=(5, 7, 4)).astype(np.float32), conv_params()
    scattered = np.zeros((2 * 5 + 3, 2 * 7 + 3, 6))
    # PyTorch's weight [in out u v] is this kernel turned by 180 degrees: Flax convolves the dilated input with it as it stands.
    weight = params["kernel"][::-1, ::-1].astype(np.float64)
    for i, j, u, v in itertools.product(range(5), range(7), range(3), range(3)):
        scattered[2 * i + u, 2 * j + v] += x[i, j] @ weight[u, v]
    expected = scattered[1 : 1 + 10, 1 : 1 + 14] + params["bias"]  # padding=1 cuts the first; output_padding=1 keeps the last
    out = Up(upsampling="transposed").apply({"params": {"conv": params}}, jnp.array(x[None]))[0]
    assert out.shape == (10, 14, 6)
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-4)


def correlate(x, params):
    """Same-size cross-correlation after padding by reflection, by scipy, channel by channel."""
    kernel = params["kernel"].astype(np.float64)
    margin = len(kernel) // 2
    padded = np.pad(x.astype(np.float64), ((margin, margin), (margin, margin), (0, 0)), mode="reflect")
    channels, features = kernel.shape[2:]
    planes = [sum(signal.correlate(padded[..., c], kernel[..., c, o], mode="valid") for c in range(channels)) for o in range(features)]
    return np.stack(planes, axis=-1) + params["bias"]


def test_nearest_upsampling_then_a_convolution():
    x, params = np.random.default_rng(1).normal(size=(5, 7, 4)).astype(np.float32), conv_params()
    repeated = x.repeat(2, 0).repeat(2, 1)
    np.testing.assert_array_equal(upsample_nearest(jnp.array(x[None]))[0], repeated)
    out = Up(upsampling="nearest").apply({"params": {"conv": params}}, jnp.array(x[None]))[0]
    np.testing.assert_allclose(out[1:-1, 1:-1], correlate(repeated, params)[1:-1, 1:-1], rtol=1e-4, atol=1e-4)
    assert np.abs(out[0] - correlate(repeated, params)[0]).max() > 0.1, "zero padding at the borders, as Keras' Conv2D(padding='same')"


@pytest.mark.parametrize("size", [3, 7])
@pytest.mark.parametrize("crop", [True, False])
def test_reflect_conv_equals_scipy(size, crop):
    x, params = np.random.default_rng(1).normal(size=(9, 12, 4)).astype(np.float32), conv_params(size=size)
    out = ReflectConv(6, size, forms=Forms(crop_convolutions=crop)).apply({"params": {"conv": params}}, jnp.array(x[None]))[0]
    assert out.shape == (9, 12, 6)
    np.testing.assert_allclose(out, correlate(x, params), rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("shape", [(1, 64, 64, 16), (2, 9, 33, 4), (1, 4, 4, 3)])
def test_same_and_crop_equals_valid(shape):
    x, params = (
        jnp.array(np.random.default_rng(1).normal(size=shape).astype(np.float32)),
        {"params": {"conv": conv_params(channels=shape[-1], size=7)}},
    )
    forms, gradients = [], []
    for crop in (True, False):
        conv = ReflectConv(6, 7, forms=dataclasses.replace(CPU, native=False, crop_convolutions=crop))
        forms.append(np.asarray(conv.apply(params, x)))
        gradients.append(np.asarray(jax.grad(lambda x, conv=conv: jnp.square(conv.apply(params, x)).sum())(x)))
    for a, b in (forms, gradients):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-6 * np.abs(a).max())


@pytest.mark.parametrize("factor", [1, 2, 4])
def test_pixel_unshuffle_and_its_inverse(factor):
    x = np.random.default_rng(0).normal(size=(2, 8, 12, 3)).astype(np.float32)
    folded = np.asarray(pixel_unshuffle(jnp.array(x), factor))
    assert folded.shape == (2, 8 // factor, 12 // factor, 3 * factor**2)
    for i, j, c in itertools.product(range(factor), range(factor), range(3)):
        np.testing.assert_array_equal(folded[..., (i * factor + j) * 3 + c], x[:, i::factor, j::factor, c])
    np.testing.assert_array_equal(pixel_shuffle(jnp.array(folded), factor), x)

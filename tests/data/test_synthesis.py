"""Blur made on the device: kernels, their convolution in linear light against scipy, noise against its statistics."""

import math
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from levels import assert_same_levels
from scipy import ndimage

from drsn_jax.config import values as config_values
from drsn_jax.config.build import make_recipe
from drsn_jax.config.files import load_config
from drsn_jax.data.synthesis import clips, resident
from drsn_jax.data.synthesis.bank import make_bank
from drsn_jax.data.synthesis.blur import camera_noise, soften, synthesise
from drsn_jax.data.synthesis.camera_shake import BlurRecipe, blur_linear, path_to_kernel, shake_kernels, shake_path
from drsn_jax.system.errors import InputError

CLEAN = BlurRecipe(length=(0.0, 8.0), variation=0.0, saturation=0.0, noise_variance=(0.0, 0.0))
blur = jax.jit(synthesise, static_argnums=2)
path_of = jax.jit(shake_path, static_argnames=("points", "recipe"))
kernels_of = jax.jit(shake_kernels, static_argnums=1)


def photo(height=48, width=56, seed=0, smooth=1.5):
    pixels = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(height, width, 3)), (smooth, smooth, 0))
    return np.rint(255 * (pixels - pixels.min()) / np.ptp(pixels)).astype(np.uint8)


# Paths and kernels


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_a_path_has_length_1_and_its_centre_at_0(seed):
    path = np.asarray(path_of(jax.random.key(seed), points=64, recipe=CLEAN), np.float64)
    assert path.shape == (64, 3)
    assert np.linalg.norm(np.diff(path[:, :2], axis=0), axis=1).sum() == pytest.approx(1, abs=1e-4)
    np.testing.assert_allclose(path.mean(0), 0, atol=1e-5)
    assert np.abs(path[:, 2]).max() == pytest.approx(1, abs=1e-3)


def test_the_sharp_moment_is_the_middle_or_half_a_frame_later():
    """As of 7 to 13 frames of which number n // 2, from 0, is the sharp one; a straight, even path is where it is by its time."""
    recipe = CLEAN._replace(inertia=(1.0, 1.0), moment="middle")
    paths = np.asarray(jax.vmap(partial(path_of, points=480, recipe=recipe))(jax.random.split(jax.random.key(0), 400)), np.float64)
    along = (paths[:, :, :2] * (paths[:, -1:, :2] - paths[:, :1, :2])).sum(-1)  # the path has length 1
    np.testing.assert_allclose(np.abs(along).min(1), 0, atol=1e-6)
    moments = -along[:, 0]
    expected = np.array([(n // 2 + 0.5) / n for n in range(7, 14)])
    distances = np.abs(moments[:, None] - expected)
    assert distances.min(1).max() < 3 / 480
    shares = [(np.abs(moments - value) < 3 / 480).mean() for value in sorted(set(expected))]
    np.testing.assert_allclose(shares, [4 / 7, 1 / 7, 1 / 7, 1 / 7], atol=0.08)


def test_paths_differ_and_turn():
    paths = np.asarray(jax.vmap(partial(path_of, points=64, recipe=CLEAN))(jax.random.split(jax.random.key(0), 50)))
    ends = np.linalg.norm(paths[:, -1, :2] - paths[:, 0, :2], axis=-1)
    assert ends.max() > 0.9, "some are nearly straight"
    assert ends.min() < 0.6, "some are not"


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.floats(0, 8))
def test_kernels_are_a_distribution_around_their_centre(seed, length):
    recipe = CLEAN._replace(variation=0.5)
    kernels = np.asarray(kernels_of(jax.random.key(seed), recipe, jnp.float32(length)), np.float64)
    side = 2 * recipe.margin + 1
    assert kernels.shape == (3, 3, side, side)
    assert kernels.min() >= 0
    np.testing.assert_allclose(kernels.sum((2, 3)), 1, atol=1e-5)
    offsets = np.arange(side) - recipe.margin
    for axis in (2, 3):
        centre = (kernels.sum(axis) * offsets).sum(-1)
        np.testing.assert_allclose(centre, 0, atol=0.3 if length > 6 else 1e-4)
    reach = np.abs(offsets[kernels[1, 1].sum(1) > 1e-9]).max()
    assert reach <= np.ceil(length) + 1


def test_bilinear_spread_by_hand():
    kernel = path_to_kernel(jnp.array([[0.0, 0.0], [0.25, -1.5]]), margin=2)
    expected = np.zeros((5, 5))
    expected[2, 2] = 0.5
    for row, column, weight in [(2, 0, 0.375), (2, 1, 0.375), (3, 0, 0.125), (3, 1, 0.125)]:
        expected[row, column] += weight / 2
    np.testing.assert_allclose(kernel, expected, atol=1e-7)
    outside = path_to_kernel(jnp.array([[9.0, 0.0]]), margin=2)
    assert outside[4, 2] == 1, "held back at the border: light is never lost"


def test_variation_0_gives_one_kernel_and_more_gives_nine_that_differ():
    assert kernels_of(jax.random.key(0), CLEAN).shape[:2] == (1, 1)
    kernels = np.asarray(kernels_of(jax.random.key(0), CLEAN._replace(variation=1.0), jnp.float32(8.0)))
    corners = [kernels[i, j] for i in (0, 2) for j in (0, 2)]
    assert all(np.abs(corners[0] - other).max() > 1e-3 for other in corners[1:])
    straight = np.asarray(kernels_of(jax.random.key(0), CLEAN, jnp.float32(8.0)))[0, 0]
    margin = (kernels.shape[-1] - straight.shape[-1]) // 2
    inner = kernels[1, 1, margin : margin + len(straight), margin : margin + len(straight)]
    assert inner.sum() == pytest.approx(1, abs=1e-5), "roll does not move the middle of the image"


def test_lengths_are_drawn_over_the_whole_range():
    recipe = CLEAN._replace(length=(4.0, 12.0))

    def spread(key):
        kernel = shake_kernels(key, recipe)[0, 0]
        offsets = jnp.arange(len(kernel), dtype=jnp.float32) - recipe.margin
        return jnp.sqrt((kernel * (offsets[:, None] ** 2 + offsets[None] ** 2)).sum())

    spreads = np.asarray(jax.jit(jax.vmap(spread))(jax.random.split(jax.random.key(0), 200)))
    assert spreads.min() < 1.7
    assert spreads.max() > 2.8
    assert spreads.max() < 0.6 * 12


# Convolution in linear light


def test_every_product_is_exact_on_accelerators_too():
    """Their default is ten bits or fewer. A CPU multiplies in float32 whatever is asked, so what is asked is what can be seen here."""
    recipe = BlurRecipe(length=(2.0, 6.0), moment="middle", object_share=0.5, softness=(0.5, 1.0), jpeg_quality=(50.0, 90.0))
    bank = make_bank([photo()], names=["photograph"], crop_size=16)
    clip = clips.make_clip([np.zeros((20, 24, 3), np.uint8)] * 9, np.arange(9, 0, -1, dtype=np.int32))
    of_bank_fn = resident.make_batch_fn(batch_size=2, crop_size=16, recipe=recipe)
    of_clip_fn = clips.make_clip_batch_fn(batch_size=2, crop_size=16, averaged=(3, 5), noise_variance=(0.0, 0.001))
    for batch_fn, images, at_least in ((of_bank_fn, bank, 10), (of_clip_fn, clip, 1)):
        products = re.findall(
            r".*stablehlo\.(?:dot_general|convolution).*", jax.jit(partial(batch_fn, images)).lower(jax.random.key(0)).as_text()
        )
        assert len(products) >= at_least
        assert not [line for line in products if "precision = [HIGHEST, HIGHEST]" not in line]


def test_blur_is_a_convolution_in_linear_light():
    image, key = photo(), jax.random.key(4)
    kernel = np.asarray(shake_kernels(jax.random.split(key, 3)[0], CLEAN, jnp.float32(7.0))[0, 0], np.float64)
    light = (image / 255.0) ** 2.2
    exact = np.stack([ndimage.convolve(light[..., c], kernel, mode="wrap") for c in range(3)], -1)
    margin = CLEAN.margin
    expected = (np.clip(exact, 0, 1) ** (1 / 2.2))[margin:-margin, margin:-margin]
    blurred, sharp = blur(key, image, CLEAN, jnp.float32(7.0))
    assert blurred.shape == expected.shape == sharp.shape
    assert np.abs(np.asarray(blurred) - expected).max() < 0.5 / 255 + 1e-4
    gamma_space = np.stack([ndimage.convolve(image[..., c] / 255.0, kernel, mode="wrap") for c in range(3)], -1)
    assert np.abs(gamma_space[margin:-margin, margin:-margin] - expected).max() > 2 / 255, "gamma values would give another image"
    np.testing.assert_allclose(sharp, image[margin:-margin, margin:-margin] / 255.0, atol=1e-7)


def test_convolution_is_not_correlation():
    light = np.zeros((9, 9, 3), np.float32)
    light[4, 4] = 1
    kernel = np.zeros((3, 3), np.float32)
    kernel[0, 1] = 1
    out = np.asarray(blur_linear(light, kernel[None, None]))
    assert out[3, 4, 0] == pytest.approx(1, abs=1e-6)


def test_varying_blur_interpolates_its_kernels_and_keeps_brightness():
    rng = np.random.default_rng(0)
    kernels = rng.random((3, 3, 5, 5)).astype(np.float32)
    kernels /= kernels.sum((2, 3), keepdims=True)
    flat = np.full((24, 30, 3), 0.4, np.float32)
    np.testing.assert_allclose(blur_linear(flat, kernels), flat, atol=1e-6, err_msg="the weights of the kernels sum to 1 everywhere")
    light = rng.random((24, 30, 3)).astype(np.float32)
    out = np.asarray(blur_linear(light, kernels))
    parts = [[np.stack([ndimage.convolve(light[..., c], k, mode="wrap") for c in range(3)], -1) for k in row] for row in kernels]
    for (i, j), (y, x) in {(0, 0): (0, 0), (2, 2): (23, 29), (0, 2): (0, 29), (2, 0): (23, 0)}.items():
        np.testing.assert_allclose(out[y, x], parts[i][j][y, x], atol=1e-5)
    # A quarter of the way along the top row: half of the first kernel, half of the second.
    rows, columns = np.linspace(0, 2, 24), np.linspace(0, 2, 30)
    y, x = 5, 20
    weights = np.outer(np.maximum(0, 1 - abs(rows[y] - np.arange(3))), np.maximum(0, 1 - abs(columns[x] - np.arange(3))))
    expected = sum(weights[i, j] * parts[i][j][y, x] for i in range(3) for j in range(3))
    np.testing.assert_allclose(out[y, x], expected, atol=1e-5)


@pytest.mark.parametrize(("skew", "below"), [(1.0, [0.25, 0.5, 0.75]), (2.0, [0.5, 0.707, 0.866])])
def test_skew_makes_short_paths_oftener(skew, below):
    """Of all lengths x**(1/skew) lie in the lowest x of the range. A straight, even path's variance is its length squared / 12."""
    recipe = CLEAN._replace(length=(0.0, 24.0), skew=skew, inertia=(1.0, 1.0))
    drawn = jax.jit(jax.vmap(lambda key: shake_kernels(key, recipe)[0, 0]))(jax.random.split(jax.random.key(0), 2000))
    kernels = np.asarray(drawn, np.float64)
    place = np.arange(kernels.shape[-1]) - kernels.shape[-1] // 2
    variance = np.einsum("nij,i->n", kernels, place**2) + np.einsum("nij,j->n", kernels, place**2)
    lengths = np.sqrt(12 * variance)
    np.testing.assert_allclose([(lengths < 24 * x).mean() for x in (0.25, 0.5, 0.75)], below, atol=0.05)


@pytest.mark.parametrize("deviation", [0.4, 0.8, 1.7])
def test_softening_is_scipys_gaussian(deviation):
    light = photo(smooth=0.7) / np.float32(255)
    ours = soften(jax.random.key(0), jnp.asarray(light), (deviation, deviation))
    reach = math.ceil(3 * deviation)
    theirs = ndimage.gaussian_filter(light.astype(np.float64), (deviation, deviation, 0), mode="mirror", radius=(reach, reach, 0))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    np.testing.assert_array_equal(soften(jax.random.key(0), jnp.asarray(light), (0.0, 0.0)), light)


def test_a_soft_lens_softens_both_images_and_the_shake_is_as_before():
    image = photo(smooth=0.7)
    recipe = CLEAN._replace(softness=(1.0, 1.0))
    still, soft = blur(jax.random.key(0), image, recipe, jnp.float32(0.0))
    np.testing.assert_array_equal(still, soft, err_msg="the truth is what the lens saw, not the file")
    margin = recipe.margin
    lens = ndimage.gaussian_filter((image / 255.0) ** 2.2, (1, 1, 0), mode="mirror", radius=(3, 3, 0)) ** (1 / 2.2)
    assert_same_levels(np.asarray(soft) * 255, np.rint(lens * 255)[margin:-margin, margin:-margin])
    blurred, same = blur(jax.random.key(0), image, recipe, jnp.float32(6.0))
    np.testing.assert_array_equal(same, soft)
    again, _ = blur(jax.random.key(0), np.rint(lens * 255).astype(np.uint8), CLEAN, jnp.float32(6.0))
    np.testing.assert_allclose(blurred, again, atol=1.01 / 255)


@pytest.mark.parametrize("variation", [0.0, 0.5])
@pytest.mark.parametrize("smooth", [0.0, 2.0])
def test_a_path_of_length_0_gives_the_photograph_back(variation, smooth):
    image = photo(smooth=smooth)
    image[10:14] = 0  # black beside white: the transform's rounding must not show
    image[14:18] = 255
    recipe = CLEAN._replace(variation=variation)
    blurred, sharp = blur(jax.random.key(0), image, recipe, jnp.float32(0.0))
    np.testing.assert_array_equal(blurred, sharp)
    without = recipe._replace(length=(0.0, 0.0))
    np.testing.assert_array_equal(*blur(jax.random.key(0), image, without))


def test_the_margin_is_enough_context():
    """What lies beyond the margin of the window does not reach the result: the circular convolution never shows."""
    recipe = CLEAN._replace(variation=0.5)
    image = photo(64, 64)
    m = recipe.margin
    blurred, _ = blur(jax.random.key(1), image, recipe, jnp.float32(8.0))
    wider = np.pad(image, ((5, 5), (5, 5), (0, 0)), constant_values=255)
    light = jnp.asarray(wider / 255.0, jnp.float32) ** 2.2
    kernel = shake_kernels(jax.random.split(jax.random.key(1), 3)[0], recipe._replace(variation=0.0), jnp.float32(8.0))
    assert kernel.shape[-1] // 2 <= m
    one = np.asarray(blur_linear(light, kernel))[5 + m : -5 - m, 5 + m : -5 - m]
    plain = np.asarray(blur_linear(jnp.asarray(image / 255.0, jnp.float32) ** 2.2, kernel))[m:-m, m:-m]
    np.testing.assert_allclose(one, plain, atol=1e-5)
    assert blurred.shape == plain.shape


def test_saturation_brightens_highlights_only_and_never_the_sharp_image():
    image = photo()
    image[20:24, 20:24] = 255
    recipe = CLEAN._replace(saturation=20.0)
    plain, sharp = blur(jax.random.key(2), image, CLEAN, jnp.float32(6.0))
    bright, same = blur(jax.random.key(2), image, recipe, jnp.float32(6.0))
    np.testing.assert_allclose(sharp, same, atol=1e-6)
    difference = np.asarray(bright) - np.asarray(plain)
    assert_same_levels(np.minimum(255 * difference, 0), np.zeros_like(difference))
    assert difference.max() > 0.05
    dim = np.minimum(image, 247)  # 0.97 of white and below are no lamps
    plain, bright = (255 * blur(jax.random.key(2), dim, each, jnp.float32(6.0))[0] for each in (CLEAN, recipe))
    assert_same_levels(plain, bright)


# Noise


noise = jax.jit(jax.vmap(partial(camera_noise, noise_variance=(0.0004, 0.0036)), in_axes=(0, None)))


def test_the_standard_deviation_is_drawn_uniformly_between_the_roots():
    grey = jnp.full((24, 24, 3), 128 / 255)
    noisy = np.asarray(noise(jax.random.split(jax.random.key(0), 400), grey), np.float64) - 128 / 255
    deviations = noisy.std((1, 2, 3))
    assert deviations.min() > 0.02 * 0.93
    assert deviations.max() < 0.06 * 1.07
    quartiles = np.quantile(deviations, [0.25, 0.5, 0.75])
    np.testing.assert_allclose(quartiles, [0.03, 0.04, 0.05], atol=0.004, err_msg="uniform in the deviation, not in the variance")
    assert abs(noisy.mean()) < 1e-3
    standard = noisy / deviations[:, None, None, None]
    assert (standard**4).mean() == pytest.approx(3, abs=0.1), "Gaussian"
    assert abs((standard[:, :, 1:] * standard[:, :, :-1]).mean()) < 0.01, "white"


def test_results_are_eight_bit_values_in_range():
    image = photo()
    blurred, sharp = blur(jax.random.key(0), image, BlurRecipe(length=(0.0, 8.0), noise_variance=(0.01, 0.02)))
    for x in (blurred, sharp):
        assert x.dtype == jnp.float32
        codes = np.asarray(x, np.float64) * 255
        np.testing.assert_allclose(codes, np.rint(codes), atol=1e-4)
        assert codes.min() >= 0
        assert codes.max() <= 255
    margin = BlurRecipe(length=(0.0, 8.0)).margin
    np.testing.assert_array_equal(np.rint(np.asarray(sharp) * 255), image[margin:-margin, margin:-margin], err_msg="sharp has no noise")


def test_no_noise_is_no_noise():
    image = jnp.asarray(photo() / np.float32(255))
    np.testing.assert_array_equal(np.rint(np.asarray(camera_noise(jax.random.key(0), image, noise_variance=(0.0, 0.0))) * 255), photo())


def test_same_key_same_images():
    recipe = BlurRecipe(length=(0.0, 8.0))
    image = photo()
    first, again, other = (blur(jax.random.key(seed), image, recipe)[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.02


@pytest.mark.parametrize(
    "change",
    [{"length": (5.0, 4.0)}, {"length": (-1.0, 4.0)}, {"noise_variance": (0.1, 0.0)}, {"variation": -0.1}, {"saturation": -1.0}]
    + [{name: value} for name in ("cross", "skew", "variation", "saturation") for value in (math.nan, math.inf, 1e9)]
    + [{name: (0.0, value)} for name in ("length", "inertia", "softness", "noise_variance") for value in (math.nan, math.inf, 1e9)],
)
def test_ranges_that_are_none(change):
    (name,) = change
    with pytest.raises(InputError, match=name):
        BlurRecipe()._replace(**change).check()


@pytest.mark.parametrize(
    "key", sorted(config_values.MOST.keys() - {"frames_share", "frames_sharpness", "text_share"})
)  # which is no part of the recipe
def test_a_configuration_is_held_to_the_same_limits(key):
    """The largest value passes both, anything above it neither."""
    defaults, most = load_config("default"), config_values.MOST[key]
    for value, fits in ((most, True), (most * 1.001, False)):
        config = defaults | {key: (0.0, value) if key in config_values.RANGES else float(value)}
        for check in (partial(config_values.check_values, defaults=defaults), make_recipe):
            if fits:
                check(config)
            else:
                with pytest.raises(InputError):
                    check(config)


def test_a_share_of_all_images_has_noise():
    image = jnp.full((8, 8, 3), 0.5)
    draw = jax.jit(jax.vmap(partial(camera_noise, noise_variance=(0.001, 0.002), noise_share=0.25), in_axes=(0, None)))
    noisy = np.ptp(np.asarray(draw(jax.random.split(jax.random.key(0), 400), image)), axis=(1, 2, 3)) > 0
    assert 0.19 < noisy.mean() < 0.31

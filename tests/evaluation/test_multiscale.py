"""Multi-scale SSIM against TensorFlow's and against a construction from scipy, on photographs, noise and odd sizes."""

import jax
import numpy as np
import pytest
from scipy import ndimage

from drsn_jax.evaluation.metrics import multiscale
from drsn_jax.ops import metrics
from drsn_jax.system.errors import InputError

ms_ssim = jax.jit(multiscale.ms_ssim)
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def scipy_ms_ssim(x: np.ndarray, y: np.ndarray) -> float:
    """From the paper, in float64: filters over the whole image and the border cut away."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    value = np.ones(3)
    for scale, weight in enumerate(WEIGHTS):
        smooth = lambda image: ndimage.gaussian_filter(image, 1.5, radius=5, axes=(0, 1))[5:-5, 5:-5]  # noqa: E731
        mx, my = smooth(x), smooth(y)
        contrast = (2 * (smooth(x * y) - mx * my) + c2) / (smooth(x * x) - mx * mx + smooth(y * y) - my * my + c2)
        luminance = (2 * mx * my + c1) / (mx * mx + my * my + c1)
        value *= (luminance * contrast if scale == 4 else contrast).mean((0, 1)).clip(0) ** weight
        x, y = (
            ndimage.uniform_filter(np.pad(image, ((0, len(image) % 2), (0, image.shape[1] % 2), (0, 0)), "edge"), 2, axes=(0, 1))[
                1::2, 1::2
            ]
            for image in (x, y)
        )
    return value.mean()


def blur(image: np.ndarray) -> np.ndarray:
    return np.mean([np.roll(image, (k, k), axis=(0, 1)) for k in range(-4, 5)], axis=0).round().astype(np.uint8)


@pytest.fixture(scope="module")
def pairs(photograph):
    rng = np.random.default_rng(3)
    sharp = np.ascontiguousarray(photograph[:, 40:390])
    odd = np.ascontiguousarray(photograph[100:313, 100:277])
    noise = rng.integers(0, 256, (2, 181, 190, 3), dtype=np.uint8)
    noisy = (sharp[:200, :200] + rng.normal(0, 25, (200, 200, 3))).clip(0, 255).round().astype(np.uint8)
    return {
        "photograph": (blur(sharp), sharp),
        "odd": (blur(odd), odd),
        "noise": tuple(noise),
        "noisy": (noisy, sharp[:200, :200]),
        "negative": (255 - odd, odd),
        "highlights": tuple((image.astype(int) // 6 + 213).astype(np.uint8) for image in (blur(sharp), sharp)),
    }


KINDS = ("photograph", "odd", "noise", "noisy", "negative", "highlights")


@pytest.mark.parametrize("kind", KINDS)
def test_agrees_with_tensorflow(pairs, kind):
    tf = pytest.importorskip("tensorflow", reason="tensorflow is the reference here")
    restored, sharp = pairs[kind]
    value = float(ms_ssim(restored, sharp))
    assert value == pytest.approx(float(tf.image.ssim_multiscale(restored, sharp, 255)), abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_agrees_with_scipy(pairs, kind):
    restored, sharp = pairs[kind]
    assert float(ms_ssim(restored, sharp)) == pytest.approx(scipy_ms_ssim(restored, sharp), abs=2e-5)


def test_floats_are_taken_as_they_are(pairs):
    """Half a step between two values of a file, and values above 255, must not be rounded or clipped away."""
    restored, sharp = (image.astype(np.float32) for image in pairs["odd"])
    scaled = 1.3 * restored + 0.5
    value = float(jax.jit(multiscale.ms_ssim_of_floats)(scaled, sharp))
    assert value == pytest.approx(scipy_ms_ssim(scaled, sharp), abs=2e-5)
    assert abs(value - scipy_ms_ssim(scaled.clip(0, 255), sharp)) > 1e-3


def test_the_map_is_that_of_ssim_gaussian(pairs):
    restored, sharp = pairs["photograph"]
    found = jax.jit(multiscale.ssim_map)(restored.astype(np.float32), sharp.astype(np.float32))
    assert found.shape == (sharp.shape[0] - 10, sharp.shape[1] - 10, 3)
    assert float(found.mean()) == pytest.approx(float(jax.jit(metrics.ssim_gaussian)(restored, sharp)), abs=1e-5)


def test_identical_images_give_one_and_worse_ones_less(pairs):
    sharp = pairs["photograph"][1]
    values = [float(ms_ssim(image, sharp)) for image in (sharp, blur(sharp), blur(blur(sharp)))]
    assert values[0] == pytest.approx(1, abs=1e-6)
    assert values[0] > values[1] > values[2]


@pytest.mark.usefixtures("unchecked")
def test_small_unequal_and_other_images_are_refused(rng):
    side = multiscale.MS_SSIM_MINIMUM_SIDE
    image = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
    assert float(ms_ssim(image, image)) == pytest.approx(1, abs=1e-6)
    for small in (image[1:], image[:, 1:]):
        with pytest.raises(InputError, match="176x176"):
            multiscale.ms_ssim(small, small)
    with pytest.raises(InputError, match="176x176 and 176x175"):
        multiscale.ms_ssim(image, image[1:])
    with pytest.raises(TypeError, match="uint8"):
        multiscale.ms_ssim(image / np.float32(255), image / np.float32(255))


def test_no_silent_promotion(pairs):
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        value = jax.eval_shape(multiscale.ms_ssim, *pairs["odd"])
    assert str(value.dtype) == "float32"

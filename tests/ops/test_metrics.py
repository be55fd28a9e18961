"""Metrics against tf.image, scikit-image and a construction from scipy.ndimage, on a photograph degraded as photographs are."""

import io

import jax
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from drsn_jax.ops import metrics
from drsn_jax.system.errors import InputError


def degrade(image: np.ndarray) -> np.ndarray:
    """Motion blur along a diagonal, noise, JPEG."""
    blurred = np.mean([np.roll(image, (k, k), axis=(0, 1)) for k in range(-4, 5)], axis=0)
    noisy = blurred + np.random.default_rng(1).normal(0, 4, image.shape)
    buffer = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).round().astype(np.uint8)).save(buffer, "jpeg", quality=80)
    return np.asarray(Image.open(buffer))


@pytest.fixture(scope="module")
def pair(photograph):
    """Return a photograph of unequal sides, degraded, and itself."""
    sharp = np.ascontiguousarray(photograph[:, 40:390])
    return degrade(sharp), sharp


def saturated(pair):
    """Return highlights that are hard in float32: variances near zero around values far from zero."""
    return tuple((image.astype(int) // 6 + 213).astype(np.uint8) for image in pair)


def matlab_ssim(x: np.ndarray, y: np.ndarray) -> float:
    """Compute MATLAB's ssim of an RGB array, in float64 by scipy: imgaussfilt3 with replicated borders over all three axes."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2

    def smooth(volume):
        return ndimage.gaussian_filter(volume, 1.5, mode="nearest", radius=5)

    mx, my = smooth(x), smooth(y)
    vx, vy, vxy = smooth(x * x) - mx * mx, smooth(y * y) - my * my, smooth(x * y) - mx * my
    return np.mean((2 * mx * my + c1) * (2 * vxy + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2)))


@pytest.mark.parametrize("change", [tuple, saturated], ids=["photograph", "highlights"])
def test_agrees_with_tensorflow(pair, change):
    tf = pytest.importorskip("tensorflow", reason="tensorflow is the reference here")
    restored, sharp = change(pair)
    scores = metrics.score_pair(restored, sharp)
    assert float(scores["psnr"]) == pytest.approx(float(tf.image.psnr(restored, sharp, 255)), abs=1e-3)
    assert float(scores["ssim_gaussian"]) == pytest.approx(float(tf.image.ssim(restored, sharp, 255)), abs=1e-4)


@pytest.mark.parametrize("change", [tuple, saturated], ids=["photograph", "highlights"])
def test_agrees_with_scikit_image(pair, change):
    reference = pytest.importorskip("skimage.metrics", reason="scikit-image is the reference here")
    restored, sharp = change(pair)
    gaussian = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    expected = {
        "psnr": reference.peak_signal_noise_ratio(sharp, restored),
        "ssim_gaussian": reference.structural_similarity(restored, sharp, channel_axis=2, **gaussian),
        "ssim_skimage": reference.structural_similarity(restored, sharp, channel_axis=2),
    }
    scores = metrics.score_pair(restored, sharp)
    assert {name: float(scores[name]) for name in expected} == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("change", [tuple, saturated], ids=["photograph", "highlights"])
def test_matlab_kind_agrees_with_scipy(pair, change):
    restored, sharp = change(pair)
    assert float(metrics.ssim_matlab_rgb(restored, sharp)) == pytest.approx(matlab_ssim(restored, sharp), abs=1e-4)


def test_channels_are_told_apart_by_the_volume_kind(pair):
    """A volume filter feels the order of the channels (red is no neighbour of blue); filters of single channels do not."""
    restored, sharp = (image[..., [1, 0, 2]] for image in pair)
    swapped, straight = metrics.score_pair(restored, sharp), metrics.score_pair(*pair)
    assert float(swapped["ssim_matlab_rgb"]) == pytest.approx(matlab_ssim(restored, sharp), abs=1e-4)
    assert abs(float(swapped["ssim_matlab_rgb"]) - float(straight["ssim_matlab_rgb"])) > 1e-5
    assert float(swapped["ssim_gaussian"]) == pytest.approx(float(straight["ssim_gaussian"]), abs=1e-6)


def test_score_pair_holds_what_the_single_metrics_give(pair):
    scores = metrics.score_pair(*pair)
    assert set(scores) == set(metrics.METRICS) == {"psnr", "ssim_gaussian", "ssim_skimage", "ssim_matlab_rgb"}
    for name, value in scores.items():
        assert float(value) == pytest.approx(float(jax.jit(getattr(metrics, name))(*pair)), abs=1e-5)


def test_kinds_stand_in_the_order_of_the_specification(pair):
    """SPEC section 3: at one PSNR, skimage's reads lowest and MATLAB's highest."""
    scores = metrics.score_pair(*pair)
    assert scores["ssim_skimage"] < scores["ssim_gaussian"] < scores["ssim_matlab_rgb"]


def test_identical_images_are_finite(pair):
    scores = metrics.score_pair(pair[1], pair[1])
    assert float(scores["psnr"]) == metrics.PSNR_CAP_DB == 100.0
    for kind in metrics.SSIM_KINDS:
        assert float(scores[kind]) == pytest.approx(1.0, abs=1e-6)


def test_psnr_of_a_known_error():
    sharp = np.full((12, 14, 3), 100, np.uint8)
    assert float(metrics.psnr(sharp + np.uint8(5), sharp)) == pytest.approx(20 * np.log10(255 / 5), abs=1e-4)


def test_psnr_of_a_large_frame_keeps_its_digits(rng):
    """25 million float32 squares are summed: careless summation would show here."""
    sharp = rng.integers(0, 256, (2160, 3840, 3), dtype=np.uint8)
    restored = sharp ^ np.uint8(1)
    restored[0, :, :] = 255 - sharp[0, :, :]
    error = np.mean((restored.astype(np.float64) - sharp) ** 2)
    assert float(jax.jit(metrics.psnr)(restored, sharp)) == pytest.approx(10 * np.log10(255**2 / error), abs=1e-3)


@pytest.mark.parametrize(("kind", "window"), [("ssim_gaussian", 11), ("ssim_skimage", 7)])
def test_images_below_the_window_are_refused(rng, kind, window):
    image = rng.integers(0, 256, (window, window + 3, 3), dtype=np.uint8)
    assert np.isfinite(float(getattr(metrics, kind)(image, image)))
    with pytest.raises(InputError, match=f"{window}x{window}"):
        getattr(metrics, kind)(image[1:], image[1:])


def test_the_padded_kind_takes_any_size(rng):
    restored, sharp = rng.integers(0, 256, (2, 5, 5, 3), dtype=np.uint8)
    assert float(metrics.ssim_matlab_rgb(restored, sharp)) == pytest.approx(matlab_ssim(restored, sharp), abs=1e-4)
    with pytest.raises(InputError, match="5x5"):
        metrics.score_pair(restored, sharp)


@pytest.mark.usefixtures("unchecked")
def test_sizes_and_types_are_checked(pair):
    restored, sharp = pair
    with pytest.raises(InputError, match=r"350x512 and 350x511"):
        metrics.psnr(restored, sharp[1:])
    with pytest.raises(TypeError, match="uint8"):
        metrics.score_pair(restored / np.float32(255), sharp / np.float32(255))
    with pytest.raises(TypeError, match="h w 3"):
        metrics.psnr(restored[..., :1], sharp[..., :1])


def test_no_silent_promotion(pair):
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        values = metrics.score_pair(*(image[:40, :33] for image in pair))
    assert {str(value.dtype) for value in values.values()} == {"float32"}

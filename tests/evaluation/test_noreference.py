"""Scores without a truth: they order what is known to be blurred or noisy, and say nothing worse than an InputError of the rest."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from drsn_jax.evaluation.metrics.noreference import NOREFERENCE_MINIMUM_SIDE, score_noreference
from drsn_jax.system.errors import InputError

pytest.importorskip("skimage", reason="scikit-image computes the scores: pip install 'drsn-jax[noreference]'")
pytest.importorskip("pywt", reason="PyWavelets estimates the noise: pip install 'drsn-jax[noreference]'")
DATA = Path(__file__).parents[3] / "shared" / "data"


def add_noise(image: np.ndarray, variance: float) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 255 * variance**0.5, image.shape)
    return (image + noise).clip(0, 255).round().astype(np.uint8)


def blur(image: np.ndarray, length: int) -> np.ndarray:
    return ndimage.uniform_filter1d(image.astype(float), length, axis=1).round().astype(np.uint8)


def test_more_blur_reads_as_more_blurred(photograph):
    image = photograph[:200, 100:300]
    values = [score_noreference(blur(image, length))["blur_effect"] for length in (1, 5, 9, 15)]
    assert values == sorted(values)
    assert 0 < values[0] < values[-1] - 0.1 < 0.9


def test_blur_in_each_direction_counts(photograph):
    image = photograph[:200, 100:300]
    across, along = (
        score_noreference(np.ascontiguousarray(np.swapaxes(blur(np.swapaxes(image, 0, k), 9), 0, k)))["blur_effect"] for k in (0, 1)
    )
    assert min(across, along) > score_noreference(image)["blur_effect"] + 0.05


@pytest.mark.parametrize("variance", [0.0005, 0.001, 0.005])
def test_the_noise_of_a_known_variance_is_found(variance):
    image = np.full((128, 160, 3), 120, np.uint8) + np.arange(160, dtype=np.uint8)[:, None] // 4
    assert score_noreference(add_noise(image, variance))["noise_sigma"] == pytest.approx(variance**0.5, rel=0.03)
    assert score_noreference(image)["noise_sigma"] < 0.002


def test_noise_reads_as_sharp(photograph):
    """What the docstring warns of."""
    blurred = blur(photograph[:200, 100:300], 9)
    noisy = score_noreference(add_noise(blurred, 0.005))
    assert noisy["blur_effect"] < score_noreference(blurred)["blur_effect"] - 0.1
    assert noisy["noise_sigma"] > 0.05


def test_real_pairs_are_ordered():
    folder = DATA / "gopro_train_scenes"
    if not folder.is_dir():
        pytest.skip("GoPro's frames are not part of the repository: ../shared/data/gopro_train_scenes is absent")
    for path in sorted((folder / "sharp").glob("*.png"))[::4]:
        sharp, blurred = (np.asarray(Image.open(folder / kind / path.name)) for kind in ("sharp", "blur"))
        scores = [score_noreference(image) for image in (sharp, blurred, add_noise(sharp, 0.001))]
        assert scores[0]["blur_effect"] < scores[1]["blur_effect"] - 0.05
        assert scores[2]["noise_sigma"] == pytest.approx(0.0316, rel=0.1)
        assert scores[0]["noise_sigma"] < 0.005


def test_a_plain_image_has_neither(recwarn):
    for colour in ([7, 7, 7], [0, 0, 0], [255, 255, 255], [10, 200, 90]):
        image = np.broadcast_to(np.array(colour, np.uint8), (40, 50, 3))
        assert score_noreference(image) == pytest.approx({"blur_effect": 1.0, "noise_sigma": 0.0}, abs=1e-9)
    assert not recwarn.list


def test_every_score_is_a_finite_float(rng):
    side = NOREFERENCE_MINIMUM_SIDE
    dot = np.zeros((side, side, 3), np.uint8)
    dot[8, 8] = 255
    corner = np.zeros((side, side, 3), np.uint8)
    corner[0, 0, 1] = 1
    gray_equal = np.zeros((side, side, 3), np.uint8)
    gray_equal[::2, :, 2] = 1
    for image in (dot, corner, gray_equal, rng.integers(0, 256, (side, 90, 3), dtype=np.uint8)):
        scores = score_noreference(image)
        assert set(scores) == {"blur_effect", "noise_sigma"}
        assert all(isinstance(value, float) and np.isfinite(value) for value in scores.values()), scores


@pytest.mark.usefixtures("unchecked")
def test_unfit_images_and_missing_packages_are_told(photograph, monkeypatch):
    with pytest.raises(InputError, match=r"15x40.*16x16"):
        score_noreference(photograph[:40, :15])
    with pytest.raises(TypeError, match="uint8"):
        score_noreference(photograph[:40, :40, :1])
    monkeypatch.setitem(sys.modules, "pywt", None)
    with pytest.raises(InputError, match=r"drsn-jax\[noreference\]"):
        score_noreference(photograph[:40, :40])

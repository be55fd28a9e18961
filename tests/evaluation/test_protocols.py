"""Protocols and noise, down to the published figures of the validation pairs (PEERS section G)."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from drsn_jax.evaluation.scoring.protocols import PROTOCOLS, add_noise, apply_protocol, check_protocol, describe_protocol
from drsn_jax.ops.metrics import psnr
from drsn_jax.system.errors import InputError

SCENES = Path(__file__).resolve().parents[3] / "shared" / "data" / "gopro_train_scenes"


def test_full_leaves_the_image_alone(photograph):
    np.testing.assert_array_equal(apply_protocol(photograph, protocol="full"), photograph)


def test_half_and_resize_are_antialiased_bicubic(photograph):
    image = photograph[:301, :401]
    half, resized = (apply_protocol(image, protocol=protocol) for protocol in ("half", "resize256"))
    assert (half.shape, half.dtype) == ((150, 200, 3), np.uint8)
    assert resized.shape == (256, 256, 3)
    np.testing.assert_array_equal(half, np.asarray(Image.fromarray(image).resize((200, 150), Image.Resampling.BICUBIC)))
    checkerboard = np.kron(np.indices((64, 64)).sum(axis=0) % 2, np.ones((1, 1))).astype(np.uint8)[..., None] * np.full(3, 255, np.uint8)
    assert np.ptp(apply_protocol(checkerboard, protocol="half")[4:-4, 4:-4].astype(int)) < 10, "aliased"


@pytest.mark.parametrize("protocol", ["quarter", "", "Full"])
def test_unknown_protocols_are_refused(photograph, protocol):
    with pytest.raises(InputError, match="full, half, resize256"):
        apply_protocol(photograph, protocol=protocol)


def test_an_image_that_cannot_be_halved_is_refused():
    with pytest.raises(InputError, match="1x9"):
        apply_protocol(np.zeros((9, 1, 3), np.uint8), protocol="half")


def test_noise_has_its_variance_and_no_bias():
    grey = np.full((200, 300, 3), 128, np.uint8)
    noisy = add_noise(grey, variance=0.001, index=3).astype(np.float64)
    assert noisy.var() / 255**2 == pytest.approx(0.001, rel=0.02)
    assert noisy.mean() == pytest.approx(128, abs=0.1)


def test_noise_is_clipped_not_wrapped():
    white = add_noise(np.full((50, 50, 3), 255, np.uint8), variance=0.01, index=0)
    assert white.min() > 100
    black = add_noise(np.zeros((50, 50, 3), np.uint8), variance=0.01, index=0)
    assert black.max() < 150


def test_noise_depends_on_the_index_alone(photograph):
    first, again, other = (add_noise(photograph, variance=0.001, index=index) for index in (2, 2, 3))
    np.testing.assert_array_equal(first, again)
    assert (first != other).mean() > 0.5


def test_no_noise_changes_nothing(photograph):
    np.testing.assert_array_equal(add_noise(photograph, variance=0.0, index=5), photograph)


@pytest.mark.parametrize("variance", [-0.001, float("nan"), float("inf")])
def test_impossible_variances_are_refused(photograph, variance):
    with pytest.raises(InputError, match=r"variance of"):
        add_noise(photograph, variance=variance, index=0)
    with pytest.raises(InputError, match=r"variance of"):
        check_protocol("full", noise_variance=variance)


def test_descriptions_tell_protocols_and_noise_apart():
    words = {describe_protocol(protocol, noise_variance=noise) for protocol in PROTOCOLS for noise in (0.0, 0.0005, 0.001)}
    assert len(words) == 9
    noisy = describe_protocol("half", noise_variance=0.0005)
    assert "0.0005" in noisy
    assert "drawn with numpy.random.default_rng(index of the file in sorted order, from 0).normal" in noisy
    assert noisy.endswith("rounded to 8 bits")


@pytest.mark.skipif(not SCENES.is_dir(), reason="the validation pairs are not beside this checkout")
@pytest.mark.parametrize(("variance", "expected", "tolerance"), [(0.0, 28.07, 0.01), (0.001, 25.63, 0.02)])
def test_the_validation_pairs_read_as_published(variance, expected, tolerance):
    values = []
    for index, blurred in enumerate(sorted((SCENES / "blur").iterdir())):
        sharp = np.asarray(Image.open(SCENES / "sharp" / blurred.name).convert("RGB"))
        noisy = add_noise(np.asarray(Image.open(blurred).convert("RGB")), variance=variance, index=index)
        values.append(float(psnr(noisy, sharp)))
    assert len(values) == 10
    assert np.mean(values) == pytest.approx(expected, abs=tolerance)

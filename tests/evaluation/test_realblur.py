"""RealBlur's scoring: known warps are undone, and the figures equal the published definition written a second time."""

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drsn_jax.evaluation.metrics.realblur import score_realblur
from drsn_jax.ops import metrics
from drsn_jax.system.errors import InputError

cv2 = pytest.importorskip("cv2", reason="OpenCV aligns: pip install 'drsn-jax[realblur]'")
SIDE = 160


@pytest.fixture(scope="module")
def sharp(photograph):
    return np.ascontiguousarray(photograph[40 : 40 + SIDE, 140 : 140 + SIDE + 12])


def warp(image: np.ndarray, homography: np.ndarray) -> np.ndarray:
    return cv2.warpPerspective(image, homography, image.shape[1::-1], flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)


def blur(image: np.ndarray) -> np.ndarray:
    return np.mean([np.roll(image, k, axis=1) for k in range(-2, 3)], axis=0).round().astype(np.uint8)


def published(restored: np.ndarray, sharp: np.ndarray) -> tuple[float, float]:
    """From the definition, in float64 (but for the warp: OpenCV 5.0 warps float64 wrongly) and by scikit-image's SSIM."""
    skimage = pytest.importorskip("skimage.metrics", reason="scikit-image is the reference here")
    x, z = sharp / 255, restored / 255
    z = (x * z).sum() / (z * z).sum() * z
    gray = [cv2.cvtColor(image.astype(np.float32), cv2.COLOR_RGB2GRAY) for image in (x, z)]
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 100, 0)
    _, homography = cv2.findTransformECC(*gray, np.eye(3, dtype=np.float32), cv2.MOTION_HOMOGRAPHY, criteria, None, 5)
    flags = {"dsize": x.shape[1::-1], "borderMode": cv2.BORDER_REFLECT}
    z = cv2.warpPerspective(z.astype(np.float32), homography, flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP, **flags).astype(float)
    rows, columns = np.mgrid[: x.shape[0], : x.shape[1]]
    places = np.einsum("ij,jrc->irc", homography.astype(np.float64), np.stack([columns, rows, np.ones_like(rows)]))
    column, row = np.rint(places[:2] / places[2])
    mask = ((row >= 0) & (row < x.shape[0]) & (column >= 0) & (column < x.shape[1]))[..., None]
    psnr = 10 * np.log10(1 / (((x - z) * mask) ** 2).sum() * 3 * mask.sum())
    options = {"channel_axis": 2, "gaussian_weights": True, "use_sample_covariance": False, "data_range": 1.0, "full": True}
    _, similarity = skimage.structural_similarity(x * mask, z * mask, **options)
    inner = np.s_[5:-5, 5:-5]
    return psnr, (similarity * mask)[inner].sum() / (3 * mask[inner].sum())


HOMOGRAPHY = np.array([[1.01, -0.012, 2.3], [0.008, 0.995, -3.1], [4e-5, -3e-5, 1]])


def test_a_known_homography_is_undone(sharp):
    moved = warp(sharp, HOMOGRAPHY)
    score = score_realblur(moved, sharp)
    assert score.aligned is True
    assert score.psnr > float(metrics.psnr(moved, sharp)) + 12
    assert score.ssim_gaussian > 0.97 > float(metrics.ssim_gaussian(moved, sharp)) + 0.2


@settings(max_examples=8, deadline=None)
@given(st.floats(-4, 4), st.floats(-4, 4), st.floats(0.7, 1))
def test_small_displacements_and_darkening_cost_little(sharp, down, right, scale):
    moved = warp(sharp, np.array([[1, 0, right], [0, 1, down], [0, 0, 1.0]]))
    score = score_realblur((scale * moved).round().astype(np.uint8), sharp)
    assert score.aligned
    assert score.psnr > 30


FAR = np.array([[1, 0, -4.4], [0, 1, 13.7], [0, 0, 1]])  # the mask reaches beyond the border that SSIM leaves out


@pytest.mark.parametrize("homography", [HOMOGRAPHY, np.eye(3), FAR], ids=["near", "in place", "far"])
@pytest.mark.parametrize("scale", [1, 0.5])
def test_equals_the_published_definition(sharp, homography, scale):
    restored = (scale * blur(warp(sharp, homography))).round().astype(np.uint8)
    score = score_realblur(restored, sharp)
    psnr, ssim = published(restored, sharp)
    assert score.psnr == pytest.approx(psnr, abs=2e-3)
    assert score.ssim_gaussian == pytest.approx(ssim, abs=1e-4)


def test_identical_images_read_as_identical(sharp):
    score = score_realblur(sharp, sharp)
    assert score.aligned
    assert score.psnr == metrics.PSNR_CAP_DB
    assert score.ssim_gaussian == pytest.approx(1, abs=1e-6)


def test_what_cannot_be_aligned_is_scored_as_it_lies_and_says_so(sharp):
    flat = np.full_like(sharp, 90)
    score = score_realblur(flat, sharp)
    factor = (90.0 * sharp).sum() / (90.0**2 * sharp.size)  # the intensity is matched all the same
    assert score.aligned is False
    assert score.psnr == pytest.approx(10 * np.log10(255**2 / np.mean((sharp - factor * 90.0) ** 2)), abs=1e-3)


def test_an_alignment_that_leaves_the_picture_is_none(sharp, monkeypatch):
    away = np.array([[1, 0, 0.6 * SIDE], [0, 1, 0], [0, 0, 1]], np.float32)
    monkeypatch.setattr(cv2, "findTransformECC", lambda *args: (1.0, away))
    assert score_realblur(blur(sharp), sharp).aligned is False


def test_black_images_stay_finite(sharp):
    score = score_realblur(np.zeros_like(sharp), sharp)
    assert not score.aligned
    assert np.isfinite([score.psnr, score.ssim_gaussian]).all()


@pytest.mark.usefixtures("unchecked")
def test_unfit_images_and_a_missing_package_are_told(sharp, monkeypatch):
    with pytest.raises(InputError, match="172x160 and 172x159"):
        score_realblur(sharp, sharp[1:])
    with pytest.raises(TypeError, match="uint8"):
        score_realblur(sharp / 255, sharp)
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(InputError, match=r"drsn-jax\[realblur\]"):
        score_realblur(sharp, sharp)

"""PSNR over shifts against a loop in numpy, and its option."""

import numpy as np
import pytest
from scipy import ndimage

from drsn_jax.evaluation.metrics.aligned import LARGEST_SHIFT, psnr_aligned
from drsn_jax.evaluation.metrics.scorers import make_paired_scorer
from drsn_jax.ops.metrics import psnr
from drsn_jax.system.errors import InputError


def plain(restored, sharp, reach=3):
    height, width, _ = sharp.shape
    errors = {}
    for down in range(-reach, reach + 1):
        for right in range(-reach, reach + 1):
            moved = restored[reach + down : height - reach + down, reach + right : width - reach + right].astype(float)
            errors[down, right] = ((moved - sharp[reach:-reach, reach:-reach]) ** 2).mean()
    shift = min(errors, key=errors.__getitem__)
    return 10 * np.log10(255**2 / max(errors[shift], 255**2 / 1e10)), shift


@pytest.mark.parametrize("shift", [(0, 0), (3, -3), (-2, 1), (0, 3), (4, 0)])
def test_equals_numpy_for_every_shift(photograph, shift):
    sharp = photograph[100:165, 160:250]
    restored = np.roll(ndimage.uniform_filter1d(sharp.astype(float), 5, axis=1).round().astype(np.uint8), shift, (0, 1))
    expected, found = plain(restored, sharp)
    assert float(psnr_aligned(restored, sharp)) == pytest.approx(expected, abs=1e-4)
    assert found == shift or max(map(abs, shift)) > LARGEST_SHIFT, "the loop itself finds it"


def test_a_moved_image_is_perfect_as_far_as_shifts_reach(rng):
    sharp = rng.integers(0, 256, (24, 31, 3), dtype=np.uint8)
    assert float(psnr_aligned(np.roll(sharp, (3, -3), (0, 1)), sharp)) == 100
    assert float(psnr_aligned(np.roll(sharp, (4, 0), (0, 1)), sharp)) < 15
    assert float(psnr(np.roll(sharp, (3, -3), (0, 1)), sharp)) < 15


def test_the_border_counts_for_no_shift(rng):
    sharp = rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)
    framed = sharp.copy()
    framed[:3], framed[-3:], framed[:, :3], framed[:, -3:] = 0, 0, 0, 0
    assert float(psnr_aligned(framed, sharp)) == 100


def test_the_largest_error_of_the_widest_frame_does_not_overflow():
    black, white = (np.full((11, 10_000, 3), value, np.uint8) for value in (0, 255))
    assert float(psnr_aligned(black, white)) == pytest.approx(0, abs=1e-4)


def test_unfit_images():
    image = np.zeros((12, 12, 3), np.uint8)
    with pytest.raises(InputError, match="one size"):
        psnr_aligned(image, image[:11])
    with pytest.raises(InputError, match="11x11"):
        psnr_aligned(image[:10], image[:10])


def test_it_stands_beside_the_raw_figure_where_it_is_asked_for(photograph):
    sharp = photograph[:40, :40]
    moved = np.roll(sharp, 2, 0)
    plainly, scorer = (make_paired_scorer(smallest_side=40, aligned=aligned) for aligned in (False, True))
    assert [metric.name for metric in scorer.metrics][:2] == ["psnr", "psnr_aligned"]
    assert "psnr_aligned" not in {metric.name for metric in plainly.metrics}
    scores = scorer.score_fn([moved, sharp], sharp)
    assert set(scores[0]) == {metric.name for metric in scorer.metrics}
    assert scores[0]["psnr_aligned"] == 100 > scores[0]["psnr"]
    assert plainly.score_fn([moved], sharp)[0] == {name: value for name, value in scores[0].items() if name != "psnr_aligned"}

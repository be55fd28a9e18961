"""Comparison of 8-bit images that two programs have made."""

import numpy as np
from numpy.typing import ArrayLike


def assert_same_levels(first: ArrayLike, second: ArrayLike, *, share: float = 0.01) -> None:
    """Check that at most `share` of the levels, in [0, 255], differ, and by one: two programs may round a value near a half differently.

    Which ones do depends on the processor's vector units. Bits are compared within one program only.
    """
    first, second = np.asarray(first), np.asarray(second)
    assert first.shape == second.shape
    difference = np.abs(first.astype(np.float64) - second.astype(np.float64))
    assert difference.max() < 1.5, f"{difference.max()} levels apart"
    assert (difference > 0.5).mean() <= share, f"{(difference > 0.5).mean():.2%} of the levels differ"

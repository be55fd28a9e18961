"""Y'CbCr to R'G'B' and back."""

import numpy as np
import pytest

from drsn_jax.restoration.video.colours import luma_shares, to_planes, to_rgb

BT709, BT601 = luma_shares(1, height=96), luma_shares(6, height=96)


@pytest.mark.parametrize("bits", [8, 10])
@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("chroma", [(16, 24), (31, 24), (31, 47)], ids=["4:2:0", "4:2:2", "4:4:4"])
def test_what_is_not_changed_comes_back_bit_for_bit(rng, bits, full_range, chroma):
    top = 2 ** (bits - 8)
    planes = [rng.integers(60 * top, 190 * top, size) for size in ((31, 47), chroma, chroma)]
    for plane in planes[1:]:
        plane[:] = 128 * top + (plane - 125 * top) // 4  # within R'G'B': nothing is clipped
    coding = {"bits": bits, "shares": BT709, "full_range": full_range}
    rgb = to_rgb(planes, **coding)
    assert rgb.dtype == np.float32
    assert 0 < rgb.min() < rgb.max() < 1
    back = to_planes(rgb, sizes=[plane.shape for plane in planes], **coding)
    for plane, again in zip(planes, back, strict=True):
        np.testing.assert_array_equal(plane, again)
        assert again.dtype == (np.uint8 if bits == 8 else np.uint16)


@pytest.mark.parametrize(
    ("rgb", "shares", "full_range", "bits", "expected"),
    [  # BT.709 and BT.601 by hand: 16 + 219 * 0.2126, 128 - 224 * 0.2126 / 1.8556, ...
        ((1, 0, 0), BT709, False, 8, (63, 102, 240)),
        ((1, 0, 0), BT601, False, 8, (81, 90, 240)),
        ((0, 0, 1), BT601, False, 8, (41, 240, 110)),
        ((1, 1, 1), BT709, False, 8, (235, 128, 128)),
        ((0, 0, 0), BT709, False, 10, (64, 512, 512)),
        ((1, 1, 1), BT709, True, 8, (255, 128, 128)),
        ((0, 1, 0), BT601, True, 8, (150, 44, 21)),
    ],
)
def test_colours_that_are_known(rgb, shares, full_range, bits, expected):
    image = np.tile(np.array(rgb, np.float32), (2, 2, 1))
    planes = to_planes(image, sizes=[(2, 2), (1, 1), (1, 1)], bits=bits, shares=shares, full_range=full_range)
    assert tuple(int(plane[0, 0]) for plane in planes) == expected
    np.testing.assert_allclose(to_rgb(planes, bits=bits, shares=shares, full_range=full_range), image, atol=0.01)


def test_grey_has_one_plane_and_what_is_outside_is_clipped():
    planes = [np.array([[0, 16, 126, 235, 255]], np.uint8)]
    rgb = to_rgb(planes, bits=8, shares=BT709, full_range=False)
    np.testing.assert_allclose(rgb[0, :, 1], [0, 0, 110 / 219, 1, 1], atol=1e-6)
    [back] = to_planes(rgb, sizes=[(1, 5)], bits=8, shares=BT709, full_range=False)
    np.testing.assert_array_equal(back, [[16, 16, 126, 235, 235]])


def test_what_files_do_not_say_is_what_players_take():
    assert luma_shares(2, height=1080) == luma_shares(1, height=96) == BT709
    assert luma_shares(2, height=480) == luma_shares(5, height=1080) == BT601

"""Conversion between video's Y'CbCr and R'G'B'; an unchanged frame is preserved bit for bit.

FFmpeg's own conversion (swscale, as of FFmpeg 8) is not used. Its way back shifts full-range chroma by 0.6 levels. With PyAV's flags it
also shifts luma by one level. Source of the arithmetic: ITU-T H.273 (07/2021), 8.3.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Integer

Plane = Integer[np.ndarray, "_ _"]
# H.273 table 4, by code: the shares of red and of blue in luma. Code 8 (YCgCo) and codes from 11 on have another form.
_SHARES = {
    1: (0.2126, 0.0722),  # BT.709
    4: (0.30, 0.11),
    5: (0.299, 0.114),  # BT.601
    6: (0.299, 0.114),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),  # BT.2020
    10: (0.2627, 0.0593),
}


def luma_shares(code: int, *, height: int) -> tuple[float, float]:
    """Return the shares of red and blue in luma for a matrix coefficient of H.273.

    For an unspecified (2) or unsupported code they are the defaults of players: BT.709 from 720 rows on, BT.601 below.
    """
    return _SHARES.get(code, _SHARES[1 if height >= 720 else 6])


def to_rgb(planes: Sequence[Plane], *, bits: int, shares: tuple[float, float], full_range: bool) -> Float[np.ndarray, "h w 3"]:
    """Convert planes Y', Cb, Cr, or Y' alone, of `bits` bits per sample, to R'G'B' float32 in [0, 1]; chroma of any subsampling.

    A chroma sample is repeated over the pixels that share it, which `to_planes` reverses exactly. Values outside R'G'B' are clipped.
    """
    luma_scale, chroma_scale, black = _levels(bits, full_range=full_range)
    luma = (planes[0].astype(np.float32) - black) / luma_scale
    height, width = luma.shape
    if len(planes) == 1:
        return np.clip(np.repeat(luma[..., None], 3, axis=-1), 0, 1)
    blue_difference, red_difference = (_enlarged(plane, height, width) for plane in planes[1:])
    red, blue = shares
    rgb = np.empty((height, width, 3), np.float32)
    rgb[..., 0] = luma + (red_difference - 2 ** (bits - 1)) * np.float32(2 * (1 - red) / chroma_scale)
    rgb[..., 2] = luma + (blue_difference - 2 ** (bits - 1)) * np.float32(2 * (1 - blue) / chroma_scale)
    rgb[..., 1] = (luma - red * rgb[..., 0] - blue * rgb[..., 2]) / (1 - red - blue)
    return np.clip(rgb, 0, 1, out=rgb)


def to_planes(
    rgb: Float[np.ndarray, "h w 3"], *, sizes: Sequence[tuple[int, int]], bits: int, shares: tuple[float, float], full_range: bool
) -> list[Plane]:
    """Convert to planes of (height, width) `sizes`, uint8, or uint16 from 9 bits on: the rounded inverse of `to_rgb`, chroma averaged."""
    luma_scale, chroma_scale, black = _levels(bits, full_range=full_range)
    red, blue = shares
    luma = rgb @ np.array([red, 1 - red - blue, blue], np.float32)
    values = [luma * luma_scale + black]
    for channel, share, size in ((2, blue, sizes[1:2]), (0, red, sizes[2:3])):
        for height, width in size:
            difference = _averaged(rgb[..., channel] - luma, height, width)
            values.append(difference * np.float32(chroma_scale / (2 * (1 - share))) + 2 ** (bits - 1))
    dtype = np.uint8 if bits == 8 else np.uint16
    return [np.clip(np.rint(value), 0, 2**bits - 1).astype(dtype) for value in values]


def _levels(bits: int, *, full_range: bool) -> tuple[int, int, int]:
    """Return the number of levels of luma and chroma, and the level of black."""
    if full_range:
        return 2**bits - 1, 2**bits - 1, 0
    return 219 * 2 ** (bits - 8), 224 * 2 ** (bits - 8), 16 * 2 ** (bits - 8)


def _enlarged(plane: np.ndarray, height: int, width: int) -> np.ndarray:
    rows, columns = -(-height // plane.shape[0]), -(-width // plane.shape[1])
    return plane.astype(np.float32).repeat(rows, axis=0)[:height].repeat(columns, axis=1)[:, :width]


def _averaged(values: np.ndarray, height: int, width: int) -> np.ndarray:
    rows, columns = -(-values.shape[0] // height), -(-values.shape[1] // width)
    margins = (height * rows - values.shape[0], width * columns - values.shape[1])
    padded = np.pad(values, ((0, margins[0]), (0, margins[1])), mode="edge") if any(margins) else values
    return padded.reshape(height, rows, width, columns).mean(axis=(1, 3))

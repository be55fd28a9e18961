"""PSNR and three kinds of SSIM for one pair of images on the device: pure functions, inside or outside `jit`.

The kinds of SSIM differ: for one result at 32.66 dB they read 0.957, 0.963 and 0.973 (SPEC section 3). So each has its own name, and no
function is called plain `ssim`. All take uint8 RGB as stored in files, with k1 = 0.01, k2 = 0.03 and L = 255. The arithmetic is float32:
bfloat16 keeps 8 bits of precision, too few for 8-bit images.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from drsn_jax.system.errors import InputError

# Anonymous axes: unequal sizes are reported by InputError, not by the type checker.
Image = UInt8[Array | np.ndarray, "_ _ 3"]

SSIM_KINDS = {
    "ssim_gaussian": "11x11 Gaussian window of sigma 1.5, each channel, valid region (tf.image.ssim)",
    "ssim_skimage": "7x7 uniform window, sample covariance, each channel, valid region (scikit-image's default)",
    "ssim_matlab_rgb": "11x11x11 Gaussian window of sigma 1.5 over the RGB volume, replicated borders (MATLAB's ssim of an RGB array)",
}
METRICS = ("psnr", *SSIM_KINDS)

PSNR_CAP_DB = 100.0
"""The value of `psnr` for identical images, whose PSNR is infinite. A mean over images must stay finite."""

_RANGE = 255.0
C1, C2 = (0.01 * _RANGE) ** 2, (0.03 * _RANGE) ** 2
"""SSIM's constants for luminance and contrast, (k L)^2."""
_RADIUS = 5
_GAUSSIAN_SIZE, _UNIFORM_SIZE = 2 * _RADIUS + 1, 7


def gaussian_weights() -> list[float]:
    """Return the eleven weights of a Gaussian of sigma 1.5; their sum is 1."""
    bell = [math.exp(-(k**2) / (2 * 1.5**2)) for k in range(-_RADIUS, _RADIUS + 1)]
    return [value / sum(bell) for value in bell]


def _channel_weights() -> list[list[float]]:
    """Return the Gaussian along an axis of three values with replicated borders: row = channel out, column = channel in."""
    matrix = [[0.0] * 3 for _ in range(3)]
    for out in range(3):
        for offset, weight in zip(range(-_RADIUS, _RADIUS + 1), gaussian_weights(), strict=True):
            matrix[out][min(max(out + offset, 0), 2)] += weight
    return matrix


def _check(restored: Image, sharp: Image, *, window: int = 1) -> None:
    """Check shapes and types. They are static, so this costs nothing in a compiled call."""
    for image in (restored, sharp):
        if image.dtype != jnp.uint8 or image.ndim != 3 or image.shape[-1] != 3:
            raise TypeError(f"Metrics take uint8 images of shape [h w 3]; got {image.dtype} {list(image.shape)}.")
    (height, width), other = restored.shape[:2], sharp.shape[:2]
    if (height, width) != other:
        raise InputError(f"The images are {width}x{height} and {other[1]}x{other[0]} pixels; they must be of one size to be compared.")
    if min(height, width) < window:
        raise InputError(f"The images are {width}x{height} pixels, and this SSIM needs at least {window}x{window}; leave them out.")


def _smooth(values: Float[Array, "h w c"], weights: Sequence[float], axis: int) -> Float[Array, "H W c"]:
    """Correlate along one axis, valid region, by adding shifted slices. XLA's CPU back end is slow at depthwise convolutions."""
    length = values.shape[axis] - len(weights) + 1
    slices = (jax.lax.slice_in_dim(values, k, k + length, axis=axis) for k in range(len(weights)))
    return jnp.asarray(sum(weight * piece for weight, piece in zip(weights, slices, strict=True)))


def _moments(restored: Image, sharp: Image, weights: Sequence[float], *, pad: int = 0) -> Float[Array, "H W 15"]:
    """Return windowed means of x, y, x x, y y, x y (three channels each) of the images minus 128.

    The shift does not change variances, and smaller squares keep more of float32's digits.
    """
    x, y = (jnp.asarray(image).astype(jnp.float32) - 128.0 for image in (restored, sharp))
    maps = jnp.concatenate([x, y, x * x, y * y, x * y], axis=-1)
    maps = jnp.pad(maps, ((pad, pad), (pad, pad), (0, 0)), mode="edge")
    return _smooth(_smooth(maps, weights, 0), weights, 1)


def _ssim(moments: Float[Array, "h w 15"], *, covariance_scale: float = 1.0) -> Float[Array, ""]:
    x, y, xx, yy, xy = jnp.split(moments, 5, axis=-1)
    variances = covariance_scale * ((xx - x * x) + (yy - y * y))
    covariance = covariance_scale * (xy - x * y)
    x, y = x + 128.0, y + 128.0
    luminance = (2.0 * x * y + C1) / (x * x + y * y + C1)
    return (luminance * (2.0 * covariance + C2) / (variances + C2)).mean()


def _mix_channels(moments: Float[Array, "h w 15"]) -> Float[Array, "h w 15"]:
    """Smooth along the third axis of MATLAB's volume. Written out, because accelerators compute matrix products in TF32 or bfloat16."""
    matrix = _channel_weights()
    planes = jnp.split(moments, 15, axis=-1)
    return jnp.concatenate(
        [sum(matrix[out][c] * planes[3 * moment + c] for c in range(3)) for moment in range(5) for out in range(3)],
        axis=-1,
    )


def _gaussian_moments(restored: Image, sharp: Image) -> Float[Array, "h w 15"]:
    return _moments(restored, sharp, gaussian_weights(), pad=_RADIUS)


def _crop(moments: Float[Array, "h w 15"]) -> Float[Array, "H W 15"]:
    """Keep only the positions with a window wholly inside the image."""
    return moments[_RADIUS:-_RADIUS, _RADIUS:-_RADIUS]


def check_pair(restored: Image, sharp: Image) -> None:
    """Raise InputError if two images differ in size or are below 11x11, so that `METRICS` cannot score them. TypeError for other types."""
    _check(restored, sharp, window=_GAUSSIAN_SIZE)


def to_decibels(error: Float[Array, ""]) -> Float[Array, ""]:
    """Return the PSNR of a mean squared error of values in 0..255: 10 log10(255^2 / error), at most `PSNR_CAP_DB`."""
    floor = _RANGE**2 / 10 ** (PSNR_CAP_DB / 10)
    return jnp.where(error > floor, 10.0 * jnp.log10(_RANGE**2 / jnp.maximum(error, floor)), PSNR_CAP_DB)


def psnr(restored: Image, sharp: Image) -> Float[Array, ""]:
    """Return the peak signal-to-noise ratio in dB, 20 log10(255 / RMSE) over all pixels and channels (SPEC section 3; Jiang & Liu, 5.2).

    Images: uint8 [h w 3] of any size. Values above 100 dB, and identical images, give `PSNR_CAP_DB`. Raises InputError if the sizes
    differ, TypeError if the arrays are not uint8 RGB.
    """
    _check(restored, sharp)
    difference = jnp.asarray(restored).astype(jnp.float32) - jnp.asarray(sharp).astype(jnp.float32)
    return to_decibels((difference * difference).mean())


def ssim_gaussian(restored: Image, sharp: Image) -> Float[Array, ""]:
    """Return SSIM with an 11x11 Gaussian window of sigma 1.5, each channel apart, valid region only: the headline kind, in [-1, 1].

    Equals `tf.image.ssim` and scikit-image's `gaussian_weights=True, sigma=1.5, use_sample_covariance=False` (Wang et al.
    2004). Images: uint8 [h w 3], at least 11x11. Raises InputError for smaller ones and for unequal sizes.
    """
    _check(restored, sharp, window=_GAUSSIAN_SIZE)
    return _ssim(_crop(_gaussian_moments(restored, sharp)))


def ssim_skimage(restored: Image, sharp: Image) -> Float[Array, ""]:
    """Return SSIM with a 7x7 uniform window and the sample covariance, valid region only: scikit-image's default, in [-1, 1].

    Images: uint8 [h w 3], at least 7x7. Raises InputError for smaller ones and for unequal sizes.
    """
    _check(restored, sharp, window=_UNIFORM_SIZE)
    pixels = _UNIFORM_SIZE**2
    moments = _moments(restored, sharp, [1.0 / _UNIFORM_SIZE] * _UNIFORM_SIZE)
    return _ssim(moments, covariance_scale=pixels / (pixels - 1))


def ssim_matlab_rgb(restored: Image, sharp: Image) -> Float[Array, ""]:
    """Return SSIM of the RGB volume, as MATLAB's `ssim` of an RGB array: 11x11x11 Gaussian of sigma 1.5, borders replicated, in [-1, 1].

    The mean is over all voxels. MPRNet and Restormer report this kind; it reads about 0.01 above `ssim_gaussian`. Images: uint8
    [h w 3] of any size. Raises InputError for unequal sizes.
    """
    _check(restored, sharp)
    return _ssim(_mix_channels(_gaussian_moments(restored, sharp)))


@jax.jit
def score_pair(restored: Image, sharp: Image) -> dict[str, Float[Array, ""]]:
    """Compute every metric of `METRICS` for one pair, compiled once per size: `psnr` in dB and the three SSIMs in [-1, 1].

    Images: uint8 [h w 3], at least 11x11. Raises the errors of the single metrics.
    """
    _check(restored, sharp, window=_GAUSSIAN_SIZE)
    moments = _gaussian_moments(restored, sharp)  # the two Gaussian kinds share them: they differ only in borders and channels
    return {
        "psnr": psnr(restored, sharp),
        "ssim_gaussian": _ssim(_crop(moments)),
        "ssim_skimage": ssim_skimage(restored, sharp),
        "ssim_matlab_rgb": _ssim(_mix_channels(moments)),
    }


def score_batch(restored: Float[Array, "b h w 3"], sharp: Float[Array, "b h w 3"]) -> dict[str, Float[Array, " b"]]:
    """Apply `score_pair` to every pair of a batch in [-1, 1], rounded to uint8 as in a file; at least 11x11.

    An image with a non-finite value scores NaN, because uint8 would hide that value. Raises the errors of the single metrics.
    """
    restored_uint8, sharp_uint8 = (jnp.rint(jnp.clip((x + 1) / 2, 0, 1) * 255).astype(jnp.uint8) for x in (restored, sharp))
    finite = jnp.isfinite(restored).all((1, 2, 3))
    return {name: jnp.where(finite, value, jnp.nan) for name, value in jax.vmap(score_pair)(restored_uint8, sharp_uint8).items()}

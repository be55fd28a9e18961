"""Multi-scale SSIM (Wang, Simonyan & Bovik 2003) of one pair of images on the device: pure functions.

The arithmetic is float32. Planes come first ([3 h w]) and each step is compiled separately. In a single program XLA's CPU back end fuses
the smoothing along both axes, and takes about twice as long. So call these functions outside `jit`. The results inside it are the same.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from drsn_jax.ops.metrics import C1, C2, check_pair, gaussian_weights
from drsn_jax.system.errors import InputError

# Anonymous axes: unequal sizes are reported by InputError, not by the type checker.
Image = UInt8[Array | np.ndarray, "_ _ 3"]

MS_SSIM_MINIMUM_SIDE = 176
"""The window of 11 pixels must fit into the coarsest of five scales, 1/16 of the size."""

_SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # finest first (Wang et al. 2003, section 3.2)
_MIDDLE = 128.0


@partial(jax.jit, static_argnames="axis")
def _smooth(planes: Float[Array, "n h w"], axis: int) -> Float[Array, "n H W"]:
    """Correlate with the Gaussian, valid region; symmetric values are added before they are weighted."""
    weights = gaussian_weights()
    last, length = len(weights) - 1, planes.shape[axis] - len(weights) + 1

    def piece(k: int) -> Array:
        return jax.lax.slice_in_dim(planes, k, k + length, axis=axis)

    pairs = (weights[k] * (piece(k) + piece(last - k)) for k in range(last // 2))
    return sum(pairs, start=weights[last // 2] * piece(last // 2))


@jax.jit
def _halve(planes: Float[Array, "3 h w"]) -> Float[Array, "3 H W"]:
    """Average 2x2 pixels; an odd last row or column counts twice."""
    planes = jnp.pad(planes, ((0, 0), (0, planes.shape[1] % 2), (0, planes.shape[2] % 2)), mode="edge")
    rows = planes[:, ::2] + planes[:, 1::2]
    return 0.25 * (rows[:, :, ::2] + rows[:, :, 1::2])


@jax.jit
def _join(x: Float[Array, "3 h w"], y: Float[Array, "3 h w"]) -> Float[Array, "12 h w"]:
    return jnp.concatenate([x, y, x * x + y * y, x * y])


def _moments(x: Float[Array, "3 h w"], y: Float[Array, "3 h w"]) -> Float[Array, "12 H W"]:
    """Compute windowed means of x, y, x x + y y and x y, of planes minus 128."""
    return _smooth(_smooth(_join(x, y), axis=1), axis=2)


def _maps(moments: Float[Array, "12 h w"]) -> tuple[Float[Array, "3 h w"], Float[Array, "3 h w"]]:
    """Compute SSIM, and its factor of contrast and structure."""
    x, y, squares, product = jnp.split(moments, 4)
    contrast = (2.0 * (product - x * y) + C2) / (squares - x * x - y * y + C2)
    x, y = x + _MIDDLE, y + _MIDDLE
    return contrast * (2.0 * x * y + C1) / (x * x + y * y + C1), contrast


@jax.jit
def _combine(moments: Sequence[Float[Array, "12 _ _"]]) -> Float[Array, ""]:
    """Combine contrast and structure of all scales with SSIM of the coarsest: the mean of the channels' products."""
    product = jnp.ones(3)
    for scale, weight in enumerate(_SCALE_WEIGHTS):
        ssim, contrast = _maps(moments[scale])
        similarity = ssim if scale == len(_SCALE_WEIGHTS) - 1 else contrast
        # A negative mean has no real power; it counts as 0, as in TensorFlow.
        product *= jnp.maximum(similarity.mean((1, 2)), 0.0) ** weight
    return product.mean()


@jax.jit
def _to_planes(image: Float[Array | np.ndarray, "h w 3"]) -> Float[Array, "3 h w"]:
    """Convert to planes minus 128. The shift does not change variances, and smaller squares keep more of float32's digits."""
    return jnp.moveaxis(jnp.asarray(image, jnp.float32), -1, 0) - _MIDDLE


def ssim_map(restored: Float[Array | np.ndarray, "h w 3"], sharp: Float[Array | np.ndarray, "h w 3"]) -> Float[Array, "H W 3"]:
    """Compute SSIM's map with the 11x11 Gaussian window, valid region (5 pixels less on each side), each channel.

    Images: float [h w 3] in 0..255 of one size, at least 11x11. The mean of the map is `metrics.ssim_gaussian`.
    """
    return jnp.moveaxis(_maps(_moments(_to_planes(restored), _to_planes(sharp)))[0], 0, -1)


def ms_ssim_of_floats(restored: Float[Array | np.ndarray, "h w 3"], sharp: Float[Array | np.ndarray, "h w 3"]) -> Float[Array, ""]:
    """Compute `ms_ssim` of float images in 0..255, which may be unrounded or slightly out of range (Köhler).

    The caller must check that both have one size of at least `MS_SSIM_MINIMUM_SIDE`.
    """
    x, y = _to_planes(restored), _to_planes(sharp)
    moments = [_moments(x, y)]
    for _ in _SCALE_WEIGHTS[1:]:
        x, y = _halve(x), _halve(y)
        moments.append(_moments(x, y))
    return _combine(moments)


def ms_ssim(restored: Image, sharp: Image) -> Float[Array, ""]:
    """Compute multi-scale SSIM in [0, 1]: five scales, 11x11 Gaussian window of sigma 1.5, the mean over separate channels.

    Contrast and structure at every scale and luminance at the coarsest, raised to Wang's weights and multiplied; equals
    `tf.image.ssim_multiscale`. Images: uint8 [h w 3], at least 176x176. Raises InputError for smaller ones and unequal
    sizes, TypeError if the arrays are not uint8 RGB.
    """
    check_multiscale(restored, sharp)
    return ms_ssim_of_floats(jnp.asarray(restored, jnp.float32), jnp.asarray(sharp, jnp.float32))


def check_multiscale(restored: Image, sharp: Image) -> None:
    """Raise InputError if `ms_ssim` cannot score two images: unequal sizes, or a side below `MS_SSIM_MINIMUM_SIDE`."""
    check_pair(restored, sharp)
    height, width = sharp.shape[:2]
    if min(height, width) < MS_SSIM_MINIMUM_SIDE:
        side = MS_SSIM_MINIMUM_SIDE
        raise InputError(
            f"The images are {width}x{height} pixels; multi-scale SSIM needs at least {side}x{side}; leave out the metric or the images."
        )

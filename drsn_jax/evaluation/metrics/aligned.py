"""PSNR after the best whole-pixel shift, for restorations that are slightly shifted against the ground truth.

With an even number of frames, GoPro's ground truth is half a frame after the middle of the blur. One blurred image does not show in which
direction the camera moved, so raw PSNR contains a random penalty.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from drsn_jax.ops.metrics import check_pair, to_decibels

Image = UInt8[Array | np.ndarray, "_ _ 3"]

LARGEST_SHIFT = 3
"""Pixels in each direction: 49 shifts."""


def psnr_aligned(restored: Image, sharp: Image) -> Float[Array, ""]:
    """Return the largest PSNR in dB over all shifts of `restored` by up to `LARGEST_SHIFT` whole pixels down, up, right and left.

    Images: uint8 [h w 3], at least 11x11. All shifts are scored on the same pixels of `sharp`, without a border of `LARGEST_SHIFT`. So
    pixels that a shift moves in or out do not count. The result is at most `PSNR_CAP_DB`. Raises InputError if sizes differ or are too
    small, TypeError if the arrays are not uint8 RGB.
    """
    check_pair(restored, sharp)
    return _best_psnr(jnp.asarray(restored), jnp.asarray(sharp))


@jax.jit
def _best_psnr(restored: UInt8[Array, "h w 3"], sharp: UInt8[Array, "h w 3"]) -> Float[Array, ""]:
    reach, (height, width, _) = LARGEST_SHIFT, sharp.shape
    inner = (height - 2 * reach, width - 2 * reach, 3)
    truth = sharp[reach:-reach, reach:-reach].astype(jnp.int32)

    def measure_error(shift: jax.Array) -> Float[Array, ""]:
        moved = jax.lax.dynamic_slice(restored, (shift[0], shift[1], 0), inner).astype(jnp.int32)
        rows = jnp.square(moved - truth).sum((1, 2))  # as integers, exact up to widths of 11,000
        return (rows.astype(jnp.float32) / (inner[1] * 3)).mean()

    shifts = jnp.stack(jnp.meshgrid(*[jnp.arange(2 * reach + 1)] * 2, indexing="ij"), axis=-1).reshape(-1, 2)
    return to_decibels(jax.lax.map(measure_error, shifts).min())

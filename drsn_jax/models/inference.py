"""Restoration of images of one size, whole and on the device: pure functions for `jit`, `vmap` and `grad`."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from drsn_jax.models.generator import Generator
from drsn_jax.ops.extent import Extent
from drsn_jax.system.errors import InputError

Images = Float[Array, "b h w 3"]
MINIMUM_STRIDES = 4  # below this many strides a side, the innermost features are mostly padding


def restore_batch(images: Float[Array | np.ndarray, "b h w 3"], *, predict_fn: Callable, stride: int) -> Images:
    """Restore images [b h w 3] in [-1, 1] of any height and width from 1 up. Returns float32 of the same shape and range.

    `predict_fn` is a generator with its variables bound, or `load_model(...).predict_fn`. Height and width are padded by reflection to a
    multiple of `stride`, at least four, and cropped back, as in `tiling.restore_array`. There are no tiles, so memory grows with
    the images. Each size is compiled separately. Raises InputError for images without a pixel.
    """
    if not images.size:
        raise InputError(f"Images of shape {images.shape} cannot be restored; give an array [b h w 3] with at least one pixel.")
    height, width = images.shape[1:3]
    margins = [padded_size(size, stride=stride, tile=size) - size for size in (height, width)]
    padded = jnp.pad(jnp.asarray(images, jnp.float32), ((0, 0), (0, margins[0]), (0, margins[1]), (0, 0)), mode="reflect")
    return predict_fn(padded)[:, :height, :width]


def apply_in_corner(generator: Generator, variables: Any, images: Images, strides: Int[Array, "2"]) -> Images:
    """Return the generator's output in [-1, 1] for images [b h w 3] in the top left corner of larger arrays; equal to rounding.

    `strides` are the height and width of the corner in strides of the generator, at least four each. They are values, so one program serves
    all images that fit into the arrays. The pixels beside the corner are undefined, in the input and in the output.
    """
    height, width = (size // generator.stride for size in images.shape[1:3])
    return generator.clone(layout=Extent(height, width, strides[0], strides[1])).apply(variables, images)  # pyright: ignore


def padded_size(size: int, *, stride: int, tile: int | None) -> int:
    """Return the pixels of an axis after padding. An axis that is cut into tiles needs none: its last tile is moved inwards instead."""
    return size if tile is not None and size > tile else max(-(-size // stride), MINIMUM_STRIDES) * stride

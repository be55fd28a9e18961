"""Shared sizes: the few for which the network is compiled, in whose corner images of all sizes are restored."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

Images = Float[np.ndarray, "b h w 3"]
_STEP = 96
"""Pixels between two sizes: a program takes as long to compile as to run on about a megapixel (two CPU cores)."""


def shared_size(size: int, *, stride: int, largest: int | None) -> int:
    """Pixels of the shared size that holds an axis of `size` pixels, both multiples of `stride`; no more than `largest`, unless `size` is.

    Less than a quarter larger than the axis, but for one of a few strides.
    """
    step = -(-_STEP // stride) * stride
    while 4 * step > size and step % (2 * stride) == 0:
        step //= 2
    rounded = -(-size // step) * step
    return rounded if largest is None else max(min(rounded, largest), size)


def make_corner_predict_fn(corner_fn: Callable, *, stride: int, largest: int | None) -> Callable[[Images], Images]:
    """A `predict_fn` for `restore_array` that compiles one program a shared size, from the `corner_fn` of a `Model`."""

    def predict_fn(images: Images) -> Images:
        height, width = images.shape[1:3]
        margins = [shared_size(size, stride=stride, largest=largest) - size for size in (height, width)]
        padded = np.pad(images, ((0, 0), (0, margins[0]), (0, margins[1]), (0, 0)))
        return np.asarray(corner_fn(padded, np.array([height // stride, width // stride], np.int32)))[:, :height, :width]

    return predict_fn

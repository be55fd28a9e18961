"""Shared sizes: a few sizes for which the network is compiled. An image of any size is restored in the corner of one."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

Images = Float[np.ndarray, "b h w 3"]
_STEP = 96
"""Pixels between two sizes. Compiling a program takes as long as running it on about a megapixel (two CPU cores)."""


def shared_size(size: int, *, stride: int, largest: int | None) -> int:
    """Return the shared size in pixels for an axis of `size` pixels; both are multiples of `stride`.

    It exceeds the axis by less than a quarter, except for axes of a few strides. It is at most `largest`, except if the axis is longer.
    """
    step = -(-_STEP // stride) * stride
    while 4 * step > size and step % (2 * stride) == 0:
        step //= 2
    rounded = -(-size // step) * step
    return rounded if largest is None else max(min(rounded, largest), size)


def make_corner_predict_fn(corner_fn: Callable, *, stride: int, largest: int | None) -> Callable[[Images], Images]:
    """Make a `predict_fn` for `restore_array` from the `corner_fn` of a `Model`. It compiles one program per shared size."""

    def predict_fn(images: Images) -> Images:
        height, width = images.shape[1:3]
        margins = [shared_size(size, stride=stride, largest=largest) - size for size in (height, width)]
        padded = np.pad(images, ((0, 0), (0, margins[0]), (0, margins[1]), (0, 0)))
        return np.asarray(corner_fn(padded, np.array([height // stride, width // stride], np.int32)))[:, :height, :width]

    return predict_fn

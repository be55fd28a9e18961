"""How an image lies in the maps of a network, and the three operations that this changes; all others look at one pixel at a time.

It fills them (None), each of several devices has a strip of its rows (`Rows`), or it lies in a corner of them (`Extent`).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from drsn_jax.ops.extent import Extent
from drsn_jax.ops.rows import Rows

Layout = Rows | Extent | None


def pad_by_reflection(x: Float[Array, "b h w c"], margin: int, *, layout: Layout) -> Float[Array, "b h+2*{margin} w+2*{margin} c"]:
    """`margin` pixels more on every side of the map, which continue the image by reflection at its own edges."""
    if layout is None:
        return jnp.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0)), mode="reflect")
    return layout.pad_by_reflection(x, margin)


def convolve_zero_padded(
    conv: Callable[[jax.Array], jax.Array], x: Float[Array, "b h w c"], *, margin: int, layout: Layout
) -> Float[Array, "b h2 w2 d"]:
    """A convolution that pads by zeros: they begin where the image ends.

    `margin` is how many rows of a neighbouring strip it is given: a multiple of its stride, and no less than its reach.
    """
    return conv(x) if layout is None else layout.convolve_zero_padded(conv, x, margin)


def mean_pixels(x: Float[Array, "b h w c"], *, layout: Layout) -> Float[Array, "b c"]:
    """The mean over the image's height and width in float32."""
    return x.mean((1, 2), dtype=jnp.float32) if layout is None else layout.mean_pixels(x)

"""The place of an image in the maps of a network, and the three operations that depend on it.

The image fills the map (None), is split into strips of rows over several devices (`Rows`), or lies in a corner (`Extent`). All other
operations look at one pixel at a time.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from drsn_jax.ops.extent import Extent
from drsn_jax.ops.rows import Rows

Layout = Rows | Extent | None


def pad_by_reflection(x: Float[Array, "b h w c"], margin: int, *, layout: Layout) -> Float[Array, "b h+2*{margin} w+2*{margin} c"]:
    """Pad the map by `margin` pixels on every side, by reflection at the image's own edges."""
    if layout is None:
        return jnp.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0)), mode="reflect")
    return layout.pad_by_reflection(x, margin)


def convolve_zero_padded(
    conv: Callable[[jax.Array], jax.Array], x: Float[Array, "b h w c"], *, margin: int, layout: Layout
) -> Float[Array, "b h2 w2 d"]:
    """Convolve with zero padding that begins where the image ends.

    `margin` is the number of rows that a strip gets from each neighbour: a multiple of the convolution's stride, and at least its reach.
    """
    return conv(x) if layout is None else layout.convolve_zero_padded(conv, x, margin)


def mean_pixels(x: Float[Array, "b h w c"], *, layout: Layout) -> Float[Array, "b c"]:
    """Return the mean over the image's height and width in float32."""
    return x.mean((1, 2), dtype=jnp.float32) if layout is None else layout.mean_pixels(x)

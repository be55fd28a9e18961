"""Maps in which an image fills only the top left corner: one compiled program serves images of many sizes.

The values beside the image are undefined and never reach it. An operation with a reach of more than one pixel first writes the values that
it needs beyond the image's end.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int


class Extent(NamedTuple):
    """The size of an image in the corner of an array, and of every map made from it; counted in the network's strides.

    The array has `height` and `width` strides, and the program is compiled for them. The image has `rows` and `columns` strides, which are
    values of the program.
    """

    height: int
    width: int
    rows: Int[Array, ""]
    columns: Int[Array, ""]

    def ends(self, x: Float[Array, "b h w c"]) -> tuple[jax.Array, jax.Array]:
        """Return the number of rows and columns of a map that belong to the image."""
        return self.rows * (x.shape[1] // self.height), self.columns * (x.shape[2] // self.width)

    def pad_by_reflection(self, x: Float[Array, "b h w c"], margin: int) -> Float[Array, "b h+2*{margin} w+2*{margin} c"]:
        """Pad by `margin` pixels on every side, by reflection. After the image these pixels lie inside the map or beyond it."""
        for axis, end in zip((1, 2), self.ends(x), strict=True):
            place = np.abs(np.arange(-margin, x.shape[axis] + margin, dtype=np.int32))
            place = jnp.minimum(place, 2 * (end - 1) - place)  # negative far beyond the end, where values are undefined
            x = jnp.take(x, place, axis=axis, mode="clip")  # slice updates take twice as long to compile, and a tenth longer to run
        return x

    def convolve_zero_padded(
        self, conv: Callable[[jax.Array], jax.Array], x: Float[Array, "b h w c"], margin: int
    ) -> Float[Array, "b h2 w2 d"]:
        """Convolve the image alone, padded with zeros. `margin` is for strips."""
        return conv(jnp.where(self._inside(x), x, 0))

    def mean_pixels(self, x: Float[Array, "b h w c"]) -> Float[Array, "b c"]:
        """Return the mean over the image's height and width in float32."""
        rows, columns = self.ends(x)
        return jnp.where(self._inside(x), x, 0).sum((1, 2), dtype=jnp.float32) / (rows * columns).astype(jnp.float32)

    def _inside(self, x: Float[Array, "b h w c"]) -> Bool[Array, "1 h w 1"]:
        rows, columns = self.ends(x)
        return (jnp.arange(x.shape[1]) < rows)[None, :, None, None] & (jnp.arange(x.shape[2]) < columns)[None, None, :, None]

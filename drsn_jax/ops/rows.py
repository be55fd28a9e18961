"""Maps whose rows are split over devices in strips: exchange of rows with neighbouring strips, inside `jax.shard_map`.

XLA's partitioner gives the same result under `jit` alone, but takes 3 times the memory (8 devices, `paper`'s forms, 580 rows). Padding by
reflection changes how rows divide, so XLA moves whole maps. It gathers rows that do not divide evenly.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


class Rows(NamedTuple):
    """The split of the rows of an image, and of every map made from it, over a mesh axis, counted in the network's strides.

    The image has `image` >= 2 of them and every device holds `strip`. The last strips may reach below the image or lie outside it; values
    there are undefined.
    """

    axis: str
    image: int
    strip: int

    def of_image(self, x: Float[Array, "b h w c"]) -> int:
        """Return the number of rows of the whole map of which `x` is a strip."""
        return self.image * (x.shape[1] // self.strip)

    def pad_by_reflection(self, x: Float[Array, "b h w c"], margin: int) -> Float[Array, "b h+2*{margin} w+2*{margin} c"]:
        """`margin` pixels more on every side: a strip gets its neighbours', and reflected ones where the image ends."""
        x = jnp.pad(x, ((0, 0), (0, 0), (margin, margin), (0, 0)), mode="reflect")
        return self._extend(x, margin, reflect=True)

    def convolve_zero_padded(
        self, conv: Callable[[jax.Array], jax.Array], x: Float[Array, "b h w c"], margin: int
    ) -> Float[Array, "b h2 w2 d"]:
        """A convolution that pads by zeros, of a strip as of the whole map.

        It is given `margin` rows of the neighbours, zeros where the image ends, and what it makes of those is cut off: a multiple of its
        stride, and no less than its reach.
        """
        out = conv(self._extend(x, margin, reflect=False))
        surplus = margin * out.shape[1] // (x.shape[1] + 2 * margin)
        return out[:, surplus:-surplus]

    def mean_pixels(self, x: Float[Array, "b h w c"]) -> Float[Array, "b c"]:
        """The mean over height and width of the whole map in float32, of one of its strips."""
        row = lax.axis_index(self.axis) * x.shape[1] + jnp.arange(x.shape[1])
        inside = jnp.where((row < self.of_image(x))[:, None, None], x, 0)
        return lax.psum(inside.sum((1, 2), dtype=jnp.float32), self.axis) / (self.of_image(x) * x.shape[2])

    def _extend(self, x: Float[Array, "b h w c"], margin: int, *, reflect: bool) -> Float[Array, "b h+2*{margin} w c"]:
        """`margin` rows of the neighbours above and below; at the image's own ends reflected ones or zeros."""
        if margin > x.shape[1] // self.strip:  # else one neighbour would not be enough
            raise ValueError(f"A margin of {margin} is more than the {x.shape[1] // self.strip} rows that a stride is on this map.")
        device, count = lax.axis_index(self.axis), lax.axis_size(self.axis)
        above = lax.ppermute(x[:, -margin:], self.axis, [(i, i + 1) for i in range(count - 1)])
        below = lax.ppermute(x[:, :margin], self.axis, [(i + 1, i) for i in range(count - 1)])
        last = (self.image - 1) // self.strip  # the device that holds the image's last row
        end = self.of_image(x) - last * x.shape[1]  # where the image ends in that strip; in the others nothing is to change there
        top = bottom = jnp.zeros_like(above)
        if reflect:
            top = jnp.concatenate([x[:, : margin + 1], below], axis=1)[:, 1 : margin + 1][:, ::-1]
            bottom = jnp.concatenate([above, x[:, :end]], axis=1)[:, -margin - 1 : -1][:, ::-1]
        rest = jnp.concatenate([x[:, end:], below], axis=1)
        above = jnp.where(device == 0, top, above)
        below = jnp.where(device == last, bottom, rest[:, :margin])
        return jnp.concatenate([above, x[:, :end], below, rest[:, margin:]], axis=1)

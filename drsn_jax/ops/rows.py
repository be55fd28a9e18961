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
    """The split of the rows of an image, and of every map made from it, over a mesh axis; counted in the network's strides.

    The image has `image` >= 2 strides, and every device holds `strip` of them. The last strips may reach below the image or lie outside it;
    values there are undefined.
    """

    axis: str
    image: int
    strip: int

    def of_image(self, x: Float[Array, "b h w c"]) -> int:
        """Return the number of rows of the whole map; `x` is one strip of it."""
        return self.image * (x.shape[1] // self.strip)

    def pad_by_reflection(self, x: Float[Array, "b h w c"], margin: int) -> Float[Array, "b h+2*{margin} w+2*{margin} c"]:
        """Pad a strip by `margin` pixels on every side: with its neighbours' rows, and by reflection where the image ends."""
        x = jnp.pad(x, ((0, 0), (0, 0), (margin, margin), (0, 0)), mode="reflect")
        return self._extend(x, margin, reflect=True)

    def convolve_zero_padded(
        self, conv: Callable[[jax.Array], jax.Array], x: Float[Array, "b h w c"], margin: int
    ) -> Float[Array, "b h2 w2 d"]:
        """Convolve a strip with zero padding, as a part of the whole map.

        The strip first gets `margin` rows from each neighbour, and zeros where the image ends. The results of these rows are cut off.
        `margin` is a multiple of the convolution's stride, and at least its reach.
        """
        out = conv(self._extend(x, margin, reflect=False))
        surplus = margin * out.shape[1] // (x.shape[1] + 2 * margin)
        return out[:, surplus:-surplus]

    def mean_pixels(self, x: Float[Array, "b h w c"]) -> Float[Array, "b c"]:
        """Return the mean over height and width of the whole map in float32; `x` is one strip of it."""
        row = lax.axis_index(self.axis) * x.shape[1] + jnp.arange(x.shape[1])
        inside = jnp.where((row < self.of_image(x))[:, None, None], x, 0)
        return lax.psum(inside.sum((1, 2), dtype=jnp.float32), self.axis) / (self.of_image(x) * x.shape[2])

    def _extend(self, x: Float[Array, "b h w c"], margin: int, *, reflect: bool) -> Float[Array, "b h+2*{margin} w c"]:
        """Add `margin` rows of the neighbours above and below; at the image's own edges reflected rows or zeros."""
        if margin > x.shape[1] // self.strip:  # one neighbour would not have enough rows
            raise ValueError(f"A margin of {margin} rows exceeds a stride of {x.shape[1] // self.strip} rows on this map; use fewer.")
        device, count = lax.axis_index(self.axis), lax.axis_size(self.axis)
        above = lax.ppermute(x[:, -margin:], self.axis, [(i, i + 1) for i in range(count - 1)])
        below = lax.ppermute(x[:, :margin], self.axis, [(i + 1, i) for i in range(count - 1)])
        last = (self.image - 1) // self.strip  # the device that holds the image's last row
        end = self.of_image(x) - last * x.shape[1]  # the image's end in that strip; the other strips stay unchanged there
        top = bottom = jnp.zeros_like(above)
        if reflect:
            top = jnp.concatenate([x[:, : margin + 1], below], axis=1)[:, 1 : margin + 1][:, ::-1]
            bottom = jnp.concatenate([above, x[:, :end]], axis=1)[:, -margin - 1 : -1][:, ::-1]
        rest = jnp.concatenate([x[:, end:], below], axis=1)
        above = jnp.where(device == 0, top, above)
        below = jnp.where(device == last, bottom, rest[:, :margin])
        return jnp.concatenate([above, x[:, :end], below, rest[:, margin:]], axis=1)

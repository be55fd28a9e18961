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


def pad_by_reflection(x: Float[Array, "b h w c"], margin: int, *, rows: Rows | None) -> Float[Array, "b h+2*{margin} w+2*{margin} c"]:
    """Pad by `margin` pixels on every side: rows of the neighbouring strips, reflected ones at the image's edges."""
    if rows is None:
        return jnp.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0)), mode="reflect")
    return _extend(jnp.pad(x, ((0, 0), (0, 0), (margin, margin), (0, 0)), mode="reflect"), margin, rows, reflect=True)


def convolve_rows(
    conv: Callable[[jax.Array], jax.Array], x: Float[Array, "b h w c"], *, margin: int, rows: Rows | None
) -> Float[Array, "b h2 w2 d"]:
    """Apply a zero-padded convolution to a strip, with the result of the whole map.

    The strip is extended by `margin` rows of its neighbours (zeros at the image's edges), and the surplus of the output is cut off.
    `margin`
    is a multiple of the stride and at least the reach of the kernel.
    """
    if rows is None:
        return conv(x)
    out = conv(_extend(x, margin, rows, reflect=False))
    surplus = margin * out.shape[1] // (x.shape[1] + 2 * margin)
    return out[:, surplus:-surplus]


def mean_pixels(x: Float[Array, "b h w c"], *, rows: Rows | None) -> Float[Array, "b c"]:
    """Return the mean over height and width in float32; for a strip that of the whole map."""
    if rows is None:
        return x.mean((1, 2), dtype=jnp.float32)
    row = lax.axis_index(rows.axis) * x.shape[1] + jnp.arange(x.shape[1])
    inside = jnp.where((row < rows.of_image(x))[:, None, None], x, 0)
    return lax.psum(inside.sum((1, 2), dtype=jnp.float32), rows.axis) / (rows.of_image(x) * x.shape[2])


def _extend(x: Float[Array, "b h w c"], margin: int, rows: Rows, *, reflect: bool) -> Float[Array, "b h+2*{margin} w c"]:
    """Add `margin` rows of the neighbours above and below; reflected rows or zeros at the image's edges."""
    if margin > x.shape[1] // rows.strip:  # one neighbour would not be enough
        raise ValueError(f"A margin of {margin} is more than the {x.shape[1] // rows.strip} rows of one stride on this map.")
    device, count = lax.axis_index(rows.axis), lax.axis_size(rows.axis)
    above = lax.ppermute(x[:, -margin:], rows.axis, [(i, i + 1) for i in range(count - 1)])
    below = lax.ppermute(x[:, :margin], rows.axis, [(i + 1, i) for i in range(count - 1)])
    last = (rows.image - 1) // rows.strip  # the device that holds the image's last row
    end = rows.of_image(x) - last * x.shape[1]  # where the image ends in that strip; the other strips stay unchanged
    top = bottom = jnp.zeros_like(above)
    if reflect:
        top = jnp.concatenate([x[:, : margin + 1], below], axis=1)[:, 1 : margin + 1][:, ::-1]
        bottom = jnp.concatenate([above, x[:, :end]], axis=1)[:, -margin - 1 : -1][:, ::-1]
    rest = jnp.concatenate([x[:, end:], below], axis=1)
    above = jnp.where(device == 0, top, above)
    below = jnp.where(device == last, bottom, rest[:, :margin])
    return jnp.concatenate([above, x[:, :end], below, rest[:, margin:]], axis=1)

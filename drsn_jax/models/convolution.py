"""Convolutions in the form that is fast on the back end at hand, with the values and gradients of the plain one.

The kernel gradient of a stride-1 convolution as a few matrix products: XLA's CPU back end computes the gradient of a kernel as a convolution with a window as large as the map, which leaves its fast path: 141 ms
for 3x3, 256 to 256 channels at 64x64, against 27 ms forward. As one product of a shifted map and the output's gradient for each kernel
position it takes 44 ms. A 3x3 convolution of a map that was doubled in size by repetition as four 2x2 ones of the map itself, which is 4/9 of
the multiply-adds: 18 ms against 43 ms for 256 to 128 channels, 64x64 to 128x128 (2 CPU cores, jax 0.10.2, float32).
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from drsn_jax import backend

_FEW = 8  # channels: with fewer going in nothing is gained, with fewer coming out the gradient is shifted instead of the map
_NUMBERS = ("NHWC", "HWIO", "NHWC")


def convolve(x: Float[Array, "b h w c"], kernel: Float[Array, "kh kw c d"], strides: Any, padding: Any, **options: Any) -> jax.Array:
    """`lax.conv_general_dilated`, as the `conv_general_dilated` of `flax.linen.Conv`: equal values, gradients equal to rounding.

    Only stride-1 SAME convolutions of several float32 channels on CPU take the other way; everything else is passed on as it is.
    """
    plain = all(value in (None, 1) or set(value) == {1} for value in (strides, options.get("lhs_dilation"), options.get("rhs_dilation")))
    same = padding == "SAME" or tuple(map(tuple, padding)) == tuple(_same_pads(size) for size in kernel.shape[:2])
    gains = kernel.shape[2] > _FEW and kernel.shape[0] * kernel.shape[1] > 1 and options.get("feature_group_count", 1) == 1
    if plain and same and gains and x.dtype == kernel.dtype == jnp.float32 and backend.multiply_for_kernel_gradient():
        return _convolve_same(x, kernel)
    return lax.conv_general_dilated(x, kernel, strides, padding, **options)


def upsample_nearest(x: Float[Array, "b h w c"]) -> jax.Array:
    """Doubles height and width by repetition. [b h w c] -> [b 2h 2w c]."""
    b, h, w, c = x.shape
    return jnp.broadcast_to(x[:, :, None, :, None, :], (b, h, 2, w, 2, c)).reshape(b, 2 * h, 2 * w, c)


def convolve_upsampled(
    x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c d"], strides: Any, padding: Any, **options: Any
) -> Float[Array, "b h2 w2 d"]:
    """`convolve` of the map doubled by `upsample_nearest`: a `conv_general_dilated` of `flax.linen.Conv` for 3x3, stride 1, SAME.

    Where the back end gains by it, the doubled map is never made: each output pixel sees 2x2 different pixels of `x`, those above or
    below and left or right of it, through sums of the kernel's rows and columns. Equal to rounding.
    """
    if not backend.fold_upsampling():
        return convolve(upsample_nearest(x), kernel, strides, padding, **options)
    (b, h, w, _), d = x.shape, kernel.shape[3]
    # All four phases in one convolution over the map with a border of zeros; each phase is a crop of it.
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    rows = [_fold(half, axis=1) for half in _fold(kernel, axis=0)]
    folded = jnp.concatenate([phase for row in rows for phase in row], axis=3)  # [2 2 c 4d]
    out = convolve(padded, folded, strides, "SAME", **options).reshape(b, h + 2, w + 2, 2, 2, d)
    phases = [[out[:, i : i + h, j : j + w, i, j] for j in (0, 1)] for i in (0, 1)]
    return jnp.stack([jnp.stack(row, axis=3) for row in phases], axis=2).reshape(b, 2 * h, 2 * w, d)


def _fold(kernel: jax.Array, *, axis: int) -> tuple[jax.Array, jax.Array]:
    """What three taps over a doubled map are to the map itself: two taps for its even positions, two for its odd ones."""
    first, middle, last = jnp.split(kernel, 3, axis=axis)
    return jnp.concatenate([first, middle + last], axis=axis), jnp.concatenate([first + middle, last], axis=axis)


def _convolve_plainly(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=_NUMBERS)


_convolve_same = jax.custom_vjp(_convolve_plainly)


def _forward(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _convolve_same(x, kernel), (x, kernel)


def _backward(saved: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    # By the back end's own rule: the gradient of the map is a convolution of the same kind, and fast.
    (of_x,) = jax.linear_transpose(partial(_convolve_plainly, kernel=kernel), x)(gradient)
    of_kernel = _shift_gradient if kernel.shape[3] <= _FEW else _shift_map
    return of_x, of_kernel(x, gradient, (kernel.shape[0], kernel.shape[1]))


_convolve_same.defvjp(_forward, _backward)


def _same_pads(size: int) -> tuple[int, int]:
    """Zeros before and after an axis at stride 1: an even kernel reaches one further forward."""
    return (size - 1) // 2, size // 2


def _shift_map(x: jax.Array, gradient: jax.Array, size: tuple[int, int]) -> Float[Array, "kh kw c d"]:
    """For each kernel position, the map shifted by it, times the gradient: [c, b h w] @ [b h w, d].

    A loop, since otherwise all shifted copies of the map are held at once; its products are as fast as outside.
    """
    b, h, w, c = x.shape
    padded = jnp.pad(x, ((0, 0), _same_pads(size[0]), _same_pads(size[1]), (0, 0)))
    columns = gradient.reshape(-1, gradient.shape[-1])

    def multiply(position: jax.Array) -> jax.Array:
        rows = lax.dynamic_slice(padded, (0, position // size[1], position % size[1], 0), (b, h, w, c))
        return lax.dot_general(rows.reshape(-1, c), columns, (((0,), (0,)), ((), ())))

    return lax.map(multiply, jnp.arange(size[0] * size[1])).reshape(*size, c, -1)


def _shift_gradient(x: jax.Array, gradient: jax.Array, size: tuple[int, int]) -> Float[Array, "kh kw c d"]:
    """The same with the gradient shifted the other way, where it has the fewer channels: [d, b h w] @ [b h w, c]."""
    b, h, w, d = gradient.shape
    pads = [_same_pads(length)[::-1] for length in size]
    padded = jnp.pad(gradient, ((0, 0), *pads, (0, 0))).transpose(3, 0, 1, 2)
    rows = x.reshape(-1, x.shape[-1])

    def multiply(position: jax.Array) -> jax.Array:
        place = (0, 0, size[0] - 1 - position // size[1], size[1] - 1 - position % size[1])
        return lax.dynamic_slice(padded, place, (d, b, h, w)).reshape(d, -1) @ rows

    return lax.map(multiply, jnp.arange(size[0] * size[1])).reshape(*size, d, -1).transpose(0, 1, 3, 2)

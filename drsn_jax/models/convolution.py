"""Convolutions in the form that is fast on the back end at hand, with the values and gradients of the plain one.

The gradient of a kernel: XLA's CPU back end computes it as a convolution with a window as large as the map, which leaves its fast path:
126 ms for 3x3, 256 to 256 channels at 66x66, against 20 ms forward. As one product of the output's gradient and a window of the map for
each kernel position it takes 26 ms. A 3x3 convolution of a map that was doubled in size by repetition: as four 2x2 ones of the map
itself, 4/9 of the multiply-adds, it takes 18 ms instead of 43 for 256 to 128 channels, 64x64 to 128x128 (2 CPU cores, jax 0.10.2, float32).
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from drsn_jax import backend

_FEW = 8  # channels: with fewer going in nothing is gained, with fewer coming out the gradient is shifted instead of the map
_WIDE = 256  # channels going in from which on it is better to transpose the gradient once than every window
_NUMBERS = ("NHWC", "HWIO", "NHWC")
_Pads = tuple[tuple[int, int], ...]


def convolve(x: Float[Array, "b h w c"], kernel: Float[Array, "kh kw c d"], strides: Any, padding: Any, **options: Any) -> jax.Array:
    """`lax.conv_general_dilated`, as the `conv_general_dilated` of `flax.linen.Conv`: equal values, gradients equal to rounding.

    Only convolutions of several float32 channels on CPU, of one stride in both directions, take the other way; everything else is
    passed on as it is.
    """
    plain = all(value is None or set(value) == {1} for value in (options.get("lhs_dilation"), options.get("rhs_dilation")))
    plain = plain and options.get("feature_group_count", 1) == 1 and len(set(strides)) == 1
    gains = kernel.shape[2] > _FEW and kernel.shape[0] * kernel.shape[1] > 1
    if plain and gains and x.dtype == kernel.dtype == jnp.float32 and backend.multiply_for_kernel_gradient():
        pads = padding
        if isinstance(padding, str):
            pads = lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides, padding)
        return _convolve(x, kernel, strides[0], tuple((int(low), int(high)) for low, high in pads))
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


def _convolve_plainly(x: jax.Array, kernel: jax.Array, stride: int, pads: _Pads) -> jax.Array:
    return lax.conv_general_dilated(x, kernel, (stride, stride), pads, dimension_numbers=_NUMBERS)


_convolve = jax.custom_vjp(_convolve_plainly, nondiff_argnums=(2, 3))


def _forward(x: jax.Array, kernel: jax.Array, stride: int, pads: _Pads) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _convolve(x, kernel, stride, pads), (x, kernel)


def _backward(stride: int, pads: _Pads, saved: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    conv = partial(_convolve_plainly, stride=stride, pads=pads)
    if stride > 1:
        of_x = _convolve_phases(gradient, kernel, x.shape, stride=stride, pads=pads)
    else:  # by the back end's own rule: a convolution of the same kind, and fast
        (of_x,) = jax.linear_transpose(partial(conv, kernel=kernel), x)(gradient)
    return of_x, _kernel_gradient(conv, x, kernel, gradient, stride=stride, pads=pads)


def _kernel_gradient(conv: Any, x: jax.Array, kernel: jax.Array, gradient: jax.Array, *, stride: int, pads: _Pads) -> jax.Array:
    size = (kernel.shape[0], kernel.shape[1])
    if stride > 1 and size > (3, 3):  # the critic's 4x4: the back end's own is as fast
        return jax.linear_transpose(lambda kernel: conv(x, kernel), kernel)(gradient)[0]
    if kernel.shape[3] > _FEW or stride > 1:
        return _multiply_windows(x, gradient, size, stride=stride, pads=pads)
    # With the few channels shifted: the gradient's windows the other way around, and the map in the gradient's place.
    mirrored = [(k - 1 - low, n - out + low) for k, (low, _), n, out in zip(size, pads, x.shape[1:3], gradient.shape[1:3], strict=True)]
    return _multiply_windows(gradient, x, size, stride=1, pads=tuple(mirrored))[::-1, ::-1].swapaxes(2, 3)


_convolve.defvjp(_forward, _backward)


def _multiply_windows(
    x: Float[Array, "b h w c"], columns: Float[Array, "b i j d"], size: tuple[int, int], *, stride: int, pads: _Pads
) -> Float[Array, "kh kw c d"]:
    """For each kernel position the pixels of `x` that it sees, over the whole output, times `columns`: [c, b i j] @ [b i j, d].

    A loop, since otherwise all windows are held at once; its products are as fast as outside.
    """
    b, rows, cols, d = columns.shape
    c, columns = x.shape[3], columns.reshape(-1, d)
    transposed = columns.T if c >= _WIDE else None
    rest = [-(n + low + high) % stride for n, (low, high) in zip(x.shape[1:3], pads, strict=True)]
    (top, bottom), (left, right) = ((low, high + more) for (low, high), more in zip(pads, rest, strict=True))
    x = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), (top, bottom, 0), (left, right, 0), (0, 0, 0)))  # a pad below 0 crops
    # Pixels that are `stride` apart side by side, so that every window is a block.
    grid = x.reshape(b, x.shape[1] // stride, stride, x.shape[2] // stride, stride, c).transpose(2, 4, 0, 1, 3, 5)

    def multiply(position: jax.Array) -> jax.Array:
        i, j = position // size[1], position % size[1]
        window = lax.dynamic_slice(grid, (i % stride, j % stride, 0, i // stride, j // stride, 0), (1, 1, b, rows, cols, c))
        window = window.reshape(-1, c)
        return window.T @ columns if transposed is None else transposed @ window

    products = lax.map(multiply, jnp.arange(size[0] * size[1]))
    return (products if transposed is None else products.swapaxes(1, 2)).reshape(*size, c, d)


def _convolve_phases(
    gradient: Float[Array, "b i j d"], kernel: Float[Array, "kh kw c d"], shape: tuple[int, ...], *, stride: int, pads: _Pads
) -> Float[Array, "b h w c"]:
    """The gradient of the map of a strided convolution, `shape` [b h w c], as one stride-1 convolution.

    A pixel meets the kernel's rows and columns of one phase only, those that are `stride` apart: its output channels are the phases of
    stride x stride pixels, which are then put side by side.
    """
    (b, h, w, c), (kh, kw, _, d) = shape, kernel.shape
    (top, _), (left, _) = pads
    taps = -(-kh // stride), -(-kw // stride)
    blocks = -(-(h + top) // stride), -(-(w + left) // stride)  # of the padded map, as far as the map reaches
    kernel = jnp.pad(kernel, ((0, taps[0] * stride - kh), (0, taps[1] * stride - kw), (0, 0), (0, 0)))
    phases = kernel.reshape(taps[0], stride, taps[1], stride, c, d)[::-1, :, ::-1].transpose(0, 2, 5, 1, 3, 4)
    margins = [(t - 1, max(0, n - out) + t - 1) for t, n, out in zip(taps, blocks, gradient.shape[1:3], strict=True)]
    gradient = jnp.pad(gradient, ((0, 0), *margins, (0, 0)))
    out = _convolve(gradient, phases.reshape(*taps, d, stride * stride * c), 1, tuple(((t - 1) // 2, t // 2) for t in taps))
    first = [(t - 1) // 2 for t in taps]
    out = out[:, first[0] : first[0] + blocks[0], first[1] : first[1] + blocks[1]].reshape(b, *blocks, stride, stride, c)
    pixels = out.transpose(0, 1, 3, 2, 4, 5).reshape(b, blocks[0] * stride, blocks[1] * stride, c)
    return pixels[:, top : top + h, left : left + w]

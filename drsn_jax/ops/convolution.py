"""Convolutions in the form that is fast on the back end at hand, with the values and gradients of the plain one.

The gradient of a kernel: XLA's CPU back end computes it as a convolution with a window as large as the map, which leaves its fast path:
126 ms for 3x3, 256 to 256 channels at 66x66, against 20 ms forward. As one product of the output's gradient and a window of the map for
each kernel position it takes 26 ms. A 3x3 convolution of a map that was doubled in size by repetition: as four 2x2 ones of the map
itself, 4/9 of the multiply-adds, it takes 18 ms instead of 43 for 256 to 128 channels, 64x64 to 128x128 (2 CPU cores, jax 0.10.2, float32).
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from drsn_jax.ops import native
from drsn_jax.ops.backend import Forms

_FEW = 8  # channels: with so few going in nothing is gained, with so few coming out the gradient is shifted instead of the map
_WIDE = 256  # channels going in from which on it is better to transpose the gradient once than every window
_SMALL = 32 * 32  # output pixels up to which the back end's own kernel gradient is as fast
_NUMBERS = ("NHWC", "HWIO", "NHWC")
_Pads = tuple[tuple[int, int], ...]


def convolve(
    x: Float[Array, "b h w c"], kernel: Float[Array, "kh kw group d"], strides: Any, padding: Any, *, forms: Forms, **options: Any
) -> Float[Array, "b h2 w2 d"]:
    """`lax.conv_general_dilated`, as the `conv_general_dilated` of `flax.linen.Conv`: equal values, gradients equal to rounding.

    Under `forms.native` oneDNN takes those that it gains by, where it is installed (`ops.native`). Otherwise VALID ones are computed as
    SAME and cropped under `crop_convolutions`. Under `multiply_kernel_gradients` float32 ones of one stride in both directions and more
    than a few channels (or blocks of pixels) have gradients in another form. Everything else is passed on as it is.
    """
    plain = all(value is None or set(value) == {1} for value in (options.get("lhs_dilation"), options.get("rhs_dilation")))
    plain = plain and options.get("feature_group_count", 1) == 1
    if plain and forms.native and native.takes(x, kernel):
        return native.convolve(x, kernel, stride=tuple(strides), pads=_explicit(padding, x, kernel, strides))
    if plain and padding == "VALID" and set(strides) == {1} and forms.crop_convolutions:
        rows, columns = (slice((k - 1) // 2, (k - 1) // 2 + n - k + 1) for k, n in zip(kernel.shape[:2], x.shape[1:3], strict=True))
        return convolve(x, kernel, strides, "SAME", forms=forms, **options)[:, rows, columns]
    plain = plain and len(set(strides)) == 1
    gains = kernel.shape[2] * strides[0] ** 2 > _FEW and kernel.shape[0] * kernel.shape[1] > 1
    if plain and gains and x.dtype == kernel.dtype == jnp.float32 and forms.multiply_kernel_gradients:
        return _convolve(x, kernel, strides[0], _explicit(padding, x, kernel, strides))
    return lax.conv_general_dilated(x, kernel, strides, padding, **options)


def _explicit(padding: Any, x: jax.Array, kernel: jax.Array, strides: Any) -> _Pads:
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides, padding)
    return tuple((int(low), int(high)) for low, high in padding)


def upsample_nearest(x: Float[Array, "b h w c"]) -> Float[Array, "b 2*h 2*w c"]:
    """Doubles height and width by repetition."""
    b, h, w, c = x.shape
    return jnp.broadcast_to(x[:, :, None, :, None, :], (b, h, 2, w, 2, c)).reshape(b, 2 * h, 2 * w, c)


def convolve_upsampled(
    x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c d"], strides: Any, padding: Any, *, forms: Forms, **options: Any
) -> Float[Array, "b 2*h 2*w d"]:
    """`convolve` of the map doubled by `upsample_nearest`: a `conv_general_dilated` of `flax.linen.Conv` for 3x3, stride 1, SAME.

    Under `fold_upsampling` the doubled map is never made: each output pixel sees 2x2 different pixels of `x`, those above or
    below and left or right of it, through sums of the kernel's rows and columns. Equal to rounding.
    """
    if x.dtype != jnp.float32 or not forms.fold_upsampling:  # in bfloat16 the sums of the kernel's rows would be rounded
        return convolve(upsample_nearest(x), kernel, strides, padding, forms=forms, **options)
    (b, h, w, _), d = x.shape, kernel.shape[3]
    # All four phases in one convolution over the map with a border of zeros; each phase is a crop of it.
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    rows = [_fold(half, axis=1) for half in _fold(kernel, axis=0)]
    folded = jnp.concatenate([phase for row in rows for phase in row], axis=3)  # [2 2 c 4d]
    out = convolve(padded, folded, strides, "VALID", forms=forms, **options).reshape(b, h + 1, w + 1, 2, 2, d)
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
    out_size = (gradient.shape[1], gradient.shape[2])
    small = math.prod(out_size) <= _SMALL and kernel.shape[3] > _FEW
    plain = partial(_convolve_plainly, stride=stride, pads=pads)
    blocks = partial(_convolve_blocks, stride=stride, pads=pads, out_size=out_size)
    if stride > 1:
        (of_x,) = jax.vjp(lambda x: blocks(x, kernel), x)[1](gradient)
    else:  # by the back end's own rule: a convolution of the same kind, and fast
        (of_x,) = jax.linear_transpose(lambda x: plain(x, kernel), x)(gradient)
    if small:
        (of_kernel,) = jax.linear_transpose(lambda kernel: plain(x, kernel), kernel)(gradient)
    elif stride > 1:
        (of_kernel,) = jax.vjp(lambda kernel: blocks(x, kernel), kernel)[1](gradient)
    else:
        of_kernel = _kernel_gradient(x, gradient, (kernel.shape[0], kernel.shape[1]), pads=pads)
    return of_x, of_kernel


def _kernel_gradient(x: jax.Array, gradient: jax.Array, size: tuple[int, int], *, pads: _Pads) -> Float[Array, "kh kw c d"]:
    if gradient.shape[3] > _FEW:
        return _multiply_windows(x, gradient, size, pads=pads)
    # With the few channels shifted: the gradient's windows the other way around, and the map in the gradient's place.
    mirrored = [(k - 1 - low, n - out + low) for k, (low, _), n, out in zip(size, pads, x.shape[1:3], gradient.shape[1:3], strict=True)]
    return _multiply_windows(gradient, x, size, pads=tuple(mirrored))[::-1, ::-1].swapaxes(2, 3)


_convolve.defvjp(_forward, _backward)


def _multiply_windows(
    x: Float[Array, "b h w c"], columns: Float[Array, "b i j d"], size: tuple[int, int], *, pads: _Pads
) -> Float[Array, "kh kw c d"]:
    """For each kernel position the pixels of `x` that it sees, over the whole output, times `columns`: [c, b i j] @ [b i j, d].

    A loop, since otherwise all windows are held at once; its products are as fast as outside.
    """
    b, rows, cols, d = columns.shape
    c, columns = x.shape[3], columns.reshape(-1, d)
    transposed = columns.T if c >= _WIDE else None
    x = _pad(x, pads)

    def multiply(position: jax.Array) -> jax.Array:
        window = lax.dynamic_slice(x, (0, position // size[1], position % size[1], 0), (b, rows, cols, c)).reshape(-1, c)
        return window.T @ columns if transposed is None else transposed @ window

    products = lax.map(multiply, jnp.arange(size[0] * size[1]))
    if transposed is not None:  # put right once: fused into the optimiser, it would be read across the grain for every moment
        products = lax.optimization_barrier(products.swapaxes(1, 2))
    return products.reshape(*size, c, d)


def _convolve_blocks(
    x: Float[Array, "b h w c"], kernel: Float[Array, "kh kw c d"], *, stride: int, pads: _Pads, out_size: tuple[int, int]
) -> Float[Array, "b i j d"]:
    """A strided convolution as one of stride 1 over blocks of stride x stride pixels, whose pixels are channels.

    Only its gradients are used, which are then those of a convolution with few, deep taps; the kernel is filled up with zeros.
    """
    (b, _, _, c), (kh, kw, _, d) = x.shape, kernel.shape
    taps = -(-kh // stride), -(-kw // stride)
    blocks = [out + t - 1 for out, t in zip(out_size, taps, strict=True)]
    ends = [n * stride - size - low for n, size, (low, _) in zip(blocks, x.shape[1:3], pads, strict=True)]
    x = _pad(x, ((pads[0][0], ends[0]), (pads[1][0], ends[1])))
    x = x.reshape(b, blocks[0], stride, blocks[1], stride, c).transpose(0, 1, 3, 2, 4, 5).reshape(b, *blocks, stride * stride * c)
    kernel = jnp.pad(kernel, ((0, taps[0] * stride - kh), (0, taps[1] * stride - kw), (0, 0), (0, 0)))
    kernel = kernel.reshape(taps[0], stride, taps[1], stride, c, d).transpose(0, 2, 1, 3, 4, 5).reshape(*taps, -1, d)
    (top, bottom), (left, right) = (((t - 1) // 2, t // 2) for t in taps)  # SAME and cropped: a VALID convolution is slow here
    out = _convolve(x, kernel, 1, ((top, bottom), (left, right)))
    return out[:, top : top + out_size[0], left : left + out_size[1]]


def _pad(x: jax.Array, pads: _Pads) -> jax.Array:
    """Zeros around height and width; what is below 0 is cropped."""
    return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *((low, high, 0) for low, high in pads), (0, 0, 0)))

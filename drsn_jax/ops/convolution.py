"""Convolutions in the fastest form for the back end, with the values and gradients of the plain one.

Two cases are slow on XLA's CPU back end:

- The gradient of a kernel. XLA computes it as a convolution with a window as large as the map, which has no fast path. Here it is one
  matrix product per kernel position.
- A 3x3 convolution after nearest upsampling. Here it is four 2x2 convolutions of the original map, with 4/9 of the multiply-adds.

Milliseconds on 2 CPU cores (jax 0.10.2, float32):

    case                                                     plain   here   forward
    kernel gradient, 3x3, 256 to 256 channels, 66x66           126     26        20
    upsampling, 3x3, 256 to 128 channels, 64x64 to 128x128      43     18
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

_FEW = 8  # channels: fewer going in gain nothing; with fewer coming out the gradient is shifted instead of the map
_WIDE = 256  # channels going in: from here on one transposition of the gradient is cheaper than one of each window
_SMALL = 32 * 32  # output pixels: up to here the back end's own kernel gradient is as fast
_NUMBERS = ("NHWC", "HWIO", "NHWC")
_Pads = tuple[tuple[int, int], ...]


def convolve(
    x: Float[Array, "b h w c"], kernel: Float[Array, "kh kw group d"], strides: Any, padding: Any, *, forms: Forms, **options: Any
) -> Float[Array, "b h2 w2 d"]:
    """Compute `lax.conv_general_dilated`, as a `conv_general_dilated` for `flax.linen.Conv`. Values are equal, gradients to rounding.

    With `forms.native` and drsn-jax-native, oneDNN runs the convolutions that it is faster at (`ops.native`). With `crop_convolutions` a
    VALID one is computed as SAME and cropped. With `multiply_kernel_gradients` the gradient has another form for float32, the same stride
    in both directions, and more than a few channels (or blocks of pixels). Everything else is passed to XLA unchanged.
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
    """Double height and width by repetition."""
    b, h, w, c = x.shape
    return jnp.broadcast_to(x[:, :, None, :, None, :], (b, h, 2, w, 2, c)).reshape(b, 2 * h, 2 * w, c)


def convolve_upsampled(
    x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c d"], strides: Any, padding: Any, *, forms: Forms, **options: Any
) -> Float[Array, "b 2*h 2*w d"]:
    """Apply `convolve` to the map doubled by `upsample_nearest`; a `conv_general_dilated` for `flax.linen.Conv`, 3x3, stride 1, SAME.

    With `fold_upsampling` the doubled map is never stored. Each output pixel depends on 2x2 different pixels of `x`, weighted by sums
    of the kernel's rows and columns. Equal to rounding.
    """
    if x.dtype != jnp.float32 or not forms.fold_upsampling:  # in bfloat16 sums of the kernel's rows lose digits
        return convolve(upsample_nearest(x), kernel, strides, padding, forms=forms, **options)
    (b, h, w, _), d = x.shape, kernel.shape[3]
    # One convolution over the zero-padded map computes all four phases; each phase is a crop of it.
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    rows = [_fold(half, axis=1) for half in _fold(kernel, axis=0)]
    folded = jnp.concatenate([phase for row in rows for phase in row], axis=3)  # [2 2 c 4d]
    out = convolve(padded, folded, strides, "VALID", forms=forms, **options).reshape(b, h + 1, w + 1, 2, 2, d)
    phases = [[out[:, i : i + h, j : j + w, i, j] for j in (0, 1)] for i in (0, 1)]
    return jnp.stack([jnp.stack(row, axis=3) for row in phases], axis=2).reshape(b, 2 * h, 2 * w, d)


def _fold(kernel: jax.Array, *, axis: int) -> tuple[jax.Array, jax.Array]:
    """Fold three taps on the doubled map into two on the map itself: one pair for even output positions, one for odd ones."""
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
    else:  # the back end's own rule: a convolution of the same kind, which is fast
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
    # Shift the tensor with few channels: swap gradient and map, and mirror the windows.
    mirrored = [(k - 1 - low, n - out + low) for k, (low, _), n, out in zip(size, pads, x.shape[1:3], gradient.shape[1:3], strict=True)]
    return _multiply_windows(gradient, x, size, pads=tuple(mirrored))[::-1, ::-1].swapaxes(2, 3)


_convolve.defvjp(_forward, _backward)


def _multiply_windows(
    x: Float[Array, "b h w c"], columns: Float[Array, "b i j d"], size: tuple[int, int], *, pads: _Pads
) -> Float[Array, "kh kw c d"]:
    """Multiply, for each kernel position, the pixels of `x` that it sees by `columns`: [c, b i j] @ [b i j, d].

    The loop holds one window at a time. Its products are as fast as outside a loop.
    """
    b, rows, cols, d = columns.shape
    c, columns = x.shape[3], columns.reshape(-1, d)
    transposed = columns.T if c >= _WIDE else None
    x = _pad(x, pads)

    def multiply(position: jax.Array) -> jax.Array:
        window = lax.dynamic_slice(x, (0, position // size[1], position % size[1], 0), (b, rows, cols, c)).reshape(-1, c)
        return window.T @ columns if transposed is None else transposed @ window

    products = lax.map(multiply, jnp.arange(size[0] * size[1]))
    if transposed is not None:  # transposed once: fused into the optimiser, it would be read with strides for every moment
        products = lax.optimization_barrier(products.swapaxes(1, 2))
    return products.reshape(*size, c, d)


def _convolve_blocks(
    x: Float[Array, "b h w c"], kernel: Float[Array, "kh kw c d"], *, stride: int, pads: _Pads, out_size: tuple[int, int]
) -> Float[Array, "b i j d"]:
    """Compute a strided convolution as one of stride 1 over blocks of stride x stride pixels, stored as channels.

    Only its gradients are used: they are those of a convolution with fewer and deeper taps. The kernel is padded with zeros.
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
    """Pad height and width with zeros; negative pads crop."""
    return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *((low, high, 0) for low, high in pads), (0, 0, 0)))

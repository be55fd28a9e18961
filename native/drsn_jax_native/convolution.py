"""A convolution by oneDNN and its two gradients, as JAX primitives: each is bilinear, and its derivatives are the other two.

With <y, conv(x, k)> as a form that is linear in map x, kernel k and output y, the primitives are its derivatives by y, x and k. So they
are closed under differentiation of any order, in both modes. On CPU each is computed by oneDNN or by XLA, as `choice.gains` says; on other
platforms, and in programs that are exported, by XLA.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from drsn_jax_native import choice
from drsn_jax_native.partition import Params, call_for, needs_devices

Pads = tuple[tuple[int, int], tuple[int, int]]
_NUMBERS = ("NHWC", "HWIO", "NHWC")

forward_p = Primitive("drsn_convolve")
input_gradient_p = Primitive("drsn_input_gradient")
kernel_gradient_p = Primitive("drsn_kernel_gradient")


def convolve(
    x: jax.Array, kernel: jax.Array, *, stride: Sequence[int] = (1, 1), pads: Sequence[Sequence[int]] = ((0, 0), (0, 0))
) -> jax.Array:
    """Convolves maps [b h w c] with a kernel [kh kw c d]: `lax.conv_general_dilated` of NHWC and HWIO, equal to rounding.

    `stride` and `pads`, ((top, bottom), (left, right)) rows and columns of zeros, are >= 0. Float32, or bfloat16 with sums in float32.
    Raises ValueError for other shapes and types.
    """
    if x.ndim != 4 or kernel.ndim != 4 or x.shape[3] != kernel.shape[2]:
        raise ValueError(f"Maps {x.shape} and kernel {kernel.shape} do not fit: give [b h w c] and [kh kw c d].")
    if x.dtype != kernel.dtype or x.dtype not in (jnp.float32, jnp.bfloat16):
        raise ValueError(f"Maps in {x.dtype} and kernel in {kernel.dtype}: give both in float32 or both in bfloat16.")
    down, right = stride
    (top, bottom), (left, right_pad) = pads
    params = {"stride": (int(down), int(right)), "pads": ((int(top), int(bottom)), (int(left), int(right_pad)))}
    if min(*params["stride"]) < 1 or min(*params["pads"][0], *params["pads"][1]) < 0:
        raise ValueError(f"Stride {stride} and pads {pads}: give strides of at least 1 and pads of at least 0.")
    if min(_out_size(x.shape[1:3], kernel.shape[:2], **params)) < 1:
        raise ValueError(f"A kernel of {kernel.shape[0]}x{kernel.shape[1]} is larger than the padded map of {x.shape[1]}x{x.shape[2]}.")
    return _bind(forward_p, x, kernel, **params)


def _out_size(size: Sequence[int], kernel_size: Sequence[int], *, stride: tuple[int, int], pads: Pads) -> tuple[int, ...]:
    return tuple((n + sum(pad) - k) // step + 1 for n, k, step, pad in zip(size, kernel_size, stride, pads, strict=True))


def _bind(primitive: Primitive, first: jax.Array, second: jax.Array, **params: Any) -> jax.Array:
    """Inside `jax.shard_map` both vary over the same axes, as for JAX's own primitives."""
    axes = [jax.typeof(x).manual_axis_type.varying for x in (first, second)]
    first, second = (
        lax.pcast(x, tuple(missing), to="varying") if (missing := axes[0] | axes[1] - own) - own else x
        for x, own in zip((first, second), axes, strict=True)
    )
    return primitive.bind(first, second, **params)


# The plain forms, which the tests hold the others against.


def plain_forward(x: jax.Array, kernel: jax.Array, *, stride: tuple[int, int], pads: Pads) -> jax.Array:
    """`convolve` by XLA."""
    return lax.conv_general_dilated(x, kernel, stride, pads, dimension_numbers=_NUMBERS)


def plain_input_gradient(y: jax.Array, kernel: jax.Array, *, size: tuple[int, int], **geometry: Any) -> jax.Array:
    """The derivative of <y, convolve(x, kernel)> by x, of `size` height and width."""
    x = jax.ShapeDtypeStruct((y.shape[0], *size, kernel.shape[2]), y.dtype)
    return jax.linear_transpose(lambda x: plain_forward(x, kernel, **geometry), x)(y)[0]


def plain_kernel_gradient(x: jax.Array, y: jax.Array, *, size: tuple[int, int], **geometry: Any) -> jax.Array:
    """The derivative of <y, convolve(x, kernel)> by the kernel, of `size` height and width."""
    kernel = jax.ShapeDtypeStruct((*size, x.shape[3], y.shape[3]), x.dtype)
    return jax.linear_transpose(lambda kernel: plain_forward(x, kernel, **geometry), kernel)(y)[0]


def _crop_forward(x: jax.Array, kernel: jax.Array, *, stride: tuple[int, int], pads: Pads) -> jax.Array:
    """With less padding than SAME, XLA's CPU back end takes 2 to 20 times as long as for SAME and a crop. The bits are equal."""
    height, width = kernel.shape[:2]
    same = (((height - 1) // 2, height // 2), ((width - 1) // 2, width // 2))
    spare = [[wide - narrow for wide, narrow in zip(*pair, strict=True)] for pair in zip(same, pads, strict=True)]
    if stride != (1, 1) or min(map(min, spare)) < 0 or not any(map(any, spare)):
        return plain_forward(x, kernel, stride=stride, pads=pads)
    rows, columns = (slice(low, n - high) for (low, high), n in zip(spare, x.shape[1:3], strict=True))
    return plain_forward(x, kernel, stride=stride, pads=same)[:, rows, columns]


# Shapes.


def _forward_shape(x: Any, kernel: Any, *, stride: tuple[int, int], pads: Pads) -> Any:
    return x.update(shape=(x.shape[0], *_out_size(x.shape[1:3], kernel.shape[:2], stride=stride, pads=pads), kernel.shape[3]))


def _input_gradient_shape(y: Any, kernel: Any, *, size: tuple[int, int], **_: Any) -> Any:
    return y.update(shape=(y.shape[0], *size, kernel.shape[2]))


def _kernel_gradient_shape(x: Any, y: Any, *, size: tuple[int, int], **_: Any) -> Any:
    return x.update(shape=(*size, x.shape[3], y.shape[3]))


# Derivatives: `lhs` and `rhs` are the operands, one of them known by its shape alone.


def _forward_to_x(y: jax.Array, x: Any, kernel: jax.Array, **geometry: Any) -> jax.Array:
    return _bind(input_gradient_p, y, kernel, size=tuple(x.aval.shape[1:3]), **geometry)


def _forward_to_kernel(y: jax.Array, x: jax.Array, kernel: Any, **geometry: Any) -> jax.Array:
    return _bind(kernel_gradient_p, x, y, size=tuple(kernel.aval.shape[:2]), **geometry)


def _input_gradient_to_y(x: jax.Array, _: Any, kernel: jax.Array, *, size: tuple[int, int], **geometry: Any) -> jax.Array:
    return _bind(forward_p, x, kernel, **geometry)


def _input_gradient_to_kernel(x: jax.Array, y: jax.Array, kernel: Any, *, size: tuple[int, int], **geometry: Any) -> jax.Array:
    return _bind(kernel_gradient_p, x, y, size=tuple(kernel.aval.shape[:2]), **geometry)


def _kernel_gradient_to_x(kernel: jax.Array, x: Any, y: jax.Array, *, size: tuple[int, int], **geometry: Any) -> jax.Array:
    return _bind(input_gradient_p, y, kernel, size=tuple(x.aval.shape[1:3]), **geometry)


def _kernel_gradient_to_y(kernel: jax.Array, x: jax.Array, _: Any, *, size: tuple[int, int], **geometry: Any) -> jax.Array:
    return _bind(forward_p, x, kernel, **geometry)


# Batches under `jax.vmap`.


def _fold(primitive: Primitive, args: Sequence[jax.Array], dims: Sequence[int | None], **params: Any) -> tuple[jax.Array, int]:
    """A batch of maps under one kernel is a larger batch; others are computed one after the other."""
    first, second = (x if dim is None else jnp.moveaxis(x, dim, 0) for x, dim in zip(args, dims, strict=True))
    if dims[1] is None and primitive is not kernel_gradient_p:
        out = primitive.bind(first.reshape(-1, *first.shape[2:]), second, **params)
        return out.reshape(*first.shape[:2], *out.shape[1:]), 0
    batched = [x for x, dim in zip((first, second), dims, strict=True) if dim is not None]

    def compute(parts: list[jax.Array]) -> jax.Array:
        rest = iter(parts)
        return primitive.bind(*(x if dim is None else next(rest) for x, dim in zip((first, second), dims, strict=True)), **params)

    return lax.map(compute, batched), 0


# Lowering.


def _gains(kind: choice.Kind, first: Any, second: Any, out: Any) -> bool:
    map_out, kernel = {"forward": (out, second), "input_gradient": (first, second), "kernel_gradient": (second, out)}[kind]
    channels = kernel.shape[2] if kind == "input_gradient" else kernel.shape[3]
    multiply_adds = math.prod(map_out.shape[:3]) * math.prod(kernel.shape)
    return choice.gains(kind, channels_out=channels, multiply_adds=multiply_adds, dtype=first.dtype)


def _lower_on_cpu(kind: choice.Kind, plain: Callable[..., jax.Array], in_xla: Callable[..., jax.Array]) -> Callable[..., Any]:
    def lower(ctx: Any, *operands: Any, **params: Any) -> Any:
        avals = (*ctx.avals_in, *ctx.avals_out)
        call = call_for(ctx.module_context.axis_context)
        # A program that travels holds nothing that another machine may lack.
        if getattr(ctx.module_context.lowering_parameters, "for_export", False):
            form = plain
        elif call is None or any(aval.size == 0 for aval in avals) or not _gains(kind, *avals):
            form = in_xla
        else:
            form = partial(_call_with, call, kind)
        return mlir.lower_fun(form, multiple_results=False)(ctx, *operands, **params)

    return lower


def _call_with(call: Callable[..., jax.Array], kind: choice.Kind, first: jax.Array, second: jax.Array, **params: Any) -> jax.Array:
    return call(kind, first, second, Params(**params))


def _register(
    primitive: Primitive,
    kind: choice.Kind,
    *,
    plain: Callable[..., jax.Array],
    shape: Callable[..., Any],
    derivatives: tuple[Callable[..., jax.Array], Callable[..., jax.Array]],
    in_xla: Callable[..., jax.Array] | None = None,
) -> None:
    needs_devices(primitive)
    primitive.def_abstract_eval(shape)
    primitive.def_impl(partial(_compute_at_once, primitive))
    ad.defbilinear(primitive, *derivatives)
    batching.primitive_batchers[primitive] = partial(_fold, primitive)
    mlir.register_lowering(primitive, mlir.lower_fun(plain, multiple_results=False))
    mlir.register_lowering(primitive, _lower_on_cpu(kind, plain, in_xla or plain), platform="cpu")


def _compute_at_once(primitive: Primitive, *args: jax.Array, **params: Any) -> jax.Array:
    return jax.jit(partial(primitive.bind, **params))(*args)


_register(
    forward_p,
    "forward",
    plain=plain_forward,
    shape=_forward_shape,
    derivatives=(_forward_to_x, _forward_to_kernel),
    in_xla=_crop_forward,
)
_register(
    input_gradient_p,
    "input_gradient",
    plain=plain_input_gradient,
    shape=_input_gradient_shape,
    derivatives=(_input_gradient_to_y, _input_gradient_to_kernel),
)
_register(
    kernel_gradient_p,
    "kernel_gradient",
    plain=plain_kernel_gradient,
    shape=_kernel_gradient_shape,
    derivatives=(_kernel_gradient_to_x, _kernel_gradient_to_y),
)

"""A convolution by oneDNN and its two gradients as JAX primitives. Each is bilinear, and its derivatives are the other two.

Let <y, conv(x, k)> be the form that is linear in map x, kernel k and output y. The primitives are its derivatives by y, x and k, so they
are closed under differentiation of any order, in both modes. On CPU each is computed by oneDNN or by XLA, as `choice.gains` decides. On
other platforms, and in exported programs, XLA computes them.
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
from jax.sharding import AxisType

from drsn_jax_native import choice
from drsn_jax_native.partition import Params, call_for, needs_devices
from drsn_jax_native.plain import Pads, crop_forward, out_size, plain_forward, plain_input_gradient, plain_kernel_gradient

forward_p = Primitive("drsn_convolve")
input_gradient_p = Primitive("drsn_input_gradient")
kernel_gradient_p = Primitive("drsn_kernel_gradient")


def convolve(
    x: jax.Array, kernel: jax.Array, *, stride: Sequence[int] = (1, 1), pads: Sequence[Sequence[int]] = ((0, 0), (0, 0))
) -> jax.Array:
    """Convolve maps [b h w c] with a kernel [kh kw c d]: `lax.conv_general_dilated` of NHWC and HWIO, equal to rounding.

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
    if min(out_size(x.shape[1:3], kernel.shape[:2], **params)) < 1:
        raise ValueError(f"A kernel of {kernel.shape[0]}x{kernel.shape[1]} is larger than the padded map of {x.shape[1]}x{x.shape[2]}.")
    if any(AxisType.Explicit in jax.typeof(value).sharding.mesh.axis_types for value in (x, kernel)):
        return plain_forward(x, kernel, **params)  # shardings are part of the types there, and these primitives have no sharding rule
    return _bind(forward_p, x, kernel, **params)


def _bind(primitive: Primitive, first: jax.Array, second: jax.Array, **params: Any) -> jax.Array:
    """Make both operands vary over the same axes inside `jax.shard_map`, as JAX's own primitives do."""
    axes = [jax.typeof(x).manual_axis_type.varying for x in (first, second)]
    first, second = (
        lax.pcast(x, tuple(missing), to="varying") if (missing := axes[0] | axes[1] - own) - own else x
        for x, own in zip((first, second), axes, strict=True)
    )
    return primitive.bind(first, second, **params)


# Shapes.


def _forward_shape(x: Any, kernel: Any, *, stride: tuple[int, int], pads: Pads) -> Any:
    return x.update(shape=(x.shape[0], *out_size(x.shape[1:3], kernel.shape[:2], stride=stride, pads=pads), kernel.shape[3]))


def _input_gradient_shape(y: Any, kernel: Any, *, size: tuple[int, int], **_: Any) -> Any:
    return y.update(shape=(y.shape[0], *size, kernel.shape[2]))


def _kernel_gradient_shape(x: Any, y: Any, *, size: tuple[int, int], **_: Any) -> Any:
    return x.update(shape=(*size, x.shape[3], y.shape[3]))


# Derivatives: `lhs` and `rhs` are the operands. Of one only the shape is known.


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
    """Batch under `vmap`: maps under one kernel form a larger batch; other cases are computed one by one."""
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
        # An exported program must not depend on parts that another machine may lack.
        if getattr(ctx.module_context.lowering_parameters, "for_export", False):
            form = plain
        elif call is None or any(aval.size == 0 for aval in avals) or not _gains(kind, *avals):
            form = in_xla
        else:
            form = partial(_call_with, call, kind)
        return mlir.lower_fun(form, multiple_results=False)(ctx, *operands, **params)

    return lower


def _call_with(call: Callable[..., jax.Array], kind: choice.Kind, first: jax.Array, second: jax.Array, **params: Any) -> jax.Array:
    dtype = choice.computing_dtype(first.dtype)
    return call(kind, first.astype(dtype), second.astype(dtype), Params(**params)).astype(first.dtype)


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
    in_xla=crop_forward,
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

"""Calls of the compiled library, and their division over a mesh by the batch: each device computes its own images."""

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax
from jax.experimental.custom_partitioning import custom_partitioning
from jax.extend.core import Primitive
from jax.interpreters.mlir import ShardingContext, SPMDAxisContext
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from drsn_jax_native import library
from drsn_jax_native.choice import Kind
from drsn_jax_native.plain import Pads, out_size

TARGETS: dict[Kind, str] = {"forward": "drsn_convolve", "input_gradient": "drsn_input_gradient", "kernel_gradient": "drsn_kernel_gradient"}
# Each letter is an axis; axes of one letter are divided alike. A kernel gradient is summed over `b`.
RULES: dict[Kind, str] = {
    "forward": "b h w c, k l c d -> b i j d",
    "input_gradient": "b i j d, k l c d -> b h w c",
    "kernel_gradient": "b h w c, b i j d -> k l c d",
}


class Params(NamedTuple):
    """Strides, zeros around the map ((top, bottom), (left, right)), and for a gradient its height and width."""

    stride: tuple[int, int]
    pads: Pads
    size: tuple[int, int] | None = None


def needs_devices(primitive: Primitive) -> None:
    """Make JAX pass the devices of a lowering to a primitive. Partitioning needs them; without them only one device computes."""
    with contextlib.suppress(ImportError, AttributeError):
        from jax._src import dispatch  # JAX has no public name for it; its own attention kernels use this one

        dispatch.prim_requires_devices_during_lowering.add(primitive)


def call_for(axis_context: Any) -> Callable[[Kind, jax.Array, jax.Array, Params], jax.Array] | None:
    """Return the call of oneDNN in a program for these devices (`kind, first, second, params`); None if it cannot be partitioned.

    Under a mesh that divides the batch each device computes its own part, and kernel gradients are summed over devices.
    """
    if isinstance(axis_context, SPMDAxisContext):  # inside `shard_map` arrays belong to one device, unless XLA handles some axes
        return _call if set(axis_context.manual_axes) == set(axis_context.mesh.axis_names) else None
    if not isinstance(axis_context, ShardingContext):
        return None
    if axis_context.num_devices == 1:
        return _call
    if axis_context.device_assignment is None:
        return None
    return lambda kind, first, second, params: _PARTITIONED[kind](first, second, params)


def _result_shape(kind: Kind, first: jax.Array, second: jax.Array, params: Params) -> tuple[int, ...]:
    if kind == "forward":
        size = out_size(first.shape[1:3], second.shape[:2], stride=params.stride, pads=params.pads)
        return (first.shape[0], *size, second.shape[3])
    assert params.size is not None
    if kind == "input_gradient":
        return (first.shape[0], *params.size, second.shape[2])
    return (*params.size, first.shape[3], second.shape[3])


def _call(kind: Kind, first: jax.Array, second: jax.Array, params: Params) -> jax.Array:
    library.load()
    result = jax.ShapeDtypeStruct(_result_shape(kind, first, second, params), first.dtype)
    attributes = {"strides": np.array(params.stride, np.int64), "pads": np.array(params.pads, np.int64).reshape(-1)}
    return jax.ffi.ffi_call(TARGETS[kind], result)(first, second, **attributes)


def _make_partitioned(kind: Kind) -> Any:
    def compute(first: jax.Array, second: jax.Array, params: Params) -> jax.Array:
        return _call(kind, first, second, params)

    def partition(params: Params, mesh: Mesh, operands: Any, result: Any) -> Any:
        batch = _batch_axes(operands[0].sharding)
        over_batch, whole = (NamedSharding(mesh, PartitionSpec(axes)) for axes in (batch, None))

        def compute_part(first: jax.Array, second: jax.Array) -> jax.Array:
            part = _call(kind, first, second, params)
            return lax.psum(part, batch) if kind == "kernel_gradient" and batch is not None else part

        if kind == "kernel_gradient":
            return mesh, compute_part, whole, (over_batch, over_batch)
        return mesh, compute_part, over_batch, (over_batch, whole)

    partitioned = custom_partitioning(compute, static_argnums=(2,))
    # Shardy needs them in order of appearance.
    undivided = tuple(dict.fromkeys(letter for letter in RULES[kind] if letter.isalpha() and letter != "b"))
    summed = ("b",) if kind == "kernel_gradient" else ()
    partitioned.def_partition(partition, sharding_rule=RULES[kind], need_replication_factors=undivided, reduction_factors=summed)
    return partitioned


def _batch_axes(sharding: Any) -> Any:
    return sharding.spec[0] if len(sharding.spec) else None


_PARTITIONED = {kind: _make_partitioned(kind) for kind in TARGETS}

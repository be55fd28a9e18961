"""Arrays over devices: the batch split over a mesh's `data` axis, the state on every device. One code path from one CPU up."""

from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from drsn_jax.errors import InputError


def make_mesh() -> Mesh:
    """All devices of all processes along one axis, `data`."""
    # Explicit axes are JAX's default and would make shardings part of the types; here the compiler is to propagate them.
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Whole on every device."""
    return NamedSharding(mesh, PartitionSpec())


def over_data(mesh: Mesh) -> NamedSharding:
    """The leading axis split over the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def check_batch_size(batch_size: int, *, devices: int, accumulation_steps: int = 1) -> None:
    """Raises InputError unless the batch divides into that many micro-batches, and each of them evenly over the devices."""
    multiple = devices * accumulation_steps
    if batch_size % multiple:
        near = max(multiple, round(batch_size / multiple) * multiple)
        parts = f" in {accumulation_steps} micro-batches (accumulation_steps)" if accumulation_steps > 1 else ""
        raise InputError(
            f"Batch size {batch_size} does not divide over {devices} device{'s' * (devices > 1)}{parts}; use a multiple of {multiple}"
            f" (--config.batch_size={near}, or in --config.stages)."
        )


def shard_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Puts this process's rows of a batch on its devices; returns the global arrays."""
    sharding = over_data(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, array) for name, array in batch.items()}


def with_sharding(tree: Any, sharding: NamedSharding) -> Any:
    """The abstract arrays of a tree (from `jax.eval_shape`), to be restored or made with a sharding."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)

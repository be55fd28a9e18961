"""Arrays over devices: the batch split over a mesh's `data` axis, the state on every device. The same code serves a single CPU."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Shaped

from drsn_jax.system.errors import InputError


def make_mesh() -> Mesh:
    """Make a mesh of all devices of all processes along one axis, `data`.

    The order is process by process, so each process has consecutive rows of a batch.

    Raises InputError if the processes have different numbers of devices.
    """
    if jax.device_count() != jax.process_count() * jax.local_device_count():
        raise InputError(
            f"Process {jax.process_index()} has {jax.local_device_count()} of the {jax.device_count()} devices of {jax.process_count()}"
            " processes; start each with as many devices as the others."
        )
    return mesh_of(sorted(jax.devices(), key=lambda device: (device.process_index, device.id)))


def mesh_of(devices: Sequence[Any]) -> Mesh:
    """Return these devices along one axis, `data`."""
    # JAX's default, explicit axes, would make shardings part of the types. Here the compiler propagates them.
    return Mesh(np.array(devices), ("data",), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Return the sharding with a copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def over_data(mesh: Mesh) -> NamedSharding:
    """Return the sharding that splits the leading axis over the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def check_batch_size(batch_size: int, *, devices: int, accumulation_steps: int = 1) -> None:
    """Raise InputError unless the batch divides into the micro-batches, and each of them evenly over the devices."""
    multiple = devices * accumulation_steps
    if batch_size % multiple:
        near = max(multiple, round(batch_size / multiple) * multiple)
        parts = f" in {accumulation_steps} micro-batches (accumulation_steps)" if accumulation_steps > 1 else ""
        raise InputError(
            f"Batch size {batch_size} does not divide over {devices} device{'s' * (devices > 1)}{parts}; use a multiple of {multiple}"
            f" (--config.batch_size={near}, or in --config.stages)."
        )


def spread_rows(function: Callable[..., Any], *, whole: int, mesh: Mesh | None) -> Callable[..., Any]:
    """Make each device compute only its own rows of function(*whole, *by_rows). Rows of the results must not depend on each other.

    The first `whole` arguments are replicated on every device. The leading axes of the others and of the results are split. Without this,
    XLA computes all rows on every device for operations that it cannot split, such as FFTs. The function is unchanged without a mesh, and
    if the rows do not divide over its devices.
    """

    def spread(*arguments: Any) -> Any:
        if mesh is None or mesh.size == 1 or not divides(mesh, *(leaf.shape[0] for leaf in jax.tree.leaves(arguments[whole:]))):
            return function(*arguments)
        specs = (PartitionSpec(),) * whole + (PartitionSpec("data"),) * (len(arguments) - whole)
        return jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=PartitionSpec("data"))(*arguments)

    return spread


def divides(mesh: Mesh, *rows: int) -> bool:
    """Check whether each of these numbers of rows divides evenly over the devices of a mesh."""
    return all(number % mesh.size == 0 for number in rows)


def shard_batch(batch: dict[str, Shaped[np.ndarray, "b *shape"]], mesh: Mesh) -> dict[str, Shaped[Array, "B *shape"]]:
    """Put this process's rows of a batch on its devices; returns the global arrays."""
    sharding = over_data(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, array) for name, array in batch.items()}


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Copy arrays or random keys, which must be the same in every process, to every device."""
    sharding = replicated(mesh)
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)

    def put(x: Any) -> jax.Array:  # device_put would compare the values of all processes each time, and wait for them
        return jax.make_array_from_single_device_arrays(x.shape, sharding, [jax.device_put(x, device) for device in mesh.local_devices])

    return jax.tree.map(put, tree)


def local_copy(tree: Any) -> Any:
    """Return replicated arrays as arrays of one local device, so that this process can compute with them alone."""
    return jax.tree.map(lambda x: x.addressable_data(0), tree)


def with_sharding(tree: Any, sharding: NamedSharding) -> Any:
    """Add a sharding to the abstract arrays of a tree (from `jax.eval_shape`), for restoring or making them."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)

"""Restoration on several devices: each computes a strip of one image's rows, or images of its own, as one device would."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float

from drsn_jax.models.generator import Generator
from drsn_jax.ops.backend import forms_for
from drsn_jax.ops.costs import peak_bytes
from drsn_jax.ops.rows import Rows
from drsn_jax.training.sharding import mesh_of, over_data, replicated, spread_rows

_AXIS = "rows"
_STRIPS, _WHOLE = PartitionSpec(None, _AXIS), PartitionSpec()  # images [b h w 3] by rows; parameters


def make_spread_fn(
    generator: Generator, variables: Any, *, devices: Sequence[Any]
) -> Callable[[Float[np.ndarray, "b h w 3"]], Float[np.ndarray, "b h w 3"]]:
    """Make a `predict_fn` for `restore_array(tile=None)`: the generator on whole images, with a strip of rows on each of `devices`.

    The result equals `generator.apply` to rounding, thresholds included. The parameters are copied to every device now. In addition a
    device needs memory for its strip. Each size is one compilation.

    Heights and widths are multiples of the generator's stride, and heights are at least two strides; `predict_fn` raises ValueError for
    other heights. With fewer strides than devices, some devices are idle.
    """
    mesh = _make_mesh(devices)
    variables = jax.device_put(variables, NamedSharding(mesh, _WHOLE))

    @cache
    def spread(height: int) -> tuple[Any, int]:
        return _spread(generator, mesh=mesh, height=height)

    def predict_fn(blurred: Float[np.ndarray, "b h w 3"]) -> Float[np.ndarray, "b h w 3"]:
        batch, height, width, _ = blurred.shape
        apply_fn, strip = spread(height)

        def cut(index: Any) -> np.ndarray:  # one strip at a time, with zeros below the image
            rows = blurred[index]
            return np.pad(rows, ((0, 0), (0, strip - rows.shape[1]), (0, 0), (0, 0)))

        strips = jax.make_array_from_callback((batch, strip * mesh.size, width, 3), NamedSharding(mesh, _STRIPS), cut)
        return np.asarray(apply_fn(variables, strips))[:, :height]

    return predict_fn


class Parallel(NamedTuple):
    """Images of one size on several devices, one on each at a time.

    `place_fn` copies the variables to every device. `apply_fn` maps them and images [b h w 3] in [-1, 1] to restored images of the same
    shape and range. If b is not a multiple of `devices`, some devices restore the last image again.
    """

    devices: int
    place_fn: Callable[[Any], Any]
    apply_fn: Callable[[Any, Float[np.ndarray, "b h w 3"]], Float[np.ndarray, "b h w 3"]]


def make_parallel(apply_fn: Callable[[Any, Any], Any], *, devices: Sequence[Any]) -> Parallel:
    """Spread batches over devices. The result for each image is that of `apply_fn(variables, [1 h w 3])`, thresholds included."""
    mesh = mesh_of(devices)
    own_fn = jax.jit(spread_rows(apply_fn, whole=1, mesh=mesh))

    def apply(variables: Any, blurred: Float[np.ndarray, "b h w 3"]) -> Float[np.ndarray, "b h w 3"]:
        filled = np.concatenate([blurred, np.repeat(blurred[-1:], -len(blurred) % mesh.size, axis=0)])
        return np.asarray(own_fn(variables, jax.device_put(filled, over_data(mesh))))[: len(blurred)]

    return Parallel(mesh.size, lambda variables: jax.device_put(variables, replicated(mesh)), apply)


def spread_bytes(generator: Generator, *, height: int, width: int, devices: Sequence[Any]) -> int | None:
    """Return the peak memory per device for one image of that size: compiled, not run. None if the back end does not report it.

    Raises ValueError for heights that the `predict_fn` of `make_spread_fn` does not take.
    """
    mesh = _make_mesh(devices)
    apply_fn, strip = _spread(generator, mesh=mesh, height=height)

    def abstract(shape: tuple[int, ...], spec: PartitionSpec) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, spec))

    smallest = jax.ShapeDtypeStruct((1, generator.stride, generator.stride, 3), jnp.float32)
    shapes = jax.eval_shape(generator.init, jax.random.key(0), smallest)
    variables = jax.tree.map(lambda leaf: abstract(leaf.shape, _WHOLE), shapes)
    return peak_bytes(apply_fn.lower(variables, abstract((1, strip * mesh.size, width, 3), _STRIPS)).compile())


def _spread(generator: Generator, *, mesh: Mesh, height: int) -> tuple[Any, int]:
    """Return the jitted generator on strips of images of that height, and the rows per strip."""
    stride = generator.stride
    if height % stride or height < 2 * stride:
        raise ValueError(f"Images of {height} rows cannot be spread: use a multiple of {stride} from {2 * stride} up, or restore_array.")
    rows = Rows(_AXIS, height // stride, -(-height // (stride * mesh.size)))
    # A device alone takes the plain form, which copies each map once less.
    network = generator.clone(layout=rows if mesh.size > 1 else None, forms=forms_for(mesh.devices.flat[0].platform))

    def apply_fn(variables: Any, strip: jax.Array) -> jax.Array:
        return network.apply(variables, strip)  # pyright: ignore[reportReturnType]

    return jax.jit(jax.shard_map(apply_fn, mesh=mesh, in_specs=(_WHOLE, _STRIPS), out_specs=_STRIPS)), rows.strip * stride


def _make_mesh(devices: Sequence[Any]) -> Mesh:
    return Mesh(np.array(devices), (_AXIS,), axis_types=(AxisType.Auto,))

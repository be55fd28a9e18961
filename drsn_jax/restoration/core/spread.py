"""One image whole over several devices: each has a strip of its rows, and the result is that of one device."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float

from drsn_jax.models.generator import Generator
from drsn_jax.ops.backend import forms_for
from drsn_jax.ops.costs import peak_bytes
from drsn_jax.ops.rows import Rows

_AXIS = "rows"
_STRIPS, _WHOLE = PartitionSpec(None, _AXIS), PartitionSpec()  # images [b h w 3] by rows; parameters


def make_spread_fn(
    generator: Generator, variables: Any, *, devices: Sequence[Any]
) -> Callable[[Float[np.ndarray, "b h w 3"]], Float[np.ndarray, "b h w 3"]]:
    """A `predict_fn` for `restore_array(tile=None)`: the generator on whole images, of which each of `devices` has a strip of rows.

    Equal to `generator.apply` to rounding, thresholds included. The parameters are put on every device now; beside them a device needs
    its share of the memory. Compiles one program a size. `predict_fn` takes heights and widths that are multiples of the generator's
    stride, and heights of at least two; where there are fewer strides than devices, some devices do nothing that counts. It raises
    ValueError for other heights.
    """
    mesh = _make_mesh(devices)
    variables = jax.device_put(variables, NamedSharding(mesh, _WHOLE))

    @cache
    def spread(height: int) -> tuple[Any, int]:
        return _spread(generator, mesh=mesh, height=height)

    def predict_fn(blurred: Float[np.ndarray, "b h w 3"]) -> Float[np.ndarray, "b h w 3"]:
        batch, height, width, _ = blurred.shape
        apply_fn, strip = spread(height)

        def cut(index: Any) -> np.ndarray:  # one strip at a time; zeros below the image
            rows = blurred[index]
            return np.pad(rows, ((0, 0), (0, strip - rows.shape[1]), (0, 0), (0, 0)))

        strips = jax.make_array_from_callback((batch, strip * mesh.size, width, 3), NamedSharding(mesh, _STRIPS), cut)
        return np.asarray(apply_fn(variables, strips))[:, :height]

    return predict_fn


def spread_bytes(generator: Generator, *, height: int, width: int, devices: Sequence[Any]) -> int | None:
    """What each device needs at the most for one image of that size: compiled, not run. None where the back end does not say.

    Raises ValueError for heights that the `predict_fn` of `make_spread_fn` refuses.
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
    """The jitted generator on strips of images of that height, and how many rows a strip has."""
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

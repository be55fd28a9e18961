"""One image whole over several devices: each has a strip of its rows, and the result is that of one device."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Float

from drsn_jax.costs import peak_bytes
from drsn_jax.models.generator import Generator
from drsn_jax.models.rows import Rows

AXIS = "rows"
_STRIPS = PartitionSpec(None, AXIS)  # of images [b h w 3]


def make_spread_fn(
    generator: Generator, variables: Any, *, devices: Sequence[Any]
) -> Callable[[Float[np.ndarray, "b h w 3"]], Float[np.ndarray, "b h w 3"]]:
    """A `predict_fn` for `restore_array(tile=None)`: the generator on whole images, of which each device has a strip of rows.

    Equal to `generator.apply` to rounding, the thresholds included; a device needs its strip's share of the memory, and all of the
    parameters, which are put on the devices now. Heights and widths are multiples of the generator's stride, heights of two strides or
    more; of fewer strides than there are devices some devices have nothing to do. Compiles one program a size. `predict_fn` raises
    ValueError for other sizes.
    """
    mesh = _make_mesh(devices)
    variables = jax.device_put(variables, NamedSharding(mesh, PartitionSpec()))

    @cache
    def apply_fn(height: int) -> Callable[[Any, jax.Array], jax.Array]:
        return _spread(generator, mesh=mesh, height=height)

    def predict_fn(blurred: Float[np.ndarray, "b h w 3"]) -> Float[np.ndarray, "b h w 3"]:
        height = blurred.shape[1]
        network_fn = apply_fn(height)
        strip = _divide(height, stride=generator.stride, devices=len(devices)).strip * generator.stride

        def cut(index: Any) -> np.ndarray:  # zeros below the image
            rows = blurred[index]
            return np.pad(rows, ((0, 0), (0, strip - rows.shape[1]), (0, 0), (0, 0)))

        shape = (blurred.shape[0], strip * len(devices), *blurred.shape[2:])
        strips = jax.make_array_from_callback(shape, NamedSharding(mesh, _STRIPS), cut)
        return np.asarray(network_fn(variables, strips))[:, :height]

    return predict_fn


def spread_bytes(generator: Generator, *, height: int, width: int, devices: Sequence[Any]) -> int | None:
    """What each device needs at the most for one image of that size: compiled, not run. None where the back end does not say.

    Raises ValueError for sizes that `make_spread_fn` refuses.
    """
    mesh = _make_mesh(devices)
    strip = _divide(height, stride=generator.stride, devices=len(devices)).strip * generator.stride

    def abstract(shape: tuple[int, ...], spec: PartitionSpec) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, spec))

    smallest = jax.ShapeDtypeStruct((1, generator.stride, generator.stride, 3), jnp.float32)
    shapes = jax.eval_shape(generator.init, jax.random.key(0), smallest)
    variables = jax.tree.map(lambda leaf: abstract(leaf.shape, PartitionSpec()), shapes)
    images = abstract((1, strip * len(devices), width, 3), _STRIPS)
    return peak_bytes(_spread(generator, mesh=mesh, height=height).lower(variables, images).compile())


def _spread(generator: Generator, *, mesh: Mesh, height: int) -> Any:
    """The jitted generator on strips, of images of that height."""
    # Alone, a device takes the plain form: of a strip every padding is one copy more.
    rows = _divide(height, stride=generator.stride, devices=mesh.size) if mesh.size > 1 else None
    network = generator.clone(rows=rows)

    def apply_fn(variables: Any, strip: jax.Array) -> jax.Array:
        return network.apply(variables, strip)  # pyright: ignore[reportReturnType]

    return jax.jit(jax.shard_map(apply_fn, mesh=mesh, in_specs=(PartitionSpec(), _STRIPS), out_specs=_STRIPS))


def _divide(height: int, *, stride: int, devices: int) -> Rows:
    if height % stride or height < 2 * stride:
        raise ValueError(f"Images of {height} rows cannot be spread: use a multiple of {stride} from {2 * stride} up, or restore_array.")
    return Rows(AXIS, height // stride, -(-height // stride // devices))


def _make_mesh(devices: Sequence[Any]) -> Mesh:
    return Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,))

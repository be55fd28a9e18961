"""The cost of one image in inference: parameters, multiply-adds, memory, seconds (SPEC section 3)."""

import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.errors import ScopeParamShapeError

from drsn_jax.ops.backend import PLAIN


class Cost(NamedTuple):
    """The cost of one image of height x width pixels. None: not applicable to this size, or not measured."""

    height: int
    width: int
    parameters: int  # trainable
    macs: int | None  # one multiplication and one addition each
    peak_bytes: int | None  # arguments (including the parameters), outputs and temporaries of the compiled program
    seconds: float | None


def measure_costs(
    module: nn.Module, *, sizes: Sequence[tuple[int, int]], run: bool, init_size: tuple[int, int] | None = None
) -> list[Cost]:
    """Measure a batch of one [1 h w 3] float32 in inference at each of `sizes` (height, width), on the default device.

    The parameters are initialised for `init_size` (default: the first size). If they do not fit another size, as those of the dense critic,
    all other values are None. Each size is one compilation. With `run` each program also runs four times on random parameters; the result
    is the median of the last three. `macs` is `count_macs`. Raises ValueError for sizes that the network does not accept.
    """
    variables = jax.eval_shape(module.init, jax.random.key(0), _image(init_size or sizes[0]))
    parameters = sum(x.size for x in jax.tree.leaves(variables["params"]))
    costs = []
    for size in sizes:
        try:
            macs = count_macs(plain_module(module).apply, variables, _image(size))
        except ScopeParamShapeError:
            costs.append(Cost(*size, parameters, None, None, None))
            continue
        compiled = jax.jit(module.apply).lower(variables, _image(size)).compile()
        seconds = _measure_seconds(compiled, (variables, _image(size))) if run else None
        costs.append(Cost(*size, parameters, macs, peak_bytes(compiled), seconds))
    return costs


def add_costs(first: Sequence[Cost], second: Sequence[Cost]) -> list[Cost]:
    """Add the costs of two networks size by size (memory: both at once); None if either is None. ValueError if the sizes differ."""
    if [cost[:2] for cost in first] != [cost[:2] for cost in second]:
        raise ValueError("Costs can only be added when they are of the same sizes, in the same order.")
    return [
        Cost(*a[:2], *(None if x is None or y is None else x + y for x, y in zip(a[2:], b[2:], strict=True)))  # pyright: ignore
        for a, b in zip(first, second, strict=True)
    ]


def format_costs(*, generator: Sequence[Cost], critic: Sequence[Cost]) -> str:
    """Format a table for the terminal: generator, critic and their sum at each size, written width x height."""
    header = f"{'One image, inference':22}{'size':>10}{'parameters':>14}{'GMACs':>10}{'memory, MB':>13}{'seconds':>10}"
    networks = {"generator": generator, "critic": critic, "both": add_costs(generator, critic)}
    return "\n".join([header, *(_format_row(name, cost) for name, costs in networks.items() for cost in costs)])


def count_macs(function: Callable[..., Any], *args: Any) -> int:
    """Count the multiply-adds of the convolutions and matrix products of a function of arrays, or of their abstract shapes.

    The count is made from the jaxpr by the convention of papers: kernel size x channels in x channels out at every output position. Zero
    padding counts like pixels; the zeros that a transposed convolution inserts do not. Of several branches the most expensive counts.
    Other forms have other counts: pass networks in the plain form (`plain_module`). Raises ValueError for a loop of unknown length around
    convolutions or products.
    """
    return _count(jax.make_jaxpr(function)(*args).jaxpr)


def plain_module(module: nn.Module) -> nn.Module:
    """Return the network with every operation in its plain form (`ops.backend`)."""
    return module.clone(forms=PLAIN) if hasattr(module, "forms") else module


def count_module_macs(module: nn.Module, *, size: tuple[int, int]) -> int:
    """Count the multiply-adds of a network in inference for one image of height x width."""
    return count_macs(plain_module(module).apply, jax.eval_shape(module.init, jax.random.key(0), _image(size)), _image(size))


def _count(jaxpr: Any) -> int:
    return sum(_count_equation(eqn) for eqn in jaxpr.eqns)


def _count_equation(eqn: Any) -> int:
    name = eqn.primitive.name
    if name == "conv_general_dilated":
        return _count_convolution(eqn)
    if name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        shape = eqn.invars[0].aval.shape
        return math.prod(eqn.outvars[0].aval.shape) * math.prod(shape[axis] for axis in contracted)
    inner = [_count(jaxpr) for jaxpr in _inner_jaxprs(eqn)]
    if name == "scan":
        return sum(inner) * eqn.params["length"]
    if name == "while" and any(inner):
        raise ValueError("A loop of unknown length contains convolutions or products, which cannot be counted; use a fixed length.")
    return max(inner, default=0) if name == "cond" else sum(inner)


def _count_convolution(eqn: Any) -> int:
    made = eqn.outvars[0].aval.shape
    numbers, dilation = eqn.params["dimension_numbers"], eqn.params["lhs_dilation"]
    image, kernel = (variable.aval.shape for variable in eqn.invars)
    macs = (
        math.prod(made[axis] for axis in numbers.out_spec[:2]) * kernel[numbers.rhs_spec[1]]
    )  # batch, channels out, channels in of a group
    for step, *axes in zip(dilation, numbers.lhs_spec[2:], numbers.rhs_spec[2:], numbers.out_spec[2:], strict=True):
        pixels, taps, positions = (shape[axis] for shape, axis in zip((image, kernel, made), axes, strict=True))
        # In a transposed convolution every pixel meets every tap. In its gradient for the kernel the map acts as the kernel: at each of its
        # few positions one tap in `step` meets a pixel.
        macs *= pixels * taps if step > 1 and pixels <= positions else -(-positions * taps // step)
    return macs


def _inner_jaxprs(eqn: Any) -> Iterator[Any]:
    for value in eqn.params.values():
        for part in value if isinstance(value, (tuple, list)) else (value,):
            inner = getattr(part, "jaxpr", part)  # closed or open jaxpr
            if hasattr(inner, "eqns"):
                yield inner


def _image(size: tuple[int, int]) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)


def peak_bytes(compiled: Any) -> int | None:
    """Return the peak memory of a compiled program: arguments, outputs and temporaries. None if the back end does not report it."""
    memory = compiled.memory_analysis()
    if memory is None:
        return None
    return memory.temp_size_in_bytes + memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes


def _measure_seconds(compiled: Any, arguments: Any) -> float:
    rng = np.random.default_rng(0)

    def draw(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        values = rng.uniform(-1, 1, leaf.shape) / math.sqrt(max(math.prod(leaf.shape[:-1]), 1))  # so that activations stay finite
        return jnp.asarray(abs(values) if len(leaf.shape) == 1 else values, leaf.dtype)  # variances are positive

    arrays = jax.block_until_ready(jax.tree.map(draw, arguments))
    durations = []
    for _ in range(4):
        start = time.perf_counter()
        jax.block_until_ready(compiled(*arrays))
        durations.append(time.perf_counter() - start)
    return statistics.median(durations[1:])


def _format_row(name: str, cost: Cost) -> str:
    start = f"{name:22}{f'{cost.width}x{cost.height}':>10}{cost.parameters:14,}"
    if cost.macs is None:
        return f"{start}  not applicable: built for one image size"
    memory = "unknown" if cost.peak_bytes is None else f"{cost.peak_bytes / 1e6:,.0f}"
    seconds = "-" if cost.seconds is None else f"{cost.seconds:.3g}"
    return f"{start}{cost.macs / 1e9:10,.2f}{memory:>13}{seconds:>10}"

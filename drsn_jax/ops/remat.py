"""Rematerialisation: recomputing a block for its gradient instead of storing its inner values, on every back end."""

from collections.abc import Callable
from typing import Any, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import lift
from flax.linen.transforms import lift_transform
from jax.extend.core import jaxpr_as_fun

from drsn_jax.ops.backend import Forms

PyTree = Any
Tree = TypeVar("Tree")


def rematerialise(module: type[nn.Module], *, forms: Forms) -> type[nn.Module]:
    """Make the Flax module keep only its arguments for the gradient: `nn.remat`, or a form of it that works on CPU.

    Parameters, their names, values, gradients, statistics, sown values and dropout are those of the module itself.
    """
    return lift_transform(_lift, module) if forms.sequence_by_value else nn.remat(module)  # pyright: ignore[reportReturnType]


def _lift(call: Callable[..., Any]) -> Callable[..., Any]:
    """Lift every collection and random stream for `recompute`, as `flax.core.lift.checkpoint` does for `jax.checkpoint`."""

    def inner(scope_fn: Any, repack_fn: Any, variables: PyTree, rngs: PyTree, *args: Any) -> Any:
        def apply(variables: PyTree, rngs: PyTree, *args: Any) -> Any:
            scope = scope_fn(variables, rngs)
            return call(scope, *args), repack_fn(scope)

        return recompute(apply)(variables, rngs, *args)

    return lift.pack(inner, (True,), (True,), (True,), name="remat")


def recompute(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function of pytrees of arrays and keys as `jax.checkpoint` does. It must close over no array; reverse mode only."""

    def traced(*args: PyTree) -> PyTree:
        # Trace once: in a second trace a Flax module's dropout counter would go on, and draw other keys.
        jaxpr, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
        results = _recompute_flat(jaxpr_as_fun(jaxpr))(*jax.tree.leaves(args))
        return jax.tree.unflatten(jax.tree.structure(shapes), results)

    return traced


def _recompute_flat(run: Callable[..., list[jax.Array]]) -> Callable[..., list[jax.Array]]:
    def forward(*args: jax.Array) -> tuple[list[jax.Array], tuple[jax.Array, ...]]:
        return run(*args), args

    def backward(args: tuple[jax.Array, ...], gradients: list[Any]) -> tuple[jax.Array | None, ...]:  # float0 for integers
        args = sequence_after(args, gradients, by_value=True)
        real = [i for i, arg in enumerate(args) if jnp.issubdtype(arg.dtype, jnp.inexact)]

        def of_real(*values: jax.Array) -> list[jax.Array]:
            known = dict(zip(real, values, strict=True))
            return run(*(known.get(i, arg) for i, arg in enumerate(args)))

        _, pullback = jax.vjp(of_real, *(args[i] for i in real))
        found = dict(zip(real, pullback(gradients), strict=True))
        return tuple(found.get(i) for i in range(len(args)))

    checkpointed = jax.custom_vjp(run)
    checkpointed.defvjp(forward, backward)
    return checkpointed


def sequence_after(tree: Tree, done: PyTree, *, by_value: bool) -> Tree:
    """Return `tree` unchanged, computed only after `done`. Both are pytrees of arrays; `tree` may also hold keys.

    `by_value` is `Forms.sequence_by_value`.
    """
    if not by_value:
        return jax.lax.optimization_barrier((tree, done))[0]
    # A zero that the compiler cannot simplify. A NaN passes through, but then the gradient holds it already.
    zero = sum(0 * leaf[(0,) * leaf.ndim].astype(jnp.float32) for leaf in jax.tree.leaves(done) if jnp.issubdtype(leaf.dtype, jnp.floating))

    def add(leaf: jax.Array) -> jax.Array:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(add(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))
        return leaf + jnp.asarray(zero).astype(leaf.dtype)

    return jax.tree.map(add, tree)

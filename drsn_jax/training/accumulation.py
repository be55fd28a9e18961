"""Gradient accumulation: means over the micro-batches of a batch, with one of them in memory at a time."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from drsn_jax.ops.backend import PLAIN, Forms
from drsn_jax.ops.remat import sequence_after
from drsn_jax.system.errors import InputError

PyTree = Any


class MicroBatches(NamedTuple):
    """The split of a batch [b ...] into `number` parts of b / number rows. Row r is in part r % number, so devices keep their rows.

    Means of gradients, statistics and metrics over equal parts are those of the whole batch if images do not interact. Batch norm is the
    exception: each part has its own statistics. With a number of 1 the function is simply called once.
    """

    number: int = 1
    forms: Forms = PLAIN

    def mean(self, function: Callable[..., PyTree], *arrays: Array, key: PRNGKeyArray | None = None) -> PyTree:
        """Return the mean over the parts of function(*part), a pytree of floats.

        With a `key` the function is called as function(*part, key), where each part has the key folded with its number.
        """
        if self.number == 1:
            return function(*arrays, *_given(key))

        def add(totals: PyTree, part: tuple[jax.Array, ...]) -> tuple[PyTree, None]:
            return jax.tree.map(jnp.add, totals, self._call(function, part, key, before=totals)), None

        parts = self._split(arrays)
        totals, _ = jax.lax.scan(add, self._zeros(function, parts, key), parts, unroll=self.forms.unroll_loops)
        return jax.tree.map(lambda total: total / self.number, totals)

    def map(self, function: Callable[..., jax.Array], *arrays: Array, key: PRNGKeyArray) -> jax.Array:
        """Return function(*part, key), [b / number ...], of every part as one array [b ...] with rows in the order of the batch."""
        if self.number == 1:
            return function(*arrays, key)

        def append(last: jax.Array, part: tuple[jax.Array, ...]) -> tuple[jax.Array, jax.Array]:
            result = self._call(function, part, key, before=last)
            return result, result

        parts = self._split(arrays)
        _, results = jax.lax.scan(append, self._zeros(function, parts, key), parts, unroll=self.forms.unroll_loops)
        return jnp.moveaxis(results, 0, 1).reshape(-1, *results.shape[2:])

    def _call(self, function: Callable[..., PyTree], part: tuple[jax.Array, ...], key: PRNGKeyArray | None, *, before: PyTree) -> PyTree:
        # In the unrolled loop only this makes the compiler finish one part before the next, instead of holding all of them.
        if self.forms.unroll_loops:
            part, key = sequence_after((part, key), before, by_value=self.forms.sequence_by_value)
        *arrays, index = part
        return function(*arrays, *_given(None if key is None else jax.random.fold_in(key, index)))

    def _split(self, arrays: tuple[Array, ...]) -> tuple[jax.Array, ...]:
        if len(arrays[0]) % self.number:
            raise InputError(
                f"A batch of {len(arrays[0])} does not divide into {self.number} micro-batches; use a multiple of that number."
            )
        parts = (jnp.moveaxis(x.reshape(-1, self.number, *x.shape[1:]), 1, 0) for x in arrays)
        return (*parts, jnp.arange(self.number))

    def _zeros(self, function: Callable[..., PyTree], parts: tuple[jax.Array, ...], key: PRNGKeyArray | None) -> PyTree:
        first = [jax.ShapeDtypeStruct(part.shape[1:], part.dtype) for part in parts[:-1]]
        return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(function, *first, *_given(key)))


def _given(key: PRNGKeyArray | None) -> tuple[PRNGKeyArray, ...]:
    return () if key is None else (key,)

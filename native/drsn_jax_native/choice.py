"""Where oneDNN gains over XLA's CPU back end: by kind of computation, number of channels and processor (README.md has the figures)."""

from typing import Any, Literal

import jax.numpy as jnp

from drsn_jax_native import library

Kind = Literal["forward", "input_gradient", "kernel_gradient"]
_FEW = 8  # channels of a result: oneDNN computes as many at once, and wastes what is not there


def supports(dtype: Any) -> bool:
    """Whether oneDNN computes in it here: float32, and bfloat16 where the processor has units for it."""
    return dtype == jnp.float32 or (dtype == jnp.bfloat16 and library.has_bfloat16())


def gains(kind: Kind, *, channels_out: int, dtype: Any) -> bool:
    """Whether a computation is left to oneDNN; `channels_out` are those of what it makes (of a kernel gradient the kernel's).

    A result of few channels is quicker by XLA, but for kernel gradients, which are always quicker by oneDNN.
    """
    return supports(dtype) and (kind == "kernel_gradient" or channels_out >= _FEW)

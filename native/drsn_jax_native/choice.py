"""The choice between oneDNN and XLA's CPU back end, by kind of computation, channels and processor (README.md has the figures)."""

from typing import Any, Literal

import jax.numpy as jnp

from drsn_jax_native import library

Kind = Literal["forward", "input_gradient", "kernel_gradient"]
_FEW = 8  # channels of a result: oneDNN computes this many at once, and wastes the rest
_LITTLE = 5_000_000  # multiply-adds: below this, waking the threads costs more than it gains


def supports(dtype: Any) -> bool:
    """Check whether oneDNN is used for a dtype here: float32, and bfloat16 if the processor has units for it."""
    return dtype == jnp.float32 or (dtype == jnp.bfloat16 and library.has_bfloat16())


def supported_dtypes() -> list[str]:
    """Return the names of the supported dtypes."""
    return [name for name in ("float32", "bfloat16") if supports(jnp.dtype(name))]


def gains(kind: Kind, *, channels_out: int, multiply_adds: int, dtype: Any) -> bool:
    """Decide whether oneDNN does a computation; `channels_out` are those of its result (for a kernel gradient those of the kernel).

    XLA is faster for results with few channels. Kernel gradients are always faster in oneDNN.
    """
    if not supports(dtype) or multiply_adds < _LITTLE:
        return False
    return kind == "kernel_gradient" or channels_out >= _FEW

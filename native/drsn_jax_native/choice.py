"""The choice between oneDNN and XLA's CPU back end, by kind of computation, channels and processor (README.md has the figures)."""

from typing import Any, Literal

import jax.numpy as jnp

from drsn_jax_native import library

Kind = Literal["forward", "input_gradient", "kernel_gradient"]
_FEW = 8  # channels of a result: oneDNN computes this many at once, and wastes the rest
_LITTLE = 5_000_000  # multiply-adds: below this, waking the threads costs more than it gains


def supports(dtype: Any) -> bool:
    """Check whether maps and kernels of a dtype are taken: float32 and bfloat16."""
    return dtype in (jnp.float32, jnp.bfloat16)


def computing_dtype(dtype: Any) -> Any:
    """Return the precision that oneDNN computes in: float32 for bfloat16 as well, unless the processor has matrix units for it (AMX).

    With AVX-512 BF16 alone oneDNN's convolutions of bfloat16 take up to twice as long as those of float32 (README.md).
    """
    return jnp.float32 if dtype == jnp.bfloat16 and not library.has_matrix_units() else dtype


def gains(kind: Kind, *, channels_out: int, multiply_adds: int, dtype: Any) -> bool:
    """Decide whether oneDNN does a computation; `channels_out` are those of its result (for a kernel gradient those of the kernel).

    XLA is faster for results with few channels. Kernel gradients are always faster in oneDNN.
    """
    if not supports(dtype) or multiply_adds < _LITTLE:
        return False
    return kind == "kernel_gradient" or channels_out >= _FEW

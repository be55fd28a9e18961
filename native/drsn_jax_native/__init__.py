"""Convolutions of oneDNN for JAX on CPU, with derivatives of any order (README.md)."""

from drsn_jax_native.choice import gains, supported_dtypes, supports
from drsn_jax_native.convolution import convolve
from drsn_jax_native.library import count_threads, load, usable_cores

__all__ = ["convolve", "count_threads", "gains", "load", "supported_dtypes", "supports", "usable_cores"]

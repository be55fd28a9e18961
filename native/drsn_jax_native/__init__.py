"""Convolutions of oneDNN for JAX on CPU, with derivatives of any order (README.md)."""

from drsn_jax_native.choice import computing_dtype, gains, supports
from drsn_jax_native.convolution import convolve
from drsn_jax_native.library import count_threads, has_matrix_units, load, usable_cores

__all__ = ["computing_dtype", "convolve", "count_threads", "gains", "has_matrix_units", "load", "supports", "usable_cores"]

"""Convolutions by oneDNN on CPU, where the optional distribution `drsn-jax-native` is installed (native/README.md).

The environment variable DRSN_JAX_NATIVE=0, read when this module is imported, switches them off.
"""

import importlib
import os
import warnings
from types import ModuleType
from typing import Any

from jaxtyping import Array, Float

SWITCH = "DRSN_JAX_NATIVE"


def _find() -> tuple[ModuleType | None, str]:
    """The distribution's module where it is to be used, and a sentence about it."""
    if os.environ.get(SWITCH) == "0":
        return None, f"switched off ({SWITCH}=0)"
    try:
        module = importlib.import_module("drsn_jax_native")
    except ModuleNotFoundError:
        return None, "not installed (pip install ./native)"
    try:
        module.load()
    except Exception as error:  # whatever a library says that was built for another machine or another jax
        warnings.warn(f"drsn-jax-native is installed but does not load ({error}); build it again, or set {SWITCH}=0.", stacklevel=2)
        return None, f"installed, but it does not load ({error}); build it again: pip install ./native"
    return module, f"oneDNN with {module.count_threads()} threads, {', '.join(module.supported_dtypes())}"


_module, _status = _find()


def describe() -> str:
    """Whether oneDNN is used on CPU, with how many threads and in which types, or why not."""
    return _status


def takes(x: Any, kernel: Any) -> bool:
    """Whether oneDNN convolves maps [b h w c] with a kernel [kh kw c d] of these shapes and types."""
    if _module is None or x.dtype != kernel.dtype or not _module.supports(x.dtype):
        return False
    return all(isinstance(size, int) for size in (*x.shape, *kernel.shape))  # an export may leave sizes open


def convolve(
    x: Float[Array, "b h w c"], kernel: Float[Array, "kh kw c d"], *, stride: tuple[int, int], pads: Any
) -> Float[Array, "b h2 w2 d"]:
    """The convolution by oneDNN, to be asked for where `takes` says so; `pads` are ((top, bottom), (left, right)) zeros.

    Derivatives of any order are by oneDNN as well; where it does not gain, XLA computes.
    """
    assert _module is not None
    return _module.convolve(x, kernel, stride=stride, pads=pads)

"""Convolutions by oneDNN on CPU, where the optional distribution `drsn-jax-native` is installed (native/README.md)."""

from typing import Any

from jaxtyping import Array, Float

from drsn_jax.system.extension import find_extension

_module = find_extension().module


def takes(x: Any, kernel: Any) -> bool:
    """Whether maps and a kernel of these shapes and types are left to `convolve`. Exports may leave sizes open: those are not."""
    if _module is None or x.dtype != kernel.dtype or not _module.supports(x.dtype):
        return False
    return all(isinstance(size, int) for size in (*x.shape, *kernel.shape))


def convolve(
    x: Float[Array, "b h w c"], kernel: Float[Array, "kh kw c d"], *, stride: tuple[int, int], pads: tuple[tuple[int, int], ...]
) -> Float[Array, "b h2 w2 d"]:
    """Convolves maps that `takes` accepts; `pads` are ((top, bottom), (left, right)) zeros. Differentiable to any order, in both modes.

    A computation that oneDNN does not gain by, such as one of few channels, is XLA's here too, each gradient for itself.
    """
    assert _module is not None, "to be asked for where `takes` says so"
    return _module.convolve(x, kernel, stride=stride, pads=pads)

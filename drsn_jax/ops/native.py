"""Convolutions by oneDNN on CPU, if the optional distribution `drsn-jax-native` is installed (native/README.md)."""

from typing import Any

from jaxtyping import Array, Float

from drsn_jax.system.extension import find_extension

_module = find_extension().module


def takes(x: Any, kernel: Any) -> bool:
    """Check whether `convolve` takes maps and a kernel of these shapes and types. Exports with symbolic sizes are left to XLA."""
    if _module is None or x.dtype != kernel.dtype or not _module.supports(x.dtype):
        return False
    return all(isinstance(size, int) for size in (*x.shape, *kernel.shape))


def convolve(
    x: Float[Array, "b h w c"], kernel: Float[Array, "kh kw c d"], *, stride: tuple[int, int], pads: tuple[tuple[int, int], ...]
) -> Float[Array, "b h2 w2 d"]:
    """Convolve maps that `takes` accepts; `pads` are ((top, bottom), (left, right)) zeros. Differentiable to any order, in both modes.

    Computations that gain nothing in oneDNN, such as few channels, stay with XLA. This is decided for each gradient separately.
    """
    assert _module is not None, "call `takes` first"
    return _module.convolve(x, kernel, stride=stride, pads=pads)

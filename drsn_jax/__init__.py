"""DRSN-GAN in JAX: blind motion deblurring with deep residual shrinkage blocks."""

from importlib import metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from drsn_jax.restoration.arrays import restore_image

__version__ = metadata.version("drsn-jax")
__all__ = ["restore_image"]


def __getattr__(name: str) -> Any:
    """Import `restore_image` on first use, so that the command line does not wait for jax."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from drsn_jax.restoration import arrays

    return getattr(arrays, name)

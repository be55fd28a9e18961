"""The Fourier transform of the frequency loss."""

import jax.numpy as jnp
import numpy as np
from jax.lax import Precision
from jaxtyping import Array, Float

Spectrum = Float[Array, "b h k c"]


def rfft2(images: Float[Array, "b h w c"], *, multiply: bool) -> tuple[Spectrum, Spectrum]:
    """Return real and imaginary part of the unnormalised rfft2 over height and width, k = w // 2 + 1.

    `multiply` (`Forms.multiply_fourier`) uses matrix products instead of an FFT.
    """
    if not multiply:
        spectrum = jnp.fft.rfft2(images, axes=(1, 2))
        return spectrum.real, spectrum.imag
    height, width = images.shape[1:3]
    cos, sin = (jnp.einsum("bhwc,wk->bhkc", images, waves, precision=Precision.HIGHEST) for waves in _waves(width, width // 2 + 1))
    (cos_cos, cos_sin), (sin_cos, sin_sin) = (
        [jnp.einsum("bhkc,hj->bjkc", part, waves, precision=Precision.HIGHEST) for waves in _waves(height, height)] for part in (cos, sin)
    )
    return cos_cos - sin_sin, cos_sin + sin_cos


def _waves(length: int, frequencies: int) -> tuple[np.ndarray, np.ndarray]:
    """Return cos and -sin of 2 pi x k / length, [length frequencies] each: real and imaginary part of the transform's matrix."""
    turns = np.outer(np.arange(length), np.arange(frequencies)) % length / length  # whole turns removed: they would cost digits
    return np.cos(2 * np.pi * turns).astype(np.float32), -np.sin(2 * np.pi * turns).astype(np.float32)

"""The losses, as pure functions of arrays (paper, section 4; SPEC section 2). Images are in [-1, 1]."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from drsn_jax.ops.fourier import rfft2

Images = Float[Array, "b h w 3"]
Scores = Float[Array, " b"]
Features = Float[Array, "b h2 w2 c"]  # coarser than the images they are of
Scalar = Float[Array, ""]

CHARBONNIER_EPSILON = 1e-3


def adversarial_loss(restored_scores: Scores) -> Scalar:
    """What the generator pays for restorations that the critic scores low: mean_n(-D(G(I_B))) (paper, section 4.1)."""
    return -restored_scores.mean()


def critic_loss(sharp_scores: Scores, restored_scores: Scores) -> Scalar:
    """The critic's Wasserstein loss, mean(D(G(I_B))) - mean(D(I_S)): minus the distance that it tells them apart by."""
    return restored_scores.mean() - sharp_scores.mean()


def draw_weights(key: PRNGKeyArray, number: int) -> Float[Array, "b 1 1 1"]:
    """One uniform weight in [0, 1) for each of so many samples: where between sharp and restored a gradient penalty looks."""
    return jax.random.uniform(key, (number, 1, 1, 1))


def gradient_penalty(critic_fn: Callable[[Images], Scores], sharp: Images, restored: Images, *, weight: Float[Array, "b 1 1 1"]) -> Scalar:
    """Mean squared departure from 1 of the norm of each sample's own gradient, between sharp and restored (WGAN-GP).

    Each sample is interpolated by its own `weight` (`draw_weights`; 1 is sharp), and the norm runs over height, width and channels of
    one sample. `critic_fn` must score the samples independently of each other, so it may not hold a batch norm.
    """
    between = weight * sharp + (1 - weight) * restored
    gradients = jax.grad(lambda images: critic_fn(images).sum())(between)
    # The square root has an infinite derivative at zero, where a critic that has not learned anything begins.
    norms = jnp.sqrt(jnp.square(gradients).sum((1, 2, 3)) + 1e-12)
    return jnp.square(norms - 1).mean()


def content_loss(sharp_features: Features, restored_features: Features) -> Scalar:
    """Mean squared difference of features over positions and channels (paper, section 4.2; the mean, as both references)."""
    return jnp.square(sharp_features.astype(jnp.float32) - restored_features.astype(jnp.float32)).mean()


def pixel_loss(sharp: Images, restored: Images) -> Scalar:
    """Charbonnier: mean sqrt(d^2 + 0.001^2), an L1 distance that is smooth at zero."""
    return jnp.sqrt(jnp.square(sharp - restored) + CHARBONNIER_EPSILON**2).mean()


def frequency_loss(sharp: Images, restored: Images, *, multiply: bool = False) -> Scalar:
    """L1 distance of the real and imaginary parts of the unnormalised rfft2 over height and width.

    The transform is not normalised, as is the habit of the field; so the value grows with the side of the crop.
    `multiply` makes it of matrix products rather than of an FFT (`Forms.multiply_fourier`): equal to rounding.
    """
    real, imaginary = rfft2(sharp.astype(jnp.float32) - restored.astype(jnp.float32), multiply=multiply)
    return (jnp.abs(real) + jnp.abs(imaginary)).mean() / 2

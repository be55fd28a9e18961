"""The losses, as pure functions of arrays (paper, section 4; SPEC section 2). Images are in [-1, 1]."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from drsn_jax.ops.fourier import rfft2

Images = Float[Array, "b h w 3"]
Scores = Float[Array, " b"]
Features = Float[Array, "b h2 w2 c"]  # at a lower resolution than their images
Scalar = Float[Array, ""]

CHARBONNIER_EPSILON = 1e-3


def adversarial_loss(restored_scores: Scores) -> Scalar:
    """Compute the generator's adversarial loss, low for restorations with high scores: mean_n(-D(G(I_B))) (paper, section 4.1)."""
    return -restored_scores.mean()


def critic_loss(sharp_scores: Scores, restored_scores: Scores) -> Scalar:
    """Compute the critic's Wasserstein loss, mean(D(G(I_B))) - mean(D(I_S)): minus the estimated distance."""
    return restored_scores.mean() - sharp_scores.mean()


def draw_weights(key: PRNGKeyArray, number: int) -> Float[Array, "b 1 1 1"]:
    """Draw a uniform weight in [0, 1) per sample: the points between sharp and restored of a gradient penalty."""
    return jax.random.uniform(key, (number, 1, 1, 1))


def gradient_penalty(critic_fn: Callable[[Images], Scores], sharp: Images, restored: Images, *, weight: Float[Array, "b 1 1 1"]) -> Scalar:
    """Compute the mean of (norm - 1)^2 over the gradient norms of the samples, between sharp and restored (WGAN-GP).

    Each sample is interpolated with its own `weight` (`draw_weights`; 1 is sharp), and the norm is over height, width and channels of
    one sample. `critic_fn` must score the samples independently of each other, so it may not contain a batch norm.
    """
    between = weight * sharp + (1 - weight) * restored
    gradients = jax.grad(lambda images: critic_fn(images).sum())(between)
    # The square root has an infinite derivative at zero, the gradient norm of an untrained critic.
    norms = jnp.sqrt(jnp.square(gradients).sum((1, 2, 3)) + 1e-12)
    return jnp.square(norms - 1).mean()


def content_loss(sharp_features: Features, restored_features: Features) -> Scalar:
    """Compute the mean squared difference of features over positions and channels (paper, section 4.2; a mean, as in both references)."""
    return jnp.square(sharp_features.astype(jnp.float32) - restored_features.astype(jnp.float32)).mean()


def pixel_loss(sharp: Images, restored: Images) -> Scalar:
    """Compute the Charbonnier loss, mean sqrt(d^2 + 0.001^2): an L1 distance that is smooth at zero."""
    return jnp.sqrt(jnp.square(sharp - restored) + CHARBONNIER_EPSILON**2).mean()


def frequency_loss(sharp: Images, restored: Images, *, multiply: bool = False) -> Scalar:
    """Compute the L1 distance of the real and imaginary parts of the unnormalised rfft2 over height and width.

    By convention of the field the transform is not normalised, so the value grows with the side of the crop.
    `multiply` uses matrix products instead of an FFT (`Forms.multiply_fourier`): equal to rounding.
    """
    real, imaginary = rfft2(sharp.astype(jnp.float32) - restored.astype(jnp.float32), multiply=multiply)
    return (jnp.abs(real) + jnp.abs(imaginary)).mean() / 2

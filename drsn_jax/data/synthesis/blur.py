"""Blur made on the device: a pair from a photograph, blurred by camera shake and moving objects in linear light.

Follows the blur model I_B = k * I_S + N (paper, section 2) and adds the camera. The exposure integrates light instead of gamma values, the
sensor saturates, and the file has eight bits. Everything is a pure function of a key, and runs inside jit.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, UInt8

from drsn_jax.data.synthesis.camera_shake import BlurRecipe, blur_linear, shake_kernels
from drsn_jax.data.synthesis.jpeg import jpeg
from drsn_jax.data.synthesis.objects import Shapes, add_object

GAMMA = 2.2


def synthesise(
    key: PRNGKeyArray,
    photograph: UInt8[Array, "H W 3"],
    recipe: BlurRecipe,
    length: Float[Array, ""] | None = None,
    shapes: Shapes | None = None,
) -> tuple[Float[Array, "h w 3"], Float[Array, "h w 3"]]:
    """Blur one photograph. Returns (blurred, sharp) in [0, 1], k/255, without `recipe.margin` pixels on each side.

    `length` of the path, in pixels, is drawn from the recipe if not given. Objects have one of the `shapes`, or are ellipses.
    """
    # One split for all: fold_in(key, i) equals split(key, n)[i], so folding into a key that is also split would reuse a part.
    kernel_key, saturation_key, noise_key, object_key, jpeg_key, softness_key = jax.random.split(key, 6)
    margin = recipe.margin
    sharp = photograph.astype(jnp.float32) / 255.0
    if recipe.softness[1]:
        sharp = jnp.round(soften(softness_key, sharp**GAMMA, recipe.softness) ** (1 / GAMMA) * 255.0) / 255.0
    light = sharp**GAMMA
    if recipe.saturation:
        # White pixels may be lamps with more light than the file could store. Only these: a bright sky below white is stored with all its
        # light, and brightening it would be an irreversible error.
        beyond = recipe.saturation * jax.random.uniform(saturation_key)
        light *= 1.0 + beyond * jnp.clip((sharp - 0.98) / 0.02, 0.0, 1.0)
    if recipe.length[1]:
        background = blur_linear(light, shake_kernels(kernel_key, recipe, length))
        light = add_object(object_key, light, background, recipe, shapes) if recipe.object_share else background
    inner = (slice(margin, -margin), slice(margin, -margin))
    blurred = jnp.clip(light[inner], 0.0, 1.0) ** (1 / GAMMA)
    if recipe.jpeg_quality[0] < 100:
        blurred = jpeg(jpeg_key, blurred, quality=recipe.jpeg_quality)
    return camera_noise(noise_key, blurred, noise_variance=recipe.noise_variance, noise_share=recipe.noise_share), sharp[inner]


def soften(key: PRNGKeyArray, light: Float[Array, "h w c"], softness: tuple[float, float]) -> Float[Array, "h w c"]:
    """Blur linear light with a Gaussian; its deviation in pixels is drawn uniformly from a range. Borders are reflected.

    A downsized photograph is sharper than any camera's pixels. A generator trained only on such photographs would over-sharpen others.
    """
    deviation = jax.random.uniform(key, minval=softness[0], maxval=softness[1])
    reach = math.ceil(3.0 * softness[1])
    weights = jnp.exp(-0.5 * jnp.square(jnp.arange(-reach, reach + 1, dtype=jnp.float32) / jnp.maximum(deviation, 1e-3)))
    weights /= weights.sum()
    for axis in (0, 1):
        padded = jnp.pad(light, [(reach, reach) if each == axis else (0, 0) for each in range(3)], mode="reflect")
        shifted = [jax.lax.slice_in_dim(padded, i, i + light.shape[axis], axis=axis) for i in range(2 * reach + 1)]
        light = sum((weight * part for weight, part in zip(weights, shifted, strict=True)), start=jnp.zeros_like(light))
    return light


def camera_noise(
    key: PRNGKeyArray, image: Float[Array, "h w 3"], *, noise_variance: tuple[float, float], noise_share: float = 1.0
) -> Float[Array, "h w 3"]:
    """Add Gaussian noise with a variance drawn from a range (image scale [0, 1]), then clip and quantise to k/255.

    A share `noise_share` of all draws has noise.
    """
    variance_key, noise_key, share_key = jax.random.split(key, 3)
    if noise_variance[1]:
        low, high = (math.sqrt(variance) for variance in noise_variance)
        deviation = jax.random.uniform(variance_key, (), minval=low, maxval=high)
        if noise_share < 1:
            deviation *= jax.random.bernoulli(share_key, noise_share).astype(jnp.float32)
        image += deviation * jax.random.normal(noise_key, image.shape)
    return jnp.round(jnp.clip(image, 0.0, 1.0) * 255.0) / 255.0

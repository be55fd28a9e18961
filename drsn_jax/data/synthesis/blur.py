"""Blur made on the device: a photograph becomes a pair, blurred by camera shake and moving objects, in linear light.

Follows the blur model I_B = k * I_S + N (paper, section 2) and adds the camera. The exposure integrates light rather than gamma values. The
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
    """Blurs one photograph: returns (blurred, sharp) in [0, 1], k/255, less `recipe.margin` pixels on each side.

    `length` of the path, in pixels, is drawn from the recipe where it is not given. Objects have one of the `shapes`, or are ellipses.
    """
    # All at once: fold_in(key, i) is split(key, n)[i], so a number folded into a key that is also split gives one of its parts again.
    kernel_key, saturation_key, noise_key, object_key, jpeg_key, softness_key = jax.random.split(key, 6)
    margin = recipe.margin
    sharp = photograph.astype(jnp.float32) / 255.0
    if recipe.softness[1]:
        sharp = jnp.round(soften(softness_key, sharp**GAMMA, recipe.softness) ** (1 / GAMMA) * 255.0) / 255.0
    light = sharp**GAMMA
    if recipe.saturation:
        # A white pixel may stand for a lamp: more light than the file could hold. Only there: a bright sky that is not white has all its
        # light in the file, and making it brighter would be an error that nothing can undo.
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
    """Blurs linear light with a Gaussian of a standard deviation drawn uniformly from a range, in pixels; borders are reflected.

    A photograph made small is sharper than any camera's pixels; a generator that has seen nothing softer sharpens what was sharp enough.
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
    """Adds Gaussian noise of a variance drawn from a range (image scale [0, 1]), then clips and quantises to k/255.

    Of all draws `noise_share` have noise, and the others none.
    """
    variance_key, noise_key, share_key = jax.random.split(key, 3)
    if noise_variance[1]:
        low, high = (math.sqrt(variance) for variance in noise_variance)
        deviation = jax.random.uniform(variance_key, (), minval=low, maxval=high)
        if noise_share < 1:
            deviation *= jax.random.bernoulli(share_key, noise_share).astype(jnp.float32)
        image += deviation * jax.random.normal(noise_key, image.shape)
    return jnp.round(jnp.clip(image, 0.0, 1.0) * 255.0) / 255.0

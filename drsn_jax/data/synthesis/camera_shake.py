"""Camera shake: random paths become blur kernels that vary over the image. Pure functions of a key, for use inside jit."""

import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from drsn_jax.system.errors import InputError

EXACT = jax.lax.Precision.HIGHEST  # accelerators would round light to ten bits or fewer
ANCHORS = 3  # kernels in each direction of an image with varying blur; interpolated in between


class BlurRecipe(NamedTuple):
    """The parameters of blur and noise. Lengths in pixels, variances on the image scale [0, 1].

    - `length`: range of the arc length of the camera's path on the sensor.
    - `skew`: 1 draws lengths uniformly; a higher value favours short ones (a share x**(1/skew) of them lies in the lowest x of the range).
    - `inertia`: range of the share of velocity that the camera keeps between moments of the exposure (1: a straight, even line). An
      exposure has at least 48 moments.
    - `moment`: position of the sharp image: the mean of the path, or the middle of the exposure as in GoPro (`_draw_moment`).
    - `cross`: ratio of vertical to horizontal speed (1: any direction; 0: a horizontal pan).
    - `variation`: blur by camera roll in the corners, as a fraction of the length.
    - `saturation`: how far the light of the brightest pixels may exceed white.
    - `object_share`: share of photographs with a separately moving object in front.
    - `softness`: range of the standard deviation (pixels) of a Gaussian lens that softens the photograph itself, sharp and blurred.
    - `jpeg_quality`: range of the JPEG quality (1 to 100, Pillow's scale) of blurred images, applied before the noise. A range of 100 to
      100 means none.
    - `noise_variance`: range of the variance of the Gaussian noise; its square root is drawn uniformly, so that weak noise is not rare.
    - `noise_share`: share of images with noise.
    """

    length: tuple[float, float] = (0.0, 25.0)
    skew: float = 1.0
    cross: float = 1.0
    inertia: tuple[float, float] = (0.9, 0.995)
    moment: Literal["mean", "middle"] = "mean"
    variation: float = 0.5
    saturation: float = 0.5
    object_share: float = 0.0
    softness: tuple[float, float] = (0.0, 0.0)
    jpeg_quality: tuple[float, float] = (100.0, 100.0)
    noise_variance: tuple[float, float] = (0.0, 0.002)
    noise_share: float = 1.0

    @property
    def margin(self) -> int:
        """Pixels of context that a blurred pixel depends on, in each direction.

        A straight path reaches half its length from its centre; rare paths that reach further than 0.6 are clipped. Roll adds at most
        1/sqrt(2) of its share.
        """
        return math.ceil(self.length[1] * (0.6 + self.variation / math.sqrt(2))) + 1

    def check(self) -> None:
        """Raise InputError for invalid ranges, and for values that are negative, not finite, or too large for memory.

        Memory grows with the squares of length and variation. `drsn_jax.config.values` has the same limits.
        """
        for name, most in (("length", 500), ("inertia", 1), ("noise_variance", 1), ("jpeg_quality", 100), ("softness", 10)):
            low, high = getattr(self, name)
            if not 0 <= low <= high <= most:
                raise InputError(f"blur {name}=({low:g}, {high:g}) is not a range; use 0 <= low <= high <= {most:g}.")
        for name, most in (("cross", 1000), ("skew", 10), ("variation", 2), ("saturation", 100), ("object_share", 1), ("noise_share", 1)):
            if not 0 <= getattr(self, name) <= most:
                raise InputError(f"blur {name}={getattr(self, name):g} is out of range; use 0 (none) to {most}.")


def shake_path(key: PRNGKeyArray, *, points: int, recipe: BlurRecipe) -> Float[Array, "points 3"]:
    """Draw a random camera path (y, x, roll): a velocity with inertia and a few jerks, as in hand-held shots.

    The arc length over (y, x) is 1; the position is 0 in the mean or at the recipe's moment. The largest roll has magnitude 1.
    """
    inertia_key, start_key, jerk_key, when_key, force_key, moment_key = jax.random.split(key, 6)
    inertia = jax.random.uniform(inertia_key, (), minval=recipe.inertia[0], maxval=recipe.inertia[1])
    there = jax.random.bernoulli(when_key, 1.5 / points, (points, 1)).astype(jnp.float32)
    jerks = 3.0 * jax.random.normal(jerk_key, (points, 3)) * there
    # Forces of this size keep the mean speed constant for any inertia; with an inertia of 1 there are none.
    forces = jnp.sqrt(1.0 - inertia**2) * (jax.random.normal(force_key, (points, 3)) + jerks)
    forces = forces.at[0].set(jax.random.normal(start_key, (3,)))  # the velocity at the start
    number = jnp.arange(points, dtype=jnp.float32)
    lag = number[:, None] - number[None]
    velocity = jnp.matmul(jnp.where(lag >= 0, inertia ** jnp.abs(lag), 0.0), forces, precision=EXACT)
    velocity *= jnp.array([[recipe.cross, 1.0, 1.0]])
    path = jnp.cumsum(velocity, axis=0)
    zero = path.mean(0) if recipe.moment == "mean" else path[_draw_moment(moment_key, points)]
    path -= zero[None]
    steps = jnp.sqrt(jnp.square(velocity[1:, :2]).sum(-1) + 1e-12)
    scale = jnp.stack([steps.sum(), steps.sum(), jnp.abs(path[:, 2]).max() + 1e-6])
    return path / scale[None]


def _draw_moment(key: PRNGKeyArray, points: int) -> Int[Array, ""]:
    """Draw the point of a path for the sharp image: the middle, or half a frame later.

    It is frame n // 2 of the mean of n = 7 to 13 frames (Nah et al., 2017). For even n no frame is in the middle. For a blur of 40 pixels
    the offset is up to 2.5 pixels.
    """
    number = jax.random.randint(key, (), 7, 14)
    middle = (number // 2).astype(jnp.float32) + 0.5
    return (middle / number.astype(jnp.float32) * points).astype(jnp.int32)


def path_to_kernel(path: Float[Array, "points 2"], *, margin: int) -> Float[Array, "k k"]:
    """Spread the points of a path (y, x in pixels from the centre) bilinearly over a kernel of 2 margin + 1; the sum is 1."""
    grid = jnp.arange(-margin, margin + 1, dtype=jnp.float32)
    inside = jnp.clip(path, -margin, margin)
    spread = jnp.maximum(0.0, 1.0 - jnp.abs(inside[:, :, None] - grid[None, None]))  # [points 2 k]
    return jnp.einsum("pi,pj->ij", spread[:, 0], spread[:, 1], precision=EXACT) / len(path)


def shake_kernels(key: PRNGKeyArray, recipe: BlurRecipe, length: Float[Array, ""] | None = None) -> Float[Array, "a a k k"]:
    """Make the kernels of one random shot on a grid over the image (a is 1 if `variation` is 0).

    `length`, in pixels and within the recipe's range, is drawn if not given.
    """
    path_key, length_key, roll_key = jax.random.split(key, 3)
    points = max(48, math.ceil(1.5 * recipe.margin))
    path = shake_path(path_key, points=points, recipe=recipe)
    if length is None:
        low, high = recipe.length
        length = low + (high - low) * jax.random.uniform(length_key) ** recipe.skew
    anchors = ANCHORS if recipe.variation else 1
    places = jnp.linspace(-1.0, 1.0, anchors) if recipe.variation else jnp.zeros(1)
    y, x = jnp.meshgrid(places, places, indexing="ij")
    # A small roll moves a point at (y, x) from the centre by roll * (x, -y); sqrt(2) is the distance of the corners.
    amount = recipe.variation * jax.random.uniform(roll_key) / math.sqrt(2)
    roll = amount * path[:, 2, None, None, None] * jnp.stack([x, -y], axis=-1)[None]  # [points a a 2]
    paths = length * (path[:, None, None, :2] + roll)
    to_kernel = jax.vmap(jax.vmap(lambda p: path_to_kernel(p, margin=recipe.margin), in_axes=1), in_axes=1)
    return to_kernel(paths)


def blur_linear(light: Float[Array | np.ndarray, "h w c"], kernels: Float[Array | np.ndarray, "a a k k"]) -> Float[Array, "h w c"]:
    """Convolve linear light with kernels that are interpolated bilinearly over the image (efficient filter flow).

    The FFT makes it circular, so crop the outer margin of the result.
    """
    height, width, _ = light.shape
    margin = kernels.shape[-1] // 2
    spectrum = jnp.fft.rfft2(light, axes=(0, 1))
    pads = (height - kernels.shape[-2], width - kernels.shape[-1])
    padded = jnp.pad(kernels, ((0, 0), (0, 0), (0, pads[0]), (0, pads[1])))
    transfer = jnp.fft.rfft2(jnp.roll(padded, (-margin, -margin), axis=(2, 3)), axes=(2, 3))[..., None]
    blurred = jnp.fft.irfft2(spectrum[None, None] * transfer, s=(height, width), axes=(2, 3))  # [a a h w 3]
    rows, columns = _interpolation(len(kernels), height), _interpolation(len(kernels), width)
    return jnp.einsum("ijhwc,ih,jw->hwc", blurred, rows, columns, precision=EXACT)


def _interpolation(anchors: int, size: int) -> Float[Array, "a size"]:
    """Return the weights of each anchor at each pixel; they sum to 1."""
    if anchors == 1:
        return jnp.ones((1, size))
    place = jnp.linspace(0.0, anchors - 1.0, size)
    return jnp.maximum(0.0, 1.0 - jnp.abs(place[None] - jnp.arange(anchors, dtype=jnp.float32)[:, None]))

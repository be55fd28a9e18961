"""Objects that move separately in front of a photograph: parts of it, cut out as ellipses or by masks of real objects."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray, UInt8
from PIL import Image
from scipy import ndimage

from drsn_jax.data.images.bad_images import BadImages
from drsn_jax.data.images.listing import list_images
from drsn_jax.data.images.rgb import read_rgb
from drsn_jax.data.synthesis.camera_shake import BlurRecipe, blur_linear, shake_kernels
from drsn_jax.system.errors import InputError

SIDE = 128  # pixels of a stored shape
_REACH = 16  # pixels of a stored shape: the largest stored distance, and the margin around the object
_SLOPE = 3.0  # width of an object's edge, from 0 to 1, in pixels of an image
_SMALLEST, _LARGEST = 0.2, 0.8  # length of an object, relative to the shorter side of the image

Shapes = UInt8[Array | np.ndarray, "n s s"]
"""Shapes of objects as distances from their edge: 128 is on the edge, and each step is 1/8 pixel, positive inside."""


def read_shapes(folders: Sequence[Path], *, bad_images_fn: Callable[[int], BadImages]) -> Shapes:
    """Read the masks of objects below folders: black images with one bright object. Masks without an object are skipped.

    All shapes have one size, with the object's box in the middle: position and size of the object are not kept. `bad_images_fn` gets the
    number of masks. Raises InputError for a missing folder, and if no mask has an object.
    """
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"There is no folder {folder}; give folders of masks of objects (--config.object_masks=DIR).")
    paths = [path for folder in folders for path in list_images(folder)]
    bad_images = bad_images_fn(len(paths))
    read = [bad_images.read(str(path), partial(read_rgb, path)) for path in paths]
    shapes = [to_shape(mask) for image in read if image is not None and (mask := image.max(-1) >= 64).any()]
    if not shapes:
        raise InputError(
            f"{', '.join(map(str, folders))}: none of {len(paths)} images is the mask of an object. Give folders of black images with"
            " one bright object (--config.object_masks=DIR)."
        )
    return np.stack(shapes)


def to_shape(mask: Bool[np.ndarray, "h w"]) -> UInt8[np.ndarray, "s s"]:
    """Convert a mask with an object to one of `Shapes`."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    inner = SIDE - 2 * _REACH
    size = [max(1, round(inner * extent / max(box.shape))) for extent in box.shape]
    small = np.asarray(Image.fromarray(box.astype(np.uint8) * 255).resize((size[1], size[0]), Image.Resampling.BILINEAR)) >= 128
    if not small.any():  # thinner than a pixel of a shape
        small = np.ones_like(small)
    top, left = ((SIDE - extent) // 2 for extent in size)
    whole = np.zeros((SIDE, SIDE), bool)
    whole[top : top + size[0], left : left + size[1]] = small
    # The edge between two pixels is half a pixel from the middle of each.
    inside, outside = (np.asarray(ndimage.distance_transform_edt(part)) for part in (whole, ~whole))
    distance = np.where(whole, inside - 0.5, 0.5 - outside)
    return np.rint(128 + 8 * np.clip(distance, -_REACH, _REACH - 1 / 8)).astype(np.uint8)


def add_object(
    key: PRNGKeyArray,
    light: Float[Array, "h w 3"],
    background: Float[Array, "h w 3"],
    recipe: BlurRecipe,
    shapes: Shapes | None = None,
) -> Float[Array, "h w 3"]:
    """Add an object to a share `object_share` of all photographs: a part of the sharp one with its own motion, in front of the blurred one.

    The part is one of `shapes`, or an ellipse without them, with random position and direction and an edge of a few pixels. Its mask is
    blurred like the object, so it covers the background as long as the object did during the exposure.
    """
    there_key, mask_key, kernel_key = jax.random.split(key, 3)
    there = jax.random.bernoulli(there_key, recipe.object_share).astype(jnp.float32)
    size = light.shape[:2]
    mask = (random_ellipse(mask_key, *size) if shapes is None else random_shape(mask_key, shapes, *size)) * there
    kernel = shake_kernels(kernel_key, recipe._replace(variation=0.0))
    kernel = jnp.pad(kernel, [(0, 0)] * 2 + [((recipe.margin - kernel.shape[-1] // 2),) * 2] * 2)
    layers = blur_linear(jnp.concatenate([light, jnp.ones_like(light[..., :1])], axis=-1) * mask[..., None], kernel)
    return layers[..., :3] + (1.0 - layers[..., 3:]) * background


def random_ellipse(key: PRNGKeyArray, height: int, width: int) -> Float[Array, "h w"]:
    """Return 1 inside a random ellipse, 0 outside, with a slope of three pixels. Its axes are 0.1 to 0.4 of the shorter side."""
    centre_key, size_key, angle_key = jax.random.split(key, 3)
    side = min(height, width)
    y, x = jnp.meshgrid(*(jnp.arange(size, dtype=jnp.float32) for size in (height, width)), indexing="ij")
    centre = jax.random.uniform(centre_key, (2,)) * jnp.array([height, width], jnp.float32)
    axes = jax.random.uniform(size_key, (2,), minval=0.1, maxval=0.4) * side
    angle = jax.random.uniform(angle_key, maxval=math.pi)
    down, right = y - centre[0], x - centre[1]
    along, across = jnp.cos(angle) * right + jnp.sin(angle) * down, jnp.cos(angle) * down - jnp.sin(angle) * right
    distance = (1.0 - jnp.sqrt(jnp.square(along / axes[0]) + jnp.square(across / axes[1]))) * axes.min()  # in pixels, approximately
    return jnp.clip(distance / _SLOPE + 0.5, 0.0, 1.0)


def random_shape(key: PRNGKeyArray, shapes: Shapes, height: int, width: int) -> Float[Array, "h w"]:
    """Return 1 inside one of the shapes, 0 outside, with a slope of three pixels. Position, direction and mirroring are random.

    The longer side of the object's box is 0.2 to 0.8 of the shorter side of the image, like an ellipse's full axes.
    """
    which_key, centre_key, size_key, angle_key, mirror_key = jax.random.split(key, 5)
    shape = jnp.asarray(shapes)[jax.random.randint(which_key, (), 0, len(shapes))].astype(jnp.float32)
    length = jax.random.uniform(size_key, minval=_SMALLEST, maxval=_LARGEST) * min(height, width)
    scale = length / (SIDE - 2 * _REACH)  # pixels of the image per pixel of the shape
    angle = jax.random.uniform(angle_key, maxval=2 * math.pi)
    centre = jax.random.uniform(centre_key, (2,)) * jnp.array([height, width], jnp.float32)
    y, x = jnp.meshgrid(*(jnp.arange(size, dtype=jnp.float32) for size in (height, width)), indexing="ij")
    down, right = (y - centre[0]) / scale, (x - centre[1]) / scale
    down, right = jnp.cos(angle) * down - jnp.sin(angle) * right, jnp.sin(angle) * down + jnp.cos(angle) * right
    right *= jnp.where(jax.random.bernoulli(mirror_key), -1.0, 1.0)
    middle = (SIDE - 1) / 2
    stored = jax.scipy.ndimage.map_coordinates(shape, [down + middle, right + middle], order=1, mode="nearest")
    return jnp.clip((stored - 128.0) / 8.0 * scale / _SLOPE + 0.5, 0.0, 1.0)

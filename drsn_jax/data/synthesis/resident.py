"""A data set held on the device as uint8, sampled, augmented and blurred inside jit. No TensorFlow.

Photographs of any sizes are laid end to end in one flat array, so that nothing is padded or cut before training. A batch is a pure function
of (bank, key): a run resumes at any step with nothing saved.
"""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int, PRNGKeyArray, Shaped, UInt8

from drsn_jax.data.synthesis.blur import camera_noise, synthesise
from drsn_jax.data.synthesis.camera_shake import BlurRecipe
from drsn_jax.data.synthesis.detail import choose_key
from drsn_jax.system.errors import InputError


@struct.dataclass
class Bank:
    """Images laid end to end. `channels` is 3 (sharp photographs) or 6 (blurred and sharp)."""

    pixels: UInt8[Array, " n"]
    offsets: Int[Array, " images"]  # of each image's first pixel
    heights: Int[Array, " images"]
    widths: Int[Array, " images"]
    channels: int = struct.field(pytree_node=False)


def make_bank(images: Sequence[UInt8[np.ndarray, "_ _ c"]], *, names: Sequence[str], crop_size: int) -> Bank:
    """Lays images [h w 3], or pairs [h w 6] (blurred, sharp), end to end.

    Raises InputError if there are none, or if one (its name is given) is smaller than the crop.
    """
    if not images:
        raise InputError("There are no training images; give a folder of photographs or pairs (--config.train_dir=DIR).")
    for name, image in zip(names, images, strict=True):
        if (side := min(image.shape[:2])) < crop_size:
            raise InputError(
                f"{name} is {image.shape[1]}x{image.shape[0]}, smaller than the crop of {crop_size};"
                f" use --config.crop_size={side // 16 * 16 or side} or less (also in --config.stages), or take it out."
            )
    heights, widths = (np.array([image.shape[axis] for image in images], np.int32) for axis in (0, 1))
    areas = heights.astype(np.int64) * widths
    check_room(int(areas.sum()), channels=images[0].shape[-1])
    offsets = (np.cumsum(areas) - areas).astype(np.int32)
    pixels = np.concatenate([image.reshape(-1) for image in images])
    return Bank(*map(jnp.asarray, (pixels, offsets, heights, widths)), channels=images[0].shape[-1])


def check_room(pixels: int, *, channels: int) -> None:
    """Raises InputError for more bytes than 32-bit indices reach: 715 megapixels of photographs, 357 of pairs."""
    if pixels * channels >= 2**31:
        limit = 2**31 / channels / 1e6
        raise InputError(
            f"{pixels / 1e6:.0f} megapixels are more than the {limit:.0f} that resident data can index; use --config.data=pairs (tf.data)."
        )


def _mirror(index: jax.Array, size: jax.Array) -> jax.Array:
    """Reflects indices beyond 0 and size - 1 back inside, as often as it takes."""
    period = jnp.maximum(2 * size - 2, 1)
    index = jnp.abs(index) % period
    return jnp.minimum(index, period - index)


def sample_window(bank: Bank, key: PRNGKeyArray, *, size: int, margin: int, flip: bool, rotate: bool) -> UInt8[Array, "side side c"]:
    """Cuts a random square of size + 2 margin, mirrored where the margin leaves the image; then flips and quarter turns.

    An image is drawn as often as its share of all pixels.
    """
    image_key, row_key, column_key, flip_key, turn_key = jax.random.split(key, 5)
    shares = bank.heights.astype(jnp.float32) * bank.widths.astype(jnp.float32)
    image = jax.random.choice(image_key, len(bank.heights), p=shares / shares.sum())
    height, width = bank.heights[image], bank.widths[image]
    side = jnp.arange(size + 2 * margin) - margin
    rows = _mirror(jax.random.randint(row_key, (), 0, height - size + 1) + side, height)
    columns = _mirror(jax.random.randint(column_key, (), 0, width - size + 1) + side, width)
    pixel = bank.offsets[image] + rows[:, None] * width + columns[None]
    window = bank.pixels[pixel[..., None] * bank.channels + jnp.arange(bank.channels)[None, None]]
    return turn(flip_key, turn_key, window, flip=flip, rotate=rotate)


def turn(
    flip_key: PRNGKeyArray, turn_key: PRNGKeyArray, window: Shaped[Array, "side side c"], *, flip: bool, rotate: bool
) -> Shaped[Array, "side side c"]:
    """Mirrors a square left to right in half of all draws (`flip`), and turns it by 0 to 3 quarters (`rotate`)."""
    if flip:
        window = jnp.where(jax.random.bernoulli(flip_key), window[:, ::-1], window)
    if rotate:
        turns = jax.random.randint(turn_key, (), 0, 4)
        window = jnp.where(turns >= 2, window[::-1, ::-1], window)
        window = jnp.where(turns % 2 == 1, jnp.rot90(window), window)
    return window


def make_batch_fn(
    *, batch_size: int, crop_size: int, recipe: BlurRecipe, flip: bool = True, rotate: bool = True, candidates: int = 1
) -> Callable[[Bank, PRNGKeyArray], dict[str, Float[Array, "b h w 3"]]]:
    """Builds the pure function (bank, key) -> {'blurred', 'sharp'}, [b h w 3] in [-1, 1], to be jitted by its caller.

    A bank of photographs is blurred by the recipe; of a bank of pairs only the recipe's noise is used. Of so many `candidates` the crop
    with the most detail is taken.
    """
    recipe.check()

    def example(bank: Bank, key: PRNGKeyArray) -> dict[str, Float[Array, "h w 3"]]:
        window_key, blur_key = jax.random.split(key)
        pairs = bank.channels == 6
        margin = 0 if pairs else recipe.margin
        cut_fn = partial(sample_window, bank, size=crop_size, flip=flip, rotate=rotate)
        window_key = choose_key(lambda key: cut_fn(key, margin=0)[..., -3:], window_key, candidates=candidates)
        window = cut_fn(window_key, margin=margin)
        if pairs:
            blurred, sharp = jnp.split(window.astype(jnp.float32) / 255.0, 2, axis=-1)
            blurred = camera_noise(blur_key, blurred, noise_variance=recipe.noise_variance, noise_share=recipe.noise_share)
        else:
            blurred, sharp = synthesise(blur_key, window, recipe)
        return {"blurred": blurred * 2 - 1, "sharp": sharp * 2 - 1}

    def batch(bank: Bank, key: PRNGKeyArray) -> dict[str, Float[Array, "b h w 3"]]:
        return jax.vmap(example, in_axes=(None, 0))(bank, jax.random.split(key, batch_size))

    return batch

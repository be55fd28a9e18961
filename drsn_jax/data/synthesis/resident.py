"""A data set held on the device as uint8, sampled, augmented and blurred inside jit. No TensorFlow.

A batch is a pure function of (bank, key): a run resumes at any step with nothing saved.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, PRNGKeyArray, Shaped, UInt8

from drsn_jax.data.synthesis.bank import Bank, cut, cut_mirrored
from drsn_jax.data.synthesis.blur import camera_noise, synthesise
from drsn_jax.data.synthesis.camera_shake import BlurRecipe
from drsn_jax.data.synthesis.detail import choose_key
from drsn_jax.data.synthesis.objects import Shapes
from drsn_jax.training.sharding import spread_rows


def sample_window(
    bank: Bank, key: PRNGKeyArray, *, size: int, margin: int, flip: bool, rotate: bool, drawn: Bool[Array, ""] | None = None
) -> UInt8[Array, "side side c"]:
    """Cut a random square of size + 2 margin, and flip and turn it by quarters. A margin beyond the image is mirrored.

    The probability of an image is its share of all pixels. If `drawn` is given, only drawings (true) or photographs (false) are used.
    """
    image_key, row_key, column_key, flip_key, turn_key = jax.random.split(key, 5)
    shares = bank.heights.astype(jnp.float32) * bank.widths.astype(jnp.float32)
    if drawn is not None:
        shares *= ((jnp.arange(len(shares)) >= len(shares) - bank.drawn) == drawn).astype(jnp.float32)
    image = jax.random.choice(image_key, len(bank.heights), p=shares / shares.sum())
    height, width = bank.heights[image], bank.widths[image]
    row, column = jax.random.randint(row_key, (), 0, height - size + 1), jax.random.randint(column_key, (), 0, width - size + 1)
    if margin:
        window = cut_mirrored(bank, image, row - margin, column - margin, side=size + 2 * margin)
    else:
        window = cut(bank, image, row, column, height=size, width=size)
    return turn(flip_key, turn_key, window, flip=flip, rotate=rotate)


def turn(
    flip_key: PRNGKeyArray, turn_key: PRNGKeyArray, window: Shaped[Array, "side side c"], *, flip: bool, rotate: bool
) -> Shaped[Array, "side side c"]:
    """Mirror a square left to right in half of all draws (`flip`), and turn it by 0 to 3 quarters (`rotate`)."""
    if flip:
        window = jnp.where(jax.random.bernoulli(flip_key), window[:, ::-1], window)
    if rotate:
        turns = jax.random.randint(turn_key, (), 0, 4)
        window = jnp.where(turns >= 2, window[::-1, ::-1], window)
        window = jnp.where(turns % 2 == 1, jnp.rot90(window), window)
    return window


def make_batch_fn(
    *,
    batch_size: int,
    crop_size: int,
    recipe: BlurRecipe,
    flip: bool = True,
    rotate: bool = True,
    candidates: int = 1,
    drawn_share: float = 0.0,
    mesh: Mesh | None = None,
) -> Callable[..., dict[str, Float[Array, "b h w 3"]]]:
    """Build the pure function (bank, key, shapes=None) -> {'blurred', 'sharp'}, [b h w 3] in [-1, 1], to be jitted by its caller.

    A bank of photographs is blurred by the recipe, with objects cut out as `Shapes` or ellipses. A bank of pairs only gets the recipe's
    noise. The crop with the most detail of `candidates` random ones is used. `drawn_share` is the share of crops from the bank's drawings,
    independent of their detail; use 0 for a bank without drawings. Each device of a `mesh` makes its own rows, equal to those of a single
    device.
    """
    recipe.check()

    def example(bank: Bank, shapes: Shapes | None, key: PRNGKeyArray) -> dict[str, Float[Array, "h w 3"]]:
        window_key, blur_key = jax.random.split(key)
        pairs = bank.channels == 6
        margin = 0 if pairs else recipe.margin
        drawn = None
        if drawn_share:
            drawn_key, window_key = jax.random.split(window_key)
            drawn = jax.random.bernoulli(drawn_key, drawn_share)
        cut_fn = partial(sample_window, bank, size=crop_size, flip=flip, rotate=rotate, drawn=drawn)
        window_key = choose_key(lambda key: cut_fn(key, margin=0)[..., -3:], window_key, candidates=candidates)
        window = cut_fn(window_key, margin=margin)
        if pairs:
            blurred, sharp = jnp.split(window.astype(jnp.float32) / 255.0, 2, axis=-1)
            blurred = camera_noise(blur_key, blurred, noise_variance=recipe.noise_variance, noise_share=recipe.noise_share)
        else:
            blurred, sharp = synthesise(blur_key, window, recipe, shapes=shapes)
        return {"blurred": blurred * 2 - 1, "sharp": sharp * 2 - 1}

    def batch(bank: Bank, key: PRNGKeyArray, shapes: Shapes | None = None) -> dict[str, Float[Array, "b h w 3"]]:
        return spread_rows(jax.vmap(example, in_axes=(None, None, 0)), whole=2, mesh=mesh)(bank, shapes, jax.random.split(key, batch_size))

    return batch

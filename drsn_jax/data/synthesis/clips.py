"""Consecutive video frames on the device, blurred by averaging as GoPro's were, and cropped, inside jit. No TensorFlow."""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8

from drsn_jax.data.images.bad_images import BadImages
from drsn_jax.data.images.listing import list_images
from drsn_jax.data.images.rgb import read_rgb
from drsn_jax.data.synthesis.bank import check_room
from drsn_jax.data.synthesis.blur import GAMMA, camera_noise
from drsn_jax.data.synthesis.camera_shake import EXACT
from drsn_jax.data.synthesis.detail import choose_key
from drsn_jax.data.synthesis.resident import turn
from drsn_jax.system.errors import InputError


@struct.dataclass
class Clip:
    """Frames in order. `following[i]` is how many frames from i on, itself included, come without a gap in between."""

    frames: UInt8[Array, "n h w 3"]
    following: Int[Array, " n"]


def read_clip(
    folder: Path, *, crop_size: int, averaged: tuple[int, int] = (1, 1), bad_images_fn: Callable[[int], BadImages] | None = None
) -> Clip:
    """Reads a folder of frames named by their numbers (000001.jpg ...). Where a number is missing no average reaches across, and where
    `bad_images_fn`, given how many frames there are, says that a damaged one is passed over, it is missing.

    Raises InputError if there are none, if names hold no number, if frames differ in size or are smaller than the crop, or if nowhere
    as many come without a gap as are to be averaged.
    """
    paths, numbers, images = zip(*_read_frames(folder, bad_images_fn), strict=True)
    for path, image in zip(paths, images, strict=True):
        if image.shape != images[0].shape or min(image.shape[:2]) < crop_size:
            raise InputError(
                f"{path} is {image.shape[1]}x{image.shape[0]}; frames must be of one size ({images[0].shape[1]}x{images[0].shape[0]},"
                f" as the first) and hold a crop of {crop_size} (--config.crop_size)."
            )
    if not all(isinstance(number, int) for number in averaged):
        raise InputError(f"frames_averaged={averaged[0]},{averaged[1]} must be whole numbers of frames (--config.frames_averaged=7,13).")
    height, width, _ = images[0].shape
    check_room(len(images) * height * width, channels=3)
    following = np.ones(len(images), np.int32)
    for i in range(len(images) - 2, -1, -1):
        if numbers[i + 1] == numbers[i] + 1:
            following[i] += following[i + 1]
    if following.max() < averaged[1] or averaged[0] < 1:
        raise InputError(
            f"frames_averaged={averaged[0]},{averaged[1]} averages up to {averaged[1]} frames, and {folder} has runs of at most"
            f" {following.max()} without a gap; use 1 to {following.max()} (--config.frames_averaged)."
        )
    return Clip(jnp.asarray(np.stack(images)), jnp.asarray(following))


def _read_frames(folder: Path, bad_images_fn: Callable[[int], BadImages] | None) -> list[tuple[Path, int, UInt8[np.ndarray, "h w 3"]]]:
    """Path, number and pixels of every frame that can be read, in order."""
    paths = list_images(folder, deep=False) if folder.is_dir() else []
    numbers = [int(found.group()) if (found := re.search(r"\d+(?=\D*$)", path.stem)) else None for path in paths]
    if not paths or None in numbers:
        raise InputError(f"{folder} holds no frames named by their numbers, such as 000001.jpg; give a folder of a clip's frames.")
    bad_images = bad_images_fn(len(paths)) if bad_images_fn else BadImages(len(paths), what="frames", skip=False)
    read = [(path, number, bad_images.read(str(path), partial(read_rgb, path))) for path, number in zip(paths, numbers, strict=True)]
    return [(path, number, image) for path, number, image in read if number is not None and image is not None]


def make_clip_batch_fn(
    *,
    batch_size: int,
    crop_size: int,
    averaged: tuple[int, int],
    noise_variance: tuple[float, float],
    noise_share: float = 1.0,
    flip: bool = True,
    rotate: bool = True,
    candidates: int = 1,
) -> Callable[[Clip, PRNGKeyArray], dict[str, Float[Array, "b h w 3"]]]:
    """Builds the pure function (clip, key) -> {'blurred', 'sharp'}, [b h w 3] in [-1, 1], to be jitted by its caller.

    A blurred crop is the gamma 2.2 mean of as many consecutive frames as is drawn from `averaged`, low to high; its sharp one is of
    their centre frame (the later of two), as in GoPro's pairs. Of so many `candidates` the crop with the most detail is taken.
    """

    def example(clip: Clip, key: PRNGKeyArray) -> dict[str, Float[Array, "h w 3"]]:
        place_key, flip_key, turn_key, noise_key = jax.random.split(key, 4)
        draw_place = partial(_draw_place, clip, crop_size=crop_size, averaged=averaged)

        def cut_sharp(key: PRNGKeyArray) -> UInt8[Array, "h w 3"]:
            number, first, row, column = draw_place(key)
            return jax.lax.dynamic_slice(clip.frames, (first + number // 2, row, column, 0), (1, crop_size, crop_size, 3))[0]

        number, first, row, column = draw_place(choose_key(cut_sharp, place_key, candidates=candidates))
        begin = jnp.minimum(first, len(clip.frames) - averaged[1])
        window = jax.lax.dynamic_slice(clip.frames, (begin, row, column, 0), (averaged[1], crop_size, crop_size, 3))
        window = window.astype(jnp.float32) / 255.0
        place = begin + jnp.arange(averaged[1]) - first
        taken = ((place >= 0) & (place < number)).astype(jnp.float32) / number.astype(jnp.float32)
        blurred = jnp.einsum("nhwc,n->hwc", window**GAMMA, taken, precision=EXACT) ** (1 / GAMMA)
        pair = jnp.concatenate([blurred, window[first - begin + number // 2]], axis=-1)
        pair = turn(flip_key, turn_key, pair, flip=flip, rotate=rotate)
        blurred = camera_noise(noise_key, pair[..., :3], noise_variance=noise_variance, noise_share=noise_share)
        return {"blurred": blurred * 2 - 1, "sharp": pair[..., 3:] * 2 - 1}

    def batch(clip: Clip, key: PRNGKeyArray) -> dict[str, Float[Array, "b h w 3"]]:
        return jax.vmap(example, in_axes=(None, 0))(clip, jax.random.split(key, batch_size))

    return batch


def _draw_place(clip: Clip, key: PRNGKeyArray, *, crop_size: int, averaged: tuple[int, int]) -> tuple[jax.Array, ...]:
    """How many frames to average, the first of them, and where to cut: row and column."""
    number_key, first_key, row_key, column_key = jax.random.split(key, 4)
    total, height, width, _ = clip.frames.shape
    number = jax.random.randint(number_key, (), averaged[0], averaged[1] + 1)
    fits = (clip.following >= number).astype(jnp.float32)
    first = jax.random.choice(first_key, total, p=fits / fits.sum())
    row = jax.random.randint(row_key, (), 0, height - crop_size + 1)
    column = jax.random.randint(column_key, (), 0, width - crop_size + 1)
    return number, first, row, column

"""Consecutive video frames on the device, averaged to blur as in GoPro, and cropped, inside jit. No TensorFlow."""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, UInt8

from drsn_jax.data.synthesis.bank import Bank, cut, make_bank
from drsn_jax.data.synthesis.blur import GAMMA, camera_noise
from drsn_jax.data.synthesis.camera_shake import EXACT
from drsn_jax.data.synthesis.detail import choose_key
from drsn_jax.data.synthesis.resident import turn
from drsn_jax.system.errors import InputError
from drsn_jax.training.sharding import spread_rows


@struct.dataclass
class Clip:
    """Frames of one clip or several, in order. `following[i]` is the number of frames from i, itself included, up to the next gap.

    `weights[i]` is the relative frequency of windows that begin with frame i; None: all are equal. `sharp[i]` tells if frame i may be the
    ground truth in the middle of a window; None: every frame may.
    """

    frames: Bank
    following: Int[Array, " n"]
    weights: Float[Array, " n"] | None = None
    sharp: Bool[Array, " n"] | None = None


def make_clip(
    frames: Sequence[UInt8[np.ndarray, "_ _ 3"]],
    following: Int[np.ndarray, " n"],
    *,
    weights: Float[np.ndarray, " n"] | None = None,
    sharp: Bool[np.ndarray, " n"] | None = None,
) -> Clip:
    """Put frames on the device. Raises InputError if there are none, or if they do not fit into memory."""
    bank = make_bank(frames, names=[f"frame {i}" for i in range(len(frames))], crop_size=1)
    return Clip(bank, jnp.asarray(following), *(None if x is None else jnp.asarray(x) for x in (weights, sharp)))


def window_numbers(averaged: tuple[int, int], *, odd: bool) -> list[int]:
    """List the allowed numbers of frames of a window. Raises InputError for an empty range, or if a limit is not a positive integer."""
    if not all(isinstance(number, int) for number in averaged) or averaged[0] < 1:
        raise InputError(
            f"frames_averaged={averaged[0]},{averaged[1]} must be whole numbers of frames, 1 or more (--config.frames_averaged=7,13)."
        )
    numbers = [number for number in range(averaged[0], averaged[1] + 1) if number % 2 or not odd]
    if not numbers:
        raise InputError(
            f"frames_averaged={averaged[0]},{averaged[1]} with frames_odd=True contains no odd number; use --config.frames_averaged=7,13."
        )
    return numbers


def make_clip_batch_fn(
    *,
    batch_size: int,
    crop_size: int,
    averaged: tuple[int, int],
    noise_variance: tuple[float, float],
    noise_share: float = 1.0,
    odd: bool = False,
    flip: bool = True,
    rotate: bool = True,
    candidates: int = 1,
    mesh: Mesh | None = None,
) -> Callable[[Clip, PRNGKeyArray], dict[str, Float[Array, "b h w 3"]]]:
    """Build the pure function (clip, key) -> {'blurred', 'sharp'}, [b h w 3] in [-1, 1], to be jitted by its caller.

    A blurred crop is the gamma 2.2 mean of consecutive frames; their number is drawn from the range `averaged`. The sharp crop is from the
    centre frame (the later of two), as in GoPro's pairs. With only `odd` numbers the sharp frame is in the middle of the exposure, at the
    mean position of a uniform motion. The crop with the most detail of `candidates` random ones is used. Each device of a `mesh` makes its
    own rows, equal to those of a single device.
    """
    numbers = window_numbers(averaged, odd=odd)
    most = numbers[-1]

    def example(clip: Clip, key: PRNGKeyArray) -> dict[str, Float[Array, "h w 3"]]:
        place_key, flip_key, turn_key, noise_key = jax.random.split(key, 4)
        draw_place = partial(_draw_place, clip, crop_size=crop_size, numbers=numbers)

        def cut_frame(frame: Int[Array, ""], row: Int[Array, ""], column: Int[Array, ""]) -> UInt8[Array, "h w 3"]:
            return cut(clip.frames, frame, row, column, height=crop_size, width=crop_size)

        def cut_sharp(key: PRNGKeyArray) -> UInt8[Array, "h w 3"]:
            number, first, row, column = draw_place(key)
            return cut_frame(first + number // 2, row, column)

        number, first, row, column = draw_place(choose_key(cut_sharp, place_key, candidates=candidates))
        begin = jnp.minimum(first, len(clip.following) - most)
        # Frames beside the window, perhaps of another clip, are cut too; they have the weight 0.
        window = jax.vmap(lambda frame: cut_frame(frame, row, column))(begin + jnp.arange(most))
        window = window.astype(jnp.float32) / 255.0
        place = begin + jnp.arange(most) - first
        taken = ((place >= 0) & (place < number)).astype(jnp.float32) / number.astype(jnp.float32)
        blurred = jnp.einsum("nhwc,n->hwc", window**GAMMA, taken, precision=EXACT) ** (1 / GAMMA)
        pair = jnp.concatenate([blurred, window[first - begin + number // 2]], axis=-1)
        pair = turn(flip_key, turn_key, pair, flip=flip, rotate=rotate)
        blurred = camera_noise(noise_key, pair[..., :3], noise_variance=noise_variance, noise_share=noise_share)
        return {"blurred": blurred * 2 - 1, "sharp": pair[..., 3:] * 2 - 1}

    def batch(clip: Clip, key: PRNGKeyArray) -> dict[str, Float[Array, "b h w 3"]]:
        return spread_rows(jax.vmap(example, in_axes=(None, 0)), whole=1, mesh=mesh)(clip, jax.random.split(key, batch_size))

    return batch


def _draw_place(clip: Clip, key: PRNGKeyArray, *, crop_size: int, numbers: Sequence[int]) -> tuple[jax.Array, ...]:
    """Draw the number of frames to average, the first of them, and the row and column of the crop."""
    number_key, first_key, row_key, column_key = jax.random.split(key, 4)
    total, step = len(clip.following), numbers[1] - numbers[0] if len(numbers) > 1 else 1
    number = numbers[0] + step * jax.random.randint(number_key, (), 0, len(numbers))
    fits = (clip.following >= number).astype(jnp.float32)
    if clip.sharp is not None:
        fits *= clip.sharp[jnp.minimum(jnp.arange(total) + number // 2, total - 1)].astype(jnp.float32)
    if clip.weights is not None:
        fits *= clip.weights
    first = jax.random.choice(first_key, total, p=fits / fits.sum())
    row = jax.random.randint(row_key, (), 0, clip.frames.heights[first] - crop_size + 1)
    column = jax.random.randint(column_key, (), 0, clip.frames.widths[first] - crop_size + 1)
    return number, first, row, column

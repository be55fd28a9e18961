"""Consecutive video frames on the device, blurred by averaging as GoPro's were, and cropped, inside jit. No TensorFlow."""

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
    """Frames in order, of one clip or several. `following[i]` is how many frames from i on, itself included, come without a gap in between.

    `weights[i]` is how often a window that begins with frame i is drawn, against others; None: as often. `sharp[i]` is whether frame i may
    be the truth in the middle of a window; None: every frame may.
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
    """Frames as they lie on the device. Raises InputError where there are none, or where they do not fit into memory."""
    bank = make_bank(frames, names=[f"frame {i}" for i in range(len(frames))], crop_size=1)
    return Clip(bank, jnp.asarray(following), *(None if x is None else jnp.asarray(x) for x in (weights, sharp)))


def window_numbers(averaged: tuple[int, int], *, odd: bool) -> list[int]:
    """How many frames a window may have. Raises InputError for a range that holds no such number, or others than whole ones from 1 on."""
    if not all(isinstance(number, int) for number in averaged) or averaged[0] < 1:
        raise InputError(
            f"frames_averaged={averaged[0]},{averaged[1]} must be whole numbers of frames, 1 or more (--config.frames_averaged=7,13)."
        )
    numbers = [number for number in range(averaged[0], averaged[1] + 1) if number % 2 or not odd]
    if not numbers:
        raise InputError(
            f"frames_averaged={averaged[0]},{averaged[1]} with frames_odd=True holds no odd number; use --config.frames_averaged=7,13."
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
    """Builds the pure function (clip, key) -> {'blurred', 'sharp'}, [b h w 3] in [-1, 1], to be jitted by its caller.

    A blurred crop is the gamma 2.2 mean of as many consecutive frames as is drawn from `averaged`, low to high; its sharp one is of
    their centre frame (the later of two), as in GoPro's pairs. With `odd` numbers alone the sharp frame is in the middle of the exposure,
    where an even motion is in the mean. Of so many `candidates` the crop with the most detail is taken. Each device of a
    `mesh` makes its own rows, the same as one device.
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
        # Beside the window lie frames that are not taken, perhaps of another clip: whatever is cut from them counts for nothing.
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
    """How many frames to average, the first of them, and where to cut: row and column."""
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

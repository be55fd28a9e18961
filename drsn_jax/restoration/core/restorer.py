"""Restoration of images with one model and one set of options, used for all files, videos and arrays."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float

from drsn_jax.restoration.core.sizes import make_corner_predict_fn
from drsn_jax.restoration.core.tiling import check_tile, restore_array
from drsn_jax.system.errors import InputError
from drsn_jax.weights.model import Model

Image = Float[np.ndarray, "h w 3"]
RestoreFn = Callable[[Image], Image]
"""A function from an image of any size with values in [0, 1] to the restored one, float32 in [0, 1]."""


def make_restore_fn(
    model: Model,
    *,
    strength: float = 1.0,
    self_ensemble: bool = False,
    tile: int | None = 768,
    overlap: int = 64,
    share_programs: bool = True,
) -> RestoreFn:
    """Make a function that restores images as `restore_array` does, with its `tile` and `overlap`.

    - `self_ensemble` averages over the eight turns and mirror images. It takes eight times as long.
    - `strength`, from 0 to 1, is the share of the change: 0 returns the image, 1 the restored one.
    - `share_programs` lets images of similar sizes share a compiled program, if the model has one for them (`core.sizes`). The result is
      equal to rounding, for a tenth more work. Without it, or such a program, each size is compiled.

    Raises InputError for a strength outside 0 to 1, and for sizes that `check_tile` refuses. The function raises InputError for images that
    `restore_array` refuses, or that do not fit in memory.
    """
    tile = model.fit_tile(tile)
    check_tile(stride=model.stride, tile=tile, overlap=overlap)
    if not _is_share(strength):
        raise InputError(f"Strength {strength!r} is no number from 0 (the image as it is) to 1 (wholly restored); use 1 (--strength=1).")
    predict_fn = model.predict_fn
    if share_programs and model.corner_fn:
        predict_fn = make_corner_predict_fn(model.corner_fn, stride=model.stride, largest=tile)
    restore_once = partial(restore_array, predict_fn=predict_fn, stride=model.stride, tile=tile, overlap=overlap)
    restore = partial(average_turns, restore_fn=restore_once) if self_ensemble else restore_once

    def restore_fn(image: Image) -> Image:
        try:
            restored = restore(image)
        except (MemoryError, RuntimeError) as error:
            if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):  # jax's message for a full device
                raise
            message = f"An image of {image.shape[1]}x{image.shape[0]} pixels does not fit in memory"
            raise InputError(f"{message}; {_less_memory(tile, model.stride)}.", plain=f"{message}; scale it down.") from error
        return restored if strength == 1 else image + np.float32(strength) * (restored - image)

    return restore_fn


def average_turns(image: Image, *, restore_fn: RestoreFn) -> Image:
    """Return the mean of `restore_fn` over the eight rotations and reflections of `image`, each reversed.

    To rounding the result commutes with all of them for any `restore_fn` (geometric self-ensemble: Lim et al. 2017, EDSR, 3.4).
    """
    total = np.zeros(image.shape, np.float32)
    for turns in range(4):
        turned = np.rot90(image, turns)
        total += np.rot90(restore_fn(turned), -turns)
        total += np.rot90(restore_fn(turned[:, ::-1])[:, ::-1], -turns)
    return total / 8


def _is_share(value: Any) -> bool:
    try:
        return not isinstance(value, str) and 0 <= float(value) <= 1
    except (TypeError, ValueError):
        return False


def _less_memory(tile: int | None, stride: int) -> str:
    if tile is None:
        return "use more devices, or restore in tiles (without --whole)"
    return f"use smaller tiles (--tile={max(tile // 2 // stride, 1) * stride})"

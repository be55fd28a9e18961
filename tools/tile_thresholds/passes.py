"""Passes through a generator that return its thresholds, or take them from outside, and restorations in tiles built on them.

The blocks sow their thresholds, so they are read without a change to the network. An interceptor replaces the threshold branch of every
block by given values.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Array, Float, UInt8
from PIL import Image

from drsn_jax.models.shrinkage import THRESHOLDS, ThresholdNet
from drsn_jax.restoration.core.tiling import restore_array
from drsn_jax.system.errors import InputError
from drsn_jax.weights.model import Model

Thresholds = dict[str, Float[Array, "1 c"]]
"""The thresholds of one image by block, of the channels of the block."""
Restored = Float[np.ndarray, "h w 3"]

OWN, WHOLE, HALF, QUARTER, MEAN = "each tile", "whole image", "half size", "quarter size", "mean of the tiles"
WAYS = (OWN, WHOLE, HALF, QUARTER, MEAN)
"""The sources of the thresholds of tiles."""
_SCALES = {HALF: 2, QUARTER: 4}


class Passes(NamedTuple):
    """The jitted functions of a model, for images [1 h w 3] in [-1, 1] whose sides are multiples of `stride`."""

    capture_fn: Callable[[Any], tuple[Any, Thresholds]]  # images -> restored images and their thresholds
    inject_fn: Callable[[Any, Thresholds], Any]  # images and thresholds -> restored images
    stride: int


def make_passes(model: Model) -> Passes:
    """Make the passes of a model. Raises InputError for an exported file, whose blocks cannot be reached."""
    if model.apply_fn is None:
        raise InputError(f"{model.info['path']} is an exported file; give a workdir, a checkpoint or the name of a shipped model.")
    capture_fn, inject_fn = (jax.jit(partial(function, model.apply_fn)) for function in (capture, inject))
    return Passes(partial(capture_fn, model.variables), partial(inject_fn, model.variables), model.stride)


def capture(apply_fn: Callable, variables: Any, images: Float[Array, "b h w 3"]) -> tuple[Float[Array, "b h w 3"], dict[str, Array]]:
    """Apply a generator, and return also the thresholds of its blocks, each [b c]. There are none without shrinkage."""
    restored, sown = apply_fn(variables, images, mutable=[THRESHOLDS])
    return restored, {block: values["threshold"]["threshold"][0] for block, values in sown.get(THRESHOLDS, {}).items()}


def inject(apply_fn: Callable, variables: Any, images: Float[Array, "b h w 3"], thresholds: Mapping[str, Array]) -> Float[Array, "b h w 3"]:
    """Apply a generator with these thresholds, as `capture` returns them, in place of those of the images."""

    def replace(method: Any, args: tuple, kwargs: dict, context: nn.module.InterceptorContext) -> Any:
        if isinstance(context.module, ThresholdNet) and context.method_name == "__call__":
            return thresholds[context.module.path[0]][:, None, None, :]
        return method(*args, **kwargs)

    with nn.intercept_methods(replace):
        return apply_fn(variables, images)


class Study(NamedTuple):
    """One image restored whole, and in tiles in several ways; the thresholds of the whole image, of each tile, and of each way."""

    whole: Restored
    tiled: dict[str, Restored]
    thresholds: Thresholds
    of_tiles: list[Thresholds]
    of_ways: dict[str, Thresholds]


def restore_whole(image: UInt8[np.ndarray, "h w 3"], *, passes: Passes) -> tuple[Restored, Thresholds]:
    """Restore an image whole; the result is in [0, 1]. Returns its thresholds too."""
    found: list[Thresholds] = []
    restored = _restore(image, passes, partial(_record, passes, found), tile=None, overlap=0)
    return restored, found[0]


def restore_in_ways(
    image: UInt8[np.ndarray, "h w 3"],
    *,
    passes: Passes,
    whole: tuple[Restored, Thresholds],
    tile: int,
    overlap: int = 64,
    ways: Sequence[str] = WAYS,
) -> Study:
    """Restore an image in tiles, as the package cuts and blends them, once for each way to get the thresholds.

    `whole` is what `restore_whole` returns for the image. `OWN` always runs, because the mean and the spread need it.
    """
    of_tiles: list[Thresholds] = []
    tiled = {OWN: _restore(image, passes, partial(_record, passes, of_tiles), tile=tile, overlap=overlap)}
    of_ways: dict[str, Thresholds] = {}
    for way in ways:
        if way == OWN:
            continue
        if way in _SCALES:
            of_ways[way] = restore_whole(scale_down(image, _SCALES[way]), passes=passes)[1]
        else:
            of_ways[way] = whole[1] if way == WHOLE else mean_thresholds(of_tiles)
        predict_fn = partial(_predict_with, passes, of_ways[way])
        tiled[way] = _restore(image, passes, predict_fn, tile=tile, overlap=overlap)
    return Study(whole[0], tiled, whole[1], of_tiles, of_ways)


def mean_thresholds(of_tiles: Sequence[Thresholds]) -> Thresholds:
    """Return the mean over tiles, block by block and channel by channel."""
    return jax.tree.map(lambda *values: np.mean([np.asarray(value) for value in values], 0), *of_tiles)


def scale_down(image: UInt8[np.ndarray, "h w 3"], factor: int) -> UInt8[np.ndarray, "h2 w2 3"]:
    """Divide both sides by `factor`, rounded down (bicubic, antialiased)."""
    height, width = (max(size // factor, 1) for size in image.shape[:2])
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


def _record(passes: Passes, found: list[Thresholds], images: np.ndarray) -> Any:
    restored, thresholds = passes.capture_fn(images)
    if not thresholds:
        raise InputError("This model has no thresholds (shrinkage=False); give one with shrinkage.")
    found.append(thresholds)
    return restored


def _predict_with(passes: Passes, thresholds: Thresholds, images: np.ndarray) -> Any:
    return passes.inject_fn(images, thresholds)


def _restore(image: np.ndarray, passes: Passes, predict_fn: Callable, *, tile: int | None, overlap: int) -> Restored:
    values = image.astype(np.float32) / np.float32(255)
    return restore_array(values, predict_fn=predict_fn, stride=passes.stride, tile=tile, overlap=overlap)

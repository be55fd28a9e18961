"""Restoring and scoring a stream of images one at a time, so that memory does not grow with their number.

The training loop scores images it holds; `evaluate` scores files: both through `score_images` and `summarise`.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8

from drsn_jax.errors import InputError
from drsn_jax.evaluation.metrics import METRICS, score_pair

Image = UInt8[np.ndarray, "_ _ 3"]

WORSE_BY_DB = 0.1
"""An image counts as made worse when its PSNR falls by more than this."""


@dataclass(frozen=True)
class ImageScore:
    """What was measured on one image; `input` and `restored` map the names of `METRICS` to values (dB for psnr)."""

    name: str
    height: int
    width: int
    input: dict[str, float]
    restored: dict[str, float]
    seconds: float
    """Wall time of the restoration alone, until its pixels are on the host."""
    first_of_size: bool
    """Whether no earlier image had this size: its seconds may include a compilation."""

    @property
    def gain_db(self) -> float:
        """PSNR of the restored image less that of the input."""
        return self.restored["psnr"] - self.input["psnr"]

    @property
    def worse(self) -> bool:
        """Whether restoring lost more than `WORSE_BY_DB`."""
        return self.gain_db < -WORSE_BY_DB


def _score(name: str, image: Image, sharp: Image) -> dict[str, float]:
    try:
        values = jax.device_get(score_pair(image, sharp))
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    return {metric: float(values[metric]) for metric in METRICS}


def _restore(restore_fn: Callable[[Image], Image], name: str, blurred: Image) -> tuple[Image, float]:
    start = time.perf_counter()
    restored = np.asarray(restore_fn(blurred))  # waits for the device: the pixels have to be here
    seconds = time.perf_counter() - start
    if restored.shape != blurred.shape or restored.dtype != np.uint8:
        raise ValueError(f"{name}: restore_fn made {restored.dtype} {restored.shape} of uint8 {blurred.shape}; both must agree.")
    return restored, seconds


def score_images(
    samples: Iterable[tuple[str, Image, Image]],
    *,
    restore_fn: Callable[[Image], Image],
    on_image: Callable[[ImageScore, Image, Image, Image], None] | None = None,
) -> Iterator[ImageScore]:
    """Restore and score (name, blurred, sharp) one after another, yielding each score; images are uint8 [h w 3].

    `restore_fn` maps uint8 [h w 3] to the same. `on_image(score, blurred, restored, sharp)` is called before the score is
    yielded, to draw panels or show progress while the pixels are at hand. A size seen for the first time is marked
    (`first_of_size`), not warmed up: restoring a large image twice only to time it costs too much. Raises InputError with
    the image's name where a pair cannot be scored (unequal sizes, below 11x11), ValueError where `restore_fn` changes shape
    or type.
    """
    seen: set[tuple[int, ...]] = set()
    for name, blurred, sharp in samples:
        before = _score(name, blurred, sharp)  # ahead of the restoration: a bad pair fails before the costly part
        restored, seconds = _restore(restore_fn, name, blurred)
        score = ImageScore(
            name=name,
            height=blurred.shape[0],
            width=blurred.shape[1],
            input=before,
            restored=_score(name, restored, sharp),
            seconds=seconds,
            first_of_size=blurred.shape not in seen,
        )
        seen.add(blurred.shape)
        if on_image is not None:
            on_image(score, blurred, restored, sharp)
        yield score


def summarise(scores: Iterable[ImageScore]) -> dict[str, Any]:
    """Means over the images, the gain, how many were made worse, and the median seconds an image.

    The median leaves out the first image of each size, whose time may include a compilation; where every image is the first
    of its size it takes them all and `seconds_include_compilation` is true. Raises InputError where there is no image.
    """
    scores = list(scores)
    if not scores:
        raise InputError("There are no images to score; give at least one pair of a blurred and a sharp image.")
    means_input, means_restored = _means([s.input for s in scores]), _means([s.restored for s in scores])
    warm = [score.seconds for score in scores if not score.first_of_size]
    return {
        "images": len(scores),
        "input": means_input,
        "restored": means_restored,
        "gain": {metric: means_restored[metric] - means_input[metric] for metric in METRICS},
        "worse": sum(score.worse for score in scores),
        "worse_by_db": WORSE_BY_DB,
        "seconds_per_image": median(warm or [score.seconds for score in scores]),
        "seconds_include_compilation": not warm,
    }


def _means(values: Sequence[dict[str, float]]) -> dict[str, float]:
    return {metric: fmean(value[metric] for value in values) for metric in METRICS}

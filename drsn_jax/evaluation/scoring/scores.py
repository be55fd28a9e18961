"""Scores of an image, and summaries over images."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from drsn_jax.evaluation.metrics.scorers import PAIRED, Metric, Scores
from drsn_jax.system.errors import InputError

Image = UInt8[np.ndarray, "_ _ 3"]

WORSE_BY_DB = 0.1
"""An image counts as made worse if its PSNR falls by more than this."""


class Case(NamedTuple):
    """One image to restore and score. `truth` is for the scorer, `reference` the sharp image to show, if there is one.

    `others` are the results of other methods on the same image, by the method's name. `input_scores` are the scores of the blurred image,
    if they are already known.
    """

    name: str
    blurred: Image
    truth: Any
    reference: Image | None = None
    others: Mapping[str, Image] = {}
    input_scores: Scores | None = None

    def versions(self, restored: Image) -> dict[str, Image]:
        """Return the scored versions: the input, our restoration and those of other methods."""
        return {"input": self.blurred, "restored": restored, **self.others}


@dataclass(frozen=True)
class ImageScore:
    """The measurements on one image: `scores[version][metric]`. A version is input, restored or another method's name."""

    name: str
    height: int
    width: int
    scores: dict[str, Scores]
    seconds: float
    """Wall time of the restoration alone, until its pixels are on the host."""
    first_of_size: bool
    """Whether this is the first image of its size: its seconds may include a compilation."""
    findings: dict[str, Any] = field(default_factory=dict)
    """The findings of `inspect_fn` in the versions."""

    @property
    def input(self) -> Scores:
        """The figures of the blurred image."""
        return self.scores["input"]

    @property
    def restored(self) -> Scores:
        """The figures of our restoration."""
        return self.scores["restored"]

    @property
    def gain_db(self) -> float | None:
        """The PSNR of the restored image minus that of the input; None without PSNR."""
        return self.restored["psnr"] - self.input["psnr"] if "psnr" in self.restored else None

    @property
    def worse(self) -> bool:
        """Whether restoring lost more than `WORSE_BY_DB`."""
        return self.gain_db is not None and self.gain_db < -WORSE_BY_DB


def summarise(scores: Iterable[ImageScore], *, metrics: Sequence[Metric] = PAIRED.metrics) -> dict[str, Any]:
    """Summarise the images: means for each version, the gain, the number made worse, and the median seconds per image.

    The median excludes the first image of each size, because its time may include a compilation. If every image is the first of its size,
    all count and `seconds_include_compilation` is true. Raises InputError if there is no image.
    """
    scores = list(scores)
    if not scores:
        raise InputError("There are no images to score; give at least one pair of a blurred and a sharp image.")
    names = [metric.name for metric in metrics]
    means = {version: {name: fmean(s.scores[version][name] for s in scores) for name in names} for version in scores[0].scores}
    warm = [score.seconds for score in scores if not score.first_of_size]
    return {
        "images": len(scores),
        "input": means.pop("input"),
        "restored": (restored := means.pop("restored")),
        "gain": {name: restored[name] - fmean(s.input[name] for s in scores) for name in names},
        "compared": means,
        "worse": sum(score.worse for score in scores) if "psnr" in names else None,
        "worse_by_db": WORSE_BY_DB,
        "seconds_per_image": median(warm or [score.seconds for score in scores]),
        "seconds_include_compilation": not warm,
    }

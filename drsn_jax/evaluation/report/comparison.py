"""Differences between two evaluations of the same images that are more than chance: the paired bootstrap (Efron 1979)."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from drsn_jax.evaluation.metrics.scorers import Metric
from drsn_jax.system.errors import InputError

LEVEL = 0.95
_BATCH = 1_000  # resamples at a time: 1,111 images take 9 MB


class Difference(NamedTuple):
    """B minus A on one metric: the mean over the images and its interval at `LEVEL`, under resampling of images or scenes."""

    metric: Metric
    first: float
    second: float
    low: float
    high: float

    @property
    def mean(self) -> float:
        """The mean difference, B minus A."""
        return self.second - self.first

    @property
    def exceeds_noise(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low > 0 or self.high < 0


def paired_bootstrap(
    differences: Float[np.ndarray, " n"], *, groups: Sequence[str] | None = None, resamples: int = 10_000, seed: int = 0
) -> tuple[float, float]:
    """Return the percentile interval at `LEVEL` of the mean of paired differences, from `resamples` draws with replacement.

    With `groups` (a label for each image) whole groups are drawn. Frames of one scene are alike, and treating them as independent makes the
    interval too narrow. Raises InputError for fewer than two images or groups.
    """
    labels = list(range(len(differences))) if groups is None else list(groups)
    names, members = np.unique(labels, return_inverse=True)
    if len(names) < 2:
        kind = "images" if groups is None else "scenes"
        raise InputError(f"A bootstrap needs at least two {kind}; there is {len(names)}. Compare on more {kind}.")
    from scipy.stats import bootstrap  # takes a second to import

    groups_of = tuple(np.bincount(members, weights=weights) for weights in (differences, np.ones(len(differences))))
    options: dict[str, Any] = {"paired": True, "vectorized": True, "batch": _BATCH, "method": "percentile", "rng": seed}
    found = bootstrap(groups_of, _ratio_of_sums, n_resamples=resamples, confidence_level=LEVEL, **options)
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def _ratio_of_sums(sums: np.ndarray, counts: np.ndarray, *, axis: int) -> np.ndarray:
    """Return the mean over images, for groups given by their sums and sizes."""
    return sums.sum(axis=axis) / counts.sum(axis=axis)


def compare_summaries(
    first: Mapping[str, Any],
    second: Mapping[str, Any],
    *,
    versions: tuple[str, str] = ("restored", "restored"),
    by: str = "image",
    resamples: int = 10_000,
    seed: int = 0,
) -> list[Difference]:
    """Compare two metrics.json (see `report.read_summary`) on each common metric.

    `versions` select `restored`, `input` or a compared method's name in each; `by` is `image` or `scene`, the folder in the
    image's name. Raises InputError unless both are for the same images under the same protocol and noise.
    """
    _check_same(first, second)
    scores = []
    for summary, version in zip((first, second), versions, strict=True):
        if version not in summary["per_image"][0]["scores"]:
            there = ", ".join(summary["per_image"][0]["scores"])
            raise InputError(f"There is no version {version!r} in that evaluation; choose one of {there}.")
        scores.append({image["name"]: image["scores"][version] for image in summary["per_image"]})
    names = sorted(scores[0])
    groups = [name.rpartition("/")[0] for name in names] if by == "scene" else None
    known = {metric["name"] for metric in second["metrics"]}
    differences = []
    for metric in (Metric(**metric) for metric in first["metrics"] if metric["name"] in known):
        values = np.array([[side[name][metric.name] for name in names] for side in scores])
        low, high = paired_bootstrap(values[1] - values[0], groups=groups, resamples=resamples, seed=seed)
        before, after = values.mean(axis=1)
        differences.append(Difference(metric, float(before), float(after), low, high))
    return differences


def _check_same(first: Mapping[str, Any], second: Mapping[str, Any]) -> None:
    for key in ("protocol", "noise_variance"):
        if first[key] != second[key]:
            raise InputError(
                f"The evaluations differ in {key}: {first[key]} and {second[key]}; compare evaluations with the same settings."
            )
    inputs = [{image["name"]: image["scores"]["input"] for image in summary["per_image"]} for summary in (first, second)]
    if only := sorted(inputs[0].keys() ^ inputs[1].keys()):
        raise InputError(f"{len(only)} images are in one evaluation only ({', '.join(only[:3])}); compare evaluations of the same images.")
    headline = first["metrics"][0]["name"]
    for name, values in inputs[0].items():
        before, after = values[headline], inputs[1][name].get(headline, values[headline])
        if abs(before - after) > 1e-3 * max(1.0, abs(before)):
            raise InputError(
                f"{name} is not the same image in both: its blurred input scores {before:.3f} and {after:.3f};"
                " evaluate both on the same files."
            )


def format_differences(differences: Sequence[Difference], *, names: tuple[str, str], images: int, by: str) -> str:
    """Format a table for the terminal, with a verdict for each metric."""
    lines = [f"A = {names[0]}, B = {names[1]}: {images} images, paired bootstrap by {by}, {LEVEL:.0%} intervals"]
    lines.append(f"{'':20}{'A':>10}{'B':>10}{'B - A':>10}{'from':>10}{'to':>10}  verdict")
    for one in differences:
        cells = [one.metric.format(value) for value in (one.first, one.second)]
        cells += [one.metric.format(value, signed=True) for value in (one.mean, one.low, one.high)]
        better = "B" if (one.mean > 0) == one.metric.higher_is_better else "A"
        verdict = f"{better} is better, beyond the noise" if one.exceeds_noise else "within the noise"
        lines.append(f"{one.metric.title:20}" + "".join(f"{cell:>10}" for cell in cells) + f"  {verdict}")
    return "\n".join(lines)

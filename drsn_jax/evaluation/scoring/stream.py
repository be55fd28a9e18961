"""Restoring and scoring of a stream of images, a few at a time, for constant memory.

The training loop scores images in memory, `evaluate` scores files.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from drsn_jax.evaluation.metrics.scorers import PAIRED, Scorer
from drsn_jax.evaluation.scoring.scores import Case, Image, ImageScore
from drsn_jax.system.ahead import iterate_ahead, map_ahead
from drsn_jax.system.errors import InputError


class _Restored(NamedTuple):
    """A restored case, before scoring."""

    case: Case
    restored: Image
    seconds: float
    first_of_size: bool


def score_images(
    cases: Iterable[Case],
    *,
    restore_fn: Callable[..., Any],
    together: int = 1,
    scorer: Scorer = PAIRED,
    inspect_fn: Callable[[Mapping[str, Image]], dict[str, Any]] | None = None,
    on_image: Callable[[ImageScore, Case, Image], None] | None = None,
) -> Iterator[ImageScore]:
    """Restore and score the cases, and yield the scores in the same order; images are uint8 [h w 3].

    `restore_fn` maps uint8 [h w 3] to the same. With `together` above 1 it maps batches [b h w 3] of up to `together` neighbours of one
    size. While it runs, one thread makes the next case and another scores the last one, so a few images are in memory. `inspect_fn` may
    analyse the versions of an image, with the reference as 'sharp'. `on_image(score, case, restored)` is called before the score is
    yielded, to draw panels or show progress while the pixels are in memory. The first image of a size is marked (`first_of_size`) instead
    of restored twice, which would be too expensive for large images. Raises InputError with the image's name if it cannot be scored
    (unequal sizes, below 11x11), ValueError if `restore_fn` changes shape or type.
    """
    score_fn = partial(_score, scorer=scorer, inspect_fn=inspect_fn)
    with ThreadPoolExecutor(1) as reading, ThreadPoolExecutor(1) as scoring:
        groups = _group(_checked(iterate_ahead(reading, cases), scorer), together)
        restored = _restore_all(groups, restore_fn, stacked=together > 1)
        for score, done in map_ahead(scoring, score_fn, restored):
            if on_image is not None:
                on_image(score, done.case, done.restored)
            yield score


def _checked(cases: Iterable[Case], scorer: Scorer) -> Iterator[Case]:
    """Check each case before its restoration, so that a bad pair fails early."""
    for case in cases:
        with _naming(case):
            for image in (case.blurred, *case.others.values()):
                scorer.check_fn(image, case.truth)
        yield case


@contextmanager
def _naming(case: Case) -> Iterator[None]:
    """Add the name of the case to an InputError in the block."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{case.name}: {error}") from None


def _group(cases: Iterable[Case], most: int) -> Iterator[list[Case]]:
    """Group neighbours of one size, at most `most` per group."""
    group: list[Case] = []
    for case in cases:
        if group and (len(group) == most or case.blurred.shape != group[0].blurred.shape):
            yield group
            group = []
        group.append(case)
    if group:
        yield group


def _restore_all(groups: Iterable[list[Case]], restore_fn: Callable[..., Any], *, stacked: bool) -> Iterator[_Restored]:
    seen: set[tuple[int, ...]] = set()
    for group in groups:
        names, shape = ", ".join(case.name for case in group), (len(group), *group[0].blurred.shape)
        start = time.perf_counter()
        with _naming(group[0]._replace(name=names)):
            images = np.stack([case.blurred for case in group]) if stacked else group[0].blurred
            restored = np.asarray(restore_fn(images))  # waits for the device to finish
        seconds = (time.perf_counter() - start) / len(group)
        if restored.shape != images.shape or restored.dtype != np.uint8:
            raise ValueError(f"{names}: restore_fn returned {restored.dtype} {restored.shape} for uint8 {images.shape}; both must agree.")
        for case, image in zip(group, restored.reshape(shape), strict=True):
            yield _Restored(case, image, seconds, first_of_size=shape[1:] not in seen)
            seen.add(shape[1:])


def _score(
    done: _Restored, *, scorer: Scorer, inspect_fn: Callable[[Mapping[str, Image]], dict[str, Any]] | None
) -> tuple[ImageScore, _Restored]:
    case, versions = done.case, done.case.versions(done.restored)
    known = {} if case.input_scores is None else {"input": case.input_scores}
    unknown = {name: image for name, image in versions.items() if name not in known}
    with _naming(case):
        found = dict(zip(unknown, scorer.score_fn(list(unknown.values()), case.truth), strict=True))
    shown = versions if case.reference is None else {**versions, "sharp": case.reference}
    score = ImageScore(
        name=case.name,
        height=case.blurred.shape[0],
        width=case.blurred.shape[1],
        scores=known | found,
        seconds=done.seconds,
        first_of_size=done.first_of_size,
        findings=inspect_fn(shown) if inspect_fn else {},
    )
    return score, done

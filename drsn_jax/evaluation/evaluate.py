"""Evaluation of blurred files: restore them a few at a time, score them and write a report. Interrupted evaluations can be resumed."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8

from drsn_jax.data.pairs.folders import spread
from drsn_jax.evaluation.detection.inspection import summarise_findings
from drsn_jax.evaluation.metrics.scorers import PAIRED, Scorer
from drsn_jax.evaluation.report.pictures import Illustrator
from drsn_jax.evaluation.report.report import describe_run, finished_summary, open_report, write_report
from drsn_jax.evaluation.scoring.entries import Entry, fingerprint, read_case, scored_sizes
from drsn_jax.evaluation.scoring.journal import Journal
from drsn_jax.evaluation.scoring.protocols import check_protocol
from drsn_jax.evaluation.scoring.scores import Case, ImageScore, summarise
from drsn_jax.evaluation.scoring.stream import score_images
from drsn_jax.system.errors import InputError
from drsn_jax.system.locks import lock_folder
from drsn_jax.system.panels import Box, check_box
from drsn_jax.system.paths import AnyPath, check_bucket
from drsn_jax.system.progress import Countdown

Image = UInt8[np.ndarray, "_ _ 3"]


def evaluate(
    entries: Sequence[Entry],
    *,
    restore_fn: Callable[[Image], Image],
    together: int = 1,
    model_info: Mapping[str, Any],
    output: AnyPath,
    scorer: Scorer = PAIRED,
    protocol: str = "full",
    noise_variance: float = 0.0,
    inspect_fn: Callable[[Mapping[str, Image]], dict[str, Any]] | None = None,
    max_panels: int = 8,
    zoom_box: Literal["auto"] | Box = "auto",
    overwrite: bool = False,
    command: str = "",
    notes: Sequence[str] = (),
    **details: Any,
) -> dict[str, Any]:
    """Score `restore_fn` (uint8 [h w 3] to the same) on `entries`; write the report to `output` and return its metrics.json.

    With `together` above 1, `restore_fn` gets batches of up to `together` neighbours of one size (`scoring.stream`). The entries' order
    seeds the noise. Panels are drawn for `max_panels` images spread evenly over them. `model_info` (path, step, parameters, sha256),
    `command`, `notes` and `details` (tile, overlap, folders) go into metrics.json unchanged. A call with the same arguments resumes an
    interrupted one after its last scored image, and returns the summary of a finished one. Raises InputError for an unknown protocol, a
    negative variance, no entries, and files that cannot be scored. Raises it also for a folder that cannot be written, or contains another
    evaluation (unless `overwrite`). A few images at a time are in memory.
    """
    check_protocol(protocol, noise_variance=noise_variance)
    if max_panels < 0:
        raise InputError(f"{max_panels} panels cannot be drawn; give 0 for none, or a positive number.")
    if not entries:
        raise InputError("There are no images to score; give a folder with at least one.")
    settings = {"protocol": protocol, "noise_variance": noise_variance, "panels": max_panels, "zoom_box": zoom_box, **details}
    settings |= {"metrics": [metric.name for metric in scorer.metrics], "model": model_info.get("sha256"), "files": fingerprint(entries)}
    check_bucket(output, write=True)
    if not overwrite and (summary := finished_summary(output, settings=settings)):
        return summary
    illustrator = _open_illustrator(entries, output, scorer=scorer, protocol=protocol, max_panels=max_panels, zoom_box=zoom_box)
    with lock_folder(output, doing="evaluating"), open_report(output, settings=settings, overwrite=overwrite) as journal:
        cases = _read(entries, journal, protocol=protocol, noise_variance=noise_variance)
        how = {"restore_fn": restore_fn, "together": together, "scorer": scorer, "inspect_fn": inspect_fn}
        scores = score_images(cases, **how, on_image=illustrator)
        _keep(scores, journal, total=len(entries))
        ordered = [journal.scores[entry.name] for entry in entries]
    run = describe_run(protocol=protocol, noise_variance=noise_variance, scorer=scorer, model_info=model_info, command=command)
    summary = {
        **run,
        **details,
        **summarise(ordered, metrics=scorer.metrics),
        **summarise_findings(ordered),
        "notes": list(notes),
        "settings": settings,
        "panels": illustrator.files(),
    }
    return write_report(output, summary=summary, scores=ordered)


def _keep(scores: Iterator[ImageScore], journal: Journal, *, total: int) -> None:
    with Countdown(total, done=len(journal.scores)) as progress:
        for score in scores:
            journal.append(score)
            gain = "" if score.gain_db is None else f" {score.input['psnr']:.2f} -> {score.restored['psnr']:.2f} dB"
            progress.advance(f"{score.name[-60:]}{gain}")


def _read(entries: Sequence[Entry], journal: Journal, *, protocol: str, noise_variance: float) -> Iterator[Case]:
    """Yield the cases without a score. The index, which seeds the noise, counts all entries."""
    for index, entry in enumerate(entries):
        if entry.name not in journal.scores:
            yield read_case(entry, protocol=protocol, noise_variance=noise_variance, index=index)


def _open_illustrator(
    entries: Sequence[Entry], output: AnyPath, *, scorer: Scorer, protocol: str, max_panels: int, zoom_box: Literal["auto"] | Box
) -> Illustrator:
    """Prepare the panels. A box that does not lie inside an image is reported at once."""
    shown = spread(entries, max_panels)
    if zoom_box != "auto":
        for size in scored_sizes(shown, protocol=protocol):
            check_box(zoom_box, size)
    return Illustrator(output, names=[entry.name for entry in shown], metric=scorer.metrics[0], zoom_box=zoom_box)

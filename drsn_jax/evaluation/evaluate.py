"""Restore a folder's worth of blurred files, score them against the sharp ones and write a report."""

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from drsn_jax.data.pairs import Pair, check_pairs, read_rgb, spread
from drsn_jax.errors import InputError
from drsn_jax.evaluation.metrics import METRICS
from drsn_jax.evaluation.panels import make_panel, save_png
from drsn_jax.evaluation.protocols import add_noise, apply_protocol, check_protocol
from drsn_jax.evaluation.report import column_title, describe_counts, describe_run, format_value, open_report, panel_path, write_report
from drsn_jax.evaluation.scoring import ImageScore, score_images, summarise

Image = UInt8[np.ndarray, "_ _ 3"]


def evaluate(
    *,
    restore_fn: Callable[[Image], Image],
    model_info: dict[str, Any],
    pairs: Sequence[Pair],
    output: Path,
    protocol: str = "full",
    noise_variance: float = 0.0,
    max_panels: int = 8,
    overwrite: bool = False,
    command: str = "",
    **details: Any,
) -> dict[str, Any]:
    """Score `restore_fn` (uint8 [h w 3] to the same) on `pairs`; write the report to `output` and return its metrics.json.

    The pairs are taken in the order of their names, which also seeds the noise. Panels are drawn of `max_panels` images
    spread evenly over them. `model_info` (path, step, parameters, sha256), `command` and `details` (tile, overlap, folders) go
    into metrics.json as they are.
    Raises InputError for an unknown protocol, a negative variance, no pairs, files of unequal size (before anything is
    restored), and a folder that holds an evaluation already (unless `overwrite`) or cannot be written. One image at a time
    is held in memory.
    """
    check_protocol(protocol, noise_variance=noise_variance)
    if max_panels < 0:
        raise InputError(f"{max_panels} panels cannot be drawn; give 0 for none, or a positive number.")
    check_pairs(pairs)  # headers only: unequal sizes are to be found now, not after an hour
    output = Path(output)
    open_report(output, overwrite=overwrite)
    ordered = sorted(pairs, key=lambda pair: pair.name)
    panels = spread([pair.name for pair in ordered], max_panels)
    samples = _read(ordered, protocol=protocol, noise_variance=noise_variance)
    with _Watcher(output, panels, len(ordered)) as watcher:
        scores = list(score_images(samples, restore_fn=restore_fn, on_image=watcher))
    run = describe_run(protocol=protocol, noise_variance=noise_variance, model_info=model_info, command=command)
    summary = {**run, **details, **summarise(scores), "panels": [panel_path(name) for name in panels]}
    write_report(output, summary=summary, scores=scores, panels=panels)
    return summary


def format_table(summary: dict[str, Any]) -> str:
    """A small table for the terminal: input, restored and gain by metric, under the protocol and the noise."""
    title = f"{summary['protocol']} protocol, noise variance {summary['noise_variance']:g}"
    titles = [column_title(metric) for metric in METRICS]
    lines = [title, " " * 10 + "  ".join(titles)]
    for stage in ("input", "restored", "gain"):
        values = [format_value(metric, summary[stage][metric], signed=stage == "gain") for metric in METRICS]
        lines.append(f"{stage:10}" + "  ".join(value.rjust(len(above)) for value, above in zip(values, titles, strict=True)))
    return "\n".join([*lines, describe_counts(summary)])


def _read(pairs: Sequence[Pair], *, protocol: str, noise_variance: float) -> Iterator[tuple[str, Image, Image]]:
    for index, pair in enumerate(pairs):
        blurred, sharp = (apply_protocol(read_rgb(path), protocol=protocol) for path in (pair.blurred, pair.sharp))
        yield pair.name, add_noise(blurred, variance=noise_variance, index=index), sharp


class _Watcher:
    """Draws the panels that are wanted and keeps one line of progress on stderr, silent where that is no terminal."""

    def __init__(self, output: Path, panels: Sequence[str], total: int):
        self._output, self._panels, self._total = output, panels, total
        self._done, self._shows = 0, sys.stderr.isatty()

    def __enter__(self) -> "_Watcher":
        return self

    def __exit__(self, *_: object) -> None:
        self._show("")

    def __call__(self, score: ImageScore, blurred: Image, restored: Image, sharp: Image) -> None:
        before, after = (f"{stage['psnr']:.2f} dB" for stage in (score.input, score.restored))
        if score.name in self._panels:
            labels = [f"blurred {before}", f"restored {after}", "sharp"]
            panel = make_panel([blurred, restored, sharp], labels=labels, zoom_box="auto")
            save_png(panel, self._output / panel_path(score.name))
        self._done += 1
        self._show(f"{self._done}/{self._total} {score.name[-60:]} {before} -> {after}")

    def _show(self, text: str) -> None:
        if self._shows:
            sys.stderr.write(f"\r\x1b[K{text}")
            sys.stderr.flush()

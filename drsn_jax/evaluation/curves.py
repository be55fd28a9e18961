"""Plots of a training by matplotlib: losses, PSNR, the critic's scores and the thresholds over the steps."""

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from drsn_jax.evaluation.report.figures import import_figure
from drsn_jax.system.errors import InputError

Record = Mapping[str, float]
LOSSES = ("adversarial", "content", "pixel", "frequency")
THRESHOLDS = "generator/threshold"


def read_records(path: Path) -> list[Record]:
    """Read the lines of a metrics.jsonl, in order. A truncated last line is ignored.

    Raises InputError if there is no such file, or no line in it.
    """
    if not path.is_file():
        raise InputError(f"There is no {path}; give the --workdir of a training that has written its first figures.")
    records = []
    for line in path.read_text().splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            continue
    if not records:
        raise InputError(f"{path} contains no figures yet; wait for the first ones (--config.log_every_steps).")
    return records


def draw_training(records: Sequence[Record], *, title: str, file_format: str = "png") -> bytes:
    """Draw the panels that have figures, below each other, as a PNG, SVG or PDF file.

    The panels are:

    - the unweighted terms of the generator's loss, each divided by its first value
    - validation PSNR of input and restored image at each noise variance, in dB
    - the critic's mean scores of sharp and restored images
    - the mean threshold of each block, or of all

    Raises InputError if matplotlib is missing, or no panel has figures.
    """
    panels = [panel for panel in (_losses(records), _psnr(records), _scores(records), _thresholds(records)) if panel["curves"]]
    if not panels:
        raise InputError("The file contains neither losses nor scores; give the metrics.jsonl of a training.")
    figure = import_figure()(figsize=(8, 2.8 * len(panels) + 0.4), layout="constrained")
    figure.suptitle(title)
    for axes, panel in zip(figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0], panels, strict=True):
        for name, steps, values, style in panel["curves"]:
            axes.plot(steps, values, label=name, linewidth=1.3, marker="." if len(steps) < 30 else None, **style)
        axes.set_ylabel(panel["label"])
        axes.set_yscale(panel.get("scale", "linear"))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, ncols=1 + len(panel["curves"]) // 8)
    axes.set_xlabel("step")
    buffer = io.BytesIO()
    figure.savefig(buffer, format=file_format, dpi=150)
    return buffer.getvalue()


def _curve(records: Iterable[Record], key: str) -> tuple[list[float], list[float]]:
    """Return (steps, values) of a key, from the records that have it."""
    points = [(record["step"], record[key]) for record in records if key in record]
    return [step for step, _ in points], [value for _, value in points]


def _losses(records: Sequence[Record]) -> dict[str, Any]:
    curves = []
    for term in LOSSES:
        steps, values = _curve(records, f"generator/{term}")
        first = next((abs(value) for value in values if value), 0.0)
        if first and term != "adversarial":  # a score of the critic with a sign, shown in the panel of scores
            curves.append((f"{term} (first {first:.3g})", steps, [value / first for value in values], {}))
    return {"label": "loss / its first value", "curves": curves, "scale": "log"}


def _psnr(records: Sequence[Record]) -> dict[str, Any]:
    prefixes = sorted(
        {key.removesuffix("psnr") for record in records for key in record if key.startswith("eval/") and key.endswith("/psnr")}
    )
    curves = []
    for i, prefix in enumerate(prefixes):
        noise = prefix.removeprefix("eval/").strip("/").replace("noise_", "noise variance ") or "no noise"
        for key, style in (("psnr", "-"), ("psnr_input", "--")):
            name = f"{'restored' if key == 'psnr' else 'input'}, {noise}"
            curves.append((name, *_curve(records, prefix + key), {"linestyle": style, "color": f"C{i}"}))
    return {"label": "validation PSNR, dB", "curves": [curve for curve in curves if curve[1]]}


def _scores(records: Sequence[Record]) -> dict[str, Any]:
    names = {"critic/sharp": "D(sharp)", "critic/restored": "D(restored)"}
    curves = [(name, *_curve(records, key), {}) for key, name in names.items()]
    return {"label": "critic's mean score", "curves": [curve for curve in curves if curve[1]]}


def _thresholds(records: Sequence[Record]) -> dict[str, Any]:
    keys = dict.fromkeys(key for record in records for key in record if key.startswith(THRESHOLDS))
    blocks = [key for key in keys if key.startswith(f"{THRESHOLDS}/")]
    curves = [(key.removeprefix(f"{THRESHOLDS}/"), *_curve(records, key), {}) for key in blocks]
    if THRESHOLDS in keys:
        curves.append(("mean of all", *_curve(records, THRESHOLDS), {"color": "black", "linestyle": "--"} if blocks else {}))
    return {"label": "mean threshold", "curves": curves}

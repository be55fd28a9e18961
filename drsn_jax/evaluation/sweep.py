"""The same evaluation at several noise variances (Jiang & Liu, 5.5), as a table and a curve."""

import contextlib
import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from drsn_jax.evaluation.metrics.scorers import Metric
from drsn_jax.evaluation.report.document import Bullets, Document, Pictures, Table, describe_data, describe_model, make_facts
from drsn_jax.evaluation.report.figures import import_figure
from drsn_jax.evaluation.report.formats import align_columns, as_html, as_markdown
from drsn_jax.evaluation.report.report import METRICS_FILE, clear_report, describe_machine
from drsn_jax.evaluation.scoring.protocols import check_protocol
from drsn_jax.system.errors import InputError
from drsn_jax.system.files import write_atomically
from drsn_jax.system.paths import AnyPath, check_bucket

NOISE_VARIANCES = (0.0, 0.0005, 0.001, 0.005, 0.01)
"""The standard sweep (SPEC section 3), on the image scale [0, 1]."""
_CURVE, _KIND = "curve.png", "noise sweep"
_FILES = ("report.md", "report.html", "sweep.csv", _CURVE)


def sweep_noise(
    evaluate_fn: Callable[[float, AnyPath], Mapping[str, Any]],
    *,
    variances: Sequence[float],
    output: AnyPath,
    overwrite: bool = False,
    command: str = "",
) -> dict[str, Any]:
    """Run `evaluate_fn(variance, folder)` for each variance in its own folder below `output`; returns the sweep's metrics.json.

    `evaluate_fn` returns the summary of an evaluation and resumes an interrupted one (see `evaluate`). Writes metrics.json,
    sweep.csv, report.md, report.html and curve.png. Raises InputError for a negative variance or one given twice, and if matplotlib is
    missing, before anything is restored.
    """
    for variance in variances:
        check_protocol("full", noise_variance=variance)
    if len(set(variances)) != len(variances):
        raise InputError(f"The noise variances {', '.join(f'{v:g}' for v in variances)} contain one twice; give each once.")
    import_figure()
    check_bucket(output, write=True)
    _open_sweep(output, overwrite=overwrite)
    folders = [f"noise_{variance:g}" for variance in variances]
    runs = [dict(evaluate_fn(variance, output / folder)) for variance, folder in zip(variances, folders, strict=True)]
    metrics = [Metric(**metric) for metric in runs[0]["metrics"]]
    kept = ("noise_variance", "input", "restored", "gain", "compared", "worse", "images")
    rows = [{key: run[key] for key in kept} | {"folder": folder} for run, folder in zip(runs, folders, strict=True)]
    shared = {
        key: runs[0].get(key) for key in ("protocol", "model", "metrics", "notes", "data", "blurred", "sharp", "images", "tile", "overlap")
    }
    summary = {**describe_machine(), "kind": _KIND, **shared, "command": command, "runs": rows}
    draw_curve(rows, metric=metrics[0], path=output / _CURVE)
    document = _make_document(summary, metrics)
    write_atomically(output / "sweep.csv", _as_csv(rows, metrics).encode())
    write_atomically(output / "report.md", as_markdown(document).encode())
    write_atomically(output / "report.html", as_html(document, folder=output).encode())
    write_atomically(output / METRICS_FILE, (json.dumps(summary, indent=2, allow_nan=False) + "\n").encode())
    return summary


def _open_sweep(output: AnyPath, *, overwrite: bool) -> None:
    """Refuse a folder with other content. An older sweep's summary is removed first if its parts are to be repeated.

    A finished sweep may stay; its parts show whether they belong to this one.
    """
    with contextlib.suppress(OSError, ValueError, AttributeError):
        if json.loads((output / METRICS_FILE).read_text()).get("kind") == _KIND and not overwrite:
            return
    there = [name for name in (METRICS_FILE, *_FILES) if (output / name).exists()]
    if there and not overwrite:
        raise InputError(
            f"{output} already contains a {there[0]} of something else; choose another folder, or overwrite it with --overwrite."
        )
    if overwrite:
        clear_report(output)
    for name in there:
        (output / name).unlink(missing_ok=True)


def draw_curve(rows: Sequence[Mapping[str, Any]], *, metric: Metric, path: AnyPath) -> None:
    """Draw `metric` over the noise's standard deviation in grey levels (0 to 255), a line for each version, as a PNG file.

    The axis is the standard deviation, because the variances of the sweep span a factor of twenty, and 0 has no logarithm.
    """
    figure = import_figure()(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    levels = [255 * row["noise_variance"] ** 0.5 for row in rows]
    for version in ("restored", "input", *rows[0]["compared"]):
        values = [(row if version in row else row["compared"])[version][metric.name] for row in rows]
        axes.plot(levels, values, marker="o", label=version, linestyle="--" if version == "input" else "-")
    axes.set_xticks(levels, [f"{level:.1f}\n({row['noise_variance']:g})" for level, row in zip(levels, rows, strict=True)], fontsize=8)
    axes.set_xlabel("standard deviation of the noise in grey levels (variance on the image scale [0, 1])")
    axes.set_ylabel(metric.title)
    axes.grid(alpha=0.3)
    axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    write_atomically(path, buffer.getvalue())


def format_sweep(summary: Mapping[str, Any]) -> str:
    """Format a table for the terminal."""
    table = _sweep_table(summary["runs"], [Metric(**metric) for metric in summary["metrics"]][:2])
    return "\n".join([f"{summary['protocol']} protocol", *align_columns([table.header, *table.rows]), *summary["notes"]])


def _sweep_table(rows: Sequence[Mapping[str, Any]], metrics: Sequence[Metric]) -> Table:
    methods = list(rows[0]["compared"])
    header = ["noise variance"]
    for metric in metrics:
        header += [f"{metric.title} in", "out", "gain", *methods]
    body = []
    for row in rows:
        cells = [f"{row['noise_variance']:g}"]
        for metric in metrics:
            cells += [metric.format(row[version][metric.name], signed=version == "gain") for version in ("input", "restored", "gain")]
            cells += [metric.format(row["compared"][method][metric.name]) for method in methods]
        body.append(cells)
    return Table("", header, body)


def _make_document(summary: Mapping[str, Any], metrics: Sequence[Metric]) -> Document:
    rows = summary["runs"]
    links = [(f"variance {row['noise_variance']:g}", f"{row['folder']}/report.html") for row in rows]
    return Document(
        "Noise sweep",
        [
            f"Protocol `{summary['protocol']}` with Gaussian noise, seeded by the file's index, added to the blurred image.",
            f"Data: {describe_data(summary)}. Model: {describe_model(summary['model'])}.",
            _sweep_table(rows, metrics[:2]),
            *summary["notes"],
            Pictures("Curve", [_CURVE]),
            Bullets("", [(metric.title, metric.words) for metric in metrics[:2]]),
            Bullets("Reports of each variance", links, links=True),
            Bullets("Model and machine", make_facts(summary), code=True),
        ],
    )


def _as_csv(rows: Sequence[Mapping[str, Any]], metrics: Sequence[Metric]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    methods = list(rows[0]["compared"])
    columns = [(version, metric.name) for version in ("input", "restored", *methods) for metric in metrics]
    writer.writerow(["noise_variance", *(f"{version}_{name}" for version, name in columns)])
    for row in rows:
        values = [(row["compared"] if version in methods else row)[version][name] for version, name in columns]
        writer.writerow([f"{row['noise_variance']:g}", *(f"{value:.6f}" for value in values)])
    return buffer.getvalue()

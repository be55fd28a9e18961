"""The files of an evaluation: metrics.json, per_image.csv, report.md, report.html and panels, each written whole or not at all.

metrics.json is written last, so its presence marks a finished evaluation. Before that the folder has a journal.
"""

import contextlib
import csv
import io
import json
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import jax

import drsn_jax
from drsn_jax.evaluation.metrics.scorers import Scorer
from drsn_jax.evaluation.report.document import make_document
from drsn_jax.evaluation.report.formats import as_html, as_markdown
from drsn_jax.evaluation.report.pictures import PANEL_KINDS, panel_path
from drsn_jax.evaluation.scoring.journal import JOURNAL_FILE, Journal, name_difference, open_journal
from drsn_jax.evaluation.scoring.protocols import describe_protocol
from drsn_jax.evaluation.scoring.scores import ImageScore
from drsn_jax.system.errors import InputError
from drsn_jax.system.files import write_atomically
from drsn_jax.system.growing import discard, read_grown
from drsn_jax.system.paths import AnyPath, check_bucket, is_bucket

METRICS_FILE, TABLE_FILE = "metrics.json", "per_image.csv"
_FILES = (METRICS_FILE, TABLE_FILE, "report.md", "report.html", JOURNAL_FILE)
_SCHEMA = 2


def read_summary(path: AnyPath) -> dict[str, Any]:
    """Read the metrics.json at `path` or in that folder. Raises InputError if there is none, or it has another kind or version."""
    check_bucket(path)
    file = path / METRICS_FILE if path.is_dir() else path
    try:
        summary = json.loads(file.read_text())
    except FileNotFoundError:
        raise InputError(f"There is no {file}; give the metrics.json, or the folder, of a finished evaluation.") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read as the metrics.json of an evaluation ({error}).") from error
    if not isinstance(summary, dict) or summary.get("schema") != _SCHEMA or "per_image" not in summary:
        raise InputError(
            f"{file} is not the metrics.json of one evaluation of this version (schema {_SCHEMA}); run `drsn-jax evaluate` again."
        )
    return summary


def finished_summary(output: AnyPath, *, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the metrics.json of this evaluation if the folder contains it finished; None if it contains none.

    Raises InputError if the folder contains an evaluation with other settings.
    """
    if not (output / METRICS_FILE).exists():
        return None
    try:
        stored = json.loads((output / METRICS_FILE).read_text())
    except (OSError, ValueError):
        stored = {}
    before, given = stored.get("settings") if isinstance(stored, dict) else None, json.loads(json.dumps(settings))
    if isinstance(before, dict) and before == given:
        sys.stderr.write(f"{output} holds this evaluation, finished {stored.get('created')}; --overwrite repeats it.\n")
        return stored
    difference = f": {name_difference(before, given)}" if isinstance(before, dict) else ""
    raise InputError(
        f"{output} already holds an evaluation ({METRICS_FILE}{difference}); choose another folder, or overwrite it with --overwrite."
    )


def open_report(output: AnyPath, *, settings: Mapping[str, Any], overwrite: bool = False) -> Journal:
    """Prepare the folder before the long work starts. Returns the journal, with the scores of an interrupted run if there are any.

    With `overwrite` the files and panels of an older evaluation are removed first. So a failed run is not mistaken for a finished one.
    Raises InputError if files of these names exist without a journal, if the folder is a file, or if it cannot be written.
    """
    stray = [name for name in _FILES[1:4] if (output / name).exists()]
    if stray and not (overwrite or read_grown(output / JOURNAL_FILE)):
        raise InputError(f"{output} already holds a {stray[0]}; choose another folder, or overwrite it with --overwrite.")
    try:
        if not is_bucket(output):
            output.mkdir(parents=True, exist_ok=True)
        if overwrite:
            clear_report(output)
        return open_journal(output, settings=settings)
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"The report cannot be written to {output} ({error.strerror}); choose a folder that can be written.") from error


def clear_report(output: AnyPath) -> None:
    """Remove the files of an evaluation and its listed panels; other files stay."""
    panels: list[str] = []
    with contextlib.suppress(OSError, ValueError, AttributeError, TypeError, KeyError):
        panels += json.loads((output / METRICS_FILE).read_text())["panels"]
    with contextlib.suppress(OSError, ValueError, AttributeError, TypeError, KeyError):
        lines = [json.loads(line) for line in read_grown(output / JOURNAL_FILE).splitlines()[1:]]
        panels += [panel_path(line["name"], kind=kind) for line in lines for kind in PANEL_KINDS]
    for name in (*_FILES, *panels):
        discard(output / name)


def describe_machine() -> dict[str, Any]:
    """Describe versions, platform and devices, which belong to a figure like its protocol."""
    device = jax.devices()[0]
    packages = ("jax", "flax", "numpy", "pillow")
    return {
        "schema": _SCHEMA,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {
            "drsn_jax": drsn_jax.__version__,
            **{package: metadata.version(package) for package in packages},
            "python": platform.python_version(),
        },
        "platform": platform.platform(),
        "device": {"backend": device.platform, "kind": device.device_kind, "count": jax.device_count()},
    }


def describe_run(*, protocol: str, noise_variance: float, scorer: Scorer, model_info: Mapping[str, Any], command: str) -> dict[str, Any]:
    """Describe everything that is needed to repeat a figure: protocol, metrics, model, versions, device and command."""
    return {
        **describe_machine(),
        "protocol": protocol,
        "noise_variance": noise_variance,
        "protocol_in_words": describe_protocol(protocol, noise_variance=noise_variance),
        "metrics": [asdict(metric) for metric in scorer.metrics],
        "model": {"path": None, "step": None, "parameters": None, "sha256": None, **model_info},
        "command": command,
    }


def write_report(output: AnyPath, *, summary: dict[str, Any], scores: Sequence[ImageScore]) -> dict[str, Any]:
    """Write per_image.csv, report.md, report.html and, last, metrics.json; returns the content of the latter.

    `summary` combines those of `describe_run` and `scoring.summarise`; the scores are added to it.
    """
    summary = summary | {"per_image": [asdict(score) for score in scores]}
    text = json.dumps(summary, indent=2, allow_nan=False, default=str) + "\n"
    summary = json.loads(text)
    document = make_document(summary)
    write_atomically(output / TABLE_FILE, _as_csv(scores).encode())
    write_atomically(output / "report.md", as_markdown(document).encode())
    write_atomically(output / "report.html", as_html(document, folder=output).encode())
    write_atomically(output / METRICS_FILE, text.encode())
    discard(output / JOURNAL_FILE)
    return summary


def _as_csv(scores: Sequence[ImageScore]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    columns = [(version, metric) for version, values in scores[0].scores.items() for metric in values]
    names = [f"{version}_{metric}" for version, metric in columns]
    writer.writerow(["name", "height", "width", *names, "gain_db", "worse", "seconds", "first_of_size"])
    for score in scores:
        values = [f"{score.scores[version][metric]:.6f}" for version, metric in columns]
        gain = "" if score.gain_db is None else f"{score.gain_db:.6f}"
        ending = [gain, int(score.worse), f"{score.seconds:.4f}", int(score.first_of_size)]
        writer.writerow([score.name, score.height, score.width, *values, *ending])
    return buffer.getvalue()

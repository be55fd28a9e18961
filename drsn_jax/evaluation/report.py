"""What an evaluation leaves behind: metrics.json, per_image.csv, report.md and panels/*.png, each written whole or not at all.

metrics.json is written last: a folder that has one holds a finished evaluation.
"""

import csv
import io
import json
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jax

import drsn_jax
from drsn_jax.errors import InputError
from drsn_jax.evaluation.metrics import HEADLINE_SSIM, METRICS, SSIM_KINDS
from drsn_jax.evaluation.protocols import describe_protocol
from drsn_jax.evaluation.scoring import ImageScore
from drsn_jax.files import write_atomically

METRICS_FILE = "metrics.json"
_SCHEMA = 1
_NOT_FINISHED = b"# Evaluation\n\nNot finished.\n"


def open_report(output: Path, *, overwrite: bool = False) -> None:
    """Make the folder ready before the long work starts.

    Raises InputError where it already holds an evaluation and `overwrite` is false, where it is a file, or where it cannot
    be written. With `overwrite` the old metrics.json and its panels go first, lest a broken run pass for a finished one.
    """
    finished, started = output / METRICS_FILE, output / "report.md"
    if finished.exists() and not overwrite:
        raise InputError(f"{output} already holds an evaluation ({METRICS_FILE}); choose another folder, or overwrite it with --overwrite.")
    for file in (started, output / "per_image.csv"):
        unfinished = started.is_file() and started.read_bytes() == _NOT_FINISHED  # ours, of a run that was broken off
        if file.exists() and not (overwrite or unfinished):
            raise InputError(f"{output} already holds a {file.name}; choose another folder, or overwrite it with --overwrite.")
    try:
        output.mkdir(parents=True, exist_ok=True)
        if finished.exists():
            finished.unlink()
            for panel in (output / "panels").glob("*.png"):
                panel.unlink()
        write_atomically(started, _NOT_FINISHED)
    except OSError as error:
        raise InputError(f"The report cannot be written to {output} ({error.strerror}); choose a folder that can be written.") from error


def panel_path(name: str) -> str:
    """Where the panel of an image lies, relative to the report: a name with folders in it becomes one file name."""
    return f"panels/{name.replace('/', '__')}.png"


def describe_run(*, protocol: str, noise_variance: float, model_info: dict[str, Any], command: str) -> dict[str, Any]:
    """What a figure has to carry to be repeated: protocol, model, versions, device and command."""
    device = jax.devices()[0]
    return {
        "schema": _SCHEMA,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "protocol": protocol,
        "noise_variance": noise_variance,
        "protocol_in_words": describe_protocol(protocol, noise_variance=noise_variance),
        "headline_ssim": HEADLINE_SSIM,
        "ssim_kinds": SSIM_KINDS,
        "model": {"path": None, "step": None, "parameters": None, "sha256": None, **model_info},
        "versions": {
            "drsn_jax": drsn_jax.__version__,
            **{package: metadata.version(package) for package in ("jax", "flax", "numpy", "pillow")},
            "python": platform.python_version(),
        },
        "platform": platform.platform(),
        "device": {"backend": device.platform, "kind": device.device_kind, "count": jax.device_count()},
        "command": command,
    }


def write_report(output: Path, *, summary: dict[str, Any], scores: Sequence[ImageScore], panels: Sequence[str]) -> None:
    """Write per_image.csv, report.md and, last, metrics.json.

    `summary` is what `describe_run` and `scoring.summarise` hold together; `panels` are the names of images that have one.
    """
    write_atomically(output / "per_image.csv", _as_csv(scores).encode())
    write_atomically(output / "report.md", _as_markdown(summary, scores, panels).encode())
    text = json.dumps(summary, indent=2, allow_nan=False, default=str) + "\n"
    write_atomically(output / METRICS_FILE, text.encode())


def _as_csv(scores: Sequence[ImageScore]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    columns = [f"{stage}_{metric}" for stage in ("input", "restored") for metric in METRICS]
    writer.writerow(["name", "height", "width", *columns, "gain_db", "worse", "seconds", "first_of_size"])
    for score in scores:
        values = [f"{stage[metric]:.6f}" for stage in (score.input, score.restored) for metric in METRICS]
        ending = [f"{score.gain_db:.6f}", int(score.worse), f"{score.seconds:.4f}", int(score.first_of_size)]
        writer.writerow([score.name, score.height, score.width, *values, *ending])
    return buffer.getvalue()


def format_value(metric: str, value: float, *, signed: bool = False) -> str:
    """Two digits for dB, four for SSIM."""
    return f"{value:{'+' if signed else ''}.{2 if metric == 'psnr' else 4}f}"


def column_title(metric: str) -> str:
    """`PSNR (dB)`, `SSIM (gaussian)`: never SSIM without its kind."""
    return "PSNR (dB)" if metric == "psnr" else f"SSIM ({metric.removeprefix('ssim_')})"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _as_markdown(summary: dict[str, Any], scores: Sequence[ImageScore], panels: Sequence[str]) -> str:
    lines = ["# Evaluation", "", f"Protocol: `{summary['protocol']}`: {summary['protocol_in_words']}.", ""]
    lines += [_row(["", *map(column_title, METRICS)]), _row(["---", *["---:"] * len(METRICS)])]
    for stage in ("input", "restored", "gain"):
        cells = [format_value(metric, summary[stage][metric], signed=stage == "gain") for metric in METRICS]
        lines.append(_row([stage, *cells]))
    lines += ["", describe_counts(summary), ""]
    lines += [f"The headline SSIM is `{summary['headline_ssim']}`. The kinds are not comparable with one another:", ""]
    lines += [f"- `{kind}`: {words}" for kind, words in summary["ssim_kinds"].items()]
    lines += ["", "## Model and machine", "", *_facts(summary), "", "## Images", "", *_image_table(scores, panels)]
    return "\n".join(lines) + "\n"


def describe_counts(summary: dict[str, Any]) -> str:
    """One sentence: how many images, how many made worse, the time for one."""
    count = summary["images"]
    timing = ", compilation included" if summary["seconds_include_compilation"] else ""
    return (
        f"{count} image{'' if count == 1 else 's'}, {summary['worse']} made worse by more than {summary['worse_by_db']} dB; "
        f"{summary['seconds_per_image']:.3g} s an image (median{timing})."
    )


def _facts(summary: dict[str, Any]) -> list[str]:
    facts = {f"model {key}": value for key, value in summary["model"].items() if value is not None}
    facts |= summary["versions"] | {"platform": summary["platform"]}
    device = summary["device"]
    facts |= {"device": f"{device['count']} x {device['kind']} ({device['backend']})", "command": summary["command"] or None}
    return [f"- {key}: `{value}`" for key, value in facts.items() if value is not None]


def _image_table(scores: Sequence[ImageScore], panels: Sequence[str]) -> list[str]:
    title = ["image", "size", "PSNR in", "PSNR out", "gain", *(f"{column_title(kind)} out" for kind in SSIM_KINDS), "seconds"]
    rows = [_row(title), _row(["---", "---", *["---:"] * (len(title) - 2)])]
    for score in scores:
        name = f"[{score.name}]({quote(panel_path(score.name))})" if score.name in panels else score.name
        psnr = [format_value("psnr", score.input["psnr"]), format_value("psnr", score.restored["psnr"])]
        gain = format_value("psnr", score.gain_db, signed=True) + (" (worse)" if score.worse else "")
        ssims = [format_value(kind, score.restored[kind]) for kind in SSIM_KINDS]
        rows.append(_row([name, f"{score.width}x{score.height}", *psnr, gain, *ssims, f"{score.seconds:.3g}"]))
    return rows

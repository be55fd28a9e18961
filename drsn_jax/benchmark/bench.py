"""The whole measurement of `drsn-jax bench`, from options to document."""

import importlib.metadata
import os
import platform
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from drsn_jax import __version__
from drsn_jax.benchmark.loader_rows import write_pairs
from drsn_jax.benchmark.measuring import LEAST, LEAST_SLOW, MOST, measure_row
from drsn_jax.benchmark.processes import SkippedError, Worker, WorkerError
from drsn_jax.benchmark.rows import OURS, ROWS, Row, choose_keras, choose_rows, choose_subjects, precision_of, worker_environment
from drsn_jax.system.errors import InputError
from drsn_jax.system.processor import read_processor

FORMAT = 2
PACKAGES = ("jax", "jaxlib", "flax", "keras", "tensorflow", "tensorflow-cpu", "torch", "numpy", "pillow")
_VARIABLES = ("DRSN_", "JAX_", "XLA_", "TF_", "KERAS_", "OMP_", "CUDA_", "LIBTPU_")  # environment variables that affect the measurement
PROTOCOL = {
    "processes": "one for each row and subject",
    "order": "every subject once per round, in turn; only one runs at a time",
    "synchronised": "the results of each call are awaited",
    "first_call": "compilation and one run; compile_seconds is the difference to the median",
    "warm_up": "one call after the first",
    "samples": f"{LEAST} to {MOST} of each subject, {LEAST_SLOW} of a much slower one; calls below 0.2 s are timed in groups",
    "statistics": "median, smallest and largest",
    "peak_bytes": "of the process on a CPU, of the device's memory on an accelerator, after the warm-up; compiling included",
    "imported_bytes": "of the process, after the imports; those of the Keras subjects include JAX, which reads the weights",
    "macs": "nominal multiply-adds of one call, of the configured step, the same for every subject (drsn_jax.benchmark.workload)",
    "share_of_peak": "2 x macs / seconds / the rate of a matrix product (2048 wide, 8192 on an accelerator) timed in the same rounds",
    "precision": "bfloat16 if the device has units for it: ours with dtype=bfloat16, Keras under the policy mixed_bfloat16",
    "ratios": "by precision, fastest Keras median / our median: above 1 ours is faster",
}


def run_bench(
    config: Mapping[str, Any],
    *,
    against: str | None = None,
    rows: str | None = None,
    batch_size: int | None = None,
    crop_size: int | None = None,
    seconds: float = 30.0,
    timeout: float = 900.0,
    profile: Path | None = None,
    command: str = "",
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Measure and return the document of `--output`; docs/how-to/benchmark-speed.md describes it.

    `seconds` is the budget for the samples of one row, `timeout` the limit for one answer of a worker. Raises InputError before any timing
    for a measurement that is impossible. Later failures are stored in the document as the `error` of a cell or of the trace.
    """
    choose_rows(rows, accelerator=True)  # so that a typing error is found before a process is started
    keras, notes = choose_keras(against)

    def start(subject: str) -> Worker:
        return Worker(environment=worker_environment(subject), timeout=timeout)

    say("looking at the device and the configuration")
    device, checked = _probe(start, config, batch_size=batch_size, crop_size=crop_size, keras=bool(keras))
    accelerator = device["platform"] != "cpu"
    chosen, config = choose_rows(rows, accelerator=accelerator), checked["config"]
    bfloat16 = accelerator or config["dtype"] == "bfloat16" or read_processor().has_bfloat16
    notes += checked["notes"] + _warn(config, keras=bool(keras))
    with tempfile.TemporaryDirectory(prefix="drsn-jax-bench-") as folder:
        if any(row.host for row in chosen):
            say("drawing pairs for the input pipeline")
            notes.append(f"Input pipeline: {write_pairs(Path(folder))}.")
        interleave = device["platform"] != "tpu"  # only one process can use a TPU
        options = {"folder": folder, "seconds": seconds, "interleave": interleave, "start_fn": start}
        measured = [_measure(row, config, keras=keras, bfloat16=bfloat16, say=say, **options) for row in chosen]
    document = describe_run(config, device=device, command=command)
    document |= {"subjects": ["ours", *keras], "rows": measured, "notes": notes + _explain(measured)}
    return document | ({"profile": _profile(start, config, profile, say=say)} if profile else {})


def describe_run(config: Mapping[str, Any], *, device: Mapping[str, Any], command: str) -> dict[str, Any]:
    """Collect the details of machine, programs and method that readers of the figures need."""
    versions = {"drsn_jax": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    machine = {"cpu": read_processor().name, "cores": cores, "system": platform.platform(), **device}
    environment = {name: value for name, value in sorted(os.environ.items()) if name.startswith(_VARIABLES)}
    run = {"drsn_jax_bench": FORMAT, "date": datetime.now(UTC).isoformat(timespec="seconds"), "command": command}
    return run | {"versions": versions, "machine": machine, "environment": environment, "protocol": PROTOCOL, "config": dict(config)}


def failures(document: Mapping[str, Any]) -> list[str]:
    """List the failures of our own cells and of the trace, in words."""
    failed = [
        f"{row['title']}, {cell['subject']}: {cell['error']}"
        for row in document["rows"]
        for cell in row["cells"]
        if "error" in cell and cell["subject"].startswith("ours")
    ]
    return failed + ([f"trace: {document['profile']['error']}"] if "error" in document.get("profile", {}) else [])


def _probe(start: Callable[[str], Worker], config: Mapping[str, Any], **how: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Ask a worker for the device and the measured configuration. JAX in this process would take the accelerator's memory."""
    with start(OURS) as worker:
        try:
            return worker.ask("hello", subject=OURS), worker.ask("check", config=dict(config), **how)
        except SkippedError as error:
            raise InputError(str(error)) from None
        except WorkerError as error:
            raise InputError(f"The device cannot be used: a test process {error}; see --timeout and JAX_PLATFORMS.") from None


def _measure(
    row: Row, config: Mapping[str, Any], *, keras: Sequence[str], bfloat16: bool, say: Callable[[str], None], **how: Any
) -> dict[str, Any]:
    title = row.title_of(crop_size=config["crop_size"])
    subjects = choose_subjects(row, keras=keras, bfloat16=bfloat16)
    configs = {subject: {**config, "dtype": precision_of(subject)} for subject in subjects}
    measured = measure_row(row, subjects, configs=configs, say=lambda text: say(f"{title}: {text}"), **how)
    return {"name": row.name, "title": title, "unit": row.unit or "call", "batch_size": config["batch_size"], **measured}


def _profile(start: Callable[[str], Worker], config: Mapping[str, Any], folder: Path, *, say: Callable[[str], None]) -> dict[str, Any]:
    say(f"trace into {folder}")
    try:
        with start(OURS) as worker:
            return worker.ask("profile", config={**config, "dtype": "float32"}, folder=str(folder))
    except WorkerError as error:
        return {"error": str(error)}


def _warn(config: Mapping[str, Any], *, keras: bool) -> list[str]:
    if keras and config["fake_mode"] == "train":
        return ["Keras' step predicts the restorations once more than ours; both shares of the peak count the work of ours."]
    return []


def _explain(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Collect the remarks of the cells, each once."""
    notes = []
    for row in rows:
        for cell in row["cells"]:
            for kind, word in (("error", "failed"), ("skipped", "not measured")):
                if kind in cell:
                    notes.append(f"{row['title']}, {cell['subject']}: {word}: {cell[kind]}")
            if cell.get("about"):
                notes.append(f"{row['title']}, {cell['subject']}: {cell['about']}")
        platforms = {cell["platform"] for cell in row["cells"] if "median" in cell and not ROWS[row["name"]].host}
        if len(platforms) > 1:
            names = ", ".join(f"{cell['subject']} on {cell['platform']}" for cell in row["cells"] if "median" in cell)
            notes.append(f"{row['title']}: {names}; devices other than ours are left out of the ratio and the share of the peak.")
        if not row["interleaved"] and len(row["cells"]) > 1:
            notes.append(f"{row['title']}: one subject after the other, not in turn, because each needs the whole device.")
    return list(dict.fromkeys(notes))

"""The parts of the survey, the most valuable first. Each returns rows with a description, a figure and a remark."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from drsn_jax.config import load_config
from drsn_jax.system.errors import InputError

Rows = list[dict[str, Any]]
TINY = ("widths=4,6,8", "num_blocks=1", "critic_widths=4,4", "dense_features=16")  # for a dry run


class Plan(NamedTuple):
    """The folder for results, the seconds for a part, and whether it is a dry run."""

    folder: Path
    seconds: float = 60.0
    tiny: bool = False


class Result(NamedTuple):
    """The rows of a part, or the problem that prevented them."""

    part: str
    rows: Rows
    problem: str


class Part(NamedTuple):
    """A part: its minimum time to start, its maximum time, and the additional time before it is killed."""

    name: str
    run_fn: Callable[[Plan], Rows]
    least_seconds: int
    most_seconds: int
    grace_seconds: int = 60


def row(what: str, figure: Any, remark: str = "") -> dict[str, Any]:
    """Make one row of the table."""
    return {"what": what, "figure": figure, "remark": remark}


def describe_device(plan: Plan) -> Rows:
    """Describe the device, the driver's plugin and the versions."""
    del plan
    from drsn_jax.planning.environment import read_environment

    environment = read_environment()
    packages = ", ".join(f"{name} {version}" for name, version in environment["packages"].items() if version)
    return [row("device", "; ".join(environment["devices"])), row("processor", environment["processor"]), row("versions", packages)]


def check_parity(plan: Plan) -> Rows:
    """Compare this device with the CPU: see `accelerator.parity`."""
    from accelerator.parity import compare_all

    verdicts = {True: "within", False: "**beyond**"}
    return [row(check.what, f"{check.worst:.3g}", f"{verdicts[check.holds]} {check.bound:g}") for check in compare_all(plan.tiny)]


def _bench_config(plan: Plan, name: str = "paper") -> Mapping[str, Any]:
    return load_config(name, [f"--config.{change}" for change in TINY] if plan.tiny else [])


def _bench(plan: Plan, rows: str, **options: Any) -> dict[str, Any]:
    from drsn_jax.benchmark.bench import run_bench

    sizes = {"batch_size": 1, "crop_size": 32} if plan.tiny else {}
    samples = 0.2 if plan.tiny else plan.seconds / (2 * len(rows.split(",")) + 2)
    tell = {"say": lambda text: sys.stderr.write(f"accelerator: {text}\n")}
    document = run_bench(_bench_config(plan), rows=rows, seconds=samples, timeout=plan.seconds + 30, **sizes, **tell, **options)
    (plan.folder / f"bench-{rows.split(',')[0]}.json").write_text(json.dumps(document, indent=1))
    return document


def _cells(document: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    return ((measured, cell) for measured in document["rows"] for cell in measured["cells"])


def measure_speed(plan: Plan) -> Rows:
    """Time the paper's training step, its parts, and inference, in both precisions, with the share of the peak and the peak memory."""
    rows = "inference" if plan.tiny else "training-step,critic-part,generator-part,inference,inference-720p"
    found = []
    for measured, cell in _cells(_bench(plan, rows)):
        what = f"{measured['title']}, {cell['subject'].removeprefix('ours-')}"
        if "median" not in cell:
            found.append(row(what, "-", cell.get("error") or cell.get("skipped", "")))
            continue
        share = f"{cell['share_of_peak']:.0%} of the peak" if cell.get("share_of_peak") else ""
        memory = f"{cell['peak_bytes'] / 1e9:.2f} GB" if cell["peak_bytes"] else ""
        found.append(row(what, f"{cell['median'] * 1000:.3g} ms", ", ".join(filter(None, (share, memory)))))
    return found


def measure_best_batch(plan: Plan) -> Rows:
    """Return the batch with the most images a second."""
    try:
        document = _bench(plan, "best-batch")
    except InputError as error:  # a CPU has no such row
        return [row("best batch", "-", str(error))]
    found = []
    for measured, cell in _cells(document):
        what = f"{measured['title']}, {cell['subject'].removeprefix('ours-')}"
        found.append(row(what, f"{cell.get('images_per_second', 0):.3g} images/s", cell.get("about") or cell.get("error", "")))
    return found


def compare_memory(plan: Plan) -> Rows:
    """Compare the memory of a step as computed by `info --fit` with its measured memory."""
    import jax

    from drsn_jax.benchmark.our_rows import make_step_call, peak_bytes
    from drsn_jax.planning.memory import step_bytes

    found, config = [], dict(_bench_config(plan)) | {"stages": ()}
    for batch_size, crop_size in ((1, 32),) if plan.tiny else ((1, 256), (8, 128), (8, 256)):
        sizes = {"batch_size": batch_size, "crop_size": crop_size}
        computed = step_bytes(config, **sizes, accumulation_steps=1)
        make_step_call(config | sizes)()
        measured = peak_bytes() if jax.default_backend() != "cpu" else None  # on a CPU it is that of the process, not of the step
        remark = f"{measured / 1e9:.2f} GB peak so far" if measured else "not measured on a CPU"
        found.append(row(f"step, batch {batch_size} of {crop_size}", f"{computed / 1e9:.2f} GB computed", remark))
    return found


def train_a_minute(plan: Plan) -> Rows:
    """Train for one minute on synthetic resident photographs, by the command line, and return the share of waiting for data."""
    from PIL import Image

    photographs = plan.folder / "photographs"
    photographs.mkdir(exist_ok=True)
    for number in range(4):
        noise = np.random.default_rng(number).uniform(0, 255, (16, 16, 3)).astype(np.uint8)
        Image.fromarray(noise).resize((512, 512), Image.Resampling.BICUBIC).save(photographs / f"{number}.png")
    workdir = plan.folder / "run"
    tiny = [
        f"--config.{change}" for change in (*TINY[:3], "stages=()", "crop_size=32", "batch_size=2", "num_train_steps=3", "warmup_steps=0")
    ]
    options = (
        [*tiny, "--config.log_every_steps=1"] if plan.tiny else ["--minutes=1", "--config.dtype=bfloat16", "--config.log_every_steps=20"]
    )
    options += ["--config.data=photos", f"--config.train_dir={photographs}", "--config.eval_every_steps=0"]
    argv = [sys.executable, "-m", "drsn_jax", "train", "--config=best", f"--workdir={workdir}", "--config.tensorboard=False", *options]
    subprocess.run(argv, check=True, stdout=sys.stderr, timeout=plan.seconds + 60)
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    timed = [line for line in lines if "images_per_second" in line][-1]
    speed, waiting = f"{timed['images_per_second']:.3g} images/s", f"waiting {timed['waiting_share']:.1%} of the time"
    return [row("best, resident photographs", speed, waiting)]


def write_trace(plan: Plan) -> Rows:
    """Write a trace of training steps and inferences, for XProf and Perfetto."""
    document = _bench(plan, "inference", profile=plan.folder / "trace")
    return [row("trace", path.name, "") for path in map(Path, document["profile"].get("files", ()))]


PARTS = (
    Part("device", describe_device, 10, 60),
    Part("parity", check_parity, 40, 120),
    Part("speed", measure_speed, 90, 240),
    Part("training", train_a_minute, 80, 120),
    Part("memory", compare_memory, 40, 120),
    Part("best-batch", measure_best_batch, 60, 180),
    Part("trace", write_trace, 40, 120),
)

"""A run small enough for tests, shared by the tests that train: its options, its data, and the command line in other processes.

Such a process has one CPU device and reuses earlier compilations; this process has eight devices (conftest.py).
"""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import warm
import xla_flags
from PIL import Image, ImageFilter

from drsn_jax.config.build import make_training
from drsn_jax.system.locks import LOCK_FILE
from drsn_jax.training.sharding import make_mesh, replicated, with_sharding

TESTS = Path(__file__).parent
SIZE = (64, 48)  # width and height of every photograph
CORNERS = ((20, 180), (120, 60), (230, 240), (0, 0), (300, 100))
OPTIONS = {
    "widths": "4,6,8",
    "num_blocks": 1,
    "trunk": "quarter",
    "unshuffle": 1,
    "critic_widths": "4,4",
    "critic_steps": 2,
    "content_weight": 0.0,
    "stages": "()",
    "crop_size": 32,
    "batch_size": 2,
    "warmup_steps": 0,
    "num_train_steps": 6,
    "log_every_steps": 1,
    "eval_every_steps": 0,
    "checkpoint_every_steps": 3,
    "eval_images": 1,
    "sample_images": 1,
    "tensorboard": False,
}
UNET = {"trunk": "unet", "unshuffle": 2}  # five blocks in place of one: twice the time to trace and compile
# Stops a run before its n-th batch, says so by a file, and goes on when another file is there. Real signals come from outside.
PAUSING = """
import sys, time
from pathlib import Path
from drsn_jax.cli.main import main
from drsn_jax.run.feed import Feed

number, folder = int(sys.argv[1]), Path(sys.argv[2])
wait_for, calls, fetch = folder / sys.argv[3], [], Feed.next

def pausing(self, *, after):
    calls.append(1)
    if len(calls) == number:
        while not wait_for.exists():
            time.sleep(0.01)
        (folder / "paused").touch()
        while not (folder / "go").exists():
            time.sleep(0.01)
    return fetch(self, after=after)

Feed.next = pausing
sys.exit(main(sys.argv[4:]))
"""


def options(**changes) -> list[str]:
    """Return `--config.key=value` for the tiny run, with changes. Only photographs are blurred, so only they are told how."""
    blurring = {"blur_length": "2,4"} if changes.get("data") in ("photos", "demo") else {}
    return [f"--config.{key}={value}" for key, value in (OPTIONS | blurring | changes).items()]


def train_arguments(workdir, *, config="default", **changes) -> list[str]:
    return ["train", f"--config={config}", f"--workdir={workdir}", *options(**changes)]


def environment(**changes) -> dict[str, str]:
    """One CPU device, quiet, with the compile cache of the tests."""
    ours = ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES", "NPROC", "PYTEST_CURRENT_TEST", "TF_USE_LEGACY_KERAS")
    kept = {key: value for key, value in os.environ.items() if key not in ours}
    cache = str(TESTS.parent / ".jax_cache")
    # That resuming is bitwise with optimisations too was checked under the flags that conftest.py names for what users run.
    quiet = {"JAX_PLATFORMS": "cpu", "TF_CPP_MIN_LOG_LEVEL": "2", "XLA_FLAGS": xla_flags.with_given(xla_flags.QUICK)}
    # Programs of tests that import helpers, or what another test has.
    folders = [TESTS, *(folder for folder in TESTS.iterdir() if folder.is_dir())]
    kept["PYTHONPATH"] = os.pathsep.join([*map(str, folders), *filter(None, [os.environ.get("PYTHONPATH")])])
    return kept | quiet | {"JAX_COMPILATION_CACHE_DIR": cache, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"} | changes


_servers: list[warm.Server] = []


def command(*arguments, cwd=None, timeout=300) -> subprocess.CompletedProcess:
    """Run `drsn-jax ...` in the warm process; its output is text."""
    if not (_servers and _servers[-1].alive() and _servers[-1].environment == environment()):
        _servers.append(warm.Server(environment()))
    return _servers[-1].run([str(argument) for argument in arguments], cwd=cwd, timeout=timeout)


def fresh_command(*arguments, cwd=None, env=None, timeout=300) -> subprocess.CompletedProcess:
    """Run `python -m drsn_jax ...`; its output is text."""
    argv = [sys.executable, "-m", "drsn_jax", *map(str, arguments)]
    return subprocess.run(argv, cwd=cwd, env=env or environment(), capture_output=True, text=True, timeout=timeout, check=False)


def train(workdir, **changes) -> subprocess.CompletedProcess:
    """Train in the warm process, and check that it succeeds."""
    done = command(*train_arguments(workdir, **changes))
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def trained(factory, photograph: np.ndarray) -> Path:
    """Return a workdir of two steps on photographs, made once for all workers and not to be changed. `factory` is tmp_path_factory."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "trained"
    folder.mkdir(exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "made").exists():
            train(folder / "run", data="photos", train_dir=write_photos(folder / "photos", photograph), num_train_steps=2, **UNET)
            (folder / "made").touch()
    return folder / "run"


def start_pausing(workdir, folder: Path, *, before: int, wait_for: str, **changes) -> subprocess.Popen:
    """Start a training and return once it is paused before its batch number `before`, with `wait_for` (below `folder`) written."""
    argv = [sys.executable, "-c", PAUSING, str(before), str(folder), wait_for, *train_arguments(workdir, **changes)]
    process = subprocess.Popen(argv, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 200
    while not (folder / "paused").exists():
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            raise AssertionError("".join(process.communicate()))
        time.sleep(0.02)
    return process


def kill_at_random(workdir, rng: np.random.Generator, *, lines: int, seconds: float, **changes) -> None:
    """Start a training, kill it a random time below `seconds` after its output reports up to `lines` steps, and check the remains."""
    argv = [sys.executable, "-m", "drsn_jax", *train_arguments(workdir, **changes)]
    with subprocess.Popen(argv, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = (line for line in process.stdout if line.startswith(("Training on ", "step ")))
        for _ in range(rng.integers(0, lines + 1)):
            next(said)
        time.sleep(rng.uniform(0, seconds))
        saved = steps_on_disk(workdir)
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL, "it had ended already"
    assert set(saved[-1:]) <= set(steps_on_disk(workdir)), "what was saved stays"
    assert not lines or (workdir / LOCK_FILE).exists(), "a lock that nobody holds any more"


def write_photos(folder: Path, photograph: np.ndarray) -> Path:
    """Five photographs."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, (top, left) in enumerate(CORNERS):
        Image.fromarray(photograph[top : top + SIZE[1], left : left + SIZE[0]]).save(folder / f"{i}.png")
    return folder


def write_gopro(root: Path, photograph: np.ndarray) -> Path:
    """Write the same in GoPro's layout, in two scenes, blurred by a Gaussian."""
    for i, (top, left) in enumerate(CORNERS):
        sharp = Image.fromarray(photograph[top : top + SIZE[1], left : left + SIZE[0]])
        for kind, image in (("blur", sharp.filter(ImageFilter.GaussianBlur(1.5))), ("sharp", sharp)):
            folder = root / f"GOPR{i % 2}" / kind
            folder.mkdir(parents=True, exist_ok=True)
            image.save(folder / f"{i:06d}.png")
    return root


def steps_on_disk(workdir: Path) -> list[int]:
    return sorted(int(path.name) for path in (workdir / "checkpoints").glob("*") if path.name.isdigit())


def read_metrics(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def losses_by_log(workdir: Path) -> dict[int, dict[str, float]]:
    """Return the figures of each line of the log of training, by step."""
    return {line["step"]: line for line in read_metrics(workdir) if "generator/loss" in line}


def losses(workdir: Path) -> dict[int, dict[str, float]]:
    """Return the figures of each step that do not depend on the clock, and check that each step appears once."""
    lines = [line for line in read_metrics(workdir) if "generator/loss" in line]
    by_step = {line["step"]: {k: v for k, v in line.items() if "/" in k or k == "learning_rate"} for line in lines}
    assert [line["step"] for line in lines] == sorted(by_step), "a step stands twice, or out of order"
    return by_step


def read_state(workdir: Path, step: int) -> dict[str, np.ndarray]:
    """Every array of a checkpoint by its path, the keys of random streams as their data."""
    config = json.loads((workdir / "config.json").read_text())
    stored = json.loads((workdir / "checkpoints" / str(step) / "config" / "metadata").read_text())
    training = make_training(stored, num_train_steps=config["num_train_steps"])
    abstract = with_sharding(jax.eval_shape(training.init, jax.random.key(0)), replicated(make_mesh()))
    state = ocp.StandardCheckpointer().restore((workdir / "checkpoints" / str(step) / "state").resolve(), abstract)
    leaves = jax.tree_util.tree_leaves_with_path(state.replace(rng=jax.random.key_data(state.rng)))
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def assert_same_state(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> None:
    assert first.keys() == second.keys()
    differing = [name for name in first if first[name].tobytes() != second[name].tobytes()]
    assert not differing, f"{len(differing)} of {len(first)} arrays differ, the first is {differing[0]}"

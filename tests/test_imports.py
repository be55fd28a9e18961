"""What may import what (STYLE B), and that TensorFlow is needed for pairs through tf.data and TensorBoard alone."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

PACKAGE = Path(__file__).parent.parent / "drsn_jax"
HEAVY = ("tensorflow", "tensorflow_datasets", "clu", "tensorboard")
MODULES = {path.relative_to(PACKAGE.parent).with_suffix("").as_posix().replace("/", "."): path for path in PACKAGE.rglob("*.py")}
# What each part may import of drsn_jax; the longest name that fits counts.
ALLOWED = {
    "drsn_jax": ("restoration.arrays",),
    "drsn_jax.errors": (),
    "drsn_jax.shipped": (),
    "drsn_jax.backend": (),
    "drsn_jax.config_values": ("errors",),
    "drsn_jax.config": ("config_values", "errors"),
    "drsn_jax.models": ("backend", "models"),
    "drsn_jax.pretrained": ("errors", "models", "interop.vgg19"),
    "drsn_jax.interop": ("backend", "benchmark.keras_models", "config", "errors", "experiment", "files", "interop", "models", "training"),
    "drsn_jax.benchmark": ("benchmark", "config_values", "costs", "errors", "models", "pretrained"),
    "drsn_jax.benchmark.our_rows": ("backend", "benchmark", "errors", "experiment", "training"),
    "drsn_jax.benchmark.keras_rows": ("benchmark", "experiment", "interop.keras"),
    "drsn_jax.benchmark.comparable": ("errors", "experiment", "interop.keras"),
    "drsn_jax.benchmark.workload": ("costs", "experiment", "models"),
    "drsn_jax.benchmark.loader_rows": ("benchmark", "data", "errors"),
    "drsn_jax.data": ("errors", "files", "data", "locks", "progress"),
    "drsn_jax.data.video": ("errors", "data", "video_files"),
    "drsn_jax.evaluation": ("errors", "files", "evaluation", "data", "locks", "panels", "progress"),
    "drsn_jax.panels": ("errors", "files"),
    "drsn_jax.restoration": ("errors", "panels", "restoration"),
    "drsn_jax.restoration.video": ("errors", "progress", "restoration", "video_files"),
    "drsn_jax.restoration.spread": ("backend", "costs", "models"),
    "drsn_jax.restoration.model": ("backend", "errors", "experiment", "models.generator", "interop.exported", "training.saved"),
    "drsn_jax.restoration.arrays": ("errors", "restoration", "shipped"),
    "drsn_jax.serving": ("errors", "restoration", "serving"),
    # the step, the state, losses, sharding, checkpoints, log
    "drsn_jax.training": ("backend", "errors", "files", "models", "processes", "shipped", "training"),
    "drsn_jax.training.workdir": ("config", "errors", "files", "locks", "processes", "training.writer"),
    "drsn_jax.training.batches": ("errors", "experiment", "data", "training"),
    "drsn_jax.training.train": (
        "config",
        "data.photos",
        "errors",
        "experiment",
        "evaluation",
        "functional",
        "interop.vgg19",
        "panels",
        "processes",
        "restoration.tiling",
        "shipped",
        "training",
    ),
    "drsn_jax.functional": ("errors", "evaluation.metrics", "models", "restoration.batch", "training"),
    "drsn_jax.experiment": ("config_values", "errors", "functional", "models", "pretrained", "data.camera_shake", "training"),
    "drsn_jax.info": ("config", "costs", "errors", "experiment", "shipped", "training.saved"),
    "drsn_jax.costs": ("backend",),
    "drsn_jax.memory": ("costs", "errors", "experiment", "functional"),
    "drsn_jax.devices": ("config", "errors", "experiment", "fit", "memory", "training.schedule", "training.workdir"),
    "drsn_jax.fit": ("backend", "errors", "experiment", "memory", "training.schedule"),
    "drsn_jax.projection": (
        "backend",
        "costs",
        "errors",
        "experiment",
        "functional",
        "memory",
        "projection",
        "training.schedule",
        "training.sharding",
    ),
    "drsn_jax.files": (),
    "drsn_jax.video_files": ("errors",),
    "drsn_jax.locks": ("errors",),
    "drsn_jax.lifeline": (),
    "drsn_jax.processes": ("errors", "lifeline"),
    "drsn_jax.progress": (),
    "drsn_jax.cli": ("config_values", "errors", "verbs"),
    "drsn_jax.verbs": ("commands",),
    "drsn_jax.commands": (
        "benchmark",
        "commands",
        "config",
        "devices",
        "errors",
        "files",
        "fit",
        "info",
        "interop",
        "memory",
        "processes",
        "projection",
        "shipped",
        "training.train",
        "evaluation",
        "restoration",
        "serving",
        "data",
        "progress",
    ),
    "drsn_jax.__main__": ("cli",),
}
# data, TensorBoard, the export to TensorFlow's formats, and Keras on its TensorFlow back end
TENSORFLOW = ("drsn_jax.data.", "drsn_jax.training.writer", "drsn_jax.interop.tensorflow_export", "drsn_jax.benchmark.keras")
BUILDERS = ("drsn_jax.data.builders", "drsn_jax.data.beam_pairs")  # tfds builders, registered when their module is imported
LOOP = ("training.train", "training.batches", "experiment", "info", "cli")  # what nothing below them may import


def imports(tree):
    """Every absolute name that is imported, and whether at the top level of the module."""
    top = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative import"
            yield from ((f"{node.module}.{alias.name}", id(node) in top) for alias in node.names)


def parse(module):
    return ast.parse(MODULES[module].read_text())


@pytest.mark.parametrize("module", MODULES)
def test_import_direction(module):
    allowed = ALLOWED[max((name for name in ALLOWED if f"{module}.".startswith(f"{name}.")), key=len)]
    for name, _ in imports(parse(module)):
        if name.startswith("drsn_jax.") and name != "drsn_jax.__version__":
            inner = name.removeprefix("drsn_jax.")
            assert any(f"{inner}.".startswith(f"{part}.") for part in allowed), f"{module} imports {name}"


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("drsn_jax.training.")])
def test_the_step_and_what_it_is_made_of_do_not_know_the_loop(module):
    if module in ("drsn_jax.training.train", "drsn_jax.training.batches"):
        return
    for name, _ in imports(parse(module)):
        assert not f"{name}.".startswith(tuple(f"drsn_jax.{part}." for part in LOOP)), f"{module} imports {name}"


@pytest.mark.parametrize("module", MODULES)
def test_tensorflow_and_clu_are_imported_lazily_and_in_two_places(module):
    for name, at_top in imports(parse(module)):
        if name.split(".")[0] in HEAVY:
            assert module.startswith(TENSORFLOW), f"{module} imports {name}"
            assert not at_top or module in BUILDERS, f"{module} imports {name} as soon as it is imported"
        if name.startswith(BUILDERS):
            assert not at_top, f"{module} imports {name}, and so tfds, as soon as it is imported"


@pytest.mark.parametrize("module", MODULES)
def test_library_functions_take_arguments_not_a_config(module):
    part = module.split(".")[1] if "." in module else ""
    glue = module.removeprefix("drsn_jax.training.") in ("train", "batches", "checkpoint", "compact", "workdir")
    if part not in ("models", "data", "evaluation", "restoration", "training", "pretrained") or glue:
        return
    for node in ast.walk(parse(module)):
        if isinstance(node, (ast.FunctionDef, ast.Lambda)):
            names = [argument.arg for argument in (*node.args.args, *node.args.kwonlyargs)]
            assert "config" not in names, f"{module}: {getattr(node, 'name', 'lambda')}"


def test_sizes_that_are_held_in_review():
    for module in MODULES:
        text = MODULES[module].read_text()
        assert len(text.splitlines()) <= 200, f"{module} is too long"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                limit = 80 if node.name == "train_and_evaluate" else 40
                body = [n for n in node.body if not (isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant))] or node.body
                if node.name not in ("make_critic_update", "make_train_step"):  # builders: what counts is the functions inside
                    assert (node.end_lineno or 0) - body[0].lineno < limit, f"{module}: {node.name} is too long"


LOADED = f"import sys; print([name for name in {HEAVY} if name in sys.modules])"
BLOCKING = f"""
import sys

class Hiding:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in {HEAVY} else self.finder.find_spec(name, path, target)

sys.meta_path[:] = map(Hiding, sys.meta_path)
from drsn_jax.cli import main
sys.exit(main(sys.argv[1:]))
"""


def python(code, *arguments, cwd=None):
    argv = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(argv, cwd=cwd, env=tiny.environment(), capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize("module", sorted(set(MODULES) - {"drsn_jax.__main__"}))
def test_no_module_loads_tensorflow_when_it_is_imported(module):
    if module not in ("drsn_jax", "drsn_jax.restoration.model", "drsn_jax.restoration.restore", "drsn_jax.training.train"):
        return  # train imports all the others that matter; each of these is a process of its own
    done = python(f"import {module}; {LOADED}")
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_the_package_itself_imports_next_to_nothing():
    done = python("import drsn_jax, drsn_jax.cli, sys; print([name for name in ('jax', 'flax', 'numpy', 'PIL') if name in sys.modules])")
    assert done.stdout.strip() == "[]", "`drsn-jax --help` waits for what it does not need" + done.stderr


@pytest.fixture(scope="module")
def photos(tmp_path_factory, photograph):
    return tiny.write_photos(tmp_path_factory.mktemp("imports") / "photos", photograph)


def test_resident_training_restoring_and_evaluating_never_import_tensorflow(photos, photograph, tmp_path):
    gopro = tiny.write_gopro(tmp_path / "gopro", photograph)
    code = f"""
import sys
from drsn_jax.cli import main
assert main({tiny.train_arguments("run", data="photos", train_dir=photos, num_train_steps=2, **tiny.QUARTER)}) == 0
assert main(["restore", "--model=run", "--output=out", {str(photos)!r}]) == 0
assert main(["evaluate", "--model=run", "--output=report", "--blurred={gopro}", "--sharp={gopro}", "--panels=1"]) == 0
assert main(["info", "--model=run"]) == 0
{LOADED}
"""
    done = python(code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    assert len(list((tmp_path / "out").iterdir())) == len(tiny.CORNERS)


def test_without_tensorflow_resident_training_says_so_once_and_goes_on(photos, tmp_path):
    arguments = tiny.train_arguments(tmp_path / "run", data="photos", train_dir=photos, num_train_steps=2, tensorboard=True, **tiny.QUARTER)
    done = python(BLOCKING, *arguments)
    assert done.returncode == 0, done.stderr
    [line] = [line for line in done.stdout.splitlines() if "TensorBoard" in line]
    assert line.startswith("TensorBoard: off, clu cannot be imported (No module named 'clu")
    assert "pip install 'drsn-jax[data]'" in line
    assert "metrics.jsonl" in line
    assert len(tiny.losses(tmp_path / "run")) == 2


def test_without_tensorflow_pairs_say_what_to_install(photograph, tmp_path):
    gopro = tiny.write_gopro(tmp_path / "gopro", photograph)
    done = python(BLOCKING, *tiny.train_arguments(tmp_path / "run", data="pairs", train_dir=gopro))
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr
    assert "pip install 'drsn-jax[data]'" in done.stderr
    assert "--config.data=resident" in done.stderr

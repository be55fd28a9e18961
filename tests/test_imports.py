"""The layers: imports point down one ordered list of rooms. TensorFlow is needed for pairs through tf.data and for TensorBoard alone."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

PACKAGE = Path(__file__).parents[1] / "drsn_jax"
ROOMS = (
    *("cli", "serving", "benchmark", "interop", "planning", "run", "evaluation", "restoration", "weights", "config", "data", "training"),
    *("models", "ops", "system"),
)
"""From the top down: a room imports itself and what stands after it, inside functions too."""
INNER_ROOMS = {
    "data": ("making", "prepared", "benchmarks", "synthesis", "pairs", "images"),
    "evaluation": ("report", "detection", "scoring", "metrics"),
    "restoration": ("video", "files", "core"),
}
"""The same inside a room. Modules beside the inner rooms stand above them."""
FACADES = {"drsn_jax", "drsn_jax.__main__", "drsn_jax.functional"}  # public names of rooms below; no room imports them
PURE = ("training", "models", "ops")  # no disk, no configuration, no data
DISK = {"pathlib", "os", "shutil", "tempfile", "io", "json", "orbax", "PIL"}
HEAVY = ("tensorflow", "tensorflow_datasets", "clu", "tensorboard")
# Data, TensorBoard, the export to TensorFlow's formats, and Keras on its TensorFlow back end.
TENSORFLOW = ("drsn_jax.data.", "drsn_jax.run.writer", "drsn_jax.interop.tensorflow_export", "drsn_jax.benchmark.keras")
BUILDERS = ("drsn_jax.data.prepared.builders", "drsn_jax.data.making.beam_pairs")  # tfds registers their classes as they are imported
NOT_LIBRARY = ("cli", "benchmark", "interop", "planning", "run", "config", "weights")  # rooms whose functions may take a configuration


def module_name(path):
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {module: ast.parse(path.read_text()) for module, path in MODULES.items()}


def imports(tree):
    """Every absolute name that is imported, and whether at the top level of the module."""
    top = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative import"
            yield from ((f"{node.module}.{alias.name}", id(node) in top) for alias in node.names)


def arrows():
    """Return (module, imported module of this package) for every such import."""
    for module, tree in TREES.items():
        for name, _ in imports(tree):
            while name.startswith("drsn_jax") and name not in MODULES:
                name = name.rpartition(".")[0]
            if name in MODULES:
                yield module, name


def height(module):
    """Return the places of a module's room and inner room from the top. A module beside the inner rooms is above them."""
    _, room, *rest = module.split(".")
    inner = INNER_ROOMS.get(room, ())
    return ROOMS.index(room), inner.index(rest[0]) if rest and rest[0] in inner else -1


def test_the_rooms_are_those_of_the_list():
    assert {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()} == set(ROOMS)
    for room, inner in INNER_ROOMS.items():
        assert {path.name for path in (PACKAGE / room).iterdir() if (path / "__init__.py").exists()} == set(inner)
    assert {path.stem for path in PACKAGE.glob("*.py")} == {name.rpartition(".")[2] for name in FACADES - {"drsn_jax"}} | {"__init__"}


def test_imports_point_down():
    found = list(arrows())
    assert len(found) > 500, "imports are found at all"
    inside = [(a, b) for a, b in found if a not in FACADES and b != "drsn_jax"]
    assert not [(a, b) for a, b in inside if b in FACADES], "what a room needs has a place in a room"
    up = [f"{a} imports {b}" for a, b in inside if height(b) < height(a)]
    assert not up, up


def test_modules_do_not_import_each_other_in_a_circle():
    edges = {}
    for module, name in arrows():
        if name not in ("drsn_jax", module):  # the first for its version
            edges.setdefault(module, set()).add(name)
    done = set()

    def follow(module, path):
        assert module not in path, f"a circle: {' -> '.join([*path[path.index(module) :], module])}"
        if module not in done:
            for name in edges.get(module, ()):
                follow(name, [*path, module])
            done.add(module)

    for module in MODULES:
        follow(module, [])


def test_training_models_and_operations_know_neither_disk_nor_configuration():
    touching = [
        f"{module} imports {name}"
        for module, tree in TREES.items()
        if module not in FACADES and module.split(".")[1] in PURE
        for name, _ in imports(tree)
        if name.split(".")[0] in DISK
    ]
    assert not touching, touching


def test_tensorflow_and_clu_are_imported_lazily_and_in_two_places():
    for module, tree in TREES.items():
        for name, at_top in imports(tree):
            if name.split(".")[0] in HEAVY:
                assert module.startswith(TENSORFLOW), f"{module} imports {name}"
                assert not at_top or module in BUILDERS, f"{module} imports {name} as soon as it is imported"
            if name.startswith(BUILDERS):
                assert not at_top, f"{module} imports {name}, and so tfds, as soon as it is imported"


def functions(tree):
    return [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]


def test_library_functions_take_arguments_not_a_config():
    for module, tree in TREES.items():
        if module in FACADES or module.split(".")[1] in NOT_LIBRARY:
            continue
        for node in functions(tree):
            names = [argument.arg for argument in (*node.args.args, *node.args.kwonlyargs)]
            assert "config" not in names, f"{module}: {node.name}"


def body_length(node):
    """Count the lines of a function without its signature and docstring."""
    body = node.body[1:] if isinstance(node.body[0], ast.Expr) and isinstance(node.body[0].value, ast.Constant) else node.body
    return node.end_lineno - body[0].lineno + 1 if body else 0


def test_sizes_that_are_held_in_review():
    lengths = {module: len(path.read_text().splitlines()) for module, path in MODULES.items()}
    long = [f"{module}: {lines} lines" for module, lines in lengths.items() if lines > 200]
    long += [f"{module}: {f.name}, {body_length(f)} lines" for module in MODULES for f in functions(TREES[module]) if body_length(f) > 40]
    assert not long, long


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
from drsn_jax.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def python(code, *arguments, cwd=None):
    argv = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(argv, cwd=cwd, env=tiny.environment(), capture_output=True, text=True, timeout=300, check=False)


def test_no_module_loads_tensorflow_when_it_is_imported():
    """The modules that the verbs import first; these import all others that matter. In one process, so the check follows each import."""
    modules = ("drsn_jax", "drsn_jax.weights.model", "drsn_jax.restoration.restore", "drsn_jax.run.loop")
    done = python("; ".join(f"import {module}; {LOADED}" for module in modules))
    assert done.stdout.splitlines() == ["[]"] * len(modules), done.stdout + done.stderr


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
from drsn_jax.cli.main import main
assert main({tiny.train_arguments("run", data="photos", train_dir=photos, num_train_steps=2)}) == 0
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
    arguments = tiny.train_arguments(tmp_path / "run", data="photos", train_dir=photos, num_train_steps=2, tensorboard=True)
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

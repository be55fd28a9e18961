"""The notebooks: equal to their sources, and executed, every shipped cell as it is, with small values in the cell after the parameters."""

import ast
import importlib.metadata
import importlib.util
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import downloads
import nbformat
import pytest
import tiny
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from PIL import Image
from tensorboard import manager

COLAB = Path(__file__).parent.parent / "colab"
NAMES = ("train_gopro", "restore_photos")
SMALL = {key: tiny.OPTIONS[key] for key in ("widths", "num_blocks", "trunk", "unshuffle", "critic_widths", "content_weight")}
SMALL |= {"critic_steps": 1, "lipschitz": "none", "frequency_weight": 0.0, "noise_variance": "0.0,0.0"}  # less to compile
SMALL |= {"warmup_steps": 0, "log_every_steps": 1, "eval_every_steps": 0, "eval_images": 1, "eval_copies": 1, "sample_images": 1}
SMALL["eval_noise_variances"] = "0.0,"
# Runs in a kernel before its first cell: what Colab's own module does, and what is to happen once a file is there.
STARTUP = """
import os, sys, threading, time, types
from pathlib import Path

def watch(path):
    while not path.exists():
        time.sleep(0.005)
    os.kill(os.getpid(), 9)

if path := os.environ.get("KILLED_BY"):
    threading.Thread(target=watch, args=(Path(path),), daemon=True).start()
if tests := os.environ.get("TINY_GOPRO"):
    sys.path.append(tests)
    import downloads
    downloads.expect_tiny(types.SimpleNamespace(setattr=setattr))
if os.environ.get("COLAB"):
    colab = types.ModuleType("google.colab")
    colab.output = types.SimpleNamespace()  # jax asks for it
    colab.drive = types.SimpleNamespace(mount=lambda path: print("mounted", path))
    read_photo = lambda: Path(os.environ["UPLOADED"]).read_bytes()
    colab.files = types.SimpleNamespace(download=lambda path: print("downloaded", path), upload=lambda: {"my photo.png": read_photo()})
    sys.modules["google.colab"] = colab
"""


@pytest.fixture(autouse=True)
def own_environment(monkeypatch):
    """Keep the variables of the environment that cells in this process set."""
    for name in ("TF_CPP_MIN_LOG_LEVEL", "TF_ENABLE_ONEDNN_OPTS"):
        monkeypatch.setenv(name, os.environ.get(name, ""))


def load_maker():
    spec = importlib.util.spec_from_file_location("make_notebooks", COLAB / "make_notebooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read(name):
    return nbformat.read(COLAB / f"{name}.ipynb", as_version=4)


def find_cell(notebook, *, tag=None, text=""):
    [cell] = [cell for cell in notebook.cells if (tag is None or tag in cell.metadata.get("tags", [])) and text in cell.source]
    return cell


def parameters_of(notebook):
    """Name -> value, as the cell of the parameters has them."""
    tree = ast.parse(find_cell(notebook, tag="parameters").source)
    return {node.targets[0].id: ast.literal_eval(node.value) for node in tree.body}


def execute(name, folder, *, environment=(), **parameters):
    """Execute a notebook in `folder` with other parameters, and return the output of its cells, in order.

    As papermill does: a cell of assignments after the one tagged `parameters`; every other cell is the one that ships.
    """
    notebook = read(name)
    assert parameters.keys() <= parameters_of(notebook).keys()
    place = notebook.cells.index(find_cell(notebook, tag="parameters")) + 1
    injected = "\n".join(f"{key} = {value!r}" for key, value in parameters.items())
    notebook.cells.insert(place, nbformat.v4.new_code_cell(injected))
    profile = folder / "ipython" / "profile_default" / "startup"
    profile.mkdir(parents=True, exist_ok=True)
    (profile / "00.py").write_text(STARTUP)
    changes = {"IPYTHONDIR": str(folder / "ipython"), "TMPDIR": str(folder), **dict(environment)}
    client = NotebookClient(notebook, timeout=900, startup_timeout=300, kernel_name="python3", resources={"metadata": {"path": folder}})
    client.execute(env=tiny.environment(**changes))
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def printed(outputs):
    return "".join(output.text for output in outputs if output.output_type == "stream")


def pictures(outputs):
    return [output.data["image/png"] for output in outputs if "image/png" in output.get("data", {})]


def overrides(**changes):
    return shlex.join(f"--config.{key}={value}" for key, value in (SMALL | changes).items())


def test_notebooks_are_what_their_sources_make():
    maker = load_maker()
    assert [source.stem for source in maker.SOURCES] == sorted(NAMES)
    for source in maker.SOURCES:
        assert source.with_suffix(".ipynb").read_text() == maker.make_notebook(source), "run python colab/make_notebooks.py"


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_as_it_ships(name):
    notebook = read(name)
    nbformat.validate(notebook)
    assert notebook.metadata["kernelspec"]["name"] == "python3"
    assert notebook.metadata["accelerator"] == "GPU"
    assert all(not cell.outputs and cell.execution_count is None for cell in notebook.cells if cell.cell_type == "code")
    lines = find_cell(notebook, tag="parameters").source.splitlines()
    assert all("# @param " in line for line in lines if not line.startswith("#")), "a form in Colab"


def test_both_notebooks_begin_alike():
    assert len({find_cell(read(name), text="find_spec(").source for name in NAMES}) == 1


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ({"jax_cuda12_plugin": [], "tensorflow": ["tensorflow"]}, {"jax[cuda12]", "tensorflow"}),  # Colab's GPU runtime
        ({"tensorflow": ["tensorflow", "tensorflow"]}, {"jax[]", "tensorflow"}),
        ({"tensorflow": ["tensorflow-cpu"]}, {"jax[]", "tensorflow-cpu"}),
        ({"libtpu": []}, {"jax[tpu]", "tensorflow-cpu"}),
        ({}, {"jax[]", "tensorflow-cpu"}),
    ],
)
def test_what_is_installed_where(found, expected, monkeypatch):
    """No TensorFlow over another; JAX together with the plugin that is there."""
    called = []
    monkeypatch.setattr(subprocess, "run", lambda argv, check: called.append(argv))
    run_setup("drsn_jax.zip", found, monkeypatch)
    [argv] = called
    assert argv[:6] == [sys.executable, "-m", "pip", "install", "--quiet", "drsn_jax.zip"]
    assert sorted(package for package in argv[6:] if package.startswith(("jax", "tensorflow"))) == sorted(
        expected | {"tensorflow-datasets"}
    )


def test_without_a_source_it_says_what_to_set(monkeypatch):
    with pytest.raises(SystemExit, match="drsn_jax is not installed: set SOURCE above"):
        run_setup("", {}, monkeypatch)


def run_setup(source, found, monkeypatch):
    """Run the second code cell in an environment with only these modules: name -> packages that have it."""
    values = {"DRIVE": True, "FOLDER": "a", "SOURCE": source}
    cell = compile(find_cell(read("train_gopro"), text="find_spec(").source, "cell", "exec")
    with monkeypatch.context() as patch:
        patch.setattr(importlib.util, "find_spec", lambda name: name if name in found else None)
        patch.setattr(importlib.metadata, "packages_distributions", lambda: found)
        exec(cell, values)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("demo", {"data": "demo", "batch_size": 8, "train_dir": ""}),
        ("gopro", {"data": "pairs", "train_dir": "gopro:train", "eval_dir": "gopro:validation", "trunk": "unet"}),
        ("photos", {"data": "photos", "train_dir": "a folder", "eval_dir": ""}),
    ],
)
def test_what_is_trained(data, expected, tmp_path, capsys):
    notebook = read("train_gopro")
    values = parameters_of(notebook) | {"DATA": data, "FILES": "a folder", "FOLDER": str(tmp_path), "STEPS": 3_000}
    values["OVERRIDES"] = "--config.seed=7 '--config.noise_variance=(0.0, 0.1)'"
    for text in ("find_spec(", "fit_config_to_devices("):
        exec(compile(find_cell(notebook, text=text).source, "cell", "exec"), values)
    expected = expected | {"num_train_steps": 3_000, "checkpoint_every_steps": 250 if data == "demo" else 1_000, "tensorboard": True}
    expected |= {"seed": 7, "noise_variance": (0.0, 0.1)}
    assert {key: values["config"][key] for key in expected} == expected
    assert values["WORKDIR"] == tmp_path / "runs" / data
    assert "Mesh: 8 device(s) along the axis `data`: cpu, cpu\n" in capsys.readouterr().out


@pytest.mark.soak
def test_a_training_in_colab_goes_on_after_a_disconnect(tmp_path):
    workdir = tmp_path / "runs" / "demo"
    colab = {"COLAB": "1"}
    options = {"FOLDER": str(tmp_path), "TENSORBOARD": False, "STEPS": 6, "CHECKPOINT_EVERY_STEPS": 3}
    options["OVERRIDES"] = overrides()
    with pytest.raises(DeadKernelError):
        execute("train_gopro", tmp_path, environment=colab | {"KILLED_BY": str(workdir / "checkpoints" / "3")}, **options)
    before = tiny.steps_on_disk(workdir)
    assert before

    outputs = execute("train_gopro", tmp_path, environment=colab, **options)
    text = printed(outputs)
    assert "mounted /content/drive\n" in text
    assert "Mesh: 1 device(s) along the axis `data`: cpu, cpu" in text
    assert f"Precision: float32 (the value of the run in {workdir})" in text
    assert "Batch: 4 crops of 64 from step 0" in text
    assert f"Resumed from step {before[-1]}." in text
    assert f"Done: 6 steps, in {workdir}" in text
    assert [line["step"] for line in tiny.read_metrics(workdir) if "generator/loss" in line] == [1, 2, 3, 4, 5, 6]
    assert "full protocol, noise variance 0" in text
    report = tmp_path / "reports" / "demo" / "6"
    assert f"downloaded {report / 'model.stablehlo'}\ndownloaded {report / 'report.html'}\n" in text
    assert len(list((report / "panels").iterdir())) == 1
    assert len(pictures(outputs)) == 2, "the panels of training, in place of what stood there before, and of the evaluation"


def test_photographs_are_restored_anywhere(tmp_path):
    outputs = execute("restore_photos", tmp_path, FOLDER="here", DEMO_STEPS=2, OVERRIDES=overrides())
    text = printed(outputs)
    folder = tmp_path / "here"
    assert f"Done: 2 steps, in {Path('here') / 'runs' / 'restore_demo'}" in text
    names = sorted(path.name for path in (folder / "samples" / "blur").iterdir())
    assert len(names) == 3
    assert sorted(path.name for path in (folder / "restored" / "blur").iterdir()) == names
    assert len(pictures(outputs)) == 3, "before, after and sharp of each"
    assert str(Path("here") / "restored" / "blur.zip") in text
    assert "mounted" not in text


@pytest.mark.soak
def test_gopro_from_its_archive_to_a_photograph_that_somebody_uploads(tmp_path, photograph, monkeypatch):
    archive = downloads.write_zip(tmp_path / "GOPRO_Large.zip", downloads.gopro_files())
    folder = str(tmp_path / "a folder")
    environment = {"COLAB": "1", "TINY_GOPRO": str(Path(__file__).parent), "TFDS_DATA_DIR": str(tmp_path / "tfds")}
    small = overrides(stages="()", crop_size=16, batch_size=2)
    options = {"DATA": "gopro", "FILES": str(archive), "FOLDER": folder, "STEPS": 4, "OVERRIDES": small}
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))  # where TensorBoards say that they run: those of this test alone
    try:
        outputs = execute("train_gopro", tmp_path, environment=environment, **options)
    finally:
        for server in manager.get_all():  # it ends with its kernel, if that had the time
            os.kill(server.pid, signal.SIGTERM)
    text = printed(outputs)
    assert "Training on 4 pairs from gopro:train (blur, frame=crop) through tf.data" in text
    assert "Done: 4 steps" in text
    shown = "".join(str(output.get("data", "")) for output in outputs)
    assert "google.colab.kernel.proxyPort" in shown or "Timed out waiting for TensorBoard" in shown, "its frame, as Colab shows it"
    assert list((tmp_path / "a folder" / "runs" / "gopro").glob("events.out.tfevents*"))
    assert len(pictures(outputs)) == 3, "of training, and of both test images"

    Image.fromarray(photograph[:40, :56]).save(tmp_path / "photo.png")
    model = str(tmp_path / "a folder" / "reports" / "gopro" / "4" / "model.stablehlo")
    uploading = {"COLAB": "1", "UPLOADED": str(tmp_path / "photo.png")}
    outputs = execute("restore_photos", tmp_path, environment=uploading, MODEL=model, PHOTOS="upload", FOLDER=folder, DRIVE=True)
    restored = tmp_path / "a folder" / "restored" / "uploaded" / "my photo.png"
    assert Image.open(restored).size == (56, 40)
    assert len(pictures(outputs)) == 1
    assert f"downloaded {tmp_path / 'a folder' / 'restored' / 'uploaded.zip'}" in printed(outputs)


def test_a_users_mistake_is_one_line_in_a_notebook():
    cell = nbformat.v4.new_code_cell("from drsn_jax.system.errors import InputError\nraise InputError('Use 2.')")
    notebook = nbformat.v4.new_notebook(cells=[cell])
    with pytest.raises(CellExecutionError):
        NotebookClient(notebook, timeout=300, startup_timeout=300, kernel_name="python3").execute(env=dict(os.environ))
    [output] = cell.outputs
    assert (output.ename, output.traceback) == ("InputError", ["drsn-jax: Use 2."])

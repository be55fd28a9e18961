# ---
# jupyter:
#   accelerator: GPU
#   colab:
#     name: train_gopro.ipynb
#     provenance: []
#     toc_visible: true
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Train a deblurring network, on GoPro or on a demonstration
#
# Choose *Run all*. By default a small network is trained on six photographs of scikit-image and scikit-learn, and
# evaluated on three others. This takes minutes on two CPU cores, and only packages are downloaded. With `gopro` as
# `DATA` the `best` recipe is trained on GoPro.
#
# The notebook runs unchanged on CPU, GPU and TPU, in Colab and in any Jupyter. Results are written to your Google
# Drive (elsewhere: to a folder beside the notebook). **When Colab disconnects, run all again: the training resumes from
# the newest checkpoint.**

# %% [markdown]
# ## 1. Settings

# %% tags=["parameters"]
DATA = "demo"  # @param ["demo", "gopro", "photos"]
# gopro: GOPRO_Large.zip. photos: a folder of sharp photographs, which are blurred while training.
FILES = "/content/drive/MyDrive/GOPRO_Large.zip"  # @param {"type":"string"}
# Folder for all output, below My Drive in Colab. Without DRIVE the output is lost with the runtime.
FOLDER = "drsn-jax"  # @param {"type":"string"}
DRIVE = True  # @param {"type":"boolean"}
# If drsn_jax is not installed: git+https://ADDRESS of its repository, or a .zip of it, for example in Drive.
SOURCE = ""  # @param {"type":"string"}
# 0: the recipe's value.
STEPS = 0  # @param {"type":"integer"}
CHECKPOINT_EVERY_STEPS = 0  # @param {"type":"integer"}
TENSORBOARD = True  # @param {"type":"boolean"}
# Any key of the configuration, such as --config.batch_size=8 --config.stages=()
OVERRIDES = ""  # @param {"type":"string"}

# %% [markdown]
# The recipes take 1,000 steps (demo) and 300,000 (`best`), and save every 250 and every 1,000. A checkpoint of `best`
# takes 113 MB. Old ones are deleted, but Drive moves them to its bin, which also uses storage: empty it from time to
# time, or save less often.
#
# **GoPro** is available from its authors at <https://seungjunnah.github.io/Datasets/gopro> (CC BY 4.0), as
# `GOPRO_Large.zip`. Put it into *My Drive*, or add a shortcut to another copy in Google Drive, which takes no space.
# Each runtime stores it again as a data set on its own disk.

# %% [markdown]
# ## 2. Drive and packages
#
# If the runtime's JAX is too old, it is replaced. pip may then complain about packages that are not used here. If an
# import fails, restart the session and run all again.

# %%
import importlib
import os
import shlex
import subprocess
import sys
from importlib.metadata import packages_distributions
from importlib.util import find_spec
from pathlib import Path

ON_COLAB = "google.colab" in sys.modules
if ON_COLAB and DRIVE:
    from google.colab import drive

    drive.mount("/content/drive")
ROOT = Path("/content/drive/MyDrive" if ON_COLAB and DRIVE else ".") / FOLDER

if find_spec("drsn_jax") is None:
    if not SOURCE:
        raise SystemExit("drsn_jax is not installed: set SOURCE above to its address, or to a .zip of its repository.")
    # JAX and the plugin that drives the accelerator have to be of one version, so pip is told of both.
    plugins = {"jax_cuda12_plugin": "cuda12", "jax_cuda13_plugin": "cuda13", "libtpu": "tpu"}
    packages = [SOURCE, f"jax[{','.join(extra for module, extra in plugins.items() if find_spec(module))}]"]
    packages += ["clu", "tensorboard", "tensorflow-datasets", "array-record", "flatbuffers", "scikit-image", "scikit-learn"]
    # The TensorFlow that is there, by the name of its package: tensorflow-cpu must not be installed over it. TPU runtimes have none.
    packages += set(packages_distributions().get("tensorflow", ["tensorflow-cpu"]))
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *packages], check=True)
    importlib.invalidate_caches()

from drsn_jax.cli.main import main

os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "1", "TF_ENABLE_ONEDNN_OPTS": "0"}  # TensorFlow greets otherwise, where it is used


def command(*words):
    """Run `drsn-jax WORDS` in this process, which holds the devices."""
    if code := main([str(word) for word in words]):
        raise SystemExit(code)


# %% [markdown]
# ## 3. Configuration and devices
#
# Mesh, precision, batch and memory settings are chosen for the devices found. A resumed run keeps its first settings.

# %%
from drsn_jax.config import load_config
from drsn_jax.planning.devices import fit_config_to_devices

WORKDIR = ROOT / "runs" / DATA
keys = {
    "demo": [],
    "gopro": ["train_dir=gopro:train", "eval_dir=gopro:validation"],
    "photos": ["data=photos", f"train_dir={FILES}"],
}[DATA]
keys += [f"num_train_steps={STEPS}"] if STEPS else []
keys += [f"checkpoint_every_steps={CHECKPOINT_EVERY_STEPS}"] if CHECKPOINT_EVERY_STEPS else []
overrides = [f"--config.{key}" for key in [*keys, f"tensorboard={TENSORBOARD}"]] + shlex.split(OVERRIDES)
config = load_config("demo" if DATA == "demo" else "best", overrides)
config, text = fit_config_to_devices(config, overrides=overrides, workdir=WORKDIR, say=print)
print(text)

# %% [markdown]
# ## 4. Data
#
# GoPro is compared with the published contents, then stored. A stored data set is kept.

# %%
if DATA == "gopro":
    command("prepare", "gopro", f"--source={FILES}")

# %% [markdown]
# ## 5. TensorBoard
#
# It is empty until the training has started; reload it with its own button.

# %%
if TENSORBOARD:
    from tensorboard import notebook

    notebook.start(f"--logdir {shlex.quote(str(WORKDIR))}")

# %% [markdown]
# ## 6. Train
#
# Stop it at any moment, and run this cell or all cells again. The panels of each evaluation replace those of the last.

# %%
from IPython.display import HTML, display, update_display
from PIL import Image

from drsn_jax.run.loop import train_and_evaluate


def shrink(path):
    """Make a picture small enough for a page; the file keeps its size."""
    picture = Image.open(path)
    picture.thumbnail((1200, 1200))
    return picture


display(HTML("The first panels come with the first evaluation."), display_id="panels")
state = train_and_evaluate(config, WORKDIR, on_panels=lambda path: update_display(shrink(path), display_id="panels"))
del state  # saved already; frees the device's memory

# %% [markdown]
# ## 7. Evaluate
#
# This evaluates the best checkpoint, on GoPro's test split or on the held-out photographs. An interrupted evaluation
# is resumed.

# %%
from drsn_jax.evaluation.validation import write_samples
from drsn_jax.run.data import open_data
from drsn_jax.training.sharding import make_mesh
from drsn_jax.weights.checkpoints import find_checkpoint

report = ROOT / "reports" / DATA / find_checkpoint(WORKDIR).name
if DATA == "gopro":
    images = ["--data=gopro:test"]
else:
    pairs = write_samples(open_data(config, mesh=make_mesh()).validation_fn(), WORKDIR / "validation")
    images = [f"--blurred={pairs / 'blur'}", f"--sharp={pairs / 'sharp'}"]
command("evaluate", f"--model={WORKDIR}", f"--output={report}", *images)
for path in sorted((report / "panels").iterdir())[:3]:
    display(shrink(path))

# %% [markdown]
# ## 8. Export and download
#
# One file that restores images of any size without this configuration, on CPU, CUDA and TPU: `drsn-jax restore
# --model=model.stablehlo PHOTO`. The notebook `restore_photos` accepts it as its `MODEL`, and also the folder of the
# run.

# %%
exported = report / "model.stablehlo"
command("export", f"--model={WORKDIR}", f"--output={exported}", "--overwrite")
if ON_COLAB:
    from google.colab import files

    files.download(str(exported))
    files.download(str(report / "report.html"))

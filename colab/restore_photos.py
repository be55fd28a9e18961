# ---
# jupyter:
#   accelerator: GPU
#   colab:
#     name: restore_photos.ipynb
#     provenance: []
#     toc_visible: true
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Restore blurred photographs
#
# Choose *Run all*. By default a small network is trained for a few hundred steps, just enough to show its effect, and
# restores three unseen photographs. Set your own `MODEL` and `PHOTOS`.
#
# The notebook runs unchanged on CPU, GPU and TPU, in Colab and in any Jupyter.

# %% [markdown]
# ## 1. Settings

# %% tags=["parameters"]
# The folder of a run (such as that of train_gopro), one of its checkpoints, or an exported file. Empty: train the demonstration here.
MODEL = ""  # @param {"type":"string"}
# samples, upload (in Colab), or a folder of photographs.
PHOTOS = "samples"  # @param ["samples", "upload"] {"allow-input":true}
# Folder for all output, below My Drive in Colab with DRIVE. A MODEL or PHOTOS in Drive needs DRIVE too.
FOLDER = "drsn-jax"  # @param {"type":"string"}
DRIVE = False  # @param {"type":"boolean"}
# If drsn_jax is not installed: git+https://ADDRESS of its repository, or a .zip of it, for example in Drive.
SOURCE = ""  # @param {"type":"string"}
DEMO_STEPS = 300  # @param {"type":"integer"}
# For the demonstration: any key of its configuration, such as --config.batch_size=8
OVERRIDES = ""  # @param {"type":"string"}

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
# ## 3. The model

# %%
from drsn_jax.config import load_config
from drsn_jax.planning.devices import fit_config_to_devices
from drsn_jax.run.loop import train_and_evaluate

model = Path(MODEL or ROOT / "runs" / "restore_demo").expanduser()
if not MODEL:
    overrides = [f"--config.num_train_steps={DEMO_STEPS}", *shlex.split(OVERRIDES)]
    config, text = fit_config_to_devices(load_config("demo", overrides), overrides=overrides, workdir=model, say=print)
    print(text)
    state = train_and_evaluate(config, model)
    del state  # saved already; frees the device's memory

# %% [markdown]
# ## 4. The photographs
#
# Samples are photographs of scikit-image and scikit-learn with the kind of blur that the demonstration is trained on.

# %%
from drsn_jax.config.build import make_keys, make_recipe
from drsn_jax.data.synthesis.photos import DEMO_HELD_OUT, blur_photographs, read_demo_photos
from drsn_jax.evaluation.validation import write_samples

if PHOTOS == "samples":
    sharp = read_demo_photos(DEMO_HELD_OUT)
    samples = blur_photographs(sharp, recipe=make_recipe(load_config("demo")), copies=1, key=make_keys(0).validation)
    photos = write_samples(samples, ROOT / "samples") / "blur"
elif PHOTOS == "upload":
    from google.colab import files

    photos = ROOT / "uploaded"
    photos.mkdir(parents=True, exist_ok=True)
    for name, content in files.upload().items():
        (photos / name).write_bytes(content)
else:
    photos = Path(PHOTOS).expanduser()

# %% [markdown]
# ## 5. Restore
#
# A file keeps its type, size, transparency and metadata. A bad file is reported, and the others are restored.

# %%
restored = ROOT / "restored" / photos.name
command("restore", f"--model={model}", f"--output={restored}", "--overwrite", photos)

# %% [markdown]
# ## 6. Before and after
#
# The red box marks the largest change.

# %%
import numpy as np
from IPython.display import display
from PIL import Image

from drsn_jax.data.images.reader import read_photo
from drsn_jax.restoration.jobs import is_video, plan_jobs
from drsn_jax.system.panels import make_panel

jobs = [job for job in plan_jobs([photos], output=restored).jobs if not is_video(job[0])]
for before, after in jobs[:10]:
    shown = {"before": before, "after": after}
    if PHOTOS == "samples":
        shown["sharp"] = photos.parent / "sharp" / before.name
    images = [np.rint(read_photo(path).rgb * 255).astype(np.uint8) for path in shown.values()]
    picture = Image.fromarray(make_panel(images, labels=list(shown), zoom_box="auto"))
    picture.thumbnail((1200, 1200))
    display(picture)

# %% [markdown]
# ## 7. Download

# %%
import shutil

archive = shutil.make_archive(str(restored), "zip", restored)
print(archive)
if ON_COLAB:
    from google.colab import files

    files.download(archive)

"""The rows and subjects of `drsn-jax bench`, and the choice among them."""

import importlib.util
import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

from drsn_jax.system.errors import InputError, nearest

OURS = "ours-float32"
OURS_BFLOAT16 = "ours-bfloat16"
_BFLOAT16 = "-bfloat16"  # suffix of the names of subjects in bfloat16
LOADER = "keras-loader"  # the Keras reference's reading of images, which is independent of the back end
KERAS = {"keras-tensorflow": "tensorflow", "keras-jax": "jax", "keras-torch": "torch"}  # subject: the module of its back end
_INSTALL = {
    "tensorflow": "pip install 'drsn-jax[bench]'",
    "jax": "pip install 'drsn-jax[bench]'",
    "torch": "pip install torch, from https://pytorch.org for your accelerator",
}


def precision_of(subject: str) -> str:
    """Return the precision of a subject: float32 or bfloat16."""
    return "bfloat16" if subject.endswith(_BFLOAT16) else "float32"


def family_of(subject: str) -> str:
    """Return a subject's name without its precision: ours, keras-tensorflow."""
    return subject.removesuffix(_BFLOAT16).removesuffix("-float32")


class Row(NamedTuple):
    """One row of the table. `frame` is the height and width of its images, if it is not the configuration's crop."""

    name: str
    title: str
    frame: tuple[int, int] | None = None
    accelerator: bool = False  # measured only on an accelerator
    alone: bool = False  # subjects run one after the other, each with the whole device
    host: bool = False  # work of the CPU, also if the other rows run on another device
    unit: str = ""  # the unit of its seconds, if calls of the subjects process different numbers of images

    def title_of(self, *, crop_size: int) -> str:
        """Return the title with the size of the images, written width x height."""
        height, width = self.frame or (crop_size, crop_size)
        return f"{self.title} {width}x{height}" + (f", a {self.unit}" if self.unit else "")


ROWS = {
    row.name: row
    for row in (
        Row("training-step", "training step"),
        Row("best-batch", "step of the best batch", accelerator=True, alone=True, unit="image"),
        Row("critic-part", "critic part"),
        Row("generator-part", "generator part"),
        Row("inference", "inference"),
        Row("inference-720p", "inference", frame=(720, 1280)),
        Row("input-pipeline", "input pipeline", host=True, unit="pair"),
    )
}


def choose_rows(text: str | None, *, accelerator: bool) -> list[Row]:
    """Choose the rows of --rows in the table's order; by default all that the device supports. Raises InputError for unknown ones."""
    if text is None:
        return [row for row in ROWS.values() if accelerator or not row.accelerator]
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in ROWS:
            raise InputError(f"--rows={text}: there is no row {name!r}{nearest(name, ROWS)}; use {', '.join(ROWS)}, separated by commas.")
        if ROWS[name].accelerator and not accelerator:
            raise InputError(f"--rows={text}: {name} needs an accelerator, and JAX finds none on this machine; omit it.")
    return [row for name, row in ROWS.items() if name in names]


def installed(module: str) -> bool:
    """Check whether a module can be found, without importing it."""
    return importlib.util.find_spec(module) is not None


def choose_keras(against: str | None, *, installed_fn: Callable[[str], bool] = installed) -> tuple[list[str], list[str]]:
    """Return the Keras subjects of --against, and notes on those that `keras` would include if they were installed.

    Raises InputError for an unknown name, if keras is missing, or if the back end of a named subject is missing.
    """
    if against is None:
        return [], []
    names = [name.strip() for name in against.split(",")]
    choices = ("keras", *KERAS)
    if unknown := [name for name in names if name not in choices]:
        guess = nearest(unknown[0], choices)
        raise InputError(f"--against={against}: {unknown[0]!r} is not known{guess}; use {', '.join(choices)}, separated by commas.")
    if not installed_fn("keras"):
        raise InputError("--against needs Keras, which is not installed: pip install 'drsn-jax[bench]'.")
    for name in names:
        if name != "keras" and not installed_fn(KERAS[name]):
            raise InputError(f"{name}: {KERAS[name]} is not installed: {_INSTALL[KERAS[name]]}; or omit {name}.")
    if "keras" not in names:
        return [name for name in KERAS if name in names], []
    missing = [name for name, module in KERAS.items() if not installed_fn(module)]
    notes = [f"{name} is not measured: {KERAS[name]} is not installed ({_INSTALL[KERAS[name]]})." for name in missing]
    return [name for name in KERAS if name not in missing], notes


def choose_subjects(row: Row, *, keras: Sequence[str], bfloat16: bool) -> list[str]:
    """Choose the subjects of a row, in the order of its rounds: ours and each of `keras` in float32, with `bfloat16` also in bfloat16.

    Reading images depends on neither dtype nor back end: one subject of each side.
    """
    if row.host:
        return [OURS, LOADER] if keras else [OURS]
    subjects = [OURS, *keras]
    return subjects + ([OURS_BFLOAT16, *(f"{name}{_BFLOAT16}" for name in keras)] if bfloat16 else [])


def worker_environment(subject: str) -> dict[str, str]:
    """Make the environment of a subject's process: its Keras back end, memory of an accelerator allocated on demand, no compile cache.

    Everything else is inherited from the user.
    """
    changes = {
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.92",
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        "JAX_ENABLE_COMPILATION_CACHE": "false",  # with it a second run would have nothing to compile
        "PYTHONUNBUFFERED": "1",
    }
    family = family_of(subject)
    if family in KERAS:
        changes["KERAS_BACKEND"] = KERAS[family]
    if family not in ("ours", "keras-jax"):
        changes["JAX_PLATFORMS"] = "cpu"  # it reads weights with JAX, which must not use the accelerator
    return {"TF_CPP_MIN_LOG_LEVEL": "2", **os.environ, **changes}

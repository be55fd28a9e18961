"""The rows and subjects of `drsn-jax bench`, and the choice among them."""

import importlib.util
import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

from drsn_jax.system.errors import InputError, nearest

OURS = "ours-float32"
OURS_BFLOAT16 = "ours-bfloat16"
_BFLOAT16 = "-bfloat16"  # what the name of a subject that computes in it ends in
LOADER = "keras-loader"  # the Keras reference's reading of images, which no back end has a part in
KERAS = {"keras-tensorflow": "tensorflow", "keras-jax": "jax", "keras-torch": "torch"}  # subject: the module of its back end
_INSTALL = {
    "tensorflow": "pip install 'drsn-jax[bench]'",
    "jax": "pip install 'drsn-jax[bench]'",
    "torch": "pip install torch, from https://pytorch.org for your accelerator",
}


def precision_of(subject: str) -> str:
    """What a subject computes in: float32 or bfloat16."""
    return "bfloat16" if subject.endswith(_BFLOAT16) else "float32"


def family_of(subject: str) -> str:
    """A subject's name without its precision: ours, keras-tensorflow."""
    return subject.removesuffix(_BFLOAT16).removesuffix("-float32")


class Row(NamedTuple):
    """One row of the table; `frame` is the height and width of its images where the configuration's crop is not meant."""

    name: str
    title: str
    frame: tuple[int, int] | None = None
    accelerator: bool = False  # only measured on one
    alone: bool = False  # each subject has the device to itself, one after the other
    host: bool = False  # the CPU's work, whatever device the rest runs on
    unit: str = ""  # what its seconds are of, where subjects' calls work through different numbers of images: each

    def title_of(self, *, crop_size: int) -> str:
        """The title with the size of its images, written width x height."""
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
    """The rows that --rows names, in the table's order; without it all that the device has. Raises InputError for unknown ones."""
    if text is None:
        return [row for row in ROWS.values() if accelerator or not row.accelerator]
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in ROWS:
            raise InputError(f"--rows={text}: there is no row {name!r}{nearest(name, ROWS)}; use {', '.join(ROWS)}, separated by commas.")
        if ROWS[name].accelerator and not accelerator:
            raise InputError(f"--rows={text}: {name} is measured on an accelerator, and this machine shows JAX none; leave it away.")
    return [row for name, row in ROWS.items() if name in names]


def installed(module: str) -> bool:
    """Whether a module can be found, without importing it."""
    return importlib.util.find_spec(module) is not None


def choose_keras(against: str | None, *, installed_fn: Callable[[str], bool] = installed) -> tuple[list[str], list[str]]:
    """The Keras subjects that --against names, and notes on those that `keras` alone would include were they installed.

    Raises InputError for an unknown name, if keras is missing, or if a back end that is named is.
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
            raise InputError(f"{name}: {KERAS[name]} is not installed: {_INSTALL[KERAS[name]]}; or leave {name} away.")
    if "keras" not in names:
        return [name for name in KERAS if name in names], []
    missing = [name for name, module in KERAS.items() if not installed_fn(module)]
    notes = [f"{name} is not measured: {KERAS[name]} is not installed ({_INSTALL[KERAS[name]]})." for name in missing]
    return [name for name in KERAS if name not in missing], notes


def choose_subjects(row: Row, *, keras: Sequence[str], bfloat16: bool) -> list[str]:
    """Who is timed in a row, in the order of its rounds: each of `keras` and ours in float32, with `bfloat16` in that too.

    No type and no back end has a part in reading images: one of each there.
    """
    if row.host:
        return [OURS, LOADER] if keras else [OURS]
    subjects = [OURS, *keras]
    return subjects + ([OURS_BFLOAT16, *(f"{name}{_BFLOAT16}" for name in keras)] if bfloat16 else [])


def worker_environment(subject: str) -> dict[str, str]:
    """The environment of a subject's process: its Keras back end, memory of a shared accelerator taken as needed, no compile cache.

    Everything else is as the user has set it.
    """
    changes = {
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.92",
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        "JAX_ENABLE_COMPILATION_CACHE": "false",  # else a second run would say that nothing had to be compiled
        "PYTHONUNBUFFERED": "1",
    }
    family = family_of(subject)
    if family in KERAS:
        changes["KERAS_BACKEND"] = KERAS[family]
    if family not in ("ours", "keras-jax"):
        changes["JAX_PLATFORMS"] = "cpu"  # it only reads weights with JAX, which is to leave the accelerator alone
    return {"TF_CPP_MIN_LOG_LEVEL": "2", **os.environ, **changes}

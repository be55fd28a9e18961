"""Detection of the optional distribution `drsn-jax-native`, once per process."""

import functools
import importlib
import os
import warnings
from types import ModuleType
from typing import NamedTuple

SWITCH = "DRSN_JAX_NATIVE"


class Extension(NamedTuple):
    """The module of the distribution (None if unused) and a sentence that says why."""

    module: ModuleType | None
    status: str


@functools.cache
def find_extension() -> Extension:
    """Load the distribution unless the environment variable DRSN_JAX_NATIVE is 0. The result is cached for the life of the process.

    An installed one that fails to load, for example because it was built for another machine or another jax, is ignored with a warning.
    """
    if os.environ.get(SWITCH) == "0":
        return Extension(None, f"switched off by {SWITCH}=0")
    try:
        module = importlib.import_module("drsn_jax_native")
    except ModuleNotFoundError:
        return Extension(None, "not installed")
    try:
        module.load()
    except Exception as error:
        told = f"installed, but it does not load ({error}); build it again (pip install ./native) or set {SWITCH}=0"
        warnings.warn(f"drsn-jax-native is {told}.", RuntimeWarning, stacklevel=2)
        return Extension(None, told)
    halves = "bfloat16" if module.has_matrix_units() else "float32"
    return Extension(module, f"used, with {module.count_threads()} threads; bfloat16 is computed in {halves}")

"""The environment of a run, for bug reports: versions, system, processor, devices, and settings of JAX."""

import importlib.metadata
import os
import platform
import sys
from typing import Any

import jax

from drsn_jax import __version__
from drsn_jax.system.processor import read_processor

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "ml-collections", "numpy", "pillow", "drsn-jax-native")
OPTIONAL = ("tensorflow", "tensorflow-cpu", "tensorflow-datasets", "clu", "keras", "av", "scikit-image", "matplotlib", "onnxruntime")
PLUGINS = ("jax-cuda12-plugin", "jax-cuda13-plugin", "libtpu")
_SETTINGS = ("JAX_", "DRSN_JAX_", "XLA_", "KERAS_BACKEND", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")
_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "sve")  # instruction sets that determine the speed of convolutions on CPUs


def read_environment() -> dict[str, Any]:
    """Read versions, system, processor, devices, and the environment variables that affect them. Starts JAX's back end."""
    versions = {name: _version(name) for name in (*PACKAGES, *OPTIONAL, *PLUGINS)}
    return {
        "drsn-jax": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": _describe_processor(),
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "devices": [f"{device.platform}:{device.id} {device.device_kind}" for device in jax.devices()],
        "packages": {name: versions[name] for name in (*PACKAGES, *OPTIONAL, *PLUGINS) if versions[name] or name in PACKAGES},
        "settings": {name: value for name, value in sorted(os.environ.items()) if name.startswith(_SETTINGS)},
    }


def format_environment(environment: dict[str, Any]) -> str:
    """Format lines of `name: value`; a package without a version is `not installed`."""
    lines = [f"{name}: {environment[name]}" for name in ("drsn-jax", "python", "system", "processor", "cores")]
    lines += [f"devices: {', '.join(environment['devices'])}"]
    lines += [f"  {name} {version or 'not installed'}" for name, version in environment["packages"].items()]
    lines += [f"  {name}={value}" for name, value in environment["settings"].items()]
    return "\n".join([*lines, ""])


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _describe_processor() -> str:
    """Return the processor's name and its instruction sets among `_FLAGS`, if Linux reports them."""
    processor = read_processor()
    flags = " ".join(flag for flag in _FLAGS if flag in processor.flags)
    return processor.name + (f" ({flags})" if flags else "")

"""The compiled library: loading, number of threads, and supported instructions of the processor."""

import ctypes
import functools
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax

TARGETS = ("drsn_convolve", "drsn_input_gradient", "drsn_kernel_gradient")
_FOLDER = Path(__file__).parent
_AVX512 = 0x20  # oneDNN numbers instruction sets by bits; each set includes the bits of its subsets
_AMX = 0xFEF  # avx512_core_amx: matrix units for bfloat16
_QUOTA = Path("/sys/fs/cgroup/cpu.max")


@functools.cache
def load() -> ctypes.CDLL:
    """Load the library and register its functions with JAX, once. Raises OSError if it does not fit this machine.

    OpenMP's threads must sleep between two calls, because XLA then uses the same cores. libgomp reads this from OMP_WAIT_POLICY when it is
    loaded. The user's settings of OMP_WAIT_POLICY, GOMP_SPINCOUNT and OMP_NUM_THREADS take precedence.
    """
    with _sleeping_threads():
        library = ctypes.CDLL(str(_FOLDER / "libdrsn_jax_native.so"))
    if "OMP_NUM_THREADS" not in os.environ:
        library.drsn_set_threads(usable_cores())
    for target in TARGETS:
        jax.ffi.register_ffi_target(target, jax.ffi.pycapsule(getattr(library, target)), platform="cpu")
    return library


@contextmanager
def _sleeping_threads() -> Iterator[None]:
    """Set the variable only while the library loads, so that other programs and libraries do not see it."""
    if "OMP_WAIT_POLICY" in os.environ or "GOMP_SPINCOUNT" in os.environ:
        yield
        return
    os.environ["OMP_WAIT_POLICY"] = "passive"
    try:
        yield
    finally:
        del os.environ["OMP_WAIT_POLICY"]


def usable_cores() -> int:
    """Return the number of cores for this process: by its affinity, and its control group's quota of CPU time, rounded up."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = _QUOTA.read_text().split()
        return max(1, min(cores, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no such group, or "max": no quota
        return cores


def count_threads() -> int:
    """Count the computing threads in a parallel region."""
    return load().drsn_count_threads()


@functools.cache
def has_avx512() -> bool:
    """Check whether oneDNN uses AVX-512 here."""
    return bool(load().drsn_cpu_isa() & _AVX512)


@functools.cache
def has_matrix_units() -> bool:
    """Check whether oneDNN uses matrix units for bfloat16 here (AMX)."""
    return load().drsn_cpu_isa() & _AMX == _AMX

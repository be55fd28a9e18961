"""The subject that a worker times, the memory of its process, and the search for the best batch."""

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

_EXHAUSTED = ("RESOURCE_EXHAUSTED", "ResourceExhausted", "OutOfMemory", "out of memory")


class Prepared(NamedTuple):
    """Something to time."""

    call: Callable[[], Any]  # runs once and returns when the result is ready
    images: int  # in one call
    macs: int | None = None  # nominal multiply-adds of one call, if counted
    about: str = ""  # a remark under the table


def process_peak_bytes() -> int | None:
    """Return the peak memory of this process; None if the system does not report it.

    Linux' VmHWM is preferred, because getrusage starts a fresh process at its parent's value.
    """
    with contextlib.suppress(OSError, ValueError, IndexError):
        [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
        return int(line.split()[1]) * 1024
    with contextlib.suppress(ImportError):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return None


def find_best_batch(measure_fn: Callable[[int], float], *, first: int = 1, most: int = 4096) -> int:
    """Find the batch with the most images a second among first, 2 first, 4 first ... until the device's memory is full.

    `measure_fn` returns the seconds of one call with a batch, or raises its library's out-of-memory error. Any other error is raised, and
    so is running out of memory at the first batch.
    """
    best, best_rate, batch = first, 0.0, first
    while batch <= most:
        try:
            rate = batch / measure_fn(batch)
        except Exception as error:  # each library has its own class
            if batch == first or not any(sign in f"{type(error).__name__} {error}" for sign in _EXHAUSTED):
                raise
            return best
        if rate > best_rate:
            best, best_rate = batch, rate
        batch *= 2
    return best

"""The subject that a worker times, the memory of its process, and the search for the best batch."""

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

_EXHAUSTED = ("RESOURCE_EXHAUSTED", "ResourceExhausted", "OutOfMemory", "out of memory")


class Prepared(NamedTuple):
    """Something to time."""

    call: Callable[[], Any]  # does it once, and returns when it is done
    images: int  # that one call works through
    macs: int | None = None  # nominal multiply-adds of one call, where they are counted
    about: str = ""  # what is to be said of it under the table


def process_peak_bytes() -> int | None:
    """The most memory that this process has held so far; None where the system does not say.

    Linux' VmHWM is preferred: what getrusage says of a fresh process begins with its parent's.
    """
    with contextlib.suppress(OSError, ValueError, IndexError):
        [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
        return int(line.split()[1]) * 1024
    with contextlib.suppress(ImportError):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return None


def find_best_batch(measure_fn: Callable[[int], float], *, first: int = 1, most: int = 4096) -> int:
    """The batch of most images a second among first, 2 first, 4 first ... until the device's memory is full.

    `measure_fn` returns the seconds of one call with a batch, or raises what its library raises when memory is exhausted. Other errors
    pass through, and that one does at the first batch.
    """
    best, best_rate, batch = first, 0.0, first
    while batch <= most:
        try:
            rate = batch / measure_fn(batch)
        except Exception as error:  # each library has a class of its own for it
            if batch == first or not any(sign in f"{type(error).__name__} {error}" for sign in _EXHAUSTED):
                raise
            return best
        if rate > best_rate:
            best, best_rate = batch, rate
        batch *= 2
    return best

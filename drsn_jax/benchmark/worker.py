"""One subject of `drsn-jax bench` in a separate process: `python -m drsn_jax.benchmark.worker`, started by `processes`.

Requests are lines of JSON on stdin. Answers are lines of JSON on the original stdout; other output goes to stderr. Each row and subject
has its own process, for three reasons:

1. Keras chooses its back end once per process.
2. Peak memory belongs to a process.
3. Only a first call compiles.
"""

import json
import math
import os
import sys
import time
import traceback
from typing import Any

from drsn_jax.benchmark.prepared import process_peak_bytes
from drsn_jax.benchmark.rows import LOADER, ROWS, family_of
from drsn_jax.system.errors import InputError

_SAMPLE_SECONDS = 0.2  # faster calls are timed in groups


class Session:
    """The state of a worker between requests."""

    def __init__(self):
        """Start without a prepared row."""
        self._rows: Any = None
        self._prepared: Any = None
        self._calls = 1
        self._ceiling: Any = None

    def hello(self, subject: str) -> dict[str, Any]:
        """Import the subject's packages. Answers with its device and the memory that the imports have taken."""
        if family_of(subject) == "ours":
            from drsn_jax.benchmark import our_rows as rows
        elif subject == LOADER:
            from drsn_jax.benchmark import loader_rows as rows
        else:
            from drsn_jax.benchmark import keras_rows as rows
        self._rows = rows
        return {**rows.describe_device(), "imported_bytes": process_peak_bytes()}

    def check(self, config: dict[str, Any], batch_size: int | None, crop_size: int | None, keras: bool) -> dict[str, Any]:
        """Answer with the configuration to measure and notes on it. Impossible ones are refused here, before any compilation."""
        from drsn_jax.benchmark.comparable import describe_differences, resolve_bench_config

        config = resolve_bench_config(config, batch_size=batch_size, crop_size=crop_size, keras=keras)
        return {"config": config, "notes": describe_differences(config) if keras else []}

    def prepare(self, row: str, config: dict[str, Any], folder: str) -> dict[str, Any]:
        """Prepare a row and call it twice: the first call compiles, the second gives the time of a call.

        Peak memory is read here, before the measurement of the device's peak allocates any.
        """
        self._prepared = prepared = self._rows.prepare(ROWS[row], config=config, folder=folder)
        first_call, warm_call = _seconds(prepared.call), _seconds(prepared.call)
        self._calls = max(1, math.ceil(_SAMPLE_SECONDS / max(warm_call, 1e-4)))
        answer = {"first_call": first_call, "warm_call": warm_call, "calls": self._calls, "images": prepared.images, "macs": prepared.macs}
        peak_bytes = None if ROWS[row].alone else self._rows.peak_bytes()  # the search for a batch has filled the memory
        if prepared.macs:  # only our rows count them
            self._ceiling = self._rows.make_ceiling(config["dtype"])
        return answer | {"peak_bytes": peak_bytes, "about": prepared.about}

    def time(self) -> dict[str, Any]:
        """Answer with the seconds of one call (the mean of several if calls are fast) and the device's peak in FLOP/s at that moment."""
        start = time.perf_counter()
        for _ in range(self._calls):
            self._prepared.call()
        seconds = (time.perf_counter() - start) / self._calls
        return {"seconds": seconds, "ceiling": self._ceiling() if self._ceiling else None}

    def profile(self, config: dict[str, Any], folder: str) -> dict[str, Any]:
        """Write a trace of a few training steps and inferences."""
        from drsn_jax.benchmark.tracing import write_trace

        return {"files": write_trace(folder, config=config)}


def main() -> None:
    """Answer requests until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # further output of Python or a library's C++ goes to stderr, not between the answers
    session = Session()
    for line in sys.stdin:
        request = json.loads(line)
        answers.write(json.dumps(_answer(session, request.pop("do"), request)) + "\n")
        answers.flush()


def _answer(session: Session, do: str, arguments: dict[str, Any]) -> dict[str, Any]:
    try:
        return getattr(session, do)(**arguments)
    except InputError as error:
        return {"skipped": str(error)}
    except Exception as error:  # of any kind: one cell of the table fails with its reason
        traceback.print_exc()
        reason = " ".join(str(error).split())[:300]
        return {"error": f"{type(error).__name__}: {reason}"}


def _seconds(call: Any) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()

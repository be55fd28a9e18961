"""Worker processes, from the side of their parent. A worker answers requests in lines of JSON, one at a time, and ends with its parent."""

import contextlib
import json
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from typing import Any

COMMAND = (sys.executable, "-m", "drsn_jax.benchmark.worker")
_LAST_MOMENTS = 10.0  # seconds
_TAIL = 400  # of a worker's stderr, quoted in the reason of a failure


class WorkerError(RuntimeError):
    """A worker failed, died or took too long. The message gives the reason in one line."""


class SkippedError(WorkerError):
    """A worker reported that its row does not apply, or that a package is not installed."""


class Worker:
    """One process. Use it in a `with` block, which kills it at the end in any case."""

    def __init__(self, *, environment: Mapping[str, str], timeout: float, command: Sequence[str] = COMMAND):
        """Start the process; `timeout` limits one answer, in seconds."""
        self._timeout = timeout
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115
        # stderr goes to a file: a full pipe would block the worker.
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._stderr}
        self._process = subprocess.Popen(command, env=dict(environment), **pipes)
        self._answers: queue.Queue[bytes] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Return the answer to one request. Raises SkippedError or WorkerError; after the latter the process may be dead."""
        self.send(do, **arguments)
        return self.receive()

    def send(self, do: str, **arguments: Any) -> None:
        """Send a request without waiting."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, ValueError):  # the process is dead; `receive` reports it
            self._process.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
            self._process.stdin.flush()

    def receive(self) -> dict[str, Any]:
        """Wait for the answer to the last request."""
        try:
            line = self._answers.get(timeout=self._timeout)
        except queue.Empty:
            self.close()
            raise WorkerError(f"gave no answer in {self._timeout:g} s and was ended (--timeout)") from None
        if not line:
            self._answers.put(b"")  # the next call gets the same answer
            raise WorkerError(self._obituary())
        try:
            answer = json.loads(line)
        except ValueError:
            self.close()
            raise WorkerError(f"gave an answer that is not JSON: {line[:80]!r}") from None
        if "skipped" in answer:
            raise SkippedError(answer["skipped"])
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def close(self) -> None:
        """End the process at once. It has no unsaved data."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()  # pyright: ignore[reportOptionalMemberAccess]
        self._stderr.close()

    def _read(self) -> None:
        with contextlib.suppress(ValueError, OSError):  # closed in the meantime
            for line in self._process.stdout:  # pyright: ignore[reportOptionalIterable]
                self._answers.put(line)
        self._answers.put(b"")

    def _obituary(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):  # its output has ended, so it should exit soon
            self._process.wait(_LAST_MOMENTS)
        self._process.kill()
        code, said = self._process.wait(), ""
        with contextlib.suppress(ValueError, OSError):
            self._stderr.seek(0)
            said = " ".join(self._stderr.read().decode(errors="replace").split())[-_TAIL:]
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        memory = " (usually out of memory)" if code == -9 else ""
        return f"{how}{memory}" + (f"; its last output: {said}" if said else "")

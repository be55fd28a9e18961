"""The parent's side of a worker: a process that answers one request at a time, in lines of JSON, and never outlives its parent."""

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
_TAIL = 400  # characters of a worker's stderr that a reason quotes


class WorkerError(RuntimeError):
    """A worker failed, died or took too long; the message says why, in one line."""


class SkippedError(WorkerError):
    """A worker said that its row does not apply, or that something is not installed."""


class Worker:
    """One process. Use it in a `with` block: it is killed on the way out, whatever happened inside."""

    def __init__(self, *, environment: Mapping[str, str], timeout: float, command: Sequence[str] = COMMAND):
        """Starts it; `timeout` is the seconds that one answer may take."""
        self._timeout = timeout
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115
        # stderr to a file: a pipe that nobody empties would stop the worker.
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._stderr}
        self._process = subprocess.Popen(command, env=dict(environment), **pipes)
        self._answers: queue.Queue[bytes] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """The answer to one request. Raises SkippedError or WorkerError; after the latter the process may be dead."""
        self.send(do, **arguments)
        return self.receive()

    def send(self, do: str, **arguments: Any) -> None:
        """Asks without waiting."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, ValueError):  # it is dead, and `receive` says so
            self._process.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
            self._process.stdin.flush()

    def receive(self) -> dict[str, Any]:
        """Waits for the answer to what was sent last."""
        try:
            line = self._answers.get(timeout=self._timeout)
        except queue.Empty:
            self.close()
            raise WorkerError(f"gave no answer in {self._timeout:g} s and was ended (--timeout)") from None
        if not line:
            self._answers.put(b"")  # whoever asks again gets the same answer
            raise WorkerError(self._obituary())
        try:
            answer = json.loads(line)
        except ValueError:
            self.close()
            raise WorkerError(f"answered something else than JSON: {line[:80]!r}") from None
        if "skipped" in answer:
            raise SkippedError(answer["skipped"])
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def close(self) -> None:
        """Ends the process at once. It holds nothing that would be lost."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()  # pyright: ignore[reportOptionalMemberAccess]
        self._stderr.close()

    def _read(self) -> None:
        with contextlib.suppress(ValueError, OSError):  # closed meanwhile
            for line in self._process.stdout:  # pyright: ignore[reportOptionalIterable]
                self._answers.put(line)
        self._answers.put(b"")

    def _obituary(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):  # its output has ended, so it should be on its way
            self._process.wait(_LAST_MOMENTS)
        self._process.kill()
        code, said = self._process.wait(), ""
        with contextlib.suppress(ValueError, OSError):
            self._stderr.seek(0)
            said = " ".join(self._stderr.read().decode(errors="replace").split())[-_TAIL:]
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        memory = " (out of memory, as a rule)" if code == -9 else ""
        return f"{how}{memory}" + (f"; its last words: {said}" if said else "")

"""One job after the other on a thread of their own; a job is cancelled when its client disconnects."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")


class Abandoned(Exception):
    """Nobody waits for the result of this job."""


class Turns:
    """A thread that has one job at a time: the device's memory holds one image, and the others wait for their turn."""

    def __init__(self):
        """The thread starts with the first job."""
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="restore")
        self._busy = threading.Lock()

    async def run(self, job: Callable[[Callable[[], None]], Result]) -> Result:
        """What `job(check)` returns. Where the caller is cancelled, a job that waits never starts, one that runs ends at its next check."""
        given_up = threading.Event()

        def check() -> None:
            if given_up.is_set():
                raise Abandoned

        def run_job() -> Result:
            with self._busy:
                return job(check)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, run_job)
        finally:
            given_up.set()

    def close(self, *, seconds: float) -> bool:
        """Take no more jobs; whether the last one ended within so many seconds."""
        self._executor.shutdown(wait=False, cancel_futures=True)
        return self._busy.acquire(timeout=seconds)

"""One job at a time in a separate thread; a job is cancelled when its client disconnects."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")


class Cancelled(Exception):
    """The client of this job has disconnected."""


class JobQueue:
    """A thread that runs one job at a time, because the device's memory holds one image. Other jobs wait."""

    def __init__(self):
        """Start the thread with the first job."""
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="restore")
        self._busy = threading.Lock()

    async def run(self, job: Callable[[Callable[[], None]], Result]) -> Result:
        """Return `job(check)`. If the caller is cancelled, a waiting job never starts and a running one ends at its next `check()`."""
        given_up = threading.Event()

        def check() -> None:
            if given_up.is_set():
                raise Cancelled

        def run_job() -> Result:
            with self._busy:
                return job(check)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, run_job)
        finally:
            given_up.set()

    def close(self, *, seconds: float) -> bool:
        """Stop taking jobs. Returns whether the last one ended within `seconds`."""
        self._executor.shutdown(wait=False, cancel_futures=True)
        return self._busy.acquire(timeout=seconds)

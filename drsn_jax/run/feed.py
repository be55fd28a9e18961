"""The edges of the loop: devices connected, batches fetched while they work, and signals to stop."""

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator
from types import FrameType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.multihost_utils import sync_global_devices
from jax.sharding import Mesh

from drsn_jax.system.processes import wait_for_all
from drsn_jax.training.sharding import over_data, replicated

_SAVING = b"\nCtrl-C: this step is ended and saved; a second Ctrl-C leaves at once.\n"


def warm_up_collectives(mesh: Mesh) -> None:
    """Connects the devices of several processes, all at the same moment.

    They are connected by the first computation that needs it, and on CPU (gloo) a process that comes 30 s later than another, because
    its compilation took longer, would end them all.
    """
    if jax.process_count() > 1:
        wait_for_all()
        sync_global_devices("warm up collectives")  # one device of each process, as Orbax uses them
        ones = jax.make_array_from_process_local_data(over_data(mesh), np.ones(jax.local_device_count()))
        jax.block_until_ready(jax.jit(jnp.sum, out_shardings=replicated(mesh))(ones))


class Feed:
    """Fetches batches while the device is busy, at most two steps ahead of it, and measures how long it stood idle for them."""

    def __init__(self, batches: Iterator[dict[str, jax.Array]]):
        """Takes the iterator over; nothing is fetched yet."""
        self._batches = batches
        self._before: Any = None  # what the step before the one in flight gave

    def next(self, *, after: Any) -> tuple[dict[str, jax.Array], float]:
        """The next batch, and the seconds that the device waited for it.

        `after` holds arrays of the step in flight, or is None before the first. Where they are ready before the batch is, the device was
        idle, and the whole time of fetching counts: an upper bound. Then waits for the step before that one, so that the device always has
        a step to go on with and the host does not run further ahead.
        """
        start = time.perf_counter()
        batch = next(self._batches)
        fetched = time.perf_counter() - start
        if after is None:
            self._before = None
            return batch, fetched
        idle = all(x.is_ready() for x in jax.tree.leaves(after))
        jax.block_until_ready(self._before)
        self._before = after
        return batch, fetched if idle else 0.0


class StopSignal:
    """Turns SIGTERM (preemption, `kill`), Ctrl-C and the end of a given time into a request that the loop reads after each step.

    Before the first step there is nothing to save, and Ctrl-C raises KeyboardInterrupt as ever.

    Of several processes the signal may reach one only, and all have to stop after the same step. So each puts its request on its devices
    after each step, where all requests are joined while the device works, and what came of it is read two steps later, without waiting.
    """

    def __init__(self, mesh: Mesh, *, minutes: float | None = None) -> None:
        """Not yet requested; it will be after so many minutes from now, if that is said."""
        self._end = time.monotonic() + 60 * minutes if minutes is not None else float("inf")
        self._signalled = self.interrupted = False
        self._stepped = False
        self._mesh = mesh
        self._any = jax.jit(jnp.any, out_shardings=replicated(mesh))
        self._asked: deque[jax.Array] = deque()

    @property
    def requested(self) -> bool:
        """Whether the signal has reached this process, or its time is over."""
        return self._signalled or time.monotonic() > self._end

    @property
    def reason(self) -> str:
        """Why to stop, for a message."""
        if self.interrupted:
            return "by Ctrl-C"
        over = time.monotonic() > self._end and not self._signalled
        return "since the time was over" if over else "by a signal"  # which may have reached another process

    def agreed(self) -> bool:
        """Whether to stop now: the same in every process, if each calls this once a step."""
        self._stepped = True
        if jax.process_count() == 1:
            return self.requested
        requests = np.full(self._mesh.size // jax.process_count(), self.requested)
        self._asked.append(self._any(jax.make_array_from_process_local_data(over_data(self._mesh), requests)))
        return len(self._asked) > 2 and bool(self._asked.popleft())

    def __enter__(self) -> "StopSignal":
        # Only the main thread may set handlers; a loop that runs in another thread cannot be asked to stop this way.
        self._main = threading.current_thread() is threading.main_thread()
        if self._main:
            self._previous = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
            if self._previous[signal.SIGINT] == signal.SIG_IGN:  # a script's background job, which the terminal's Ctrl-C is not for
                del self._previous[signal.SIGINT]
            for number in self._previous:
                signal.signal(number, self._request)
        return self

    def _request(self, number: int, frame: FrameType | None) -> None:
        del frame
        if number == signal.SIGINT:
            if not self._stepped:
                raise KeyboardInterrupt
            if not self.interrupted:
                os.write(2, _SAVING)  # a handler may come in the middle of a write to sys.stderr
            self.interrupted = True
        self._signalled = True

    def __exit__(self, *_: object) -> None:
        if self._main:
            for number, handler in self._previous.items():
                signal.signal(number, handler)

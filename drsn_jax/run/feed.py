"""Input and stop signals of the loop: connecting devices, fetching batches while the device works, and signals."""

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

_SAVING = b"\nCtrl-C: finishing and saving this step; press Ctrl-C again to stop at once.\n"


def warm_up_collectives(mesh: Mesh) -> None:
    """Connect the devices of several processes, all at the same moment.

    Otherwise the first collective computation connects them, and on CPU (gloo) the run would fail if one process compiles 30 s
    longer than another.
    """
    if jax.process_count() > 1:
        wait_for_all()
        sync_global_devices("warm up collectives")  # one device per process, as in Orbax
        ones = jax.make_array_from_process_local_data(over_data(mesh), np.ones(jax.local_device_count()))
        jax.block_until_ready(jax.jit(jnp.sum, out_shardings=replicated(mesh))(ones))


class Feed:
    """The prefetch of batches, at most two steps ahead of the device, with a measure of the device's idle time."""

    def __init__(self, batches: Iterator[dict[str, jax.Array]]):
        """Take over the iterator; nothing is fetched yet."""
        self._batches = batches
        self._before: Any = None  # the results of the step before the one in flight

    def next(self, *, after: Any) -> tuple[dict[str, jax.Array], float]:
        """Return the next batch, and the seconds that the device waited for it.

        `after` holds arrays of the step in flight, or None before the first step. If they are ready before the batch is, the device was
        idle, and the whole fetching time counts: an upper bound. Then it waits for the step before that one. So the device always has a
        queued step, and the host stays at most two steps ahead.
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
    """The stop request that the loop reads after each step: from SIGTERM (preemption, `kill`), Ctrl-C or a time limit.

    Before the first step there is nothing to save, and Ctrl-C raises KeyboardInterrupt as usual.

    In a run of several processes the signal may reach only one, and all must stop after the same step. So after each step each process
    puts its request on its devices, which combine the requests during the next step. The result is read two steps later, without waiting.
    """

    def __init__(self, mesh: Mesh, *, minutes: float | None = None) -> None:
        """Start without a request. With `minutes` it is made after that time."""
        self._end = time.monotonic() + 60 * minutes if minutes is not None else float("inf")
        self._signalled = self.interrupted = False
        self._stepped = False
        self._mesh = mesh
        self._any = jax.jit(jnp.any, out_shardings=replicated(mesh))
        self._asked: deque[jax.Array] = deque()

    @property
    def requested(self) -> bool:
        """Whether this process has received the signal or its time is over."""
        return self._signalled or time.monotonic() > self._end

    @property
    def reason(self) -> str:
        """The reason for stopping, for a message."""
        if self.interrupted:
            return "by Ctrl-C"
        over = time.monotonic() > self._end and not self._signalled
        return "since the time was over" if over else "by a signal"  # another process may have received it

    def agreed(self) -> bool:
        """Return whether to stop now. The answer is the same in every process if each calls this once per step."""
        self._stepped = True
        if jax.process_count() == 1:
            return self.requested
        requests = np.full(self._mesh.size // jax.process_count(), self.requested)
        self._asked.append(self._any(jax.make_array_from_process_local_data(over_data(self._mesh), requests)))
        return len(self._asked) > 2 and bool(self._asked.popleft())

    def __enter__(self) -> "StopSignal":
        # Only the main thread may set handlers. A loop in another thread cannot be stopped by signals.
        self._main = threading.current_thread() is threading.main_thread()
        if self._main:
            self._previous = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
            if self._previous[signal.SIGINT] == signal.SIG_IGN:  # a script's background job, which ignores the terminal's Ctrl-C
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
                os.write(2, _SAVING)  # a handler may interrupt a write to sys.stderr
            self.interrupted = True
        self._signalled = True

    def __exit__(self, *_: object) -> None:
        if self._main:
            for number, handler in self._previous.items():
                signal.signal(number, handler)

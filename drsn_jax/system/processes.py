"""A run of several processes on one or many machines: joining, decisions of process 0, and a common end."""

import contextlib
import itertools
import json
import os
import socket
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar

import jax
import numpy as np

from drsn_jax.system.errors import InputError, explain, first_line
from drsn_jax.system.interrupts import leave

T = TypeVar("T")
JOIN_SECONDS = 300  # time limit for the start of all processes
HEARTBEAT_SECONDS = 25  # JAX aborts a run this long after one process died or hung
_FOR_EVER = 2**40  # milliseconds; JAX's heartbeat ends a wait for a dead process
_BLOCK = 1024  # bytes; broadcasts are padded to multiples of it, each of which is compiled once
_HOW = "start each process with the same --coordinator=HOST:PORT and --num-processes=N, and with a --process-id of its own from 0 to N-1"
# JAX's messages if it finds no cluster, and if devices were used before, as in a notebook.
_ALONE = ("coordinator_address should be defined", "must be called before any JAX calls")
_turns = itertools.count()


@contextlib.contextmanager
def joined(*, coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None) -> Iterator[None]:
    """Make this process part of a run of several while the block lasts. No device may have been used before.

    Give all three arguments to join by hand. `coordinator` is HOST:PORT, a free port on the machine of process 0. Without arguments JAX
    detects TPU pods, Slurm and Open MPI. Anywhere else, and for a launcher's single task, this process runs alone. `num_processes=1` forces
    that. An exception inside the block is not raised in a run of several: it is printed as by `explain`, and this process exits. JAX's
    heartbeat then ends the other processes within `HEARTBEAT_SECONDS`, as it does after a kill or a hang. Raises InputError for any other
    combination of arguments, and if joining fails.
    """
    _check(coordinator, num_processes, process_id)
    if num_processes != 1:
        _join(coordinator, num_processes, process_id)
    if not jax.distributed.is_initialized() or jax.process_count() == 1:
        yield
        return
    try:
        yield
        wait_for_all()
    except BaseException as error:
        _end(error)
    jax.distributed.shutdown()


def first_process(compute: Callable[[], T]) -> T:
    """Return `compute()`, run by process 0 alone and sent to all others. The result must be representable as JSON.

    An InputError is raised in every process. All processes must call this function and `wait_for_all` in the same order.
    """
    if jax.process_count() == 1:
        return compute()
    said: list[Any] = [None, None]  # the value, and the reason for its absence
    if jax.process_index() == 0:
        try:
            said[0] = compute()
        except InputError as error:
            said[1] = str(error)
    value, problem = json.loads(_broadcast(json.dumps(said).encode()))
    if problem is not None:
        raise InputError(problem)
    return value


def wait_for_all() -> None:
    """Wait until every process has called this."""
    if jax.process_count() > 1:
        from orbax.checkpoint import multihost

        multihost.get_barrier_sync_fn()(key=f"drsn_jax/{next(_turns)}", timeout_ms=_FOR_EVER)


def _broadcast(content: bytes) -> bytes:
    """Send the bytes of process 0 to all. All processes meet first, because a broadcast on CPU (gloo) times out after 30 s."""
    from jax.experimental.multihost_utils import broadcast_one_to_all

    wait_for_all()
    length = int(broadcast_one_to_all(np.int32(len(content))))
    block = np.zeros(-(-length // _BLOCK) * _BLOCK, np.uint8)
    if jax.process_index() == 0:
        block[:length] = np.frombuffer(content, np.uint8)
    return np.asarray(broadcast_one_to_all(block))[:length].tobytes()


def _check(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    given = {"--coordinator": coordinator, "--num-processes": num_processes, "--process-id": process_id}
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == 3 or (num_processes == 1 and len(missing) == 2):
        return
    if missing:
        raise InputError(f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing; {_HOW}, or give none of the three.")
    host, _, port = str(coordinator).rpartition(":")
    if not host or not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise InputError(f"--coordinator={coordinator} is not a HOST:PORT with a port from 1 to 65535, such as 10.0.0.1:1234; {_HOW}.")
    if (num_processes or 0) < 1:
        raise InputError(f"--num-processes={num_processes} is too small; use 1 or more.")
    if not 0 <= (process_id or 0) < (num_processes or 0):
        raise InputError(f"--process-id={process_id} is not among {num_processes} processes; use 0 to {(num_processes or 0) - 1}.")


def _join(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Call `jax.distributed.initialize`; return without effect if there is no cluster."""
    if coordinator is None and _started_alone():
        return
    with contextlib.suppress(AttributeError):  # `feed.StopSignal` replaces it: it keeps early signals
        jax.config.update("jax_enable_preemption_service", False)
    options: dict[str, Any] = {"initialization_timeout": JOIN_SECONDS + 60, "heartbeat_timeout_seconds": HEARTBEAT_SECONDS}
    if coordinator is None:
        _join_cluster(options)
        return
    sys.stdout.write(f"Process {process_id} of {num_processes} waits for the others at {coordinator}.\n")
    sys.stdout.flush()
    late = f"process {process_id} of {num_processes} has waited {JOIN_SECONDS} s for the others at {coordinator}; {_HOW}"
    watch = threading.Timer(JOIN_SECONDS, _leave, [late])
    watch.daemon = True
    watch.start()  # JAX aborts the process at its own time limit
    try:
        if process_id == 0:
            _check_port(int(coordinator.rpartition(":")[2]))  # with a port in use JAX aborts, or disturbs the other program
        jax.distributed.initialize(coordinator, num_processes, process_id, cluster_detection_method="deactivate", **options)
    except Exception as error:
        raise InputError(f"Process {process_id} could not join the others at {coordinator} ({first_line(error)}); {_HOW}.") from error
    finally:
        watch.cancel()


def _join_cluster(options: dict[str, Any]) -> None:
    # In a Kubernetes pod, usually a notebook, JAX would warn or fail. It detects TPU pods there in another way.
    kubernetes = os.environ.pop("KUBERNETES_SERVICE_HOST", None)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            jax.distributed.initialize(**options)
    except Exception as error:
        if not any(text in str(error) for text in _ALONE):
            advice = f"{_HOW}, or with --num-processes=1 if it is alone"
            raise InputError(f"This is one process of a cluster, but it could not join ({first_line(error)}); {advice}.") from error
    finally:
        if kubernetes is not None:
            os.environ["KUBERNETES_SERVICE_HOST"] = kubernetes


def _started_alone() -> bool:
    """Check whether a launcher started a single task. JAX would join it to itself, and show it only one GPU."""
    counts = [os.environ.get(name) for name in ("OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS")]
    return next((count for count in counts if count), None) == "1"


def _check_port(port: int) -> None:
    """Raise OSError if a port of this machine is in use."""
    two = socket.has_dualstack_ipv6()
    socket.create_server(("", port), family=socket.AF_INET6 if two else socket.AF_INET, dualstack_ipv6=two).close()


def _end(error: BaseException) -> NoReturn:
    """Print the error and end this process. An ordinary exit would wait for the others."""
    explained = explain(error)
    if explained is None:  # on CPU (gloo) the end of another process causes such an error
        traceback.print_exception(error)
        again = "if another process ended before it, its output says why; run the same commands again to go on from the newest checkpoint"
        explained = f"process {jax.process_index()} stopped ({first_line(error)}): {again}", 1
    sys.stderr.write(f"drsn-jax: {explained[0]}\n")
    leave(explained[1])


def _leave(message: str) -> NoReturn:
    sys.stderr.write(f"drsn-jax: {message}\n")
    leave(1)

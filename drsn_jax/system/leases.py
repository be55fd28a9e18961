"""Leases: the replacement for locks in buckets. Each process writes an object with an expiry and renews it.

A process writes its own object first and lists the others afterwards. Buckets are consistent: a finished write is visible at once.
So of two processes that start together at least one sees the other, and at most one goes on.
"""

import contextlib
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from etils import epath

from drsn_jax.system.errors import InputError
from drsn_jax.system.interrupts import leave
from drsn_jax.system.paths import entries, explaining

LEASE = ".lease-"
LEASE_SECONDS, RENEW_SECONDS = 60.0, 15.0
_POLL_SECONDS = 2.0


@contextlib.contextmanager
def hold_lease(folder: epath.Path, *, doing: str) -> Iterator[None]:
    """Keep `folder`, in a bucket, to this process while the block runs.

    A lease ends at its expiry, `LEASE_SECONDS` after its last renewal. It ends at once if its owner was a process of this machine that no
    longer runs. This call waits for the lease of a killed owner to expire. If this process was stopped or cut off for longer than
    `LEASE_SECONDS`, another may have taken the lease. Then this one prints a message and exits. Raises InputError if another process holds
    the folder, BucketError if the folder cannot be written.
    """
    own = folder / f"{LEASE}{os.urandom(8).hex()}"
    with explaining(folder):
        _wait_until_free(folder, own, doing)
        _write(own)
        if living := _living(folder, own):  # another process started at the same moment
            own.unlink(missing_ok=True)
            raise _in_use(folder, living[0], doing)
    done = threading.Event()
    renewing = threading.Thread(target=_renew, args=(own, folder, done), daemon=True)
    renewing.start()
    try:
        yield
    finally:
        done.set()
        renewing.join()
        with contextlib.suppress(Exception):  # it expires by itself
            own.unlink(missing_ok=True)


def _wait_until_free(folder: epath.Path, own: epath.Path, doing: str) -> None:
    expiries: dict[str, float] = {}
    said = False
    while living := _living(folder, own):
        for name, lease in living:
            if expiries.setdefault(name, lease["expires"]) != lease["expires"]:
                raise _in_use(folder, (name, lease), doing)
        if not said:
            _say(f"{folder} is held by {living[0][1]['owner']}; waiting up to {LEASE_SECONDS:.0f} s, in case it was killed")
            said = True
        time.sleep(_POLL_SECONDS)


def _living(folder: epath.Path, own: epath.Path) -> list[tuple[str, dict[str, Any]]]:
    """Return the valid leases of other processes, and remove the expired ones."""
    living = []
    for path in entries(folder):
        if path.name == own.name or not path.name.startswith(LEASE):
            continue
        try:
            lease = json.loads(path.read_text())
        except FileNotFoundError:  # released in the meantime
            continue
        gone = lease["machine"] == _machine() and not _runs(lease["pid"])
        if gone or lease["expires"] < time.time():
            path.unlink(missing_ok=True)
        else:
            living.append((path.name, lease))
    return living


def _renew(own: epath.Path, folder: epath.Path, done: threading.Event) -> None:
    while not done.wait(RENEW_SECONDS):
        with contextlib.suppress(OSError):  # a network error: the next renewal may succeed
            try:
                there = own.exists()
            except Exception:  # bucket libraries raise errors of many types when they are offline
                continue
            if not there and not done.is_set():
                _say(f"{folder} was taken over by another process, because this one was out of reach for more than {LEASE_SECONDS:.0f} s")
                leave(1)
            _write(own)


def _write(own: epath.Path) -> None:
    owner = {"owner": f"process {os.getpid()} on {socket.gethostname()}", "machine": _machine(), "pid": os.getpid()}
    own.write_text(json.dumps(owner | {"expires": time.time() + LEASE_SECONDS}))


def _in_use(folder: epath.Path, lease: tuple[str, dict[str, Any]], doing: str) -> InputError:
    return InputError(f"{folder} is in use, {lease[1]['owner']} is {doing} there; wait for it, or choose another folder")


def _machine() -> str:
    """Identify this machine and its current boot. Host names alone are not unique."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return f"{socket.gethostname()} {boot.read_text().strip() if boot.exists() else ''}"


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # the process belongs to another user
        return True
    return True


def _say(message: str) -> None:
    sys.stderr.write(f"drsn-jax: {message}\n")
    sys.stderr.flush()

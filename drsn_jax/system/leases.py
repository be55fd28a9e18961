"""A lease in the place of a lock, where there are no locks: an object of each owner, with an expiry that the owner moves on.

An owner writes its own object first and lists those of others after that, and every bucket shows at once what was written before: of two
that begin together each sees the other's object, or one does, and no more than one goes on.
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
    """Keeps `folder`, in a bucket, to this process while the block runs.

    A lease ends with its expiry, `LEASE_SECONDS` after it was last renewed, or at once where its owner was a process of this machine
    that is gone: what a killed owner left is waited for, at most that long. Where another process has taken the lease meanwhile
    (this one was stopped, or cut off, for longer than that), this process says so and ends. Raises InputError where another process
    holds the folder, BucketError where it cannot be written.
    """
    own = folder / f"{LEASE}{os.urandom(8).hex()}"
    with explaining(folder):
        _wait_until_free(folder, own, doing)
        _write(own)
        if living := _living(folder, own):  # somebody began at the same moment
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
            _say(f"{folder} is held by {living[0][1]['owner']}; waiting up to {LEASE_SECONDS:.0f} s, in case that was killed")
            said = True
        time.sleep(_POLL_SECONDS)


def _living(folder: epath.Path, own: epath.Path) -> list[tuple[str, dict[str, Any]]]:
    """The leases of others that have not ended; those that have are removed."""
    living = []
    for path in entries(folder):
        if path.name == own.name or not path.name.startswith(LEASE):
            continue
        try:
            lease = json.loads(path.read_text())
        except FileNotFoundError:  # given back meanwhile
            continue
        gone = lease["machine"] == _machine() and not _runs(lease["pid"])
        if gone or lease["expires"] < time.time():
            path.unlink(missing_ok=True)
        else:
            living.append((path.name, lease))
    return living


def _renew(own: epath.Path, folder: epath.Path, done: threading.Event) -> None:
    while not done.wait(RENEW_SECONDS):
        with contextlib.suppress(OSError):  # of the network: there is time for another attempt
            try:
                there = own.exists()
            except Exception:  # whatever a bucket's library raises where it cannot be reached
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
    """What tells this machine, and this start of it, from others: hosts of one name there are many."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return f"{socket.gethostname()} {boot.read_text().strip() if boot.exists() else ''}"


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # of another user
        return True
    return True


def _say(message: str) -> None:
    sys.stderr.write(f"drsn-jax: {message}\n")
    sys.stderr.flush()

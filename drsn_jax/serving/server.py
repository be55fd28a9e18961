"""The server process: its socket, its signals, and a shutdown within seconds."""

import asyncio
import ipaddress
import signal
import socket
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from drsn_jax.serving.job_queue import JobQueue
from drsn_jax.system.errors import InputError
from drsn_jax.system.interrupts import leave

_GRACE_SECONDS = 1  # for answers that are being sent
_CONNECTIONS = 64  # uvicorn answers more with 503
HEADER_SECONDS = 15.0  # for a request's header, so that a slow client cannot hold a connection


class HeaderDeadline(H11Protocol):
    """uvicorn's protocol with a time limit for headers: for the first request of a connection and for each one that has begun."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Start the time limit for the first header."""
        super().connection_made(transport)
        self._deadline = self.loop.call_later(HEADER_SECONDS, transport.close)

    def data_received(self, data: bytes) -> None:
        """Take bytes of a header or a body. A header's time limit runs from its first byte; the first one's from the connection."""
        super().data_received(data)
        waiting = self.conn.their_state is h11.IDLE
        if self._deadline and not waiting:
            self._deadline.cancel()
            self._deadline = None
        elif waiting and not self._deadline:
            self._deadline = self.loop.call_later(HEADER_SECONDS, self.transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the time limit."""
        if self._deadline:
            self._deadline.cancel()
        super().connection_lost(exc)


def open_socket(host: str, port: int) -> socket.socket:
    """Open a socket that listens on `host` and `port`; port 0 takes any free one.

    Raises InputError for an address of another machine, and for a port that is taken, out of range or reserved for the administrator.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server((address[0], port), family=family)  # getaddrinfo turns port 65536 into 0
    except (OSError, OverflowError, UnicodeError) as error:
        text = (getattr(error, "strerror", None) or str(error)).split(" (")[0]  # create_server adds the address in brackets
        raise InputError(
            f"Cannot serve on {host}, port {port} ({text}); choose another --port (0: any free one), or omit --host."
        ) from error


def is_loopback(listener: socket.socket) -> bool:
    """Check whether only this machine can reach the socket."""
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback


def address_of(listener: socket.socket) -> str:
    """Return the http address of a socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run_server(make_app: Callable[[Path, JobQueue], ASGIApp], listener: socket.socket, *, greeting: str) -> None:
    """Print `greeting`, then serve the application of `make_app(folder, jobs)`; return within seconds of SIGINT or SIGTERM.

    Requests get a second to end, and restoring ends at its next tile. During a step that cannot be interrupted (a compilation, one
    long tile) the process exits with code 0 without waiting for it. The temporary folder is removed in any case.
    """
    jobs = JobQueue()
    with tempfile.TemporaryDirectory(prefix="drsn-jax-serve-", ignore_cleanup_errors=True) as folder:
        app = make_app(Path(folder), jobs)
        config = uvicorn.Config(
            app,
            http=HeaderDeadline,
            log_level="warning",
            access_log=False,
            lifespan="off",
            server_header=False,
            proxy_headers=False,
            limit_concurrency=_CONNECTIONS,
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
        server = uvicorn.Server(config)

        def stop(*_: object) -> None:
            server.should_exit = True

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop)  # uvicorn raises the signal again after it has ended; this lets it
        sys.stdout.write(greeting)
        sys.stdout.flush()
        server.run(sockets=[listener])
        ended = jobs.close(seconds=_GRACE_SECONDS)
    if not ended:
        leave(0)

"""The process that serves: its socket, its signals, and an end within seconds."""

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

from drsn_jax.serving.job_queue import Turns
from drsn_jax.system.errors import InputError
from drsn_jax.system.interrupts import leave

_GRACE_SECONDS = 1  # for answers that are on their way
_CONNECTIONS = 64  # more are answered 503 by uvicorn itself
HEADER_SECONDS = 15.0  # for the header of a request, so that nobody keeps connections by sending a byte now and then


class HeaderDeadline(H11Protocol):
    """uvicorn's protocol, closing a connection whose request has begun, or is the first, and whose header is not whole in time."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begins to wait for the first header."""
        super().connection_made(transport)
        self._deadline = self.loop.call_later(HEADER_SECONDS, transport.close)

    def data_received(self, data: bytes) -> None:
        """Takes bytes of a header or a body; the time for a header runs from its first byte, or from when the connection was made."""
        super().data_received(data)
        waiting = self.conn.their_state is h11.IDLE
        if self._deadline and not waiting:
            self._deadline.cancel()
            self._deadline = None
        elif waiting and not self._deadline:
            self._deadline = self.loop.call_later(HEADER_SECONDS, self.transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        """Waits no more."""
        if self._deadline:
            self._deadline.cancel()
        super().connection_lost(exc)


def open_socket(host: str, port: int) -> socket.socket:
    """A socket that listens on `host` and `port`, 0 for any that is free.

    Raises InputError for an address that is not this machine's and a port that is taken, out of range or for the administrator only.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server((address[0], port), family=family)  # getaddrinfo takes port 65536 for 0
    except (OSError, OverflowError, UnicodeError) as error:
        text = (getattr(error, "strerror", None) or str(error)).split(" (")[0]  # create_server adds the address in brackets
        raise InputError(
            f"Cannot serve on {host}, port {port} ({text}); choose another --port (0: any that is free), or leave --host away."
        ) from error


def is_loopback(listener: socket.socket) -> bool:
    """Whether only this machine can reach the socket."""
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback


def address_of(listener: socket.socket) -> str:
    """The http address of a socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run_server(make_app: Callable[[Path, Turns], ASGIApp], listener: socket.socket, *, greeting: str) -> None:
    """Print `greeting` and serve what `make_app` makes of a private folder and `Turns`; return within seconds of SIGINT or SIGTERM.

    Requests get a second to end, restoring ends at its next tile. Where it is in something that cannot be interrupted (a
    compilation, one long tile), the process ends without it, with code 0; the folder is gone in any case.
    """
    turns = Turns()
    with tempfile.TemporaryDirectory(prefix="drsn-jax-serve-", ignore_cleanup_errors=True) as folder:
        app = make_app(Path(folder), turns)
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
            signal.signal(number, stop)  # uvicorn raises the signal once more when it has ended: this lets it
        sys.stdout.write(greeting)
        sys.stdout.flush()
        server.run(sockets=[listener])
        ended = turns.close(seconds=_GRACE_SECONDS)
    if not ended:
        leave(0)

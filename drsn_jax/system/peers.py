"""Connections between process 0 and every other one of a run, that break when a process ends, however it ends.

A process that fails says so through them; of one that is killed, the system closes its end. The others, which may be waiting for it inside
a computation and would wait on, then end at once with a message that names it. JAX's own heartbeat takes 100 s for that, and aborts.
"""

import contextlib
import json
import os
import secrets
import socket
import sys
import threading
from collections.abc import Mapping

WAIT_SECONDS = 120  # for a connection to come about: all processes are up by then
LEAVE_SECONDS = 10  # that process 0 gives the others to end before it, with which JAX would abort them
_BYE = "bye"
# A machine that is lost closes nothing: the system asks after 20 s of silence, four times, 10 s apart. It answers for a process that hangs.
_KEEPALIVE = {"TCP_KEEPIDLE": 20, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 4}


class Lifeline:
    """What one process has of them: process 0 a line to each other process, those a line to process 0."""

    def __init__(self, lines: Mapping[int, socket.socket], *, process: int):
        """Takes the connected sockets over, by the process at the other end, and listens in threads of its own."""
        self._lines, self._process = lines, process
        self._ending = threading.Lock()  # taken for good by whoever ends this process, so that one thing is said
        for process_there, line in lines.items():
            _keep_alive(line)
            threading.Thread(target=self._listen, args=(process_there, line), daemon=True).start()

    def fail(self, message: str, *, code: int, here: str = "") -> None:
        """Tells the others that this process ends, why, and with which exit code; they end with it. Returns once they are told.

        `here` goes to stderr first. Never returns, and says nothing, where another process's end is just being told and ends this one.
        """
        self._ending.acquire()
        sys.stderr.write(here)
        sys.stderr.flush()
        self._tell(f"process {self._process} stopped: {message}", code)

    def close(self) -> None:
        """Says goodbye: what the others do from here on is no matter."""
        self._ending.acquire()
        for line in self._lines.values():
            _send(line, _BYE)

    def _listen(self, other: int, line: socket.socket) -> None:
        news = _receive(line)
        if news == _BYE:
            return
        lost = f"process {other} ended without a word (killed, out of memory, or its machine is lost), and the others with it;"
        lost += " run the same commands again to go on from the newest checkpoint"
        message, code = json.loads(news) if news else (lost, 1)
        if self._ending.acquire(blocking=False):
            sys.stderr.write(f"drsn-jax: {message}\n")
            sys.stderr.flush()
            if self._process == 0:
                self._tell(message, code)
            sys.stdout.flush()
            os._exit(code)  # the main thread may be inside a computation that never ends

    def _tell(self, message: str, code: int) -> None:
        for line in self._lines.values():
            _send(line, json.dumps([message, code]))
        if self._process == 0:
            for line in self._lines.values():
                line.settimeout(LEAVE_SECONDS / len(self._lines))
                with contextlib.suppress(OSError):
                    while line.recv(4096):  # until the process at the other end has ended
                        pass


def listen_for_others() -> tuple[socket.socket, int, str]:
    """Process 0: a socket that listens on every address, its port, and a password, for `accept_others` and the others."""
    server = _listen_everywhere(0)
    return server, server.getsockname()[1], secrets.token_hex(16)


def check_port(port: int) -> None:
    """Raises OSError where a port of this machine is taken."""
    _listen_everywhere(port).close()


def _listen_everywhere(port: int) -> socket.socket:
    two = socket.has_dualstack_ipv6()
    return socket.create_server(("", port), family=socket.AF_INET6 if two else socket.AF_INET, dualstack_ipv6=two, backlog=1024)


def accept_others(server: socket.socket, *, password: str, num_processes: int) -> dict[int, socket.socket]:
    """Process 0: a line to each other process that came within `WAIT_SECONDS` of the one before."""
    lines: dict[int, socket.socket] = {}
    server.settimeout(WAIT_SECONDS)
    with server, contextlib.suppress(TimeoutError):
        while len(lines) < num_processes - 1:
            line, _ = server.accept()
            line.settimeout(WAIT_SECONDS)
            given, _, process = _receive(line).partition(" ")
            if secrets.compare_digest(given.encode(), password.encode()):
                line.settimeout(None)
                lines[int(process)] = line
            else:
                line.close()  # somebody who knocks at every port
    return lines


def connect_to_first(host: str, port: int, *, password: str, process: int) -> dict[int, socket.socket]:
    """Another process: its line to process 0. Raises OSError where that cannot be reached."""
    line = socket.create_connection((host, port), timeout=WAIT_SECONDS)
    line.settimeout(None)
    line.sendall(f"{password} {process}\n".encode())
    return {0: line}


def _keep_alive(line: socket.socket) -> None:
    line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        if hasattr(socket, name):  # not on every system
            line.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _send(line: socket.socket, text: str) -> None:
    with contextlib.suppress(OSError):  # of a process that has just ended
        line.sendall(f"{text}\n".encode())


def _receive(line: socket.socket) -> str:
    """One line of text and no byte more; '' where the other end was closed before its end."""
    text = b""
    with contextlib.suppress(OSError):
        while byte := line.recv(1):
            if byte == b"\n":
                return text.decode(errors="replace")
            text += byte
    return ""

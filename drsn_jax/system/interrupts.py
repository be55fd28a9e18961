"""Ctrl-C: the first one ends a command in order, the second one at once, and neither in a crash of jaxlib's own clean-up."""

import _thread
import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, NoReturn

EXIT_CODE = 130  # 128 + SIGINT, as shells have it
_AGAIN = b"\0"  # no signal has this number


def leave(code: int) -> NoReturn:
    """Flushes what was printed and ends the process without the interpreter's clean-up.

    While a program compiles in another thread, that clean-up takes from jaxlib what the thread still uses.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # a closed pipe
            stream.flush()
    os._exit(code)


@contextlib.contextmanager
def twice_leaves() -> Iterator[None]:
    """While the block runs, a second Ctrl-C ends the process at once with code 130, also from within a compilation or a long step.

    The first one does what it did before: it raises KeyboardInterrupt in the main thread, once that is back in Python. Where a callback of
    a library swallows the exception it is raised again. Without effect outside of the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    receiver, sender = socket.socketpair()
    sender.setblocking(False)
    threading.Thread(target=_watch, args=(receiver,), daemon=True).start()
    fd_before, hook_before = signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False), sys.unraisablehook

    def hook(event: Any) -> None:
        if issubclass(event.exc_type, KeyboardInterrupt):
            sender.send(_AGAIN)
        else:
            hook_before(event)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = hook_before
        signal.set_wakeup_fd(fd_before)
        sender.close()


def _watch(receiver: socket.socket) -> None:
    """Counts in a thread of its own: Python's handlers wait until the main thread is back from compiled code."""
    count = 0
    with receiver:
        while numbers := receiver.recv(64):
            if _AGAIN in numbers:
                count -= 1  # it is counted once more
                time.sleep(0.05)  # until the hook has returned, which would swallow it too
                _interrupt_main()
            count += numbers.count(signal.SIGINT)
            if count > 1:
                os.write(2, b"\ndrsn-jax: left at once, by a second Ctrl-C\n")
                leave(EXIT_CODE)


def _interrupt_main() -> None:
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)  # also out of a wait
    else:  # Windows
        _thread.interrupt_main()

"""Ctrl-C: the first one stops a command in order, the second one at once. Neither crashes in jaxlib's clean-up."""

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

EXIT_CODE = 130  # 128 + SIGINT, the convention of shells
_AGAIN = b"\0"  # a byte that is no signal's number


def leave(code: int) -> NoReturn:
    """Flush the output and end the process without the interpreter's clean-up.

    That clean-up frees memory of jaxlib that a compilation in another thread may still use.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # a closed pipe
            stream.flush()
    os._exit(code)


@contextlib.contextmanager
def twice_leaves() -> Iterator[None]:
    """Let a second Ctrl-C end the process at once with code 130 while the block runs, even within a compilation or a long step.

    The first one raises KeyboardInterrupt in the main thread as usual, once Python code runs again. It is raised again if a
    library's callback swallows the exception. Has no effect outside the main thread.
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
    """Count signals in a separate thread, because Python's handlers wait until the main thread returns from compiled code."""
    count = 0
    with receiver:
        while numbers := receiver.recv(64):
            if _AGAIN in numbers:
                count -= 1  # the signal that is raised below is counted a second time
                time.sleep(0.05)  # until the hook, which would swallow this one too, has returned
                _interrupt_main()
            count += numbers.count(signal.SIGINT)
            if count > 1:
                os.write(2, b"\ndrsn-jax: stopped at once by the second Ctrl-C\n")
                leave(EXIT_CODE)


def _interrupt_main() -> None:
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)  # interrupts a blocking wait too
    else:  # Windows
        _thread.interrupt_main()

"""Keeps what Orbax and TensorStore print beside the errors that they raise off the terminal."""

import inspect
import logging
import sys
import warnings
from typing import Any


def quieten() -> None:
    """Orbax logs each step of each save, and errors that it also raises; after one, TensorStore's threads find its event loop closed."""
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", message="coroutine .* was never awaited", category=RuntimeWarning)
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = _ignore_closed_loop


def _ignore_closed_loop(event: Any) -> None:
    if not inspect.iscoroutine(event.object) and str(event.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(event)

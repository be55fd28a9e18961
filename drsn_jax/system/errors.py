"""Errors that the user can fix, told apart from bugs of the package.

The command line reports every `InputError` in one line without a traceback. Any other exception is a bug and keeps its traceback.
`drsn_jax.cli.main` lists the exit codes.
"""

import difflib
import errno
from collections.abc import Iterable

# Errors about one file. Any other OSError is a bug.
_FULL_OR_FORBIDDEN = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.ENOTDIR, errno.ENAMETOOLONG)


class _OneLine:
    """An error that its message explains in full."""

    def _render_traceback_(self) -> list[str]:
        """Show one line in Jupyter and Colab, as the command line does. IPython looks for this name on every exception."""
        return [f"drsn-jax: {self}"]


class InputError(_OneLine, ValueError):
    """A mistake in the user's input. The message names the input, the allowed values and the remedy.

    `plain` is the same message for people without a command line, such as visitors of the web page.
    """

    def __init__(self, message: str = "", *, plain: str | None = None):
        """Store `message`. `plain` defaults to it."""
        super().__init__(message)
        self.plain = plain or message


class BadImageError(InputError):
    """An image file that cannot be read: missing, damaged, or not an image."""


class TrainingDivergedError(_OneLine, RuntimeError):
    """A loss or gradient that is no longer finite. The message names the range of steps and the last good checkpoint."""


def explain(error: BaseException) -> tuple[str, int] | None:
    """Return the one-line report of an error and its exit code, or None for a bug, which keeps its traceback."""
    if isinstance(error, InputError):
        return str(error), 2
    if isinstance(error, TrainingDivergedError):
        return str(error), 1
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", 130
    if isinstance(error, (RuntimeError, ValueError)) and "RESOURCE_EXHAUSTED" in str(error):  # jaxlib's error derives from one of the two
        return "the device is out of memory; use a smaller batch_size, crop_size or --tile, or --config.dtype=bfloat16", 2
    if isinstance(error, OSError) and error.errno in _FULL_OR_FORBIDDEN:
        return f"{error.filename or 'A file'}: {error.strerror}; make room there, or choose another place", 2
    return None


def first_line(error: BaseException) -> str:
    """Return the type of an error and the first line of its message, for use within a sentence."""
    return f"{type(error).__name__}: {(str(error).strip() or 'no reason given').splitlines()[0][:200]}"


def nearest(given: str, known: Iterable[str]) -> str:
    """Return ' (did you mean NAME?)' with the most similar known name, or nothing."""
    matches = difflib.get_close_matches(given, list(known), n=1, cutoff=0.5)
    return f" (did you mean {matches[0]}?)" if matches else ""

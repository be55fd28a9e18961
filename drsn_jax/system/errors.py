"""Errors that the user can mend, told apart from our own failures.

Everything the command line reports in one line without a traceback derives from `InputError`; any other exception is a bug
of ours and keeps its traceback. See `drsn_jax.cli.main` for the exit codes.
"""

import difflib
import errno
from collections.abc import Iterable

# Of a file: anything else of the kind is ours.
_FULL_OR_FORBIDDEN = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.ENOTDIR, errno.ENAMETOOLONG)


class _OneLine:
    """An error that its message explains."""

    def _render_traceback_(self) -> list[str]:
        """What Jupyter and Colab show of it: what the command line does. IPython asks every exception for this name."""
        return [f"drsn-jax: {self}"]


class InputError(_OneLine, ValueError):
    """A mistake in what the user gave: the message names what was given, what is allowed and what to do.

    `plain` says it to people who have no command line, as those of a web page, where the message speaks of its options.
    """

    def __init__(self, message: str = "", *, plain: str | None = None):
        """Says `message`; `plain` is the same where nothing else is given."""
        super().__init__(message)
        self.plain = plain or message


class BadImageError(InputError):
    """An image file that cannot be read: missing, damaged, or no image."""


class TrainingDivergedError(_OneLine, RuntimeError):
    """The loss or a gradient stopped being finite: the message names the range of steps and the last good checkpoint."""


def explain(error: BaseException) -> tuple[str, int] | None:
    """What the command line says of an error, in one line, and its exit code; None for a bug of ours, which keeps its traceback."""
    if isinstance(error, InputError):
        return str(error), 2
    if isinstance(error, TrainingDivergedError):
        return str(error), 1
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", 130
    if isinstance(error, (RuntimeError, ValueError)) and "RESOURCE_EXHAUSTED" in str(error):  # jaxlib's own derives from one of them
        return "the device is out of memory; use a smaller batch_size, crop_size or --tile, or --config.dtype=bfloat16", 2
    if isinstance(error, OSError) and error.errno in _FULL_OR_FORBIDDEN:
        return f"{error.filename or 'A file'}: {error.strerror}; make room there, or choose another place", 2
    return None


def first_line(error: BaseException) -> str:
    """The kind of an error and the first line of what it says, to stand within a sentence."""
    return f"{type(error).__name__}: {(str(error).strip() or 'no reason given').splitlines()[0][:200]}"


def nearest(given: str, known: Iterable[str]) -> str:
    """' (did you mean NAME?)' for the known name that is most like the given one, or nothing."""
    matches = difflib.get_close_matches(given, list(known), n=1, cutoff=0.5)
    return f" (did you mean {matches[0]}?)" if matches else ""

"""Errors that are the user's to mend, told apart from our own failures.

Everything the command line reports in one line without a traceback derives from `InputError`; any other exception is a bug
of ours and keeps its traceback. See `drsn_jax.cli` for the exit codes.
"""


class InputError(ValueError):
    """A mistake in what the user gave: the message names what was given, what is allowed and what to do."""


class TrainingDivergedError(RuntimeError):
    """The loss or a gradient stopped being finite: the message names the range of steps and the last good checkpoint."""

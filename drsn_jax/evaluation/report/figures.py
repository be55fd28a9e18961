"""Import of matplotlib, if installed."""

from typing import Any

from drsn_jax.system.errors import InputError


def import_figure() -> Any:
    """Import matplotlib's Figure class, which needs no screen. Raises InputError if the package is missing."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError(f"Curves and maps need matplotlib ({error}): pip install 'drsn-jax[plot]'.") from error
    return Figure

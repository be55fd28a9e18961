"""The frame of the studies in this folder: a table on stdout, or one line on stderr for a user's mistake."""

import sys
from collections.abc import Callable

from drsn_jax.system.errors import explain
from drsn_jax.system.progress import Progress


def print_table(table_fn: Callable[[Progress], str], *, name: str) -> int:
    """Print the table that `table_fn` makes, and return an exit code as in `drsn-jax`. Raises failures that are bugs."""
    progress = Progress()
    try:
        table = table_fn(progress)
    except (Exception, KeyboardInterrupt) as error:
        explained = explain(error)
        if explained is None:
            raise
        message, code = explained
        sys.stderr.write(f"{name}: {message}\n")
        return code
    finally:
        progress.close()
    sys.stdout.write(table)
    return 0

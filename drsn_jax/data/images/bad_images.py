"""Images that cannot be read: the first stops the run, or some are passed over."""

import threading
from collections.abc import Callable
from typing import TypeVar

from drsn_jax.system.errors import BadImageError, InputError

T = TypeVar("T")
MOST = 0.1  # of the images, and one at least: with more of them damaged something else is wrong, as a disk that is not mounted


class BadImages:
    """Keeps count of the images of one set that could not be read. For many threads at once.

    Nothing is kept of what was read or passed over: each image is tried again when its turn comes again, so that what takes its place
    depends on the files alone, wherever a run began.
    """

    def __init__(self, total: int, *, what: str, skip: bool, tell_fn: Callable[[str], object] = lambda text: None):
        """Of `total` images, called `what` in the plural. Without `skip` none is passed over; `tell_fn` hears of each that is, once."""
        self._total, self._what, self._tell_fn = total, what, tell_fn
        self._most = min(max(1, int(MOST * total)), total - 1) if skip else 0
        self._seen: set[str] = set()
        self._lock = threading.Lock()

    def read(self, name: str, read_fn: Callable[[], T]) -> T | None:
        """What `read_fn` gives; None where it raises `BadImageError` and that is passed over. `name` tells images apart.

        Raises the error itself where none is passed over, and `InputError` where this is one too many.
        """
        try:
            return read_fn()
        except BadImageError as error:
            if not self._most:
                raise
            self._count(name, error)
            return None

    def _count(self, name: str, error: BadImageError) -> None:
        with self._lock:
            new = name not in self._seen
            self._seen |= {name}
            number = len(self._seen)
        count = f"{number:,} of {self._total:,} {self._what}"
        if number > self._most:
            raise InputError(
                f"{count} cannot be read, and on_bad_image=skip passes over {self._most:,} at most; are all files there? The last: {error}"
            ) from error
        if new:
            self._tell_fn(f"{str(error).rstrip('.')}. It is passed over: {count} so far, {self._most:,} at most.")

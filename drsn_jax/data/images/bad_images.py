"""Unreadable images: the first one stops the run, or a limited number is skipped."""

import threading
from collections.abc import Callable
from typing import TypeVar

from drsn_jax.system.errors import BadImageError, InputError

T = TypeVar("T")
MOST = 0.1  # of the images, and at least one: more damaged images suggest another cause, such as a disk that is not mounted


class BadImages:
    """A thread-safe count of the unreadable images of one set.

    Results are not remembered: each image is tried again when its turn comes. So the replacement of a skipped image depends on the
    files alone, not on the step at which the run started.
    """

    def __init__(self, total: int, *, what: str, skip: bool, tell_fn: Callable[[str], object] = lambda text: None):
        """Start a count for `total` images called `what` (plural). Without `skip` none is skipped. `tell_fn` reports each one once."""
        self._total, self._what, self._tell_fn = total, what, tell_fn
        self._most = min(max(1, int(MOST * total)), total - 1) if skip else 0
        self._seen: set[str] = set()
        self._lock = threading.Lock()

    def read(self, name: str, read_fn: Callable[[], T]) -> T | None:
        """Return `read_fn()`, or None if it raises `BadImageError` and the image is skipped. `name` identifies the image.

        Raises the error itself if no image is skipped, and `InputError` if this one exceeds the limit.
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
                f"{count} cannot be read, and on_bad_image=skip allows at most {self._most:,}; check the files. The last: {error}"
            ) from error
        if new:
            self._tell_fn(f"{str(error).rstrip('.')}. It is skipped: {count} so far, at most {self._most:,}.")

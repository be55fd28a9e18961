"""Work in another thread, one item ahead: files are read and results are written while the device computes."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

T = TypeVar("T")
S = TypeVar("S")
_END: Any = object()


def map_ahead(executor: Executor, function: Callable[[T], S], items: Iterable[T]) -> Iterator[S]:
    """Apply `map` in another thread, one item ahead. Errors of `function` are raised here."""
    futures: deque[Future[S]] = deque()
    for item in items:
        futures.append(executor.submit(function, item))
        if len(futures) > 1:
            yield futures.popleft().result()
    while futures:
        yield futures.popleft().result()


def iterate_ahead(executor: Executor, items: Iterable[T]) -> Iterator[T]:
    """Yield the items, while another thread makes the next one. Errors of `items` are raised here."""
    iterator = iter(items)
    future = executor.submit(next, iterator, _END)
    while (item := future.result()) is not _END:
        future = executor.submit(next, iterator, _END)
        yield item

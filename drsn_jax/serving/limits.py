"""Limits of one request's cost, and of the number of requests at a time."""

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from starlette.exceptions import HTTPException
from starlette.requests import Request


class Limits(NamedTuple):
    """The limits of a server. On disk lie at most `waiting + 1` uploads with their results, in memory the pixels of one."""

    max_bytes: int = 32_000_000  # of an upload
    max_pixels: int = 50_000_000  # of an image, by its header
    waiting: int = 8  # requests beside the one that is on the device
    transfer_seconds: float = 120.0  # for an upload, and again for taking the result: nobody keeps a place for ever


async def receive_body(request: Request, *, write: Callable[[bytes], object], limits: Limits) -> None:
    """Hand the request's body to `write` as it comes in.

    Raises HTTPException: 413 as soon as it is longer than `max_bytes`, whatever its Content-Length says, 408 where it takes too
    long; ClientDisconnect where the client leaves.
    """
    too_large = HTTPException(413, f"The file is larger than {limits.max_bytes / 1e6:g} MB, the most that this server takes.")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > limits.max_bytes:
        raise too_large
    size = 0
    try:
        async with asyncio.timeout(limits.transfer_seconds):
            async for chunk in request.stream():
                size += len(chunk)
                if size > limits.max_bytes:
                    raise too_large
                write(chunk)
    except TimeoutError:
        raise HTTPException(408, f"The file did not arrive within {limits.transfer_seconds:g} seconds; try again.") from None

"""Limits on the cost of one request and on the number of simultaneous requests."""

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from starlette.exceptions import HTTPException
from starlette.requests import Request


class Limits(NamedTuple):
    """The limits of a server. At most `waiting + 1` uploads with their results are on disk, and the pixels of one in memory."""

    max_bytes: int = 32_000_000  # of an upload
    max_pixels: int = 50_000_000  # of an image, read from its header
    waiting: int = 8  # requests besides the one on the device
    transfer_seconds: float = 120.0  # for an upload, and again for sending the result


async def receive_body(request: Request, *, write: Callable[[bytes], object], limits: Limits) -> None:
    """Pass the request's body to `write` as it arrives.

    Raises HTTPException 413 as soon as the body exceeds `max_bytes`, for any Content-Length, and 408 if it takes too long. Raises
    ClientDisconnect if the client leaves.
    """
    too_large = HTTPException(413, f"The file is larger than {limits.max_bytes / 1e6:g} MB, the limit of this server.")
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

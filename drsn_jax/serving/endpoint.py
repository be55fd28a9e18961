"""POST /restore."""

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse
from starlette.types import Receive, Scope, Send

from drsn_jax.serving.forms import open_form
from drsn_jax.serving.headers import refuse_other_origins
from drsn_jax.serving.job_queue import Cancelled, JobQueue
from drsn_jax.serving.limits import Limits, receive_body
from drsn_jax.serving.photographs import Answer, Choices, MakeFn, restore_upload


class RestoreEndpoint:
    """The endpoint. A request holds a place in the queue from before its body is read until its answer is sent or its client leaves."""

    def __init__(self, make_fn: MakeFn, *, folder: Path, jobs: JobQueue, limits: Limits):
        """Start without requests."""
        self._make_fn, self._folder, self._jobs, self._limits = make_fn, folder, jobs, limits
        self.requests = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = Request(scope, receive)
        refuse_other_origins(request)
        choices = _read_choices(request.query_params)
        try:
            async with self._place(request):
                with tempfile.TemporaryDirectory(dir=self._folder, ignore_cleanup_errors=True) as folder:
                    answer = await self._restore(request, choices, Path(folder) / "upload")
                    await _send(answer, scope, receive, send, seconds=self._limits.transfer_seconds)
        except ClientDisconnect:
            pass
        except asyncio.CancelledError:
            raise HTTPException(503, "The server is being stopped.") from None

    async def _restore(self, request: Request, choices: Choices, upload: Path) -> Answer:
        with upload.open("xb") as file:
            form = open_form(request, write=file.write)
            await receive_body(request, write=form.feed if form else file.write, limits=self._limits)
        if upload.stat().st_size == 0:
            raise HTTPException(400, "The request contains no file; send its bytes as the body, or in a form.")
        if form and form.fields:
            choices = _read_choices(dict(request.query_params) | form.fields)

        def job(check: Callable[[], None]) -> Answer:
            check()
            try:
                answer = restore_upload(upload, restore_fn=self._make_fn(choices, check), max_pixels=self._limits.max_pixels)
                check()
            except Cancelled:
                # The folder was deleted when the client left, but writing the answer made it again.
                shutil.rmtree(upload.parent, ignore_errors=True)
                raise
            return answer

        return await _while_connected(request, self._jobs.run(job))

    @contextlib.asynccontextmanager
    async def _place(self, request: Request) -> AsyncIterator[None]:
        if self.requests > self._limits.waiting:
            # Read the whole body, because a browser that is still sending does not see the answer.
            await receive_body(request, write=len, limits=self._limits)
            message = f"{self._limits.waiting} photographs are waiting already; try again in a moment."
            raise HTTPException(503, message, {"Retry-After": "10"})
        self.requests += 1
        try:
            yield
        finally:
            self.requests -= 1


def _read_choices(query: Mapping[str, str]) -> Choices:
    """Read ?strength=0.5&ensemble=1, or the fields of a form; both have defaults."""
    if unknown := set(query) - {"strength", "ensemble"}:
        raise HTTPException(400, f"{min(unknown)[:100]!r} is not known; a request takes strength and ensemble.")
    text, ensemble = query.get("strength", "1"), query.get("ensemble", "0")
    try:
        strength = float(text)
    except ValueError:
        strength = -1.0
    if not 0 <= strength <= 1:
        raise HTTPException(400, f"strength={text[:100]} is not a number from 0 to 1.")
    if ensemble not in ("0", "1"):
        raise HTTPException(400, f"ensemble={ensemble[:100]} is neither 0 nor 1.")
    return Choices(strength, ensemble == "1")


async def _while_connected(request: Request, work: Coroutine[Any, Any, Answer]) -> Answer:
    """Return the result of `work`. If the client leaves, cancel it and raise ClientDisconnect."""

    async def wait_for_the_end() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(wait_for_the_end())
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()


async def _send(answer: Answer, scope: Scope, receive: Receive, send: Send, *, seconds: float) -> None:
    """Send the file. Stop if the client takes too long or the server is being stopped."""
    headers = {"Server-Timing": f"restore;dur={answer.seconds * 1000:.0f}", "X-Image-Size": f"{answer.width}x{answer.height}"}
    with contextlib.suppress(TimeoutError, asyncio.CancelledError):
        async with asyncio.timeout(seconds):
            await FileResponse(answer.path, media_type=answer.media_type, headers=headers)(scope, receive, send)

"""The web application: a page, an endpoint that restores a photograph, and a status endpoint.

    GET  /                                  the page
    POST /restore?strength=1&ensemble=0     body: a file's bytes or a form with a file; answer: the restored file's bytes
    GET  /health                            the model, the limits and the number of requests

Errors are answered as JSON, {"error": "..."}.
"""

from collections.abc import Sequence
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from drsn_jax.serving.endpoint import RestoreEndpoint
from drsn_jax.serving.headers import SafeHeaders, page_policy
from drsn_jax.serving.job_queue import JobQueue
from drsn_jax.serving.limits import Limits
from drsn_jax.serving.photographs import MakeFn
from drsn_jax.system.errors import InputError

PAGE = Path(__file__).with_name("page.html")


def make_app(
    make_fn: MakeFn, *, folder: Path, jobs: JobQueue, model: str, limits: Limits | None = None, hosts: Sequence[str] = ("*",)
) -> ASGIApp:
    """Build the application. `jobs` restores the photographs. Uploads and results lie in `folder` until the answer is sent.

    `model` is the name on the page. Requests with a Host header outside `hosts` are refused. This stops DNS rebinding: a foreign name that
    points at this machine cannot reach the server through a browser.
    """
    limits = limits or Limits()
    page = PAGE.read_text(encoding="utf-8")
    restore = RestoreEndpoint(make_fn, folder=folder, jobs=jobs, limits=limits)

    async def show_page(_: Request) -> Response:
        return HTMLResponse(page, headers={"Content-Security-Policy": page_policy(page)})

    async def show_health(_: Request) -> Response:
        fixed = {"status": "ok", "model": model, "max_bytes": limits.max_bytes, "max_pixels": limits.max_pixels}
        return JSONResponse(fixed | {"requests": restore.requests, "max_requests": limits.waiting + 1})

    app = Starlette(
        routes=[Route("/", show_page), Route("/health", show_health), Route("/restore", restore, methods=["POST"])],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts), www_redirect=False)],
        exception_handlers={HTTPException: _say, InputError: _say, Exception: _say},
    )
    return SafeHeaders(app)


async def _say(_: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)
    if isinstance(error, InputError):
        return JSONResponse({"error": str(error)}, 422)
    return JSONResponse({"error": "Restoring failed. The details are in the output of drsn-jax serve."}, 500)

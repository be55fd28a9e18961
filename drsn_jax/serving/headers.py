"""Security headers: other pages cannot use the server, and the page loads nothing from elsewhere."""

import base64
import hashlib
import re
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_ALWAYS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'",  # the page has its own
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "same-origin",  # with no-referrer the page's own form would send no origin
    "X-Content-Type-Options": "nosniff",
}


class SafeHeaders:
    """The headers, added to every answer including errors."""

    def __init__(self, app: ASGIApp):
        """Wrap `app`."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as `app` does, with the headers added."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _ALWAYS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, send_with_headers)


def page_policy(page: str) -> str:
    """Build the Content-Security-Policy of a single-file page: its own script and style by their hashes, pictures, and this server.

    Hashes: https://www.w3.org/TR/CSP3/, section 8.3.
    """

    def hashes(element: str) -> str:
        contents = re.findall(rf"<{element}>(.*?)</{element}>", page, flags=re.DOTALL)
        digests = [base64.b64encode(hashlib.sha256(content.encode()).digest()).decode() for content in contents]
        return " ".join(f"'sha256-{digest}'" for digest in digests)

    return (
        f"default-src 'none'; script-src {hashes('script')}; style-src {hashes('style')}; img-src 'self' blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    )


def refuse_other_origins(request: Request) -> None:
    """Raise HTTPException 403 for a request from a page of another origin. Browsers send an Origin header, other clients do not."""
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        raise HTTPException(403, f"A page of {origin[:100]} may not use this server.")

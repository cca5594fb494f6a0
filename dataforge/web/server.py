"""A server for one page on one machine: a Starlette application that lets only its page in."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dataforge.errors import DataforgeError
from dataforge.web.messages import failure
from dataforge.web.openapi import Operation

STATIC = Path(__file__).parent / "static"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
}
_HEADERS = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]


class Guard:
    """Middleware that lets nobody in but the page: by token, Host, Origin and content type; and adds `HEADERS`.

    Args:
        token: in the cookie, or as `Authorization: Bearer`.
        port: that of the server.
    """

    def __init__(self, app: ASGIApp, token: str, port: int) -> None:
        self._app, self._token, self._cookie = app, token, f"dataforge-{port}"
        self._hosts = (f"127.0.0.1:{port}", f"localhost:{port}")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_HEADERS]
                if scope["path"].startswith("/static/"):
                    message["headers"].append((b"cache-control", b"no-cache"))
            await send(message)

        answer = self._answer(Request(scope))
        await (answer or self._app)(scope, receive, send_with_headers)

    def _answer(self, request: Request) -> Response | None:
        """Return the answer to a request that goes no further."""
        hosts = request.headers.getlist("host")
        if len(hosts) != 1 or hosts[0] not in self._hosts:
            return failure(403, f"Host is not {self._hosts[0]}")
        origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site", "none")
        if origin not in (None, f"http://{hosts[0]}") or site not in ("none", "same-origin"):
            return failure(403, "the request comes from another page")
        if request.url.path == "/" and request.method == "GET" and "token" in request.query_params:
            if not self._is_token(request.query_params["token"]):
                return failure(401, "the token is not that of this server; use the address that it printed")
            answer = RedirectResponse("/", 303, {"Cache-Control": "no-store"})
            answer.set_cookie(self._cookie, self._token, path="/", httponly=True, samesite="strict")
            return answer
        bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
        given = bearer or request.cookies.get(self._cookie, "")
        if not self._is_token(given):
            return failure(401, "no token; use the address that the server printed")
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if request.method == "POST" and kind != "application/json":
            return failure(415, "expected Content-Type: application/json")
        return None

    def _is_token(self, text: str) -> bool:
        return hmac.compare_digest(text.encode(), self._token.encode())


def application(page: str, operations: Sequence[Operation], handlers: object, token: str, port: int) -> Starlette:
    """Return a server as an ASGI application.

    Args:
        page: a file of `STATIC`, at "/".
        handlers: has a method of each operation's name.
        token: the secret that the page's address has.
        port: the one that it is served at on 127.0.0.1.
    """

    def root(request: Request) -> Response:
        return FileResponse(STATIC / page, headers={"Cache-Control": "no-cache"})

    routes = [
        Route("/", root),
        *(Route(one.path, getattr(handlers, one.name), methods=[one.method]) for one in operations),
        Mount("/static", StaticFiles(directory=STATIC, check_dir=False)),
    ]
    on_error: dict[Any, Any] = {
        HTTPException: lambda request, error: failure(error.status_code, error.detail, error.headers),
        DataforgeError: lambda request, error: failure(422, str(error)),
    }
    guard = Middleware(Guard, token=token, port=port)
    return Starlette(routes=routes, middleware=[guard], exception_handlers=on_error)

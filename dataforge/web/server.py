"""The annotator's server: a Starlette application over a `Session`, for one page on one machine."""

from __future__ import annotations

import csv
import hmac
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dataforge.errors import DataforgeError
from dataforge.images.header import probe
from dataforge.overlay.edits import RefusedError
from dataforge.overlay.journal import NotWrittenError
from dataforge.web.api import BOX_PATTERN, LARGEST, MAX_COUNT, OPERATIONS, ClassChange, ImageEdits, document
from dataforge.web.proposals import Proposals
from dataforge.web.session import Session, StaleError, per

STATIC = Path(__file__).parent / "static"
MAX_BODY = 8 << 20  # bytes
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
}
_HEADERS = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
T = TypeVar("T")
_BOX = re.compile(BOX_PATTERN)


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


def application(
    session: Session,
    token: str,
    port: int,
    keys: Mapping[str, list[str]] | None = None,
    proposals: Proposals | None = None,
) -> Starlette:
    """Return the server as an ASGI application.

    Args:
        token: the secret that the page's address has.
        port: the one that it is served at on 127.0.0.1.
        keys: action -> keys, where the user has chosen others.
        proposals: of a model.
    """
    pages = Pages(session, keys or {}, proposals)
    routes = [
        Route("/", pages.page),
        *(Route(one.path, getattr(pages, one.name), methods=[one.method]) for one in OPERATIONS),
        Mount("/static", StaticFiles(directory=STATIC, check_dir=False)),
    ]
    handlers: dict[Any, Any] = {
        HTTPException: lambda request, error: failure(error.status_code, error.detail, error.headers),
        DataforgeError: lambda request, error: failure(422, str(error)),
    }
    guard = Middleware(Guard, token=token, port=port)
    return Starlette(routes=routes, middleware=[guard], exception_handlers=handlers)


class Pages:
    """The handlers of `api.OPERATIONS`, by name."""

    def __init__(self, session: Session, keys: Mapping[str, list[str]], proposals: Proposals | None) -> None:
        self._session, self._keys, self._proposals = session, keys, proposals

    def page(self, request: Request) -> Response:
        return FileResponse(STATIC / "annotate.html", headers={"Cache-Control": "no-cache"})

    def set(self, request: Request) -> Response:
        base = self._session.base
        return answer(
            {
                "id": self._session.id,
                "title": base.path.name,
                "images": len(base.places),
                "classes": self._classes(),
                "splits": list(dict.fromkeys(split for split, _ in base.places)),
                "proposals": self._proposals is not None,
                "keys": self._keys,
            }
        )

    def images(self, request: Request) -> Response:
        _only(request, "from", "count")
        first, count = _number(request, "from", 0), _number(request, "count", 1000, MAX_COUNT)
        rows = range(len(self._session.base.places))[first : first + count]
        return answer({"images": [self._session.summary(n) for n in rows]})

    def get_image(self, request: Request) -> Response:
        return answer(self._session.image(self._n(request)))

    async def post_image(self, request: Request) -> Response:
        n = self._n(request)
        body = await _body(request, ImageEdits)
        return await run_in_threadpool(self._post_image, n, body)

    def _post_image(self, n: int, body: ImageEdits) -> Response:
        try:
            revision = self._session.edit(n, body.request, body.revision, body.edits, body.client, body.seconds)
        except StaleError as error:
            now = self._session.image(n)
            return answer({"error": str(error), **{name: now[name] for name in ("revision", "boxes", "state")}}, 409)
        except (RefusedError, NotWrittenError) as error:
            return failure(507 if isinstance(error, NotWrittenError) else 400, str(error))
        return answer({"revision": revision})

    async def post_classes(self, request: Request) -> Response:
        body = await _body(request, ClassChange)
        return await run_in_threadpool(self._post_classes, body)

    def _post_classes(self, body: ClassChange) -> Response:
        try:
            self._session.change_classes(body.request, body.op, body.name, body.to)
        except (RefusedError, NotWrittenError) as error:
            return failure(507 if isinstance(error, NotWrittenError) else 400, str(error))
        return answer({"classes": self._classes()})

    def picture(self, request: Request) -> Response:
        data, tag = self._session.base.image(self._n(request))
        kind = probe(data).format.lower()
        headers = {"ETag": f'"{tag}"', "Cache-Control": "private, max-age=3600", "Accept-Ranges": "bytes"}
        if tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        media = f"image/{'x-portable-anymap' if kind == 'ppm' else kind}"
        status, part = _range(request, len(data), tag)
        if status == 416:
            return failure(416, "no such range", {"Content-Range": f"bytes */{len(data)}"})
        if status == 206:
            headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{len(data)}"
        return Response(data[part], status, headers, media)

    def speed(self, request: Request) -> Response:
        return answer(self._session.speed())

    def speed_csv(self, request: Request) -> Response:
        facts = self._session.speed()
        text = io.StringIO(newline="")
        rows = csv.writer(text)
        rows.writerow(["class", "boxes", "seconds", "seconds_per_box"])
        for one in [*facts["by_class"], {"name": "all", **facts}]:
            rows.writerow([one["name"], one["boxes"], one["seconds"], per(one["seconds"], one["boxes"])])
        headers = {"Cache-Control": "no-store", "Content-Disposition": 'attachment; filename="speed.csv"'}
        return Response(text.getvalue(), 200, headers, "text/csv")

    def crops(self, request: Request) -> Response:
        _only(request, "label", "from", "count")
        first, count = _number(request, "from", 0), _number(request, "count", 1000, MAX_COUNT)
        if "label" not in request.query_params:
            raise HTTPException(400, "label: expected the number of a class")
        return answer({"crops": self._session.crops(_number(request, "label", 0), first, count)})

    def crop(self, request: Request) -> Response:
        _only(request, "box", "size")
        n, size = self._n(request), _number(request, "size", 96, 512, least=8)
        text = request.query_params.get("box", "")
        if not _BOX.fullmatch(text):
            raise HTTPException(400, f"box: {text!r}; expected x1,y1,x2,y2")
        x1, y1, x2, y2 = map(float, text.split(","))
        data = self._session.crop(n, (x1, y1, x2, y2), size)
        return Response(data, 200, {"Cache-Control": "private, max-age=3600"}, "image/jpeg")

    def proposals(self, request: Request) -> Response:
        n = self._n(request)
        if self._proposals is None:
            return answer({"boxes": [], "pending": False})
        return answer(self._proposals.of(n))

    def openapi(self, request: Request) -> Response:
        return answer(document())

    def _classes(self) -> list[dict[str, Any]]:
        return [{"id": label, "name": name} for label, name in self._session.edits.classes().items()]

    def _n(self, request: Request) -> int:
        text, count = request.path_params["n"], len(self._session.base.places)
        if not (_is_number(text) and int(text) < count):
            raise HTTPException(404, f"no image {text[:20]}; there are {count}")
        return int(text)


def answer(facts: object, status: int = 200) -> Response:
    """Return an answer in JSON that no cache keeps."""
    return Response(msgspec.json.encode(facts), status, {"Cache-Control": "no-store"}, "application/json")


def failure(status: int, text: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return an answer that says what is wrong."""
    response = answer({"error": text}, status)
    response.headers.update(headers or {})
    return response


async def _body(request: Request, kind: type[T]) -> T:
    data = bytearray()
    async for part in request.stream():
        data += part
        if len(data) > MAX_BODY:
            raise HTTPException(413, f"the body is larger than {MAX_BODY} bytes")
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise HTTPException(400, f"the body is not as expected: {error}") from None


def _only(request: Request, *known: str) -> None:
    for name in request.query_params:
        if name not in known:
            raise HTTPException(400, f"{name}: no such parameter; known: {', '.join(known)}")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 17


def _number(request: Request, name: str, default: int, limit: int = LARGEST, least: int = 0) -> int:
    text = request.query_params.get(name, str(default))
    if not (_is_number(text) and least <= int(text) <= limit):
        raise HTTPException(400, f"{name}: {text!r}; expected a number from {least} to {limit}")
    return int(text)


def _range(request: Request, size: int, tag: str) -> tuple[int, slice]:
    """Return the status of an answer and the bytes that it has: one range (RFC 9110, 14.2), or all."""
    text = request.headers.get("range", "")
    first, dash, last = text.removeprefix("bytes=").partition("-")
    condition = request.headers.get("if-range")
    numbers = all(not part or (part.isascii() and part.isdigit()) for part in (first, last))
    known = text.startswith("bytes=") and dash and numbers and first + last
    if not known or condition not in (None, f'"{tag}"'):
        return 200, slice(0, size)
    start = int(first) if first else max(size - int(last), 0)
    stop = min(int(last) + 1, size) if first and last else size
    return (206, slice(start, stop)) if start < stop else (416, slice(0, 0))

"""The annotator's handlers: a `Session` behind `api.OPERATIONS`."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from dataforge.overlay.journal import NotWrittenError
from dataforge.overlay.requests import RefusedError
from dataforge.web import server
from dataforge.web.api import BOX_PATTERN, OPERATIONS, ORDERS, ClassChange, ImageEdits
from dataforge.web.messages import answer, failure, image_number, number, only, picture, read_body
from dataforge.web.novelty import Novelty
from dataforge.web.openapi import MAX_COUNT, document
from dataforge.web.proposals import Proposals
from dataforge.web.session import Session, StaleError, per

_BOX = re.compile(BOX_PATTERN)


def application(
    session: Session,
    token: str,
    port: int,
    keys: Mapping[str, list[str]] | None = None,
    proposals: Proposals | None = None,
    novelty: Novelty | None = None,
) -> Starlette:
    """Return the annotator as an ASGI application.

    Args:
        token: the secret that the page's address has.
        port: the one that it is served at on 127.0.0.1.
        keys: action -> keys, where the user has chosen others.
        proposals: of a model.
        novelty: of the images.
    """
    handlers = Annotator(session, keys or {}, proposals, novelty)
    return server.application("annotate.html", OPERATIONS, handlers, token, port)


class Annotator:
    """The handlers of `api.OPERATIONS`, by name."""

    def __init__(
        self,
        session: Session,
        keys: Mapping[str, list[str]],
        proposals: Proposals | None,
        novelty: Novelty | None,
    ) -> None:
        self._session, self._keys, self._proposals, self._novelty = session, keys, proposals, novelty

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
        only(request, "from", "count")
        first, count = number(request, "from", 0), number(request, "count", 1000, MAX_COUNT)
        rows = range(len(self._session.base.places))[first : first + count]
        return answer({"images": [self._session.summary(n) for n in rows]})

    def get_image(self, request: Request) -> Response:
        return answer(self._session.image(self._n(request)))

    async def post_image(self, request: Request) -> Response:
        n = self._n(request)
        body = await read_body(request, ImageEdits)
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
        body = await read_body(request, ClassChange)
        return await run_in_threadpool(self._post_classes, body)

    def _post_classes(self, body: ClassChange) -> Response:
        try:
            self._session.change_classes(body.request, body.op, body.name, body.to)
        except (RefusedError, NotWrittenError) as error:
            return failure(507 if isinstance(error, NotWrittenError) else 400, str(error))
        return answer({"classes": self._classes()})

    def picture(self, request: Request) -> Response:
        base = self._session.base
        return picture(request, *base.image(self._n(request)), base.depth)

    def speed(self, request: Request) -> Response:
        return answer(self._session.speed())

    def speed_csv(self, request: Request) -> Response:
        facts = self._session.speed()
        text = io.StringIO(newline="")
        rows = csv.writer(text)
        rows.writerow(["class", "boxes", "seconds", "seconds_per_box"])
        for one in [*facts["by_class"], {"name": "all", **facts}]:
            rows.writerow([_cell(one["name"]), one["boxes"], one["seconds"], per(one["seconds"], one["boxes"])])
        headers = {"Cache-Control": "no-store", "Content-Disposition": 'attachment; filename="speed.csv"'}
        return Response(text.getvalue(), 200, headers, "text/csv")

    def crops(self, request: Request) -> Response:
        only(request, "label", "from", "count")
        first, count = number(request, "from", 0), number(request, "count", 1000, MAX_COUNT)
        if "label" not in request.query_params:
            raise HTTPException(400, "label: expected the number of a class")
        return answer({"crops": self._session.crops(number(request, "label", 0), first, count)})

    def crop(self, request: Request) -> Response:
        only(request, "box", "size")
        n, size = self._n(request), number(request, "size", 96, 512, least=8)
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

    def queue(self, request: Request) -> Response:
        only(request, "by")
        by = request.query_params.get("by", "")
        if by not in ORDERS:
            raise HTTPException(400, f"by: {by!r}; expected one of {', '.join(ORDERS)}")
        queue: dict[str, Any] = {"images": [], "pending": False}
        if by == "novelty":
            queue = self._novelty.queue() if self._novelty else queue
        elif self._proposals:
            queue = self._proposals.queue(by)
        return answer(queue)

    def openapi(self, request: Request) -> Response:
        return answer(document("dataforge annotate", OPERATIONS))

    def _classes(self) -> list[dict[str, Any]]:
        return [{"id": label, "name": name} for label, name in self._session.edits.classes().items()]

    def _n(self, request: Request) -> int:
        return image_number(request, len(self._session.base.places))


def _cell(name: str) -> str:
    """Return a name as a cell that no spreadsheet takes for a formula."""
    return f"'{name}" if name.startswith(("=", "+", "-", "@", "\t", "\r")) else name

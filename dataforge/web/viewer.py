"""The handlers of `dataforge view`: a `Gallery` behind `view_api.OPERATIONS`."""

from __future__ import annotations

import msgspec
import numpy as np
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from dataforge.analysis.detections import KINDS
from dataforge.web import server
from dataforge.web.gallery import Gallery
from dataforge.web.messages import answer, image_number, number, only, picture
from dataforge.web.openapi import MAX_COUNT, document
from dataforge.web.selection import Query, read_query
from dataforge.web.view_api import CHARTS, LARGEST_PICTURE, OPERATIONS, SMALLEST, USUAL

KEPT = {"Cache-Control": "private, max-age=86400, immutable"}  # the address has the set's fingerprint


def application(gallery: Gallery, token: str, port: int, recipe: str = "") -> Starlette:
    """Return the viewer as an ASGI application.

    Args:
        token: the secret that the page's address has.
        port: the one that it is served at on 127.0.0.1.
        recipe: the name of the gallery's recipe.
    """
    return server.application("view.html", OPERATIONS, Viewer(gallery, recipe), token, port)


class Viewer:
    """The handlers of `view_api.OPERATIONS`, by name."""

    def __init__(self, gallery: Gallery, recipe: str) -> None:
        self._gallery, self._recipe = gallery, recipe

    def set(self, request: Request) -> Response:
        gallery = self._gallery
        shards, detections = gallery.shards, gallery.columns.detections
        counts = np.bincount(gallery.table.labels, minlength=len(shards.classes)).tolist()
        return answer(
            {
                "title": shards.path.resolve().name,
                "fingerprint": shards.fingerprint,
                "images": len(gallery.table),
                "boxes": len(gallery.table.boxes),
                "classes": [{"id": label, "name": name} for label, name in enumerate(shards.classes)],
                "counts": counts,
                "splits": [*gallery.columns.splits, *gallery.columns.unions],
                "detections": None if detections is None else len(detections.scores),
                "kinds": KINDS,
                "recipe": self._recipe,
                "report": gallery.report.kind if gallery.report else "",
                "changes": gallery.changes.kinds if gallery.changes else [],
            }
        )

    def images(self, request: Request) -> Response:
        first, count = number(request, "from", 0), number(request, "count", 1000, MAX_COUNT)
        query = _query(request, "from", "count")
        selection = self._gallery.select(query)
        rows = selection.rows[first : first + count].tolist()
        boxes = int(np.diff(self._gallery.table.offsets)[selection.rows].sum())
        images = [self._gallery.row(n, selection.fits, query.conf) for n in rows]
        return answer({"total": len(selection.rows), "boxes": boxes, "images": images})

    def get_image(self, request: Request) -> Response:
        return answer(self._gallery.image(self._n(request), _query(request)))

    def picture(self, request: Request) -> Response:
        n, shards = self._n(request), self._gallery.shards
        data = bytes(shards.blob(n))
        return picture(request, data, f"{int(shards.table.crc[n]):08x}-{len(data):x}", shards.depth)

    def thumbnail(self, request: Request) -> Response:
        only(request, "size", "of")
        return Response(self._gallery.thumbnail(self._n(request), _size(request)), 200, KEPT, "image/jpeg")

    def augmented(self, request: Request) -> Response:
        only(request, "size", "seed", "of")
        n, size, seed = self._n(request), _size(request), number(request, "seed", 0)
        return Response(self._gallery.augmented(n, size, seed), 200, {"Cache-Control": "no-store"}, "image/jpeg")

    def statistics(self, request: Request) -> Response:
        return answer(self._gallery.statistics(_query(request)) | {"charts": CHARTS})

    def chart(self, request: Request) -> Response:
        names = request.query_params.getlist("name")
        if len(names) != 1 or names[0] not in CHARTS:
            raise HTTPException(400, f"name: {', '.join(names)!r}; expected one of {', '.join(CHARTS)}")
        _, svg = self._gallery.charts(_query(request, "name"))[names[0]]
        return Response(svg, 200, {"Cache-Control": "no-store"}, "image/svg+xml")

    def errors(self, request: Request) -> Response:
        return answer(self._gallery.errors(_query(request)))

    def lint(self, request: Request) -> Response:
        self._gallery.findings.start()
        return answer(self._gallery.findings.facts())

    def report(self, request: Request) -> Response:
        report = self._gallery.report
        if report is None:
            raise HTTPException(404, "no report; give one as --report FILE")
        return answer({"kind": report.kind, "about": report.about, "tables": report.tables})

    def openapi(self, request: Request) -> Response:
        return answer(document("dataforge view", OPERATIONS))

    def _n(self, request: Request) -> int:
        return image_number(request, len(self._gallery.table))


def _query(request: Request, *others: str) -> Query:
    """Return the filter in a request's parameters, besides `others`."""
    names = [name for name in request.query_params if name not in others]
    try:
        return read_query({name: request.query_params.getlist(name) for name in names})
    except msgspec.ValidationError as error:
        raise HTTPException(400, f"the filter is not as expected: {error}") from None


def _size(request: Request) -> int:
    return number(request, "size", USUAL, LARGEST_PICTURE, least=SMALLEST)

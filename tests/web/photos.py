"""A folder of photos, a session over it, and a client that has its token."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from dataforge.transform.edited import open_base
from dataforge.web.annotator import application
from dataforge.web.session import Session
from tests import tiny

TOKEN, PORT = "secret", 8000
HERE = f"http://127.0.0.1:{PORT}"


def photos(folder: Path) -> Path:
    for key, data in tiny.images().items():
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        (folder / key).write_bytes(data)
    return folder


@contextmanager
def serving(
    path: Path, overlay: Path, classes: tuple[str, ...] = ("cat", "dog"), format_name: str = "auto"
) -> Iterator[TestClient]:
    session = Session(open_base(path, format_name), overlay, classes)
    try:
        client = TestClient(application(session, TOKEN, PORT), base_url=HERE)
        client.headers["Authorization"] = f"Bearer {TOKEN}"
        yield client
    finally:
        session.close()


_requests = iter(range(1 << 30))


def post(client: TestClient, n: int, /, *edits: dict[str, Any], revision: int | None = None, **more: Any) -> Any:
    """POST edits of an image, at the revision that it has unless one is given."""
    if revision is None:
        revision = client.get(f"/api/images/{n}").json()["revision"]
    body = {"request": f"request {next(_requests)}", "client": "tab", "seconds": None, "revision": revision, **more}
    return client.post(f"/api/images/{n}", json=body | {"edits": list(edits)})


def add(id: str, *box: float, label: int = 0, flags: int = 0) -> dict[str, Any]:
    return {"op": "add", "id": id, "box": list(box), "label": label, "flags": flags}


def boxes(client: TestClient, n: int) -> list[dict[str, Any]]:
    return client.get(f"/api/images/{n}").json()["boxes"]

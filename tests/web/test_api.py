"""The API's document: what it says is what the server does."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import PIL.Image
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance
from starlette.testclient import TestClient

from dataforge.images.header import probe
from dataforge.web.annotator import application
from dataforge.web.api import OPERATIONS
from dataforge.web.openapi import document
from tests.web.photos import HERE, PORT, TOKEN, add, photos, post, serving

DOCUMENT = document("dataforge annotate", OPERATIONS)


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    with serving(photos(tmp_path / "photos"), tmp_path / "overlay") as client:
        yield client


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("name", [one.name for one in OPERATIONS])
def test_the_server_does_what_the_document_says(
    client: TestClient, name: str, mode: schemathesis.GenerationMode
) -> None:
    """Answers to valid and to invalid requests have the statuses, types and shapes that the document gives."""
    post(client, 0, add("x", 1, 1, 9, 9))
    loaded = schemathesis.openapi.from_dict(DOCUMENT)
    loaded.app = client.app
    one = next(one for one in OPERATIONS if one.name == name)
    if mode == schemathesis.GenerationMode.NEGATIVE and not (one.query or one.body or "{n}" in one.path):
        return  # nothing can be wrong

    @given(case=loaded[one.path][one.method].as_strategy(generation_mode=mode))
    # the same cases each time: a random one may count a parameter as wrong that is then left out of the address
    @settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck), database=None, derandomize=True)
    def check(case: schemathesis.Case) -> None:
        # a body may be well-formed and name a box or a class that is not there
        unchecked = [positive_data_acceptance] if one.body else []
        case.call_and_validate(base_url=HERE, headers={"Authorization": f"Bearer {TOKEN}"}, excluded_checks=unchecked)

    check()


def test_the_document_is_served_and_complete(client: TestClient) -> None:
    facts = client.get("/api/openapi.json").json()
    assert facts == msgspec.json.decode(msgspec.json.encode(DOCUMENT)) and facts["openapi"].startswith("3.1")
    routes = {(method, route.path) for route in client.app.routes for method in getattr(route, "methods", None) or ()}  # type: ignore[attr-defined]
    listed = {(one.method, one.path) for one in OPERATIONS}
    assert routes - {("HEAD", path) for _, path in routes} - {("GET", "/")} == listed
    assert set(facts["paths"]) == {path for _, path in listed}


def test_speed(client: TestClient) -> None:
    empty = client.get("/api/speed").json()
    assert empty["seconds"] == 0 == empty["boxes"] and empty["seconds_per_box"] is None
    post(client, 0, add("x", 1, 1, 9, 9), add("y", 1, 1, 9, 9, label=1), seconds=4)
    post(client, 0, {"op": "set", "id": "x", "box": [2, 2, 9, 9]}, seconds=1.5)
    post(client, 1, {"op": "state", "state": "done"}, seconds=0.5)
    post(client, 2, add("x", 1, 1, 9, 9))  # without a time
    facts = client.get("/api/speed").json()
    assert (facts["seconds"], facts["images"], facts["boxes"]) == (6, 2, 2)
    assert (facts["seconds_per_box"], facts["seconds_per_image"]) == (3, 3)
    rows = [(one["name"], one["boxes"], one["seconds"]) for one in facts["by_class"]]
    assert rows == [("cat", 1, 3.5), ("dog", 1, 2)]
    client.post("/api/classes", json={"request": "r", "op": "merge", "name": "dog", "to": "cat"})
    got = client.get("/api/speed.csv")
    assert got.headers["content-type"].startswith("text/csv")
    table = list(csv.reader(io.StringIO(got.text)))
    assert table == [
        ["class", "boxes", "seconds", "seconds_per_box"],
        ["cat", "2", "5.5", "2.75"],
        ["all", "2", "6.0", "3.0"],
    ]


def test_crops(client: TestClient) -> None:
    keys = [row["key"] for row in client.get("/api/images").json()["images"]]
    n = keys.index("rotated.jpg")
    facts = client.get(f"/api/images/{n}").json()
    post(client, n, add("x", 0, 0, facts["width"], 20), add("y", 3, 30, 13, 60, label=1))
    post(client, 0, add("z", 1, 1, 9, 9))
    assert [(crop["n"], crop["id"]) for crop in client.get("/api/crops?label=0").json()["crops"]] == [
        (0, "z"),
        (n, "x"),
    ]
    assert [crop["id"] for crop in client.get("/api/crops?label=0&from=1&count=1").json()["crops"]] == ["x"]
    assert client.get("/api/crops?label=77").json() == {"crops": []}
    assert client.get("/api/crops").status_code == 400
    whole = np.asarray(PIL.Image.open(io.BytesIO(client.get(f"/image/{n}").content)).rotate(-90, expand=True))
    assert whole.shape[:2] == (facts["height"], facts["width"])
    for box, size in (
        ((3, 30, 13, 60), 60),
        ((0, 0, 44, 72), 36),
        ((10.4, 20.6, 30.2, 70.9), 96),
        ((40, 60, 900, 900), 24),
    ):
        text = ",".join(map(str, box))
        got = client.get(f"/crop/{n}?box={text}&size={size}")
        assert got.status_code == 200 and got.headers["content-type"] == "image/jpeg"
        info = probe(got.content)
        assert max(info.height, info.width) == size
        x1, y1, x2, y2 = (int(box[0]), int(box[1]), -int(-box[2] // 1), -int(-box[3] // 1))
        part = PIL.Image.fromarray(whole[y1:y2, x1:x2]).resize((info.width, info.height), PIL.Image.Resampling.BILINEAR)
        difference = np.abs(np.asarray(part, float) - np.asarray(PIL.Image.open(io.BytesIO(got.content)), float))
        assert difference.mean() < 6, (box, size)
    for wrong in ("box=1,2,3", "box=a,b,c,d", "box=nan,0,1,1", "", "box=1,1,9,9&size=4", "box=1,1,9,9&size=99999"):
        assert client.get(f"/crop/{n}?{wrong}").status_code == 400, wrong
    assert client.get(f"/crop/{n}?box=1.2345678806304932e-7,0,9,9").status_code == 200
    assert client.get(f"/crop/{n}?box=9,9,9,9").status_code == 200, "at least a pixel"


def test_the_keys_of_the_user(client: TestClient) -> None:
    app = application(client.app.routes[1].endpoint.__self__._session, TOKEN, PORT, {"next": ["n"]})  # type: ignore[attr-defined]
    other = TestClient(app, base_url=HERE, headers={"Authorization": f"Bearer {TOKEN}"})
    assert other.get("/api/set").json()["keys"] == {"next": ["n"]}

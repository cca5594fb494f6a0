"""The annotator's API: what it answers, and whom it does not answer."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from dataforge.overlay.journal import read
from tests import tiny
from tests.web.photos import HERE, PORT, TOKEN, add, boxes, photos, post, serving


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    with serving(photos(tmp_path / "photos"), tmp_path / "overlay") as client:
        yield client


def overlay(tmp_path: Path) -> list[dict]:
    return read(tmp_path / "overlay")[0]


def test_the_set(client: TestClient) -> None:
    facts = client.get("/api/set").json()
    assert facts["images"] == len(tiny.images()) and facts["splits"] == ["train"]
    assert facts["classes"] == [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}]
    rows = client.get("/api/images").json()["images"]
    assert [row["n"] for row in rows] == list(range(len(rows)))
    assert {row["key"] for row in rows} == tiny.images().keys()
    sizes = {record.key: (record.width, record.height) for record in tiny.records()}
    assert {row["key"]: (row["width"], row["height"]) for row in rows} == sizes, "after the EXIF orientation"
    some = client.get("/api/images?from=3&count=2").json()["images"]
    assert some == rows[3:5] and client.get("/api/images?from=99999").json() == {"images": []}


def test_images_are_the_stored_bytes(client: TestClient) -> None:
    for row in client.get("/api/images").json()["images"]:
        got = client.get(f"/image/{row['n']}")
        data = tiny.images()[row["key"]]
        assert got.content == data and got.headers["content-type"].startswith("image/")
        tag = got.headers["etag"]
        assert client.get(f"/image/{row['n']}", headers={"If-None-Match": tag}).status_code == 304
        for text, part in (("0-9", data[:10]), ("5-", data[5:]), ("-7", data[-7:]), ("3-999999", data[3:])):
            got = client.get(f"/image/{row['n']}", headers={"Range": f"bytes={text}"})
            assert got.status_code == 206 and got.content == part, text
            assert got.headers["content-range"].endswith(f"/{len(data)}")
        assert client.get(f"/image/{row['n']}", headers={"Range": "bytes=999999-"}).status_code == 416
        stale = {"Range": "bytes=0-9", "If-Range": '"other"'}
        assert client.get(f"/image/{row['n']}", headers=stale).content == data


def test_boxes_are_added_changed_and_deleted(client: TestClient, tmp_path: Path) -> None:
    assert post(client, 0, add("x", 1, 2, 30.1, 40)).json() == {"revision": 1}
    [box] = boxes(client, 0)
    assert box == {"id": "x", "box": [1, 2, 30.100000381469727, 40], "label": 0, "flags": 0}, "as float32"
    assert client.get("/api/images/0").json()["state"] == "edited"
    assert (
        post(client, 0, {"op": "set", "id": "x", "label": 1}, {"op": "set", "id": "x", "flags": 5}).status_code == 200
    )
    assert boxes(client, 0) == [box | {"label": 1, "flags": 5}]
    post(client, 0, add("y", 5, 5, 9, 9), {"op": "state", "state": "done"})
    post(client, 0, {"op": "delete", "id": "x"})
    assert [box["id"] for box in boxes(client, 0)] == ["y"]
    post(client, 0, add("x", *box["box"]))
    assert [box["id"] for box in boxes(client, 0)] == ["x", "y"], "a box that comes back has its old place"
    row = client.get("/api/images").json()["images"][0]
    assert (row["boxes"], row["classes"], row["state"]) == (2, [0], "done")
    assert [line["version"] for line in overlay(tmp_path)[1:]] == list(range(1, 8))


def test_a_box_over_the_edge_is_clipped(client: TestClient) -> None:
    facts = client.get("/api/images/0").json()
    post(client, 0, add("x", -5, -1e300, 1e300, 9))
    assert boxes(client, 0)[0]["box"] == [0, 0, facts["width"], 9]


NAN, HUGE = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (add("x", 9, 9, 5, 20), "expected x1 < x2"),
        (add("x", 500, 500, 600, 600), "expected x1 < x2"),
        (add("x", 1, 1, 9, 9, label=2), "label 2 is of no class"),
        (add("x", 1, 1, 9, 9, label=-1), "label"),
        (add("x", 1, 1, 9, 9, flags=8), "flags"),
        (add("x", 1, 1, 9), "box"),
        (add("x", 1, 1, 9, NAN), "body"),
        (add("x", 1, 1, 9, HUGE), "body"),
        (add("x/y", 1, 1, 9, 9), "id"),
        (add("b0", 1, 1, 9, 9), "of the form of boxes that were there before"),
        (add("taken", 1, 1, 9, 9), "there is box 'taken' already"),
        ({"op": "set", "id": "x", "label": 0}, "no box 'x'"),
        ({"op": "delete", "id": "x"}, "no box 'x'"),
        ({"op": "state", "state": "finished"}, "finished"),
        ({"op": "explode"}, "explode"),
        (add("x", 1, 1, 9, 9) | {"more": 1}, "more"),
    ],
)
def test_what_cannot_be_is_refused_whole(client: TestClient, tmp_path: Path, edit: dict, reason: str) -> None:
    post(client, 0, add("taken", 1, 1, 9, 9))
    before, lines = client.get("/api/images/0").json(), overlay(tmp_path)
    body = {"request": "r", "revision": 1, "edits": [add("first", 1, 1, 5, 5), edit]}
    text = json.dumps(body)  # NaN as Python writes it
    got = client.post("/api/images/0", content=text, headers={"Content-Type": "application/json"})
    assert got.status_code == 400 and reason in got.json()["error"]
    assert client.get("/api/images/0").json() == before and overlay(tmp_path) == lines


def test_two_tabs(client: TestClient, tmp_path: Path) -> None:
    assert post(client, 0, add("x", 1, 1, 9, 9), revision=0).status_code == 200
    got = post(client, 0, add("y", 2, 2, 8, 8), revision=0, request="late", client="other")
    assert got.status_code == 409 and got.json()["revision"] == 1 and got.json()["state"] == "edited"
    assert [box["id"] for box in got.json()["boxes"]] == ["x"]
    last = overlay(tmp_path)[-1]
    assert last["kind"] == "conflict" and last["client"] == "other" and last["edits"][0]["id"] == "y", "both are kept"
    again = post(client, 0, add("y", 2, 2, 8, 8), revision=0, request="late")
    assert again.status_code == 409 and overlay(tmp_path)[-1] == last
    assert post(client, 0, add("y", 2, 2, 8, 8)).json() == {"revision": 2}


def test_a_request_sent_again_changes_nothing(client: TestClient, tmp_path: Path) -> None:
    for _ in range(3):
        assert post(client, 0, add("x", 1, 1, 9, 9), revision=0, request="same").json() == {"revision": 1}
    assert len(boxes(client, 0)) == 1 and overlay(tmp_path)[-1]["version"] == 3


def test_classes(client: TestClient) -> None:
    post(client, 0, add("x", 1, 1, 9, 9, label=1), add("y", 1, 1, 9, 9, label=0))

    def change(op: str, name: str, to: str | None = None, request: str = "") -> list | str:
        body = {"request": request or f"{op} {name} {to}", "op": op, "name": name} | ({"to": to} if to else {})
        got = client.post("/api/classes", json=body)
        assert got.status_code in (200, 400)
        return got.json().get("classes") or got.json()["error"]

    cat, dog, bird = ({"id": n, "name": name} for n, name in enumerate(("cat", "dog", "bird")))
    assert change("add", "bird") == [cat, dog, bird] == change("add", "bird")
    assert "already" in change("add", "bird", request="other") and "known" in change("rename", "cow", "x")
    assert "already" in change("rename", "dog", "bird") and "to merge" in change("merge", "dog", "cow")
    assert "expected `to`" in change("merge", "dog") and "printable" in change("add", "a\nb")
    assert change("rename", "dog", "hound") == [cat, dog | {"name": "hound"}, bird]
    assert change("merge", "hound", "cat") == [cat, bird]
    assert [box["label"] for box in boxes(client, 0)] == [0, 0]
    assert post(client, 0, add("z", 1, 1, 9, 9, label=1)).status_code == 200, "sent before the merge was known"
    assert boxes(client, 0)[2]["label"] == 0
    assert change("add", "hound", request="new") == [cat, bird, {"id": 3, "name": "hound"}], "ids are not used again"


@pytest.mark.parametrize("path", ["/api/images/999999", "/image/999999", "/nothing", "/image/-1", "/api/images/x"])
def test_what_is_not_there(client: TestClient, path: str) -> None:
    got = client.get(path)
    assert got.status_code == 404 and got.json()["error"]


@pytest.mark.parametrize("query", ["from=-1", "count=x", "from=1e3", "count=99999999999999999999", "from=", "from=²"])
def test_wrong_numbers(client: TestClient, query: str) -> None:
    got = client.get(f"/api/images?{query}")
    assert got.status_code == 400 and query.partition("=")[0] in got.json()["error"]


def test_a_photo_that_is_none(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos")
    (folder / "0.jpg").write_bytes(b"<script>alert(1)</script>")
    (folder / "1.jpg").symlink_to("/etc/passwd")
    with serving(folder, tmp_path / "overlay") as client:
        for n in (0, 1):
            row = client.get("/api/images").json()["images"][n]
            assert row["width"] == 0 and "not an image" in row["error"]
            assert client.get(f"/image/{n}").status_code == 422
            assert client.get(f"/api/images/{n}").status_code == 422
            body = {"request": "r", "revision": 0, "edits": [add("x", 1, 1, 2, 2)]}
            assert client.post(f"/api/images/{n}", json=body).status_code == 422


# who is let in


def test_the_token_becomes_a_cookie(client: TestClient) -> None:
    del client.headers["Authorization"]
    assert client.get("/api/set").status_code == 401
    got = client.get(f"/?token={TOKEN}", follow_redirects=False)
    assert got.status_code == 303 and got.headers["location"] == "/"
    cookie = got.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie and f"dataforge-{PORT}=" in cookie
    assert client.get("/api/set").status_code == 200


@pytest.mark.parametrize("path", ["/", "/?token=other", "/?token=", "/api/set", "/image/0", "/static/x.js", "/nope"])
def test_without_the_token_nothing_is_answered(client: TestClient, path: str) -> None:
    for wrong in (None, "Bearer other", "Bearer ", "Basic secret"):
        del client.headers["Authorization"]
        if wrong:
            client.headers["Authorization"] = wrong
        got = client.get(path, follow_redirects=False)
        assert got.status_code == 401 and "set-cookie" not in got.headers
        client.headers["Authorization"] = wrong or ""


@pytest.mark.parametrize("host", ["evil.example", f"evil.example:{PORT}", "127.0.0.1", "127.0.0.1:1", "", "localhost"])
def test_another_host_is_refused(client: TestClient, host: str) -> None:
    got = client.get("/api/set", headers={"Host": host})
    assert got.status_code == 403 and "Host" in got.json()["error"]
    assert client.get("/api/set", headers={"Host": f"localhost:{PORT}"}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": f"https://127.0.0.1:{PORT}"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": f"http://localhost:{PORT}"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_another_page_is_refused(client: TestClient, tmp_path: Path, headers: dict[str, str]) -> None:
    lines = overlay(tmp_path)
    body = {"request": "r", "revision": 0, "edits": [add("x", 1, 1, 9, 9)]}
    assert client.post("/api/images/0", json=body, headers=headers).status_code == 403
    assert client.get("/image/0", headers=headers).status_code == 403
    assert overlay(tmp_path) == lines
    assert client.post("/api/images/0", json=body, headers={"Origin": HERE}).status_code == 200


def test_a_form_is_refused(client: TestClient) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
        got = client.post("/api/images/0", content="{}", headers={"Content-Type": kind})
        assert got.status_code == 415


def test_a_body_that_never_ends(client: TestClient) -> None:
    got = client.post("/api/images/0", content=b" " * (9 << 20), headers={"Content-Type": "application/json"})
    assert got.status_code == 413


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b'{"request": "\\ud800"}'])
def test_a_body_that_is_none(client: TestClient, content: bytes) -> None:
    for path in ("/api/images/0", "/api/classes"):
        got = client.post(path, content=content, headers={"Content-Type": "application/json"})
        assert got.status_code == 400 and "body" in got.json()["error"]


@pytest.mark.parametrize("path", ["/api/set", "/image/0", "/nope", "/api/images?from=x"])
def test_every_answer_has_the_headers(client: TestClient, path: str) -> None:
    headers = client.get(path).headers
    assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self';")
    assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize(
    "path",
    [
        "../server.py",
        "%2e%2e/server.py",
        "..%2fserver.py",
        "%2e%2e%2f%2e%2e%2fserver.py",
        "//etc/passwd",
        "..\\server.py",
    ],
)
def test_static_files_are_confined(
    client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    (tmp_path / "static").mkdir()
    (tmp_path / "static/a.js").write_text("// a")
    (tmp_path / "server.py").write_text("secret")
    monkeypatch.setattr("dataforge.web.server.STATIC", tmp_path / "static")
    with serving(tmp_path / "photos", tmp_path / "other") as other:
        assert other.get("/static/a.js").text == "// a"
        got = other.get(f"/static/{path}")
        assert got.status_code == 404 and "secret" not in got.text

"""Polygons and rotated boxes: drawn with their boxes, and never lost without a word when these are edited."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from dataforge.cli.main import main
from dataforge.record import Finding
from dataforge.shards.reader import Shards
from dataforge.transform.edited import edited_source
from tests.formats.sets import box, coco, picture
from tests.web.browser import Server, Tab, chromium, servers
from tests.web.photos import post, serving
from tests.web.test_view import View

TRIANGLE, ROTATED = [4.0, 4.0, 30.0, 4.0, 4.0, 30.0], [50.0, 6.0, 60.0, 16.0, 50.0, 26.0, 40.0, 16.0]
PARTS = [[40.0, 34.0, 46.0, 34.0, 43.0, 40.0], [54.0, 38.0, 60.0, 38.0, 57.0, 44.0]]
RINGS = [[TRIANGLE], [ROTATED], [], PARTS]
SLANT, EMPTY = (17, 17), (20, 24)  # a point of the triangle's long side, and one of its box alone


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture of four boxes: a triangle, a rotated box, a box alone, an object of two parts; and one without any."""
    boxes = [[4, 4, 26, 26], [40, 6, 20, 20], [8, 34, 12, 10], [40, 34, 20, 10]]
    rows = [box(10, xywh, segmentation=rings) for xywh, rings in zip(boxes, RINGS, strict=True)]
    return coco(tmp_path_factory.mktemp("polygons") / "set", {"a.jpg": picture(), "b.jpg": picture(1)}, rows)


@pytest.fixture(scope="module")
def shards(root: Path) -> Path:
    ingested = CliRunner().invoke(main, ["ingest", "coco", str(root), "--out", str(root.with_name("shards"))])
    assert ingested.exit_code == 0, ingested.output
    return root.with_name("shards")


@pytest.fixture(scope="module")
def context() -> Iterator[Any]:
    with chromium() as browser:
        yield browser.new_context(viewport={"width": 1280, "height": 720})


@pytest.fixture
def start() -> Iterator[Callable[..., Server]]:
    with servers() as annotate, servers("view") as view:
        yield lambda path, *options, command="annotate": (view if command == "view" else annotate)(path, *options)


def wait_ink(tab: Tab, stage: str, at: tuple[int, int], drawn: bool) -> None:
    """Wait until something, or nothing, is drawn at a place of the image."""
    module = "/static/view/main.js" if isinstance(tab, View) else "/static/main.js"
    tab.wait(
        f"""import('{module}').then(({{inside}}) => {{
        const stage = {stage};
        const [x, y] = stage.onScreen([{at[0]}, {at[1]}, 0, 0]).map((value) => Math.round(value * stage.dpr));
        return stage.ink.getImageData(x - 2, y - 2, 5, 5).data.some((value, i) => i % 4 === 3 && value > 100);
        }})""",
        drawn,
    )


@pytest.mark.parametrize("kind", ["coco", "shards"])
def test_a_box_that_is_moved_has_no_polygon_and_that_is_told(
    root: Path, shards: Path, kind: str, tmp_path: Path
) -> None:
    with serving(root if kind == "coco" else shards, tmp_path / "overlay", ()) as client:
        image = client.get("/api/images/0").json()
        assert [(p["id"], p["rings"]) for p in image["polygons"]] == [
            (f"b{n}", rings) for n, rings in enumerate(RINGS) if rings
        ]
        assert client.get("/api/images/1").json()["polygons"] == []
        boxes = {item["id"]: item for item in image["boxes"]}
        for id, box in (("b0", [5, 4, 31, 30]), ("b2", [8, 34, 20, 45])):
            assert post(client, 0, {"op": "set", **boxes[id], "box": box}).status_code == 200
        assert post(client, 0, {"op": "set", **boxes["b1"], "label": 1, "flags": 1}).status_code == 200
        assert client.get("/api/images/0").json()["polygons"] == image["polygons"], "of the boxes that were there"
    items = list(edited_source(tmp_path / "overlay").records)
    [finding] = [item for item in items if isinstance(item, Finding)]
    assert (finding.code, finding.action, finding.key, finding.box) == ("polygon-left-out", "noted", "a.jpg", 0)
    applied = CliRunner().invoke(main, ["overlay", "apply", str(tmp_path / "overlay"), "--out", str(tmp_path / "out")])
    assert applied.exit_code == 0 and "polygon-left-out" in applied.output, applied.output
    table = Shards(tmp_path / "out").table
    rings = [[ring.reshape(-1).tolist() for ring in part] for part in table.polygons.lists()]
    assert rings == [[], [ROTATED], [], PARTS]
    assert table.areas.tolist()[:1] == [26 * 26]


def test_the_annotator_draws_them(context: Any, root: Path, start: Callable[..., Server], tmp_path: Path) -> None:
    tab = Tab(context, start(root, "--overlay", str(tmp_path / "overlay")), 0)
    wait_ink(tab, "inside.stage", SLANT, True)
    wait_ink(tab, "inside.stage", EMPTY, False)
    tab.wait_text("#left-out", "")
    tab.keys("Tab", "2", "f")  # a class and a flag change nothing of the place
    tab.wait_text("#left-out", "")
    tab.keys("Alt+ArrowDown")
    tab.wait_text("#left-out", "A box was moved or resized: its polygon is left out.")
    tab.keys("Escape")
    wait_ink(tab, "inside.stage", SLANT, False)
    tab.keys("Tab", "Tab", "Shift+s")
    tab.wait_text("#left-out", "2 boxes were moved or resized: their polygons are left out.")
    tab.saved()
    tab.reload()
    tab.wait_text("#left-out", "2 boxes were moved or resized: their polygons are left out.")
    tab.inside("inside.boxes().select(['b0'])")
    tab.keys("Alt+ArrowUp", "Escape")  # back by hand
    tab.wait_text("#left-out", "A box was moved or resized: its polygon is left out.")
    wait_ink(tab, "inside.stage", SLANT, True)
    tab.keys("Control+a", "ArrowRight", "Control+z")
    tab.wait_text("#left-out", "A box was moved or resized: its polygon is left out.")
    tab.keys("d")
    tab.wait_text("#left-out", "")
    assert not tab.faults
    tab.page.close()


def test_the_viewer_draws_them(context: Any, shards: Path, start: Callable[..., Server]) -> None:
    tab = View(context, start(shards, command="view"), "#n=0")
    wait_ink(tab, "inside.single.stage", SLANT, True)
    wait_ink(tab, "inside.single.stage", (57, 38), True)
    wait_ink(tab, "inside.single.stage", EMPTY, False)
    tab.keys("h")
    wait_ink(tab, "inside.single.stage", SLANT, False)
    assert not tab.faults
    tab.page.close()

"""The page of `dataforge view` in a real Chromium: what a user asks for is what is shown, and in the address."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from dataforge.cli.main import main
from dataforge.formats import reader
from dataforge.images import synth
from dataforge.ingest.run import ingest
from dataforge.shards.reader import Shards
from tests.web.browser import Server, Tab, chromium, servers
from tests.web.test_page import HOSTILE
from tests.web.viewing import detections


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


def shards_of(root: Path, out: Path) -> Shards:
    ingest(reader("coco")(root), out)
    return Shards(out)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    root = tmp_path_factory.mktemp("view")
    synth.write(root / "set", images=300, seed=3, size=(64, 200))
    return shards_of(root / "set", root / "shards")


@pytest.fixture(scope="module")
def server(browser: Any, shards: Shards) -> Iterator[Server]:
    file = detections(shards, shards.path.with_name("detections.json"), named=True)
    server = Server(shards.path, "--predictions", str(file), "--augment", "yolo", command="view")
    yield server
    server.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    with servers("view") as start:
        yield start


class View(Tab):
    """The page, at an address' part after "#"."""

    def __init__(self, context: Any, server: Server, link: str = "") -> None:
        super().__init__(context, server, link=link)

    def inside(self, expression: str) -> Any:
        return self.page.evaluate(f"import('/static/view/main.js').then(({{inside}}) => {expression})")

    def hash(self) -> str:
        return str(self.page.evaluate("location.hash"))

    def names(self) -> list[str]:
        """Names of the tiles in view, in order."""
        self.painted()
        return list(
            self.page.evaluate(
                """() => [...document.querySelectorAll('.tile:not([hidden])')]
            .sort((a, b) => a.ariaPosInSet - b.ariaPosInSet).map((tile) => tile.textContent)"""
            )
        )

    def wait_names(self, names: list[str]) -> None:
        """Wait until the tiles in view are the first of `names`: an answer of the server may still be on its way."""
        end = time.monotonic() + 60
        while not (shown := self.names()) or shown != names[: len(shown)]:
            assert time.monotonic() < end, (shown, names)
            self.page.wait_for_timeout(20)

    def total(self) -> int:
        return int(self.inside("inside.grid.total"))

    def wait_total(self, total: int) -> None:
        self.wait("import('/static/view/main.js').then(({inside}) => inside.grid.total)", total)


@pytest.fixture
def context(browser: Any) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1280, "height": 720})
    yield context
    context.close()


def in_view(tab: View) -> None:
    """Wait until all tiles in view have their pictures."""
    tab.wait(
        "(images => images.length && images.every((image) => image.complete && image.naturalWidth))"
        "([...document.querySelectorAll('.tile:not([hidden]) img')])"
    )


def test_the_grid_shows_the_set(context: Any, server: Server, shards: Shards) -> None:
    tab = View(context, server)
    assert tab.total() == len(shards) and tab.text("#count").startswith("300 images, ")
    in_view(tab)
    tab.wait_names([key.split("/")[-1] for key in shards.table.key])
    assert 10 < len(tab.names()) < 60, "elements only for what is in view"
    inked = """(n) => { const pen = document.querySelector('#tile-' + n + ' canvas').getContext('2d');
        return pen.getImageData(0, 0, pen.canvas.width, pen.canvas.height).data.some((value) => value); }"""
    n = int(np.flatnonzero(np.diff(shards.table.offsets))[0])
    tab.wait(f"({inked})({n})")
    tab.keys("h", "p")
    tab.wait(f"({inked})({n})", False)
    assert not tab.faults


def test_filters_are_in_the_address(context: Any, server: Server, shards: Shards) -> None:
    tab = View(context, server)
    table = shards.table
    ring = shards.classes.index("ring")
    having = {int(n) for n in table.image[table.labels == ring]}
    tab.page.click("#class-rows [role=option]:has-text('ring')")
    tab.wait_total(len(having))
    assert tab.hash() == "#class=ring"
    tab.page.select_option("[name=size]", "small")
    small = {int(n) for n in table.image[(table.labels == ring) & (table.areas < 1024)]}
    tab.wait_total(len(small))
    assert 0 < len(small) < len(having)
    tab.page.select_option("[name=split]", "val")
    val = set(shards.splits["val"].tolist())
    tab.wait_total(len(small & val))
    tab.page.fill("[name=text]", "00")
    tab.wait("location.hash.includes('text=00')")
    tab.page.select_option("[name=sort]", "-boxes")
    tab.wait("location.hash", "#class=ring&size=small&split=val&text=00&sort=-boxes")
    asked = f"/api/images?class={ring}&size=small&split=val&text=00&sort=-boxes"
    names = [shards.table.key[row["n"]].split("/")[-1] for row in tab.get(asked)["images"]]
    assert names
    other = View(context, server, tab.hash())
    for each in (tab, other):
        each.wait_total(len(names))
        each.wait_names(names)
    assert other.page.input_value("[name=size]") == "small" and other.page.input_value("[name=text]") == "00"
    assert "ring" in other.page.inner_text("#class-rows .chosen")
    other.page.click("#clear")
    other.wait_total(len(shards))
    assert other.hash() == ""
    other.page.go_back()
    other.wait_total(tab.total())
    tab.page.fill("[name=text]", "nothing is called this")
    tab.wait_text("#message", "No image is as asked for.")
    assert not tab.faults and not other.faults


def test_counts_of_boxes(context: Any, server: Server, shards: Shards) -> None:
    tab = View(context, server)
    counts = np.diff(shards.table.offsets)
    tab.page.fill("[name=least]", "3")
    tab.wait_total(int((counts >= 3).sum()))
    tab.page.fill("[name=most]", "4")
    tab.wait_total(int(((counts >= 3) & (counts <= 4)).sum()))
    tab.page.fill("[name=least]", "")
    tab.page.fill("[name=most]", "0")
    tab.wait_total(int((counts == 0).sum()))


def test_an_image_and_its_neighbours(context: Any, server: Server, shards: Shards) -> None:
    tab = View(context, server, "#class=star&sort=-boxes")
    rows = [row["n"] for row in tab.get(f"/api/images?class={shards.classes.index('star')}&sort=-boxes")["images"]]
    tab.keys("ArrowRight", "Enter")
    tab.wait_text("#position", f"2 / {len(rows)}")
    assert tab.hash() == f"#class=star&sort=-boxes&n={rows[1]}"
    assert tab.text("#key") == shards.table.key[rows[1]]
    tab.wait("import('/static/view/main.js').then(({inside}) => inside.single.stage.hasPicture)")
    tab.keys("ArrowRight")
    tab.wait_text("#position", f"3 / {len(rows)}")
    boxes = int(np.diff(shards.table.offsets)[rows[2]])
    found = len(tab.inside("inside.single.facts.found"))
    tab.wait("document.querySelectorAll('#box-rows [role=option]:not([hidden])').length", boxes + found)
    tab.page.click("#previous")
    tab.wait_text("#position", f"2 / {len(rows)}")
    tab.page.click("#box-rows [role=option]")
    tab.wait("document.querySelector('#box-rows .chosen') !== null")
    scale = tab.inside("inside.single.stage.view.scale")
    tab.keys("+")
    tab.wait(f"import('/static/view/main.js').then(({{inside}}) => inside.single.stage.view.scale > {scale})")
    tab.keys("Escape")
    tab.wait("document.querySelector('#single').hidden")
    assert tab.hash() == "#class=star&sort=-boxes" and tab.total() == len(rows)
    shared = View(context, server, f"#class=star&sort=-boxes&n={rows[4]}")
    shared.wait_text("#position", f"5 / {len(rows)}")
    stranger = View(context, server, f"#text=nothing&n={rows[4]}")
    stranger.wait_text("#position", "not in the filter")
    assert not tab.faults


def test_a_cell_of_the_confusion_matrix_leads_to_its_images(context: Any, server: Server) -> None:
    tab = View(context, server)
    tab.keys("e")
    tab.page.wait_for_selector(".matrix")
    facts = tab.get("/api/errors")
    size = tab.page.evaluate("document.querySelectorAll('.matrix tbody tr').length")
    assert size == len(synth.CLASSES) + 1
    cell = next(one for one in facts["cells"] if one["true"] != one["found"])
    link = tab.page.locator(f".matrix tbody tr:nth-child({cell['true'] + 1}) td:nth-child({cell['found'] + 2}) a")
    assert link.inner_text() == str(cell["count"])
    link.click()
    wanted = tab.get(f"/api/images?cell={cell['true']},{cell['found']}")["total"]
    tab.wait_total(wanted)
    assert f"cell={cell['true']}%2C{cell['found']}" in tab.hash()
    tab.page.wait_for_selector("#errors", state="hidden")
    tab.page.wait_for_selector("#cell")
    tab.page.click("#cell button")
    tab.wait_total(300)
    tab.keys("e")
    kind = next(one for one in facts["kinds"] if one["kind"] == "double")
    tab.page.wait_for_selector(".kinds")
    tab.page.click(".kinds tr:has-text('double') a")
    tab.wait_total(tab.get("/api/images?error=double")["total"])
    assert 0 < tab.total() <= kind["count"] and tab.page.input_value("[name=error]") == "double"
    tab.page.fill("[name=conf]", "0.9")
    tab.wait_total(tab.get("/api/images?error=double&conf=0.9")["total"])
    assert not tab.faults


def test_statistics_lead_to_their_images(context: Any, server: Server, shards: Shards) -> None:
    tab = View(context, server, "#split=val")
    tab.keys("s")
    tab.page.wait_for_selector("#statistics table")
    assert tab.page.inner_text("#statistics .dim").startswith(f"{len(shards.splits['val'])} images")
    tab.wait("[...document.querySelectorAll('#statistics img')].slice(0, 1).every((image) => image.naturalWidth > 300)")
    tab.page.click("#statistics a:has-text('sign')")
    sign = shards.table.image[shards.table.labels == shards.classes.index("sign")]
    tab.wait_total(len(np.intersect1d(sign, shards.splits["val"])))
    assert tab.hash() == "#split=val&class=sign" and not tab.faults


def test_findings_of_lint(context: Any, server: Server) -> None:
    tab = View(context, server)
    tab.page.focus("[name=lint]")
    tab.wait("document.querySelector('[name=lint]').options.length > 1")
    code = str(tab.page.evaluate("document.querySelector('[name=lint]').options[1].value"))
    tab.page.select_option("[name=lint]", code)
    total = tab.get(f"/api/images?lint={code}")["total"]
    tab.wait_total(total)
    other = View(context, server, f"#lint={code}")
    other.wait_total(total)
    other.page.click(".tile >> nth=0")
    other.page.wait_for_selector(".finding")
    assert code in other.text("#finding-rows") and not other.faults


def test_augmented(context: Any, server: Server) -> None:
    tab = View(context, server)
    tab.keys("a")
    tab.wait("document.querySelector('.tile img')?.src.includes('/augmented/0?size=256&seed=0')")
    in_view(tab)
    tab.keys("r")
    tab.wait("document.querySelector('.tile img')?.src.includes('seed=1')")
    assert tab.hash() == "#seed=1"
    tab.keys("Enter")
    tab.wait("document.querySelector('#stage img').naturalWidth", 1024)
    tab.keys("a")
    tab.wait("document.querySelector('#stage img').hidden")
    assert "seed" not in tab.hash() and not tab.faults


def test_scrolling_reaches_every_image(context: Any, server: Server, shards: Shards) -> None:
    tab = View(context, server)
    tab.keys("End")
    last = shards.table.key[-1].split("/")[-1]
    tab.wait(f"[...document.querySelectorAll('.tile:not([hidden])')].some((tile) => tile.textContent === '{last}')")
    in_view(tab)
    assert tab.page.evaluate("document.querySelectorAll('.tile').length") < 80
    seen = set()
    tab.keys("Home")
    for _ in range(100):
        tab.painted()
        tab.wait("[...document.querySelectorAll('.tile:not([hidden])')].every((tile) => tile.textContent !== '…')")
        seen.update(tab.names())
        before = tab.inside("inside.grid.active")
        tab.keys("PageDown")
        if tab.inside("inside.grid.active") == before:
            break
    assert seen == {key.split("/")[-1] for key in shards.table.key}
    first = tab.inside("inside.grid.root.scrollTop = 0")
    assert first == 0
    tab.inside("inside.grid.root.scrollTop = 1500")
    tab.painted()
    top = tab.inside("Math.floor(inside.grid.root.scrollTop / inside.grid.height) * inside.grid.columns")
    tab.keys("+", "+")
    assert (
        abs(tab.inside("Math.floor(inside.grid.root.scrollTop / inside.grid.height) * inside.grid.columns") - top) < 8
    )
    assert not tab.faults


def test_a_diff_leads_to_what_changed(
    context: Any, serve: Callable[..., Server], shards: Shards, tmp_path: Path
) -> None:
    table = shards.table
    n = int(np.flatnonzero(np.diff(table.offsets) > 2)[4])
    box = {
        "box": table.boxes[table.offsets[n]].tolist(),
        "flags": 0,
        "class": shards.classes[table.labels[table.offsets[n]]],
    }
    split = next(name for name, rows in shards.splits.items() if n in rows)
    image = {"split": split, "key": table.key[n], "boxes": int(np.diff(table.offsets)[n])}
    changes = [{"changes": ["relabelled"], "old": box | {"class": "<b>gone</b>"}, "new": box}]
    report = {"a": "old", "b": "new", "classes": {"removed": ["<b>gone</b>"], "added": [], "renamed": []}}
    report |= {"images": {"same": 299, "other boxes": 1}, "boxes": {"relabelled": 1}, "removed": [], "added": []}
    report["changed"] = [{"changes": ["other boxes"], "old": image, "new": image, "boxes": changes}]
    (tmp_path / "diff.json").write_text(json.dumps(report), "utf-8")
    tab = View(context, serve(shards.path, "--report", str(tmp_path / "diff.json")))
    tab.page.wait_for_selector("#report table")
    assert "<b>gone</b>" in tab.text("#report") and tab.total() == 1
    tab.page.click("#report a:has-text('relabelled')")
    tab.wait("document.querySelector('dialog[open]')", None)
    assert tab.hash() == "#change=relabelled"
    tab.wait_names([table.key[n].split("/")[-1]])
    tab.page.click(".tile")
    tab.page.wait_for_selector("#box-rows .found .name:has-text('was <b>gone</b>')")
    assert "relabelled" in tab.text("#box-rows")
    assert [box[6] for box in tab.inside("inside.single.facts.boxes")] == [True] + [False] * (image["boxes"] - 1)
    assert not tab.faults


def test_hostile_names_are_text(context: Any, serve: Callable[..., Server], tmp_path: Path) -> None:
    root = tmp_path / HOSTILE[0].replace("/", "_")
    (root / "train").mkdir(parents=True)
    (root / "annotations").mkdir()
    images, annotations = [], []
    for i, name in enumerate(HOSTILE):
        file = f"{name.replace('/', '_')}.png"
        (root / "train" / file).write_bytes(cv2.imencode(".png", np.full((40, 60, 3), 90, np.uint8))[1].tobytes())
        images.append({"id": i, "file_name": file, "width": 60, "height": 40})
        box = {"id": i, "image_id": i, "category_id": i, "bbox": [5, 5, 20, 20], "area": 400, "iscrowd": 0}
        annotations.append(box)
    categories = [{"id": i, "name": name} for i, name in enumerate(HOSTILE)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations/instances_train.json").write_text(json.dumps(content), "utf-8")
    shards = shards_of(root, root.with_name("shards " + root.name))
    file = detections(shards, tmp_path / "detections.json")
    tab = View(context, serve(shards.path, "--predictions", str(file)))
    elements = "document.querySelectorAll('script, b, body > img').length"
    before = tab.page.evaluate(elements)
    assert tab.page.title() == shards.path.name
    for name in HOSTILE:
        assert name in tab.text("#class-rows") and f"{name.replace('/', '_')}.png" in tab.names()
    for key, panel in (("s", "#statistics"), ("e", "#errors")):
        tab.keys(key)
        tab.page.wait_for_selector(f"{panel} table")
        assert all(name in tab.text(panel) for name in HOSTILE)
        tab.keys("Escape")
        tab.wait("document.querySelector('dialog[open]')", None)
    for i, name in enumerate(HOSTILE):
        tab.page.click(f"#class-rows [role=option] >> nth={i}")
        tab.wait_total(1)
        link = tab.hash()
        again = View(context, tab.server, link)
        again.wait_total(1)
        again.wait_names([f"{name.replace('/', '_')}.png"])
        again.page.click(".tile")
        again.page.wait_for_selector("#single:not([hidden])")
        again.wait_text("#key", shards.table.key[i])
        assert again.page.evaluate(elements) == before and not again.faults
        again.page.close()
        tab.page.click("#clear")
        tab.wait_total(len(HOSTILE))
    assert tab.page.evaluate(elements) == before and not tab.faults


@pytest.mark.parametrize(
    "link", ["#class=nothing", "#size=huge", "#n=99999", "#cell=x", "#sort=colour", "#n=x", "#%", "#conf=7"]
)
def test_a_link_that_is_wrong_is_told(context: Any, server: Server, link: str) -> None:
    tab = View(context, server, link)
    text = "document.querySelector('#message').textContent + document.querySelector('#facts').textContent"
    tab.wait(f"Boolean({text})")
    assert not tab.faults
    tab.keys("Escape")
    tab.page.click("#clear")
    tab.wait_total(300)
    tab.wait_text("#message", "")


def test_a_narrow_window(browser: Any, server: Server) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844})
    tab = View(context, server)
    assert not tab.page.is_visible("#filters")
    tab.page.click("#show-filters")
    tab.page.click("#class-rows [role=option]:has-text('ring')")
    tab.page.click("#show-filters")
    in_view(tab)
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= 390
    tab.page.click(".tile >> nth=0")
    tab.wait("import('/static/view/main.js').then(({inside}) => inside.single.stage.hasPicture)")
    assert tab.page.is_visible("#back") and tab.page.is_visible("#box-rows")
    context.close()


def test_the_page_of_statistics_is_whole_and_legible_on_a_phone(browser: Any, shards: Shards, tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["stats", str(shards.path), "--out", str(tmp_path / "stats")])
    assert done.exit_code == 0, done.output
    context = browser.new_context(viewport={"width": 390, "height": 844})
    page = context.new_page()
    page.goto((tmp_path / "stats/index.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    cut = "[...document.querySelectorAll('.wide')].filter((part) => part.scrollWidth > part.clientWidth).length"
    assert page.evaluate(cut) == 0, "tables"
    sizes = page.evaluate(
        """() => [...document.querySelectorAll('td, th, figcaption, text')].map((part) => {
        const matrix = part.ownerSVGElement ? part.getScreenCTM() : { a: 1, b: 0 };
        return parseFloat(getComputedStyle(part).fontSize) * Math.hypot(matrix.a, matrix.b); })"""
    )
    assert len(sizes) > 100 and min(sizes) >= 11
    context.close()

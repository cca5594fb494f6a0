"""The annotator's page in a real Chromium, over a real server: what a user does, and what must never be lost."""

from __future__ import annotations

import http.server
import json
import math
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from dataforge.images import synth
from tests.web.browser import Server, Tab, chromium, servers

STATIC = Path(__file__).resolve().parents[2] / "dataforge/web/static"
ACTIONS = json.loads((STATIC / "keys.json").read_text("utf-8"))
HOSTILE = (
    '<script>document.title="run"</script>',
    "\"quotes' & <b>",
    "naïve 漢字 \u202eright to left",
    "<img src=x onerror=alert(1)>",
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def server(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Thirty drawn pictures; each test has images of its own, by their number."""
    root = tmp_path_factory.mktemp("page") / "set"
    synth.write(root, images=30, seed=3)
    server = Server(root)
    yield server
    server.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """Start servers of a test's own."""
    with servers() as start:
        yield start


@pytest.fixture
def context(browser: Any) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1280, "height": 720})
    yield context
    context.close()


@pytest.fixture
def other(browser: Any) -> Iterator[Any]:
    """Another browser profile: the tabs of two share nothing."""
    context = browser.new_context(viewport={"width": 1280, "height": 720})
    yield context
    context.close()


def clear(tab: Tab) -> None:
    tab.keys("Control+a", "Delete")
    assert tab.boxes() == []


def current(tab: Tab) -> Any:
    return tab.inside("inside.boxes().current")


def test_draw_move_resize_undo_reload(context: Any, server: Server) -> None:
    tab = Tab(context, server, 0)
    clear(tab)
    tab.keys("4")
    tab.drag(0.2, 0.3, 0.6, 0.7)
    image = tab.image()
    width, height = image["width"], image["height"]
    drawn = current(tab)
    assert drawn["label"] == 3
    np.testing.assert_allclose(drawn["box"], np.multiply([0.2, 0.3, 0.6, 0.7], [width, height] * 2), atol=1.5)

    def after(*keys: str) -> np.ndarray:
        before = np.array(current(tab)["box"])
        tab.keys(*keys)
        return np.array(current(tab)["box"]) - before

    tab.page.mouse.move(2, 2)  # away from the image: edges are those on the arrow's side
    near = {"rtol": 0, "atol": 1e-3}
    np.testing.assert_allclose(after("ArrowRight"), [width / 100, 0, width / 100, 0], **near)
    np.testing.assert_allclose(after("ArrowUp"), [0, -height / 100, 0, -height / 100], **near)
    np.testing.assert_allclose(after("Alt+ArrowLeft"), [-1, 0, -1, 0], **near)
    np.testing.assert_allclose(after("Shift+ArrowRight"), [0, 0, width / 100, 0], **near)
    np.testing.assert_allclose(after("Shift+ArrowLeft"), [-width / 100, 0, 0, 0], **near)
    np.testing.assert_allclose(after("Alt+Shift+ArrowDown"), [0, 0, 0, 1], **near)
    x1, y1, _, y2 = current(tab)["box"]
    tab.page.mouse.move(*tab.at((x1 + 2) / width, (y1 + y2) / 2 / height))
    np.testing.assert_allclose(after("Shift+ArrowRight"), [width / 100, 0, 0, 0], **near)  # nearest to the pointer

    done = tab.boxes()
    assert tab.saved() == done
    tab.reload()
    assert tab.boxes() == done
    tab.wait_text("#box-count", "1")
    tab.keys("Tab", "Delete", "Control+z")
    assert tab.boxes() == done == tab.saved()
    assert not tab.faults


def test_all_ways_to_make_a_box(context: Any, server: Server) -> None:
    tab = Tab(context, server, 1)
    clear(tab)
    mouse = tab.page.mouse
    for x, y in ((0.1, 0.1), (0.3, 0.2)):  # two clicks
        mouse.click(*tab.at(x, y))
    tab.keys("m")
    for x, y in ((0.5, 0.2), (0.6, 0.3), (0.7, 0.25), (0.6, 0.1)):  # four extreme points
        mouse.click(*tab.at(x, y))
    tab.keys("m")
    tab.drag(0.8, 0.8, 1.2, 1.3)  # beyond the image's edge
    size = [tab.image()["width"], tab.image()["height"]] * 2
    places = sorted([value / side for value, side in zip(item["box"], size, strict=True)] for item in tab.boxes())
    expected = [[0.1, 0.1, 0.3, 0.2], [0.5, 0.1, 0.7, 0.3], [0.8, 0.8, 1, 1]]
    np.testing.assert_allclose(places, expected, atol=0.01)
    assert places[2][2:] == [1, 1]
    tab.keys("Control+d", "s")
    assert len(tab.boxes()) == 5 and len(tab.inside("[...inside.boxes().selected]")) == 2
    tab.keys("Escape")
    mouse.click(*tab.at(0.2, 0.15))  # a click inside selects
    assert [round(value / side, 1) for value, side in zip(current(tab)["box"], size, strict=True)] == [
        0.1,
        0.1,
        0.3,
        0.2,
    ]
    tab.drag(0.15, 0.12, 0.25, 0.18, force=True)  # Ctrl draws on top
    assert len(tab.boxes()) == 6
    mouse.move(2, 2)
    tab.keys("Escape", "r")
    assert len(tab.boxes()) == 7 and tab.boxes() == tab.saved()
    assert not tab.faults


def test_classes_flags_and_walking(context: Any, server: Server) -> None:
    tab = Tab(context, server, 2)
    clear(tab)
    for y in (0.1, 0.5):
        for x in (0.6, 0.1):
            tab.drag(x, y, x + 0.2, y + 0.2)
    tab.keys("Escape", "Tab")
    seen = []
    for _ in range(5):
        x1, y1, *_ = current(tab)["box"]
        seen.append((round(x1 / tab.image()["width"], 1), round(y1 / tab.image()["height"], 1)))
        tab.keys("Tab")
    assert seen == [(0.1, 0.1), (0.6, 0.1), (0.1, 0.5), (0.6, 0.5), (0.1, 0.1)]
    tab.keys("Shift+Tab", "f", "t", "c", "t", "/")
    tab.page.keyboard.type("ri")
    tab.keys("Enter")
    assert (current(tab)["label"], current(tab)["flags"]) == (synth.CLASSES.index("ring"), 1 | 2)
    tab.wait_text("#next-class", "ring")  # the last class sticks
    tab.keys("Escape", "r")
    assert current(tab)["label"] == synth.CLASSES.index("ring")
    assert tab.boxes() == tab.saved() and tab.page.url.endswith("#3"), (
        "Enter in the search must not go to the next image"
    )
    assert not tab.faults


def test_undo_and_redo_give_every_state_back(context: Any, server: Server) -> None:
    tab = Tab(context, server, 3)
    start, rng = tab.boxes(), random.Random(0)
    acts = [
        "Tab",
        "Tab",
        "ArrowLeft",
        "Shift+ArrowDown",
        "Alt+ArrowUp",
        "s",
        "Shift+s",
        "Control+d",
        "r",
        "e",
        "f",
        "3",
    ]
    for _ in range(12):
        tab.burst(*rng.choices(acts, k=10), *rng.choices(["Delete", "Control+a", "Escape"], [1, 2, 6], k=1))
    end = tab.boxes()
    assert end != start and end == tab.saved()
    steps = tab.inside("inside.boxes().steps[0]")
    assert steps > 20
    tab.burst(*["Control+z"] * steps)
    assert tab.boxes() == start == tab.saved() and tab.inside("inside.boxes().steps") == [0, steps]
    tab.burst(*["Control+y"] * steps)
    assert tab.boxes() == end == tab.saved()
    assert not tab.faults


def test_geometry_keeps_its_promises(context: Any, server: Server) -> None:
    """Random boxes: moves and resizes stay inside, parts make up the whole, the grid finds all."""
    tab = Tab(context, server)
    faults = tab.page.evaluate(
        """async () => {
        const g = await import("/static/geometry.js");
        const { Grid } = await import("/static/grid.js");
        const faults = [];
        const check = (good, ...what) => good || faults.push(JSON.stringify(what));
        let seed = 7;
        const random = (high) => ((seed = (seed * 48271) % 2147483647) / 2147483647) * high;
        for (let round = 0; round < 60; round += 1) {
          const [w, h] = [1 + Math.floor(random(3000)), 1 + Math.floor(random(3000))];
          const make = () => g.between(random(w), random(h), random(w), random(h), w, h);
          const inside = (b) => b[0] >= 0 && b[1] >= 0 && b[2] <= w && b[3] <= h && b[0] <= b[2] && b[1] <= b[3];
          const grid = new Grid(Math.max(w, h));
          const all = new Map();
          for (let i = 0; i < 80; i += 1) {
            const box = make();
            const [dx, dy] = [random(w) - w / 2, random(h) - h / 2];
            check(inside(box) && g.same(box, box.map(Math.fround)), "between", box);
            const moved = g.moved(box, dx, dy, w, h);
            check(inside(moved) && Math.abs(moved[2] - moved[0] - box[2] + box[0]) < 0.01, "moved", box, dx, dy, moved);
            if (g.isBox(box)) {
              const resized = g.resized(box, [i % 4], dx, dy, w, h);
              check(inside(resized) && resized.filter((v, k) => v !== box[k]).length <= 1, "resized", box, resized);
              const [a, b] = g.parts(box, i % 2, random(w));
              const whole = Math.abs(g.area(a) + g.area(b) - g.area(box)) < 1e-3 * g.area(box);
              check(whole && inside(a) && inside(b), "parts", box);
            }
            grid.add(`${i}`, box);
            all.set(`${i}`, box);
            if (i % 3 === 0) { grid.delete(`${i}`); all.delete(`${i}`); }
          }
          for (let i = 0; i < 20; i += 1) {
            const area = i % 2 ? make() : [random(w), random(h), 0, 0].map((v, k, a) => (k < 2 ? v : a[k - 2] + 1));
            const brute = [...all].filter(([, box]) => g.meets(box, area)).map(([id]) => id).sort();
            check(`${[...grid.meeting(area)].sort()}` === `${brute}`, "grid", area);
          }
          const items = [...all].map(([id, box]) => ({ id, box }));
          const order = g.readingOrder(items);
          check(new Set(order).size === items.length, "order");
        }
        return faults;
      }"""
    )
    assert faults == []


@pytest.mark.parametrize("choice", ["theirs", "mine", "both"])
def test_two_tabs_that_disagree(context: Any, other: Any, server: Server, choice: str) -> None:
    n = 4 + ["theirs", "mine", "both"].index(choice)
    first, second = Tab(context, server, n), Tab(other, server, n)
    base = first.boxes()
    first.keys("Escape", "r", "ArrowLeft")
    theirs = first.boxes()
    assert first.saved() == theirs
    second.page.mouse.move(*second.at(0.8, 0.8))
    second.keys("r", "ArrowUp", "ArrowUp")
    mine = second.boxes()
    second.page.wait_for_selector("#conflict[open]")
    assert len(mine) == len(theirs) == len(base) + 1 and mine != theirs
    second.page.click(f"#conflict button[value={choice}]")
    kept = second.saved()
    union = sorted(theirs + [item for item in mine if item not in base], key=lambda item: item["id"])
    assert kept == {"theirs": theirs, "mine": mine, "both": union}[choice] == second.boxes()
    second.keys("r")  # and work goes on
    assert second.saved() == second.boxes() and len(second.boxes()) == len(kept) + 1
    assert not first.faults and not second.faults


def test_a_tab_beside_shows_what_was_saved(context: Any, server: Server) -> None:
    first, second = Tab(context, server, 7), Tab(context, server, 7)
    first.keys("r", "ArrowLeft")
    saved = first.saved()
    boxes = (
        "import('/static/main.js').then(({inside}) => inside.boxes().plain().sort((a, b) => (a.id < b.id ? -1 : 1)))"
    )
    second.wait(boxes, saved)  # the edits may have come one by one
    second.keys("r")
    assert second.saved() == second.boxes() and len(second.boxes()) == len(saved) + 1


def test_killed_servers_lose_nothing(context: Any, serve: Callable[..., Server], tmp_path: Path) -> None:
    """Kill the server at moments while edits are sent; what the page has is what the next server has."""
    synth.write(tmp_path / "set", images=5)
    server = serve(tmp_path / "set")
    tab, rng = Tab(context, server, 0), random.Random(1)
    for _ in range(3):
        tab.keys("r", *rng.choices(["ArrowLeft", "ArrowUp", "2", "3", "Control+d"], k=rng.randrange(3, 12)))
        server.kill()
        tab.keys("r", "ArrowDown")
        tab.wait("document.querySelector('#status').textContent.startsWith('not saved: ')")
        before = tab.boxes()
        server.start()
        Tab(context, server, 1).page.close()  # the user opens the new address; its cookie is the old tab's, too
        assert tab.saved() == before == tab.boxes()
    server.kill()
    tab.keys("r", "ArrowDown", "f")
    left = tab.boxes()
    tab.page.close()  # never confirmed, but kept by the browser
    server.start()
    again = Tab(context, server, 0)
    assert again.saved() == left == again.boxes()


def test_a_full_disk_is_shown_and_waited_for(context: Any, server: Server) -> None:
    """The answers are played in the page itself: no request can pass by a browser's interception."""
    tab = Tab(context, server, 8)
    tab.page.evaluate(
        """() => { const real = fetch, full = { error: "the disk is full" };
        window.heal = () => { window.fetch = real; };
        window.fetch = async (path, options) =>
          options?.method === "POST" ? Response.json(full, { status: 507 }) : real(path, options); }"""
    )
    tab.keys("r", "ArrowLeft")
    tab.wait_text("#status", "not saved: the disk is full")
    assert len(tab.image()["boxes"]) == len(tab.boxes()) - 1
    tab.page.evaluate("heal()")
    assert tab.saved() == tab.boxes()


def test_hostile_names_are_text(context: Any, serve: Callable[..., Server], tmp_path: Path) -> None:
    root = tmp_path / HOSTILE[0].replace("/", "_")
    (root / "train").mkdir(parents=True)
    (root / "annotations").mkdir()
    images, annotations = [], []
    for i, name in enumerate(HOSTILE):
        file = f"{name.replace('/', '_')}.png"
        (root / "train" / file).write_bytes(cv2.imencode(".png", np.full((40, 60, 3), 90, np.uint8))[1].tobytes())
        images.append({"id": i, "file_name": file, "width": 60, "height": 40})
        annotations.append(
            {"id": i, "image_id": i, "category_id": i, "bbox": [5, 5, 20, 20], "area": 400, "iscrowd": 0}
        )
    categories = [{"id": i, "name": name} for i, name in enumerate(HOSTILE)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations/instances_train.json").write_text(json.dumps(content), "utf-8")
    server = serve(root)
    tab = Tab(context, server, 0)
    elements = "document.querySelectorAll('script, img, b').length"
    before = tab.page.evaluate(elements)
    tab.keys("Tab")
    tab.wait("document.querySelector('#about').textContent.includes('<script>')")
    assert tab.page.title() == root.name
    shown = tab.text("body")
    for name in HOSTILE:
        assert name.replace("/", "_") in shown and name in shown
    tab.keys("/")
    tab.page.keyboard.type("<b>new</b>")
    tab.keys("Enter")
    tab.wait_text("#next-class", "<b>new</b>")
    assert tab.page.evaluate(elements) == before and not tab.faults
    assert tab.saved()[0]["label"] == len(HOSTILE)


def test_strangers_get_nothing(context: Any, other: Any, server: Server) -> None:
    tab = Tab(context, server, 9)
    before = tab.image()
    page = other.new_page()
    for address in (
        server.origin,
        f"{server.origin}/?token=guess",
        f"{server.origin}/api/set",
        f"{server.origin}/image/9",
    ):
        assert page.goto(address).status == 401, address

    handler = type("Page", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as foreign:
        threading.Thread(target=foreign.serve_forever, daemon=True).start()
        page = context.new_page()  # has the cookie, which is for the host, at any port
        page.goto(f"http://127.0.0.1:{foreign.server_port}/nothing")
        body = json.dumps({"request": "r", "revision": 0, "edits": [{"op": "delete", "id": "b0"}]})
        for kind in ("text/plain", "application/json"):
            outcome = page.evaluate(
                """([url, body, kind]) => fetch(url, {method: "POST", credentials: "include",
                mode: kind === "text/plain" ? "no-cors" : "cors", headers: {"Content-Type": kind}, body})
                .then((a) => a.type, () => "refused")""",
                [f"{server.origin}/api/images/9", body, kind],
            )
            assert outcome in ("opaque", "refused")
        read = page.evaluate(
            "(url) => fetch(url, {credentials: 'include'}).then((a) => a.text(), () => 'refused')",
            f"{server.origin}/api/set",
        )
        assert read == "refused"
        foreign.shutdown()
    assert tab.image() == before


def test_filters(context: Any, server: Server) -> None:
    tab = Tab(context, server, 10)
    rows = tab.get("/api/images?from=0&count=1000")["images"]

    def listed() -> list[str]:
        tab.painted()
        return list(tab.page.locator("#image-rows .name:visible").all_inner_texts())

    assert int(tab.text("#image-count")) == len(rows) == 30
    tab.keys("k")
    tab.page.keyboard.type("00001")
    assert set(listed()) == {row["key"] for row in rows if "00001" in row["key"]}
    tab.keys("Control+a", "Delete", "Escape")
    ring = str(synth.CLASSES.index("ring"))
    tab.page.select_option("#by-class", ring)
    wanted = [row["n"] for row in rows if int(ring) in row["classes"]]
    assert tab.text("#image-count") == f"{len(wanted)} of 30" and 0 < len(wanted) < 30
    tab.keys("Escape", "a", *["d"] * len(wanted))
    tab.wait_text("#position", f"{wanted[-1] + 1} / 30")
    tab.page.select_option("#by-class", "")
    tab.page.select_option("#by-state", "done")
    before = len([row for row in rows if row["state"] == "done"])
    assert tab.text("#image-count") == f"{before} of 30"
    tab.page.select_option("#by-state", "")
    shown = "document.querySelector('#image-rows [aria-selected=true]:not([hidden])')?.title"
    tab.wait(shown, rows[wanted[-1]]["key"])  # the list scrolls to the image that is open
    tab.page.locator("#image-rows").evaluate("(list) => (list.scrollTop = 0)")
    tab.painted()  # rows take other images as the list scrolls
    tab.page.click(f"#image-rows [title={json.dumps(rows[10]['key'])}]:visible")
    tab.wait_text("#position", "11 / 30")
    tab.keys("Enter")
    tab.wait_text("#position", "12 / 30")
    tab.saved()
    assert tab.get("/api/images/10")["state"] == "done"
    tab.page.select_option("#by-state", "done")
    assert tab.text("#image-count") == f"{before + 1} of 30"


def test_keys_wait_for_an_image_on_its_way(context: Any, server: Server) -> None:
    """A key that is pressed after "next" is for the next image, however long that takes."""
    tab = Tab(context, server, 17)
    tab.page.route("**/api/images/21", lambda route: (tab.page.wait_for_timeout(300), route.continue_()))
    before = tab.boxes()
    tab.burst("d", "d", "d", "d", "r", "4", "Enter", "r")
    tab.wait_text("#position", "23 / 30")
    tab.saved()
    boxes = tab.get("/api/images/21")
    assert boxes["state"] == "done" and boxes["boxes"][-1]["label"] == 3
    assert tab.get("/api/images/17")["boxes"] == before
    assert tab.get("/api/images/22")["boxes"][-1]["label"] == 3 and tab.get("/api/images/22")["state"] == "edited"


def test_copy_from_the_previous_image(context: Any, server: Server) -> None:
    tab = Tab(context, server, 12)
    clear(tab)
    tab.drag(0.1, 0.1, 0.3, 0.3)
    tab.drag(0.5, 0.5, 0.7, 0.7)
    source = [item["box"] for item in tab.boxes()]
    chosen = current(tab)["box"]
    tab.keys("d")
    tab.wait_text("#position", "14 / 30")
    clear(tab)
    tab.keys("v")
    width, height = tab.image()["width"], tab.image()["height"]

    def cut(box: list[float]) -> list[float]:
        return [min(value, height if i % 2 else width) for i, value in enumerate(box)]

    tab.wait_text("#box-count", "1")
    assert [item["box"] for item in tab.boxes()] == [cut(chosen)]
    tab.keys("Control+z", "Shift+v")
    tab.wait_text("#box-count", "2")
    assert sorted(item["box"] for item in tab.boxes()) == sorted(map(cut, source))
    assert tab.saved() == tab.boxes()


def test_ghosts_are_boxes_only_once_accepted(context: Any, server: Server) -> None:
    """The answers of a model are played; `--model` is tested with the server."""
    facts = {"boxes": [{"box": [10 * i, 10, 10 * i + 8, 20], "label": i % 5, "score": i / 10} for i in range(1, 10)]}
    polls = iter([True, False])

    def played(content: Any) -> Callable[[Any], None]:
        return lambda route: route.fulfill(content_type="application/json", body=json.dumps(content()))

    tab = Tab(context, server, 23)
    settings = tab.get("/api/set") | {"proposals": True}
    tab.page.route("**/api/set", played(lambda: settings))
    tab.page.route("**/api/proposals/*", played(lambda: facts | {"pending": next(polls, False)}))
    tab.reload()
    tab.wait_text("#proposals output", "0.5: 5")
    before = tab.boxes()
    assert before == tab.saved()
    tab.page.mouse.move(2, 2)
    tab.keys("y", "x")
    tab.wait_text("#proposals output", "0.5: 3")
    assert [item["box"] for item in tab.boxes() if item not in before] == [[50, 10, 58, 20]]
    tab.page.evaluate("const s = document.querySelector('#least'); s.value = 0.75; s.dispatchEvent(new Event('input'))")
    tab.keys("Shift+y")
    tab.wait_text("#proposals output", "0.75: 0")
    assert len(tab.boxes()) == len(before) + 3 and tab.boxes() == tab.saved()
    tab.keys("Control+z", "Control+z")
    assert tab.boxes() == before == tab.saved() and not tab.faults


def test_crops_are_relabelled_and_back(context: Any, server: Server) -> None:
    tab = Tab(context, server, 19)
    rows = tab.get("/api/images?from=0&count=1000")["images"]

    def stars() -> dict[tuple[int, str], int]:
        images = [tab.get(f"/api/images/{row['n']}") for row in rows]
        return {(image["n"], item["id"]): item["label"] for image in images for item in image["boxes"]}

    before = stars()
    star, ring = synth.CLASSES.index("star"), synth.CLASSES.index("ring")
    wanted = [key for key, label in before.items() if label == star]
    late: list[Any] = []
    # the answer for the class that the dialog opens with comes last
    tab.page.route("**/api/crops?*", lambda route: late.append(route), times=1)
    tab.keys("b")
    while not late:
        tab.page.wait_for_timeout(20)
    tab.page.select_option("#bulk select", str(star))
    tab.wait_text("#bulk-count", f"0 of {len(wanted)} selected")
    late[0].continue_()
    tab.page.wait_for_timeout(500)
    assert tab.page.locator(".crops [role=option]").count() == len(wanted)
    tab.wait_text("#bulk-count", f"0 of {len(wanted)} selected")
    tab.keys("Tab")  # from the list of classes to the crops
    tab.page.locator(".crops [role=option] >> nth=1").focus()
    tab.keys(" ", "Shift+ArrowRight")
    tab.wait_text("#bulk-count", f"2 of {len(wanted)} selected")
    tab.keys(str(ring + 1))
    tab.wait_text("#bulk-count", f"0 of {len(wanted) - 2} selected")
    tab.saved()
    after = stars()
    changed = [key for key in before if before[key] != after[key]]
    assert len(changed) == 2 and {after[key] for key in changed} == {ring} and set(changed) <= set(wanted)
    tab.keys("Control+z")
    tab.wait_text("#bulk-count", f"0 of {len(wanted)} selected")
    tab.saved()
    assert stars() == before and not tab.faults


def test_classes_are_added_renamed_and_merged(context: Any, serve: Callable[..., Server], tmp_path: Path) -> None:
    synth.write(tmp_path / "set", images=5)
    server = serve(tmp_path / "set")
    tab = Tab(context, server, 0)
    tab.keys("r", "2", "/")
    tab.page.keyboard.type("cone")
    tab.keys("Enter")
    tab.wait_text("#next-class", "cone")
    assert tab.saved()[-1]["label"] == len(synth.CLASSES) or 5 in {item["label"] for item in tab.saved()}
    for op, to, shown in (("rename", "cup", "cup"), ("merge", "box", "")):
        tab.keys("Control+/")
        tab.page.select_option("#class-op", op)
        tab.page.fill("#class-to", to)
        tab.keys("Enter")
        tab.wait("document.querySelector('#edit-classes').open", False)
        names = [item["name"] for item in tab.get("/api/set")["classes"]]
        assert (shown in names) == bool(shown) and "cone" not in names
    assert {item["label"] for item in tab.image()["boxes"]} <= set(range(len(synth.CLASSES)))
    tab.wait("document.querySelector('#position').textContent", "1 / 5")
    assert tab.boxes() == tab.saved()
    tab.keys("i")
    tab.wait("document.querySelector('#speed-sum').textContent.startsWith('Since the start: 1 boxes on 1 images')")
    assert not tab.faults


def test_zoom_and_pan_keep_the_place_under_the_pointer(context: Any, server: Server) -> None:
    tab = Tab(context, server, 14)
    x, y = map(round, tab.at(0.3, 0.4))
    (left, top), (right, bottom) = tab.at(0, 0), tab.at(1, 1)
    place = ((x - left) / (right - left), (y - top) / (bottom - top))
    tab.page.mouse.move(x, y)
    scale = tab.inside("inside.stage.view.scale")
    for _ in range(5):
        tab.page.mouse.wheel(0, -120)
    zoomed = f"Math.round(400 * Math.log(inside.stage.view.scale / {scale}))"
    tab.wait(f"import('/static/main.js').then(({{inside}}) => {zoomed})", 600)
    assert tab.inside("inside.stage.isWhole()") is False
    np.testing.assert_allclose(tab.at(*place), (x, y), atol=0.5)
    tab.page.keyboard.down(" ")
    tab.drag(0.3, 0.4, 0.32, 0.4)
    tab.page.keyboard.up(" ")
    count = len(tab.boxes())
    assert math.dist(tab.at(*place), (x, y)) > 5 and count == len(tab.image()["boxes"])
    tab.keys("z")
    assert tab.inside("inside.stage.isWhole()") is True


def test_touch(browser: Any, server: Server) -> None:
    context = browser.new_context(viewport={"width": 1280, "height": 720}, has_touch=True)
    tab = Tab(context, server, 15)
    clear(tab)
    for x, y in ((0.2, 0.2), (0.6, 0.5)):
        tab.page.touchscreen.tap(*tab.at(x, y))
    assert len(tab.boxes()) == 1 == len(tab.saved())
    context.close()


def test_a_narrow_window(browser: Any, server: Server) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844})
    tab = Tab(context, server, 15)
    tab.wait_text("#position", "16 / 30")
    inside, apart = tab.page.evaluate(
        """() => {
          const all = [...document.querySelectorAll("button, output, .rows, #stage")];
          const shown = all.filter((e) => e.checkVisibility() && !e.closest("nav, .rows *"));
          const at = shown.map((e) => [e, e.getBoundingClientRect()]);
          const shared = (a, b) => [Math.min(a.right, b.right) - Math.max(a.left, b.left),
            Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top)];
          const apart = (e, a, f, b) => e.contains(f) || f.contains(e) || Math.min(...shared(a, b)) <= 1;
          return [at.every(([, r]) => r.left >= 0 && r.right <= innerWidth && r.bottom <= innerHeight),
            at.every(([e, a]) => at.every(([f, b]) => apart(e, a, f, b)))];
        }"""
    )
    assert inside and apart
    tab.page.click("button[data-action=next]")
    tab.wait_text("#position", "17 / 30")
    context.close()


def test_every_action_has_a_key_and_every_control_a_name(context: Any, server: Server) -> None:
    tab = Tab(context, server)
    assert sorted(tab.inside("inside.actions")) == sorted(action["id"] for action in ACTIONS)
    keys = [key for action in ACTIONS for key in action["keys"]]
    assert len(keys) == len(set(keys))
    unnamed = tab.page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, dialog, [role=listbox], [role=application]")]
        .filter((e) => !(e.ariaLabel || e.getAttribute("aria-labelledby") || e.textContent.trim()))
        .map((e) => e.outerHTML)"""
    )
    assert unnamed == []
    tab.keys("?")
    shown = tab.text("#help-keys")
    assert all(action["text"] in shown for action in ACTIONS)


def test_all_panels_are_reached_and_left_by_keys(context: Any, server: Server) -> None:
    tab = Tab(context, server, 16)
    places = []
    for _ in range(4):
        tab.keys("F6")
        places.append(tab.page.evaluate("document.activeElement.closest('header, nav, aside, main').tagName"))
    assert places == ["HEADER", "NAV", "ASIDE", "MAIN"]
    tab.keys("F6", "F6", "Tab", "Tab", "Tab", "Tab", "Tab", "ArrowDown", "Enter")
    tab.wait_text("#position", "18 / 30")


def test_keys_of_the_user(context: Any, serve: Callable[..., Server], tmp_path: Path) -> None:
    synth.write(tmp_path / "set", images=5)
    (tmp_path / "keys.toml").write_text('insert = "x"\ndelete = ["r", "Ctrl+x"]\n')
    server = serve(tmp_path / "set", "--keys", str(tmp_path / "keys.toml"))
    tab = Tab(context, server, 0)
    before = tab.boxes()
    tab.keys("x", "x")
    assert len(tab.boxes()) == len(before) + 2
    tab.keys("r", "Control+z", "Control+x")
    assert len(tab.boxes()) == len(before) + 1
    tab.keys("Delete")
    assert len(tab.boxes()) == len(before) + 1, "the default key of a rebound action does nothing"


def test_a_picture_that_cannot_be_read_is_passed_over(
    context: Any, serve: Callable[..., Server], tmp_path: Path
) -> None:
    (tmp_path / "photos").mkdir()
    for i in range(3):
        data = cv2.imencode(".png", np.full((40, 60, 3), 90, np.uint8))[1].tobytes() if i != 1 else b"no picture"
        (tmp_path / "photos" / f"{i}.png").write_bytes(data)
    server = serve(tmp_path / "photos", "--classes", "cat,dog")
    tab = Tab(context, server, 0)
    count = tab.get("/api/set")["images"]
    tab.keys("d")
    if count == 3:
        tab.wait("document.querySelector('#wrong').textContent !== ''")
        tab.keys("r", "d")
    tab.wait_text("#position", f"{count} / {count}")
    tab.keys("2", "r")
    assert [item["label"] for item in tab.saved()] == [1] and not tab.faults

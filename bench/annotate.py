"""How fast the annotator's page is, and how many keys and clicks a box takes, in a real Chromium.

    python bench/annotate.py [--note TEXT] [--results FILE]

Needs Chromium and playwright; takes about five minutes. It starts `dataforge annotate` on drawn pictures and measures

* "key to paint": from a key's own time stamp to the first task after the frame that shows its effect was handed to the
  compositor, for Tab, arrows, Shift+arrows and a flag, with 10 to 5,000 boxes on a picture of 1600x1200. At 60 Hz it
  has the wait for the next frame, 8 ms on average and up to 17; "no frame limit" is the same without that wait.
* "work": of that, the time in which JavaScript ran: the key's handler and the drawing. "processor time": of the page's
  thread from before the key to the answer that it was seen, with the measurement's own work; other work does not add to
  it as it does to the others.
* "switch": from the key "next image" to the frame with the next picture of 12 megapixels in it, decoded ahead or not.
* "keys and clicks a box": what a script needs to draw, class and confirm 200 boxes; what is saved is compared with
  what had to be drawn. `PEERS` counts what the same boxes take by the documented shortcuts of others.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

HERE = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(HERE))

from bench.view import task_seconds  # noqa: E402
from dataforge.bench.measure import record_rows  # noqa: E402
from dataforge.images import synth  # noqa: E402
from tests.web.browser import Server, Tab, chromium  # noqa: E402

BOXES = (10, 200, 2000, 5000)
KEYS = ("Tab", "ArrowRight", "ArrowDown", "Shift+ArrowLeft", "Alt+ArrowUp", "f", "Shift+Tab", "Alt+Shift+ArrowDown")
PRESSES, WARM, SWITCHES, WANTED = 60, 20, 8, 200
UNLIMITED = ("--disable-frame-rate-limit", "--disable-gpu-vsync")
# Each by the shortcuts in its documentation; a rectangle is two clicks, or a press and a release.
PEERS = {
    "CVAT": {
        "box": 3,  # N repeats the last drawing, then two clicks
        "class": 1,  # Ctrl+digit, where the class changes
        "image": 1,  # F
        "end": 1,  # Ctrl+S
        "source": "CVAT's documentation, Shortcuts: N, Ctrl+(0..9), F, Ctrl+S",
    },
    "Label Studio": {
        "box": 3,  # the label's digit, which is let go of after each region by default; then press and release
        "class": 0,
        "image": 1,  # Ctrl+Enter submits and shows the next task
        "end": 0,
        "source": "labelstud.io/guide/hotkeys, default settings",
    },
    "Label Studio, label kept": {
        "box": 2,  # with the setting "Keep label selected after creating a region"
        "class": 1,
        "image": 1,
        "end": 0,
        "source": "labelstud.io/guide/hotkeys, labeling interface settings",
    },
}

WATCH = """() => import('/static/main.js').then(({ inside }) => {
  const seen = (window.seen = []);
  const channel = new MessageChannel();
  let press = null;
  channel.port1.onmessage = () => {
    if (!press?.painted) return;
    press.shown = performance.now();
    seen.push(press);
    press = null;
  };
  addEventListener('keydown', (event) => {
    press = { stamp: event.timeStamp, start: performance.now() };
    const mine = press;
    requestAnimationFrame(() => { mine.frame = performance.now(); });
  }, true);
  addEventListener('keydown', () => { if (press) press.handled = performance.now(); });
  const paint = inside.stage.onpaint;
  inside.stage.onpaint = () => {
    paint();
    if (!press || press.painted) return;
    if (window.wanted !== undefined && (inside.boxes().n !== window.wanted || !inside.stage.hasPicture)) return;
    press.painted = performance.now();
    channel.port2.postMessage(0);
  };
})"""


def row(name: str, values: list[float], unit: str, **more: Any) -> dict[str, Any]:
    """A row: "value" is the median, "p95" with it; low and high are the extremes."""
    p95 = float(np.quantile(values, 0.95))
    facts = {"value": statistics.median(values), "p95": p95, "low": min(values), "high": max(values)}
    return {
        "name": name,
        **{key: round(value, 2) for key, value in facts.items()},
        "unit": unit,
        "repeats": len(values),
        **more,
    }


def dense(root: Path) -> None:
    """One picture a number of boxes, in COCO's layout."""
    rng = np.random.default_rng(0)
    (root / "annotations").mkdir(parents=True)
    (root / "train").mkdir()
    width, height = 1600, 1200
    noise = cv2.resize(rng.integers(0, 255, (150, 200, 3), np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)
    images, annotations = [], []
    for i, count in enumerate(BOXES):
        cv2.imwrite(str(root / "train" / f"{count}.jpg"), noise)
        images.append({"id": i, "file_name": f"{count}.jpg", "width": width, "height": height})
        for x, y, w, h in rng.uniform([0, 0, 8, 8], [width - 80, height - 80, 80, 80], (count, 4)).round(2).tolist():
            box = {"id": len(annotations), "image_id": i, "category_id": int(rng.integers(1, 6)), "bbox": [x, y, w, h]}
            annotations.append(box | {"area": w * h, "iscrowd": 0})
    categories = [{"id": i, "name": name} for i, name in enumerate(synth.CLASSES, 1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations/instances_train.json").write_text(json.dumps(content), "utf-8")


def seen(tab: Tab, count: int) -> list[dict[str, float]]:
    tab.wait(f"window.seen.length >= {count}")
    return tab.page.evaluate("window.seen.splice(0)")  # type: ignore[no-any-return]


def paints(work: Path) -> Iterator[dict[str, Any]]:
    dense(work / "dense")
    for flags, limit in (((), "60 Hz"), (UNLIMITED, "no frame limit")):
        server = Server(work / "dense", "--overlay", str(work / f"overlay {limit}"))
        with chromium(*flags) as browser:
            context = browser.new_context(viewport={"width": 1920, "height": 1080})
            for n, count in enumerate(BOXES):
                tab, rng = Tab(context, server, n), random.Random(0)
                assert len(tab.boxes()) == count
                tab.keys("Tab")
                tab.page.wait_for_timeout(500)
                tab.page.evaluate(WATCH)
                developer = context.new_cdp_session(tab.page)
                developer.send("Performance.enable", {"timeDomain": "threadTicks"})
                pressed, busy = [], []
                for i in range(WARM + PRESSES):
                    before = task_seconds(developer)
                    tab.keys(KEYS[i % len(KEYS)])
                    pressed += seen(tab, 1)
                    busy.append(1000 * (task_seconds(developer) - before))
                    tab.page.wait_for_timeout(rng.uniform(10, 40))  # at any phase of the display
                del pressed[:WARM]
                more = {"boxes": count, "display": limit, "window": "1920x1080"}
                yield row(
                    f"key to paint, {count} boxes, {limit}", [p["shown"] - p["stamp"] for p in pressed], "ms", **more
                )
                worked = [p["handled"] - p["start"] + p["painted"] - p["frame"] for p in pressed]
                yield row(f"work of a key, {count} boxes, {limit}", worked, "ms", **more)
                yield row(f"processor time of a key, {count} boxes, {limit}", busy[WARM:], "ms", **more)
                assert tab.saved() == tab.boxes()
                tab.page.close()
        server.close()


def switches(work: Path) -> Iterator[dict[str, Any]]:
    folder = work / "large"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(2 * SWITCHES + 2):
        small = rng.integers(0, 255, (300, 400, 3), np.uint8)
        large = cv2.resize(small, (4000, 3000), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f"{i:02d}.jpg"), large, [cv2.IMWRITE_JPEG_QUALITY, 92])
    size = int(statistics.mean(file.stat().st_size for file in folder.iterdir()))
    server = Server(folder, "--classes", "thing")
    with chromium() as browser:
        context = browser.new_context(viewport={"width": 1920, "height": 1080})
        tab = Tab(context, server, 0)
        tab.page.evaluate(WATCH)
        taken: dict[str, list[float]] = {"decoded ahead": [], "not decoded ahead": []}
        for n in range(1, SWITCHES + 1):
            tab.page.wait_for_timeout(2500)  # what an annotator needs for an image, or less
            tab.page.evaluate("(n) => { window.wanted = n; window.seen.length = 0; }", n)
            tab.keys("d")
            taken["decoded ahead"] += [press["shown"] - press["stamp"] for press in seen(tab, 1)]
        tab.page.close()
        for n in range(2, 2 * SWITCHES + 2, 4):
            context.close()
            context = browser.new_context(viewport={"width": 1920, "height": 1080})
            tab = Tab(context, server, n - 2)
            tab.page.route(f"**/image/{n}", lambda route: route.abort())  # not ahead
            tab.page.evaluate(WATCH)
            tab.keys("d")
            tab.wait("document.querySelector('#position').textContent.split(' ')[0]", str(n))
            tab.page.wait_for_timeout(1500)
            tab.page.unroute(f"**/image/{n}")
            tab.page.evaluate("(n) => { window.wanted = n; window.seen.length = 0; }", n)
            tab.keys("d")
            taken["not decoded ahead"] += [press["shown"] - press["stamp"] for press in seen(tab, 1)]
    server.close()
    for name, values in taken.items():
        yield row(f"switch to a picture of 12 megapixels, {name}", values, "ms", bytes=size, window="1920x1080")


def boxes(work: Path) -> Iterator[dict[str, Any]]:
    synth.write(work / "truth", images=100, seed=5)
    content = json.loads((work / "truth/annotations/instances_train.json").read_text())
    images, total = [], 0
    (work / "photos").mkdir()
    for image in content["images"]:
        marks = [a for a in content["annotations"] if a["image_id"] == image["id"]][: WANTED - total]
        total += len(marks)
        images.append((image, sorted(marks, key=lambda mark: mark["category_id"])))
        (work / "truth/train" / image["file_name"]).rename(work / "photos" / image["file_name"])
        if total == WANTED:
            break
    server = Server(work / "photos", "--classes", ",".join(synth.CLASSES))
    counts = {"box": 0, "class": 0, "image": 0}
    with chromium() as browser:
        tab = Tab(browser.new_context(viewport={"width": 1280, "height": 720}), server, 0)
        sticky = 1
        for n, (image, marks) in enumerate(images):
            tab.wait_text("#position", f"{n + 1} / {len(images)}")
            for mark in marks:
                x, y, w, h = mark["bbox"]
                corners = np.array([x, y, x + w, y + h]) / np.array([image["width"], image["height"]] * 2)
                tab.drag(*corners.tolist(), force=True)
                counts["box"] += 2  # press and release
                if mark["category_id"] != sticky:  # the digit sets the class of the box that was just drawn
                    sticky = mark["category_id"]
                    tab.keys(str(sticky))
                    counts["class"] += 1
            tab.keys("Enter")
            counts["image"] += 1
        tab.saved()
        wrong = 0
        for n, (_, marks) in enumerate(images):
            saved = tab.get(f"/api/images/{n}")
            assert saved["state"] == "done" and len(saved["boxes"]) == len(marks)
            wanted = {(m["category_id"] - 1, *np.round(m["bbox"]).astype(int)) for m in marks}
            for item in saved["boxes"]:
                x1, y1, x2, y2 = item["box"]
                near = [
                    w
                    for w in wanted
                    if w[0] == item["label"] and max(abs(np.array(w[1:]) - (x1, y1, x2 - x1, y2 - y1))) < 3
                ]
                wrong += not near
        assert not wrong, wrong
    server.close()
    total_acts = sum(counts.values())
    more = {"boxes": total, "images": len(images), "counts": counts}
    yield {
        "name": "keys and clicks a box, dataforge",
        "value": round(total_acts / total, 3),
        "unit": "acts/box",
        "runs": 1,
        **more,
    }
    for name, peer in PEERS.items():
        acts = total * peer["box"] + counts["class"] * peer["class"] + len(images) * peer["image"] + peer["end"]
        facts = {"boxes": total, "images": len(images), "counted_by": peer["source"]}
        yield {
            "name": f"keys and clicks a box, {name}",
            "value": round(acts / total, 3),
            "unit": "acts/box",
            "runs": 1,
            **facts,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--note", help="what else a reader of the rows has to know")
    parser.add_argument("--results", type=Path)
    parser.add_argument("--parts", default="paints,switches,boxes")
    chosen = parser.parse_args()
    parts = {"paints": paints, "switches": switches, "boxes": boxes}
    with tempfile.TemporaryDirectory() as work:
        for part in chosen.parts.split(","):
            for measured in parts[part](Path(work)):
                print(json.dumps(measured), flush=True)
                record_rows([measured | ({"note": chosen.note} if chosen.note else {})], chosen.results)


if __name__ == "__main__":
    main()

"""How fast the page of `dataforge view` is on a set of COCO's size, in a real Chromium.

    python bench/view.py [--records 118287] [--note TEXT] [--results FILE]

Needs Chromium and playwright. It writes shards of that many small pictures with seven boxes each, starts
`dataforge view` on them, and measures, in a window of 1280x720:

* "start": from the command to the line with its address.
* "first view": from the navigation to the frame in which every tile in view has its picture and its boxes; "work of the
  first view": the processor time of the page's thread, and of the server.
* "scroll": frames per second while the grid is scrolled for some seconds, slowly (a line of tiles 8 times a second) and
  fast (through the whole set); the display is one of 60 Hz. "longest frame" is the longest wait for a frame; "work of a
  frame" the processor time of the page's thread a frame: below 16.7 ms, it keeps up with the display.
* "filter": from a class being chosen to the frame that shows the first of its images.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

HERE = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(HERE))

from dataforge.bench.measure import record_rows  # noqa: E402
from dataforge.images.header import probe  # noqa: E402
from dataforge.record import Record  # noqa: E402
from dataforge.shards.writer import ShardWriter  # noqa: E402
from tests.web.browser import Server, chromium  # noqa: E402

CLASSES, BOXES, REPEATS, SECONDS = 80, 7, 7, 4
WINDOW = {"width": 1280, "height": 720}

SHOWN = """() => { const tiles = [...document.querySelectorAll('.tile:not([hidden])')];
  return tiles.length > 0 && tiles.every(({ firstChild: image }) => image.complete && image.naturalWidth); }"""
FIRST = f"""() => new Promise((resolve) => {{ const shown = {SHOWN};
  const look = () => shown() && document.documentElement.hasAttribute('data-ready') ? resolve(performance.now())
    : requestAnimationFrame(look); look(); }})"""
SCROLL = """([pixels, seconds]) => new Promise((resolve) => {
  const grid = document.querySelector('#grid');
  const begin = performance.now(), top = grid.scrollTop, waits = [];
  let last = begin;
  const step = (now) => {
    waits.push(now - last);
    last = now;
    grid.scrollTop = top + ((now - begin) / 1000) * pixels;
    if (now - begin < seconds * 1000) requestAnimationFrame(step);
    else resolve(waits.slice(1));
  };
  requestAnimationFrame(step);
})"""
FILTER = f"""(n) => import('/static/view/main.js').then(({{ inside: {{ state, grid }} }}) => new Promise((resolve) => {{
  const shown = {SHOWN}, begin = performance.now(), before = grid.total;
  state.set({{ class: `class ${{n}}` }});
  const look = () => grid.total !== before && shown() ? resolve(performance.now() - begin)
    : requestAnimationFrame(look);
  requestAnimationFrame(look);
}}))"""


def write(out: Path, records: int) -> None:
    """Write shards of small pictures, 64 different ones in turn."""
    rng = np.random.default_rng(0)
    pictures = []
    for _ in range(64):
        small = rng.integers(0, 255, (6, 8, 3), np.uint8)
        large = cv2.resize(small, (160, 120), interpolation=cv2.INTER_CUBIC)
        pictures.append(cv2.imencode(".jpg", large)[1].tobytes())
    info = probe(pictures[0])
    low = rng.uniform([0, 0], [110, 80], (records, BOXES, 2))
    boxes = np.concatenate([low, low + rng.uniform(5, 40, (records, BOXES, 2))], 2).astype(np.float32)
    labels = np.minimum(rng.exponential(14, (records, BOXES)), CLASSES - 1).astype(np.int32)
    flags = np.zeros(BOXES, np.uint8)
    with ShardWriter(out, [f"class {i}" for i in range(CLASSES)], store_name="memmap") as writer:
        for n in range(records):
            data = pictures[n % 64]
            record = Record(f"{n:012d}.jpg", "train", data, 120, 160, boxes[n], labels[n], flags, id=n)
            writer.add(record, data, info)
        writer.publish()


def task_seconds(developer: Any) -> float:
    """Return the processor time of the page's thread."""
    metrics = {one["name"]: one["value"] for one in developer.send("Performance.getMetrics")["metrics"]}
    return float(metrics["TaskDuration"])


def server_seconds(server: Server) -> float:
    """Return the processor time of a server (proc_pid_stat(5): user and system)."""
    fields = Path(f"/proc/{server.process.pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(shards: Path, records: int) -> Iterator[dict[str, Any]]:
    facts = {"records": records, "boxes": records * BOXES, "window": "1280x720"}

    def row(name: str, values: list[float], unit: str) -> dict[str, Any]:
        numbers = {"value": statistics.median(values), "low": min(values), "high": max(values)}
        rounded = {key: round(value, 2) for key, value in numbers.items()}
        return {"name": f"view: {name}", **rounded, "unit": unit, "repeats": len(values), **facts}

    began = time.monotonic()
    server = Server(shards, command="view")
    yield row("start, from the command to its address", [time.monotonic() - began], "s") | {"runs": 1}
    with chromium() as browser:
        firsts, in_page, in_server = [], [], []
        for _ in range(REPEATS):
            context = browser.new_context(viewport=WINDOW)
            page = context.new_page()
            developer = page.context.new_cdp_session(page)
            developer.send("Performance.enable", {"timeDomain": "threadTicks"})
            in_server.append(-server_seconds(server))
            page.goto(server.address, wait_until="commit")
            firsts.append(page.evaluate(FIRST) / 1000)
            in_page.append(task_seconds(developer))
            in_server[-1] += server_seconds(server)
            context.close()
        yield row("first view after the start", firsts[:1], "s") | {"runs": 1}
        yield row("first view", firsts, "s")
        yield row("work of the first view, the page's thread", in_page, "s")
        yield row("work of the first view, the server", in_server, "s")
        page = browser.new_context(viewport=WINDOW).new_page()
        page.goto(server.address)
        page.evaluate(FIRST)
        developer = page.context.new_cdp_session(page)
        developer.send("Performance.enable", {"timeDomain": "threadTicks"})
        height = page.evaluate("document.querySelector('#grid .sizer').offsetHeight")
        for name, speed in (("slow", 8 * 214), ("fast", height / SECONDS / (REPEATS + 1))):
            rates, longest, work = [], [], []
            for _ in range(REPEATS):
                busy = -task_seconds(developer)
                waits = page.evaluate(SCROLL, [speed, SECONDS])
                busy += task_seconds(developer)
                work.append(1000 * busy / len(waits))
                rates.append(1000 * len(waits) / sum(waits))
                longest.append(max(waits))
            yield row(f"scroll, {name}", rates, "frames/s") | {"pixels_per_s": round(speed)}
            yield row(f"work of a frame of a scroll, {name}", work, "ms") | {"pixels_per_s": round(speed)}
            yield row(f"longest frame of a scroll, {name}", longest, "ms") | {"pixels_per_s": round(speed)}
        page.evaluate("document.querySelector('#grid').scrollTop = 0")
        yield row("filter by class", [page.evaluate(FILTER, n) for n in range(REPEATS)], "ms")
    server.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=118_287)
    parser.add_argument("--note", help="what else a reader of the rows has to know")
    parser.add_argument("--results", type=Path)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        write(Path(work, "shards"), chosen.records)
        for measured in measure(Path(work, "shards"), chosen.records):
            print(json.dumps(measured), flush=True)
            record_rows([measured | ({"note": chosen.note} if chosen.note else {})], chosen.results)


if __name__ == "__main__":
    main()

"""20,000 JPEGs: `dataforge ingest` against `cp -r` of the same folder, on a warm page cache; and ingest's memory.

    python bench/ingest.py [--data DIR] [--images 20000] [--repeats 5] [--jobs 2] [--results FILE]

The pictures of the VOC sets in DIR (`bccd` and `fod_a_2k`; drawn ones where there are none) are repeated under new
names in a temporary folder, as a COCO set with three boxes a picture. Each is timed as a command from start to end,
in turn; each ingest has Python's start and imports (from cached bytecode) in its time. `cp` leaves what it wrote in
the page cache; ingest waits until its shards are on the disk (fsync), so a third figure copies and flushes
(`cp -r; sync` of these files). Peak memory is that of the process, for a tenth, half and all of the pictures.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO))


def pictures(data: Path | None) -> list[tuple[bytes, int, int]]:
    """(bytes, height, width) of what is repeated."""
    from dataforge.images.header import probe
    from dataforge.images.synth import write

    with tempfile.TemporaryDirectory() as folder:
        found = [path for name in ("fod_a_2k", "bccd") for path in sorted((data or Path()).glob(f"{name}/**/*.jpg"))]
        if not found:
            write(Path(folder, "drawn"), images=200, size=(300, 300))
            found = sorted(Path(folder, "drawn").rglob("*.jpg"))
        blobs = [path.read_bytes() for path in found]
    return [(blob, probe(blob).height, probe(blob).width) for blob in blobs]


def make(root: Path, images: int, from_: list[tuple[bytes, int, int]]) -> int:
    """Write a COCO set; gives its bytes."""
    (root / "train").mkdir(parents=True)
    (root / "annotations").mkdir()
    listed: list[dict[str, Any]] = []
    boxes: list[dict[str, Any]] = []
    total = 0
    for n in range(images):
        blob, height, width = from_[n % len(from_)]
        (root / f"train/{n:06d}.jpg").write_bytes(blob)
        total += len(blob)
        listed.append({"id": n, "file_name": f"{n:06d}.jpg", "height": height, "width": width})
        for label in range(3):
            bbox = [5 + label + n % 7, 6.25, 30.5, 20 + label]
            boxes.append({"id": len(boxes), "image_id": n, "category_id": label, "bbox": bbox, "iscrowd": 0})
    classes = [{"id": n, "name": f"class {n}"} for n in range(3)]
    facts = {"images": listed, "annotations": boxes, "categories": classes}
    (root / "annotations/instances_train.json").write_text(json.dumps(facts))
    return total


def run(command: list[str], cache: Path) -> dict[str, float]:
    """Wall seconds, CPU seconds and peak MiB of a command."""
    environment = {**os.environ, "PYTHONPATH": str(REPO), "PYTHONPYCACHEPREFIX": str(cache)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}")
    scale = 1 if sys.platform == "darwin" else 1024
    return {"time": seconds, "cpu": usage.ru_utime + usage.ru_stime, "memory": usage.ru_maxrss * scale / 2**20}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder with bccd and fod_a_2k")
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--results", type=Path)
    given = parser.parse_args()
    from dataforge.bench.measure import record_rows

    source = pictures(given.data)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="dataforge-bench-") as folder:
        root, out, cache = Path(folder, "set"), Path(folder, "out"), Path(folder, "bytecode")
        weight = make(root, given.images, source)
        print(f"{given.images} JPEGs, {weight / 1e6:.0f} MB, {given.jobs} jobs", file=sys.stderr)

        def ingest(place: Path, jobs: int) -> dict[str, float]:
            command = [sys.executable, "-m", "dataforge", "ingest", "coco", str(place), "--out", str(out), "--json"]
            return run([*command, "--jobs", str(jobs)], cache)

        sides: dict[str, Callable[[], dict[str, float]]] = {
            "cp -r": lambda: run(["cp", "-r", str(root), str(out)], cache),
            "cp -r, flushed": lambda: run(["sh", "-c", f"cp -r '{root}' '{out}' && sync -f '{out}'"], cache),
            f"ingest, {given.jobs} jobs": lambda: ingest(root, given.jobs),
            "ingest, 1 job": lambda: ingest(root, 1),
        }
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
        for turn in range(given.repeats + 1):
            for name, side in sides.items():
                os.sync()
                one = side()
                shutil.rmtree(out)
                if turn:  # the first fills the caches
                    runs[name].append(one)
        setting = {"images": given.images, "bytes": weight, "repeats": given.repeats, "cache": "warm"}
        for name, each in runs.items():
            rates = sorted(given.images / one["time"] for one in each)
            cpu = statistics.median(one["cpu"] for one in each)
            row = {"name": f"ingest_copy, {name}", "value": round(statistics.median(rates)), "unit": "img/s"}
            row |= {"low": round(rates[0]), "high": round(rates[-1]), "cpu_seconds": round(cpu, 2)}
            rows.append(row | setting)
        for part in (10, 2, 1):
            shutil.rmtree(root)
            make(root, given.images // part, source)
            peak = round(ingest(root, given.jobs)["memory"])
            shutil.rmtree(out)
            row = {"name": "ingest, peak memory", "value": peak, "unit": "MiB", "images": given.images // part}
            rows.append(row | {"runs": 1, "jobs": given.jobs})
    for row in rows:
        more = f"({row['low']} to {row['high']}; {row['cpu_seconds']} s of CPU)" if "low" in row else row["images"]
        print(f"{row['name']:<30}{row['value']:>8} {row['unit']}  {more}")
    plain, flushed, ours = (row["value"] for row in rows[:3])
    print(f"ingest / cp -r: {ours / plain:.2f}; ingest / cp -r flushed: {ours / flushed:.2f}")
    record_rows(rows, given.results)


if __name__ == "__main__":
    main()

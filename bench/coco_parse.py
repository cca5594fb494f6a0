"""COCO JSON of train2017's size, parsed: pycocotools' `COCO()` against dataforge up to the written Arrow table.

    python bench/coco_parse.py [--images 118000] [--boxes 860000] [--repeats 3] [--results FILE]

A JSON of so many images and boxes is made in a temporary folder, with polygons as long as the real ones, so that it has
about 450 MB. Each side runs in a process of its own, in turn. Time is from the call to its end, imports apart; memory
is the process's peak. dataforge reads the file with the format's own reader and writes the table of a shard with all
boxes; there are no pictures. The reader parses polygons when they are used, which is not here but in an ingest.
`--results` appends the rows to a file.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

PYCOCOTOOLS = """
import sys, time, contextlib, io
from pycocotools.coco import COCO
start, cpu = time.perf_counter(), time.process_time()
with contextlib.redirect_stdout(io.StringIO()):
    found = COCO(sys.argv[1])
boxes = len(found.anns)
"""
DATAFORGE = """
import sys, time
from pathlib import Path
import numpy as np, pyarrow as pa
from dataforge.formats.coco import read
from dataforge.record import Record
from dataforge.shards.table import Jagged, write_table
start, cpu = time.perf_counter(), time.process_time()
file = Path(sys.argv[1])
columns = {name: [] for name in ("key", "id", "height", "width", "orientation", "size", "crc")}
boxes, labels, flags, areas, counts = [], [], [], [], [0]
for record in read(file.parent, annotations=file).records:
    if isinstance(record, Record):
        row = (record.key, record.id, record.height, record.width, 1, 0, 0)
        for column, value in zip(columns.values(), row):
            column.append(value)
        boxes.append(record.boxes), labels.append(record.labels), flags.append(record.flags)
        areas.append(record.areas), counts.append(len(record.boxes))
parts = (np.concatenate(part) for part in (boxes, labels, flags, areas))
write_table(Path(sys.argv[2]), columns, Jagged(*parts, np.cumsum(counts)))
boxes = sum(counts)
"""
REPORT = """
import json, resource
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
seconds = time.perf_counter() - start
print(json.dumps({"time": seconds, "cpu": time.process_time() - cpu, "memory": peak / 2**20, "boxes": boxes}))
"""


def make(path: Path, images: int, boxes: int) -> None:
    """Write the JSON. A polygon has 22 points on average, with two decimals, as in the real file."""
    rng = random.Random(0)
    polygons = []
    for _ in range(2000):
        points = max(6, round(2 * rng.gammavariate(2, 11)))
        polygons.append(", ".join(f"{rng.uniform(0, 640):.2f}" for _ in range(points + points % 2)))
    with open(path, "w") as file:
        file.write('{"info": {"year": 2017}, "licenses": [], "images": [')
        for n in range(images):
            facts = {
                "license": 3,
                "file_name": f"{n:012d}.jpg",
                "coco_url": f"http://images.example.org/train2017/{n:012d}.jpg",
                "height": 480,
                "width": 640,
                "date_captured": "2013-11-14 16:28:13",
                "flickr_url": f"http://farm4.example.org/3153/{n:010d}_cbb8b0d5c5_z.jpg",
                "id": 3 * n + 9,
            }
            file.write((", " if n else "") + json.dumps(facts))
        file.write('], "annotations": [')
        for n in range(boxes):
            x, y = rng.uniform(0, 500), rng.uniform(0, 400)
            width, height = rng.uniform(2, 640 - x), rng.uniform(2, 480 - y)
            file.write(
                f'{", " if n else ""}{{"segmentation": [[{polygons[n % 2000]}]], "area": {width * height / 2:.6f}, '
                f'"iscrowd": {int(n % 90 == 0)}, "image_id": {3 * rng.randrange(images) + 9}, '
                f'"bbox": [{x:.2f}, {y:.2f}, {width:.2f}, {height:.2f}], "category_id": {n % 80 + 1}, "id": {n + 1}}}'
            )
        categories = [{"supercategory": "thing", "id": n + 1, "name": f"class {n + 1}"} for n in range(80)]
        file.write(f'], "categories": {json.dumps(categories)}}}')


def run(code: str, *arguments: Path) -> dict[str, float]:
    """What one process says of itself."""
    setup = f"import sys\nsys.path.insert(0, {sys.path[0]!r})\n"
    command = [sys.executable, "-c", setup + code + REPORT, *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    facts: dict[str, float] = json.loads(done.stdout)
    return facts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=118_000)
    parser.add_argument("--boxes", type=int, default=860_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--results", type=Path)
    given = parser.parse_args()
    from dataforge.bench.measure import record_rows

    found: dict[str, list[dict[str, float]]] = {"pycocotools": [], "dataforge": []}
    with tempfile.TemporaryDirectory(prefix="dataforge-bench-") as folder:
        file = Path(folder, "instances_train2017.json")
        make(file, given.images, given.boxes)
        size = file.stat().st_size
        print(f"{given.images} images, {given.boxes} boxes, {size / 1e6:.0f} MB", file=sys.stderr)
        for _ in range(given.repeats):
            found["pycocotools"].append(run(PYCOCOTOOLS, file))
            found["dataforge"].append(run(DATAFORGE, file, Path(folder, "table.arrow")))
            assert found["pycocotools"][-1]["boxes"] == found["dataforge"][-1]["boxes"] == given.boxes
    rows: list[dict[str, Any]] = []
    for figure, unit in (("time", "s"), ("cpu", "s"), ("memory", "MiB")):
        for name, runs in found.items():
            values = sorted(one[figure] for one in runs)
            row = {"name": f"coco_parse, {name}, {figure}", "value": round(statistics.median(values), 2), "unit": unit}
            row |= {"low": round(values[0], 2), "high": round(values[-1], 2), "repeats": given.repeats, "cache": "warm"}
            rows.append(row | {"images": given.images, "boxes": given.boxes, "file_mb": round(size / 1e6)})
            print(f"{row['name']:<34}{row['value']:>9} {unit}  ({row['low']} to {row['high']})")
        theirs, ours = (row["value"] for row in rows[-2:])
        print(f"  dataforge / pycocotools, {figure}: {ours / theirs:.3f}")
    record_rows(rows, given.results)


if __name__ == "__main__":
    main()

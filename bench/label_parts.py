"""Where the processor time of a file goes in dataforge's readers of VOC, TFRecord and Ultralytics' NDJSON.

    python bench/label_parts.py [--images 10000] [--repeats 5] [--results FILE]

Each part is run alone on the sets of `label_sets`, on a warm page cache; some contain others, as their names say.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import google_crc32c
import msgspec
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.label_sets import HIGH, MAKERS, WIDE
from dataforge.bench.measure import record_rows
from dataforge.files import read_bytes
from dataforge.formats import reader
from dataforge.formats.json_files import read_lines, uncollected
from dataforge.formats.pictures import locate
from dataforge.formats.table.arrow_files import open_file
from dataforge.formats.table.reader import read as read_table
from dataforge.formats.ultralytics.reader import EXPECTED, Line
from dataforge.formats.voc.files import files_of_lists
from dataforge.formats.voc.forms import Forms
from dataforge.formats.voc.parser import Parser
from dataforge.images.header import read_size

Part = Callable[[], Any]


def voc(root: Path) -> dict[str, Part]:
    paths = sorted(Path(root, "Annotations").iterdir())
    texts = [path.read_bytes() for path in paths]
    forms, parser = Forms(), Parser(1)
    forms.learn(texts[0])
    parser.parse(paths[0])
    return {
        "folders listed, ids": lambda: files_of_lists(root),
        "files opened and read": lambda: [read_bytes(path) for path in paths],
        "texts taken by patterns": lambda: [forms.read(text) for text in texts],
        "all of parsing": lambda: [parser.parse(path) for path in paths],
    }


def table(root: Path) -> dict[str, Part]:
    path = root / "train.tfrecord"
    data = path.read_bytes()
    return {
        "checksums": lambda: google_crc32c.value(data),
        "index, types of features": lambda: open_file(path),
        "opened, classes": lambda: read_table(root),
    }


def ultralytics(root: Path) -> dict[str, Part]:
    names = [f"{path.name}" for path in sorted((root / "images").iterdir())]
    paths = [root / "images" / name for name in names]
    lines = (root / "set.ndjson").read_bytes().splitlines()
    loose = msgspec.json.Decoder()
    return {
        "JSON alone": lambda: [loose.decode(line) for line in lines],
        "lines read and checked": lambda: [line for _, line in read_lines(root / "set.ndjson", Line, EXPECTED)],
        "images found": lambda: locate(names, [root / "images"], root, root),
        "sizes of images read": lambda: [read_size(path) for path in paths],
    }


def taken(part: Part, repeats: int) -> float:
    """Return the median processor time of a part, in seconds."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        with uncollected():
            part()
        times.append(time.process_time() - start)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--note", default="", help="what else the machine does, for the rows")
    parser.add_argument("--results", type=Path)
    given = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="dataforge-bench-") as folder:
        Image.new("RGB", (WIDE, HIGH)).save(Path(folder, "picture.jpg"))
        picture = Path(folder, "picture.jpg").read_bytes()
        for parts in (voc, table, ultralytics):
            name, root = parts.__name__, Path(folder, parts.__name__)
            MAKERS[name](root, given.images, picture)
            read = reader(name)
            every = parts(root) | {"the whole": lambda read=read, root=root: sum(1 for _ in read(root).records)}
            for what, part in every.items():
                cost = taken(part, given.repeats) / given.images * 1e6
                row = {"name": f"label_parts, {name}, {what}", "value": round(cost, 2), "unit": "us of processor/file"}
                rows.append(row | {"images": given.images, "repeats": given.repeats, "note": given.note})
                print(f"{row['name']:<60}{row['value']:>8.2f}")
    record_rows(rows, given.results)


if __name__ == "__main__":
    main()

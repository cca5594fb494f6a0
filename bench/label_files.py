"""Folders of small label files, NDJSON and TFRecord, read: the readers of other projects against dataforge's.

    python bench/label_files.py --peers PYTHON [--images 100000] [--repeats 3] [--formats yolo,voc] [--results FILE]

Each set has so many small pictures with five boxes each, in a temporary folder. PYTHON is an environment with
labelformat, tfrecord (both MIT) and Pillow. For LabelMe's JSON and Ultralytics' NDJSON only their own reader was found;
their row is a plain loop over Python's json. Each side is a process of its own, in turn, on a warm page cache: from the
call to the last box, imports apart. `--before` adds another checkout of dataforge.

The peers do less: labelformat opens the images of YOLO, but looks for none of VOC's and takes the names of the classes
from its caller; tfrecord compares no checksum; the loops over json check and convert nothing. dataforge finds each
image, the sizes that fractions are of, checks every number, names files that belong to nothing, and returns arrays. So
a second row of a peer does the main part of that as well: "+ ...".
"""

from __future__ import annotations

import argparse
import json
import statistics
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO))

BOXES, WIDE, HIGH = 5, 64, 48
CLASSES = ("cat", "dog", "owl", "cow")
START = """
import sys, time, glob, json, resource
root = sys.argv[1]
{imports}
start = time.perf_counter(), time.process_time()
"""
END = """
taken = time.perf_counter() - start[0], time.process_time() - start[1]
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(json.dumps({"time": taken[0], "cpu": taken[1], "memory": peak / 2**20, "boxes": boxes}))
"""
LABELFORMAT = "boxes = sum(len(one.objects) for one in Input({how}).get_labels(){checks})"
ARRAYS = """
import os, numpy as np
from PIL import Image
def edges(boxes, width=1, height=1):
    sides = [[x - w / 2, y - h / 2, x + w / 2, y + h / 2] for x, y, w, h in boxes]
    return (np.array(sides) * (width, height, width, height)).astype(np.float32), np.isfinite(sides).all()
"""
NDJSON = """
boxes = 0
with open(root + '/set.ndjson') as file:
    for line in file:
        facts = json.loads(line)
        if 'annotations' in facts:
            with Image.open(root + '/images/' + facts['file']) as image:
                boxes += len(edges([row[1:] for row in facts['annotations']['boxes']], *image.size)[0])
"""
LABELME = """
boxes = 0
for path in sorted(glob.glob(root + '/*.json')):
    with open(path) as file:
        facts = json.load(file)
    assert os.path.exists(os.path.join(root, facts['imagePath']))
    points = [np.array(shape['points']) for shape in facts['shapes']]
    boxes += len(np.array([[*one.min(0), *one.max(0)] for one in points], np.float32))
"""
TFRECORD = """
import crc32c
for data in tfrecord_iterator(root + '/train.tfrecord'):
    crc32c.crc32c(bytes(data))
"""
PLAIN = "boxes = 0\nfor path in glob.glob(root + '/{files}'):\n    with open(path) as file:\n        {count}"
PEERS: dict[str, dict[str, tuple[str, str]]] = {
    "yolo": {
        "labelformat": (
            "from pathlib import Path\nfrom labelformat.formats.yolov8 import YOLOv8ObjectDetectionInput as Input",
            LABELFORMAT.format(how="Path(root, 'data.yaml'), 'train'", checks=""),
        ),
    },
    "voc": {
        "labelformat" + name: (
            "import os\nfrom pathlib import Path\n"
            "from labelformat.formats.pascalvoc import PascalVOCObjectDetectionInput as Input",
            LABELFORMAT.format(how=f"Path(root, 'Annotations'), {','.join(CLASSES)!r}", checks=checks),
        )
        for name, checks in (
            ("", ""),
            (" + images found", " if os.path.exists(os.path.join(root, 'JPEGImages', one.image.filename))"),
        )
    },
    "labelme": {
        "json.load": ("", PLAIN.format(files="*.json", count="boxes += len(json.load(file)['shapes'])")),
        "json.load + images found, arrays": (ARRAYS, LABELME),
    },
    "ultralytics": {
        "json.loads": (
            "",
            PLAIN.format(
                files="*.ndjson",
                count="boxes += sum(len(json.loads(line).get('annotations', {}).get('boxes', ())) for line in file)",
            ),
        ),
        "json.loads + sizes by Pillow, arrays": (ARRAYS, NDJSON),
    },
    "table": {
        "tfrecord" + name: (
            "from tfrecord.reader import tfrecord_iterator, tfrecord_loader",
            checks
            + "boxes = sum(len(x['image/object/bbox/xmin']) for x in tfrecord_loader(root + '/train.tfrecord', None))",
        )
        for name, checks in (("", ""), (" + checksums", TFRECORD))
    },
}
OURS = """
boxes = 0
for record in reader(sys.argv[2])(Path(root)).records:
    if isinstance(record, Record):
        boxes += len(record.boxes)
"""
IMPORTS = """
from pathlib import Path
from dataforge.formats import reader
from dataforge.record import Record
reader(sys.argv[2])
if sys.argv[2] == "table":
    import pyarrow
    pyarrow.array([1])  # imports pandas if it is installed
"""


def unit(n: int, box: int) -> tuple[float, float, float, float]:
    """The corners of a box, in fractions."""
    x, y = (n % 7 + box) / 20, (n % 5 + box) / 16
    return x, y, x + 0.25, y + 0.125


def make_yolo(root: Path, images: int, picture: bytes) -> None:
    for name in ("images/train", "labels/train"):
        (root / name).mkdir(parents=True)
    (root / "data.yaml").write_text(f"path: .\ntrain: images/train\nnames: {json.dumps([*CLASSES])}\n")
    for n in range(images):
        (root / f"images/train/{n:06d}.jpg").write_bytes(picture)
        corners = (unit(n, box) for box in range(BOXES))
        lines = (f"{n % 4} {x1 + 0.125:.6f} {y1 + 0.0625:.6f} 0.25 0.125\n" for x1, y1, _, _ in corners)
        (root / f"labels/train/{n:06d}.txt").write_text("".join(lines))


def make_voc(root: Path, images: int, picture: bytes) -> None:
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / name).mkdir(parents=True)
    (root / "ImageSets/Main/train.txt").write_text("".join(f"{n:06d}\n" for n in range(images)))
    for n in range(images):
        (root / f"JPEGImages/{n:06d}.jpg").write_bytes(picture)
        parts = []
        for x1, y1, x2, y2 in (unit(n, box) for box in range(BOXES)):
            corners = zip(
                ("xmin", "ymin", "xmax", "ymax"), (x1 * WIDE + 1, y1 * HIGH + 1, x2 * WIDE, y2 * HIGH), strict=True
            )
            bndbox = "".join(f"<{name}>{int(value)}</{name}>" for name, value in corners)
            parts.append(
                f"<object><name>{CLASSES[n % 4]}</name><pose>Left</pose><truncated>0</truncated>"
                f"<difficult>0</difficult><bndbox>{bndbox}</bndbox></object>"
            )
        (root / f"Annotations/{n:06d}.xml").write_text(
            f"<annotation><folder>VOC</folder><filename>{n:06d}.jpg</filename><size><width>{WIDE}</width><height>{HIGH}"
            f"</height><depth>3</depth></size><segmented>0</segmented>{''.join(parts)}</annotation>"
        )


def make_labelme(root: Path, images: int, picture: bytes) -> None:
    root.mkdir()
    for n in range(images):
        (root / f"{n:06d}.jpg").write_bytes(picture)
        shapes = []
        for x1, y1, x2, y2 in (unit(n, box) for box in range(BOXES)):
            points = [[x1 * WIDE, y1 * HIGH], [x2 * WIDE, y2 * HIGH]]
            shapes.append({"label": CLASSES[n % 4], "points": points, "shape_type": "rectangle", "flags": {}})
        facts = {"version": "5.4.1", "flags": {}, "shapes": shapes, "imagePath": f"{n:06d}.jpg", "imageData": None}
        (root / f"{n:06d}.json").write_text(json.dumps({**facts, "imageHeight": HIGH, "imageWidth": WIDE}, indent=2))


def make_ultralytics(root: Path, images: int, picture: bytes) -> None:
    (root / "images").mkdir(parents=True)
    with open(root / "set.ndjson", "w") as file:
        names = dict(enumerate(CLASSES))
        file.write(json.dumps({"type": "dataset", "task": "detect", "name": "set", "class_names": names}) + "\n")
        for n in range(images):
            (root / f"images/{n:06d}.jpg").write_bytes(picture)
            boxes = [
                [n % 4, x1 + 0.125, y1 + 0.0625, 0.25, 0.125] for x1, y1, _, _ in (unit(n, b) for b in range(BOXES))
            ]
            facts = {"type": "image", "file": f"{n:06d}.jpg", "width": WIDE, "height": HIGH, "split": "train"}
            file.write(json.dumps({**facts, "annotations": {"boxes": boxes}}) + "\n")


def make_table(root: Path, images: int, picture: bytes) -> None:
    import google_crc32c

    def sized(tag: int, data: bytes) -> bytes:
        length = len(data)
        return bytes([tag << 3 | 2, *([length] if length < 128 else [length & 127 | 128, length >> 7])]) + data

    def feature(name: str, kind: int, data: bytes) -> bytes:
        return sized(1, sized(1, name.encode()) + sized(2, sized(kind, data)))

    def masked(data: bytes) -> bytes:
        crc = google_crc32c.value(data)
        return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)

    root.mkdir()
    with open(root / "train.tfrecord", "wb") as file:
        for n in range(images):
            parts = [feature("image/encoded", 1, sized(1, picture))]
            parts += [feature("image/filename", 1, sized(1, f"{n:06d}.jpg".encode()))]
            parts += [
                feature(f"image/{name}", 3, sized(1, bytes([side])))
                for name, side in (("height", HIGH), ("width", WIDE))
            ]
            corners = list(zip(*(unit(n, box) for box in range(BOXES)), strict=True))
            for name, values in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True):
                parts.append(feature(f"image/object/bbox/{name}", 2, sized(1, struct.pack(f"<{BOXES}f", *values))))
            text = b"".join(sized(1, CLASSES[n % 4].encode()) for _ in range(BOXES))
            parts += [
                feature("image/object/class/text", 1, text),
                feature("image/object/class/label", 3, sized(1, bytes([1 + n % 4] * BOXES))),
            ]
            data = sized(1, b"".join(parts))
            head = struct.pack("<Q", len(data))
            file.write(head + masked(head) + data + masked(data))


MAKERS: dict[str, Callable[[Path, int, bytes], None]] = {
    "yolo": make_yolo,
    "voc": make_voc,
    "labelme": make_labelme,
    "ultralytics": make_ultralytics,
    "table": make_table,
}


def run(python: str, imports: str, code: str, *arguments: str) -> dict[str, float]:
    """What one process says of itself."""
    command = [python, "-c", START.format(imports=imports) + code + END, *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
    facts: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return facts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", required=True, help="the python of an environment with the peers")
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--formats", default=",".join(MAKERS))
    parser.add_argument("--before", type=Path, help="another checkout of dataforge")
    parser.add_argument("--note", default="", help="what else the machine does, for the rows")
    parser.add_argument("--results", type=Path)
    given = parser.parse_args()
    from PIL import Image

    from dataforge.bench.measure import record_rows

    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="dataforge-bench-") as folder:
        Image.new("RGB", (WIDE, HIGH)).save(Path(folder, "picture.jpg"))
        picture = Path(folder, "picture.jpg").read_bytes()
        for name in given.formats.split(","):
            root = Path(folder, name)
            MAKERS[name](root, given.images, picture)
            sides = {peer: (given.peers, *how, str(root)) for peer, how in PEERS[name].items()}
            for side, checkout in (("dataforge before", given.before), ("dataforge", REPO)):
                if checkout:
                    imports = f"sys.path.insert(0, {str(checkout.resolve())!r})" + IMPORTS
                    sides[side] = (sys.executable, imports, OURS, str(root), name)
            runs: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
            for _ in range(given.repeats):
                for side, how in sides.items():
                    runs[side].append(run(*how))
                    assert runs[side][-1]["boxes"] == given.images * BOXES, (side, runs[side][-1])
            for side, each in runs.items():
                median = {key: statistics.median(one[key] for one in each) for key in ("time", "cpu", "memory")}
                row = {"name": f"label_files, {name}, {side}", "value": round(given.images / median["cpu"])}
                row |= {"unit": "files/s of processor time", "seconds": round(median["time"], 2)}
                row |= {"cpu_seconds": round(median["cpu"], 2), "memory_mib": round(median["memory"])}
                row |= {"images": given.images, "boxes": BOXES * given.images, "repeats": given.repeats}
                rows.append(row | ({"note": given.note} if given.note else {}))
                print(
                    f"{row['name']:<64}{row['value']:>8} files/s of CPU  {row['memory_mib']} MiB  ({row['seconds']} s)"
                )
    record_rows(rows, given.results)


if __name__ == "__main__":
    main()

"""Folders of small label files, NDJSON and TFRecord, read: the readers of other projects against dataforge's.

    python bench/label_files.py [--peers PYTHON] [--images 100000] [--repeats 3] [--formats yolo,voc] [--results FILE]

Each set has so many small pictures with five boxes each, in a temporary folder. PYTHON is an environment with
labelformat, globox, datumaro, tfrecord (all MIT) and Pillow. Of Ultralytics' NDJSON, which only its own package (AGPL)
reads, and as a limit of LabelMe's, there is a plain loop over Python's json, which is no reader. datumaro's reader of
TFRecord needs TensorFlow and has no row. Each side is a process of its own, in turn, on a warm page cache: from the
call to the last box, imports apart. `--before` adds another checkout of dataforge. With `--images 10000,40000` there
are sets of both sizes, and a row "growth": the bytes by which the peak memory differs, a file.

The peers do less: labelformat opens the images of YOLO, but looks for none of VOC's or Labelbox's and takes the names
of the classes from its caller; globox looks for no image of LabelMe's; tfrecord compares no checksum; the loops over
json check and convert nothing. dataforge finds each image, the sizes that fractions are of, checks every number, names
files that belong to nothing, and returns arrays. So a second row of a peer does the main part of that as well: "+ ...".
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO))

from bench.label_sets import BOXES, CLASSES, HIGH, MAKERS, WIDE  # noqa: E402

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
        "datumaro": (
            "from datumaro import Dataset",
            "boxes = sum(len(one.annotations) for one in Dataset.import_from(root, 'yolo'))",
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
        "globox": (
            "from globox import AnnotationSet",
            "boxes = sum(len(one.boxes) for one in AnnotationSet.from_labelme(root))",
        ),
        "json.load": ("", PLAIN.format(files="*.json", count="boxes += len(json.load(file)['shapes'])")),
        "json.load + images found, arrays": (ARRAYS, LABELME),
    },
    "labelbox": {
        "labelformat": (
            "from pathlib import Path\nfrom labelformat.formats.labelbox import LabelboxObjectDetectionInput as Input",
            LABELFORMAT.format(how=f"Path(root, 'export.ndjson'), {','.join(CLASSES)!r}", checks=""),
        ),
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


def run(python: str, imports: str, code: str, *arguments: str) -> dict[str, float]:
    """What one process says of itself."""
    command = [python, "-c", START.format(imports=imports) + code + END, *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
    facts: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return facts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", help="the python of an environment with the peers; without it, dataforge alone")
    parser.add_argument("--images", default="100000", help="in each set; several sizes are separated by commas")
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
            peaks: dict[str, dict[int, float]] = {}
            for images in map(int, given.images.split(",")):
                root = Path(folder, f"{name}-{images}")
                MAKERS[name](root, images, picture)
                for side, row in measured(name, root, images, given).items():
                    peaks.setdefault(side, {})[images] = row["memory_mib"]
                    rows.append(row)
            for side, sizes in peaks.items():
                if len(sizes) > 1:
                    fewest, most = min(sizes), max(sizes)
                    value = round((sizes[most] - sizes[fewest]) * 2**20 / (most - fewest))
                    row = {"name": f"label_files, {name}, {side}, growth", "value": value, "unit": "bytes/file of peak"}
                    rows.append(row | {"images": [fewest, most], "repeats": given.repeats, "note": given.note})
                    print(f"{row['name']:<64}{value:>8} bytes/file")
    record_rows(rows, given.results)


def measured(name: str, root: Path, images: int, given: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return the row of each side for a set of a format."""
    peers = PEERS[name] if given.peers else {}
    sides = {peer: (given.peers, *how, str(root)) for peer, how in peers.items()}
    for side, checkout in (("dataforge before", given.before), ("dataforge", REPO)):
        if checkout:
            imports = f"sys.path.insert(0, {str(checkout.resolve())!r})" + IMPORTS
            sides[side] = (sys.executable, imports, OURS, str(root), name)
    runs: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    for _ in range(given.repeats):
        for side, how in sides.items():
            runs[side].append(run(*how))
            assert runs[side][-1]["boxes"] == images * BOXES, (side, runs[side][-1])
    rows: dict[str, dict[str, Any]] = {}
    for side, each in runs.items():
        median = {key: statistics.median(one[key] for one in each) for key in ("time", "cpu", "memory")}
        row = {"name": f"label_files, {name}, {side}", "value": round(images / median["cpu"])}
        row |= {"unit": "files/s of processor time", "seconds": round(median["time"], 2)}
        row |= {"cpu_seconds": round(median["cpu"], 2), "memory_mib": round(median["memory"], 1)}
        row |= {"images": images, "boxes": BOXES * images, "repeats": given.repeats}
        rows[side] = row | ({"note": given.note} if given.note else {})
        print(f"{row['name']:<64}{row['value']:>8} files/s of CPU  {row['memory_mib']} MiB  ({row['seconds']} s)")
    return rows


if __name__ == "__main__":
    main()

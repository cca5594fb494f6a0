"""Tables (CSV, TSV, JSON lines, Parquet, Arrow, TFRecord), a row per box or per image; headers: see `columns`."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

from dataforge.errors import DataforgeError
from dataforge.formats import ALLOW_OUTSIDE, BOXES, IMAGES, UNIT, Codes, Option, on_use
from dataforge.formats.sniff import FILES, first, head, seen

LOOKS_FOR = "a CSV or JSONL file with xmin or bbox, or a Parquet, Arrow or TFRecord file"
HOLDS = frozenset({"crowd", "difficult", "truncated", "areas", "ids", "keys", "splits", "classes", "class_ids"})
OPTIONS = (
    IMAGES,
    Option("map", "Which columns hold what.", metavar="FIELD=COLUMN,...|FILE.toml"),
    BOXES,
    UNIT,
    Option(
        "hierarchy", "Open Images' file of its classes: boxes are added for the ancestors of a class.", Path, "FILE"
    ),
    Option("inclusive", "xmax and ymax are the numbers of the last pixels.", bool),
    ALLOW_OUTSIDE,
)
CODES: Codes = {
    "no-label": ("warning", "the image has no label file: it may be empty or unlabelled"),
    "row-uneven": ("error", "the lists of a row have different lengths"),
    "boxes-expanded": ("info", "boxes were added for the ancestors of their classes"),
    "absent-boxed": ("warning", "a class that was verified as absent has boxes in its image"),
    "looks-unit": ("warning", "boxes look like fractions of the image size but are read as pixels"),
}

__getattr__ = on_use(__name__)


def sniff(root: Path) -> str:
    from dataforge.formats.croissant.metadata import metadata
    from dataforge.formats.table.arrow_files import SUFFIXES, suffix_of
    from dataforge.formats.table.samples import TAR

    if metadata(root):  # which says what its tables mean
        return ""
    name = first(root, _is_table, *SUFFIXES, deep=2)
    if not name and suffix_of(root) in TAR and root.is_dir():
        return seen(root.name if _is_table(root) else "", "a WebDataset of boxes")
    return seen(name, "a table of boxes")


def _is_table(path: Path) -> bool:
    """Return True for a table whose columns `read` knows."""
    from dataforge.formats.table.arrow_files import TFRECORD, open_file, reading, suffix_of
    from dataforge.formats.table.columns import recognise
    from dataforge.formats.table.samples import TAR, Samples

    words = rb"(?i)\A[^\n]*(xmin|x_min|x1\b|bbox|bounding|objects|\bcx\b|\bx\b)"
    without_header = rb"\A[^,\n]+,([-\d.]*,){4}"  # keras-retinanet's: path,x1,y1,x2,y2,class
    binary = rb"\A(PAR1|ARROW1|\xff{4})"
    if suffix_of(path) not in (*TFRECORD, *TAR) and not re.search(
        words + b"|" + without_header + b"|" + binary, head(path)
    ):
        return False
    with suppress(DataforgeError), reading(path):
        if suffix_of(path) in TAR:
            return bool(recognise(path, Samples(path, FILES).table.schema, {}, None, None, False))
        return bool(recognise(path, open_file(path).schema, {}, None, None, False))
    return False

"""Tables (CSV, TSV, JSON lines, Parquet, Arrow), one row per box, or per image with lists; headers: see `columns`."""

from __future__ import annotations

from pathlib import Path

from dataforge.formats import ALLOW_OUTSIDE, IMAGES, Codes, Option, on_use
from dataforge.formats.sniff import matching, seen

LOOKS_FOR = "a CSV or JSONL file with xmin or bbox, or a Parquet or Arrow file"
HOLDS = frozenset({"crowd", "difficult", "truncated", "areas", "ids", "keys", "splits", "classes", "class_ids"})
OPTIONS = (
    IMAGES,
    Option("map", "Which columns hold what.", metavar="FIELD=COLUMN,...|FILE.toml"),
    Option("boxes", "What the four numbers of a box are.", metavar="xyxy|xywh|cxcywh"),
    Option("unit", "Pixels, or fractions of the image's size.", metavar="pixel|unit"),
    Option("inclusive", "xmax and ymax are the numbers of the last pixels.", bool),
    ALLOW_OUTSIDE,
)
CODES: Codes = {
    "row-uneven": ("error", "the lists of a row have different lengths"),
    "looks-unit": ("warning", "boxes look like fractions of the image size but are read as pixels"),
}

__getattr__ = on_use(__name__)


def sniff(root: Path) -> str:
    words = rb"(?i)\A[^\n]*(xmin|x_min|x1\b|bbox|bounding|objects)"
    without_header = rb"\A[^,\n]+,([-\d.]*,){4}"  # keras-retinanet's: path,x1,y1,x2,y2,class
    text = matching(root, words + b"|" + without_header, ".csv", ".tsv", ".jsonl", ".ndjson")
    binary = rb"\A(PAR1|ARROW1|\xff{4})"
    return seen(text or matching(root, binary, ".parquet", ".arrow", ".feather"), "a table of boxes")

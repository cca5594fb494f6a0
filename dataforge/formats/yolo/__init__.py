"""YOLO text labels: `class cx cy w h`, or `class x1 y1 x2 y2 x3 y3 ...`, as fractions of the upright image's size."""

from __future__ import annotations

import re
from pathlib import Path

from dataforge.files import globbed
from dataforge.formats import ALLOW_OUTSIDE, Codes, on_use
from dataforge.formats.sniff import head, matching, seen
from dataforge.formats.voc import CODES as VOC

LOOKS_FOR = "data.yaml with train, val, names; obj.data; or classes.txt and label files"
HOLDS = frozenset({"polygons", "splits", "classes"})
OPTIONS = (ALLOW_OUTSIDE,)
NAME_FILES = ("classes.txt", "obj.names", "_darknet.labels")  # the last is Roboflow's
LIST = re.compile(r"(train|val|valid|validation|test|trainval|minival|dev)([\W\d_].*)?", re.IGNORECASE)  # of a split
PLACES = ("", "labels/", "*/", "labels/*/", "*/labels/")  # where NAME_FILES are
CODES: Codes = {
    "no-label": ("warning", "the image has no label file: it may be empty or unlabelled"),
    "label-orphan": ("error", "the label file has no image"),
    "label-broken": ("error", "the label file cannot be read"),
    "class-count": ("warning", "the number of classes differs from the number stated"),
    "splits-overlap": VOC["splits-overlap"],
    "split-missing": ("warning", "a split is named but does not exist"),
}

__getattr__ = on_use(__name__)


def sniff(root: Path) -> str:
    pattern = rb"(?m)^(train|val|names)\s*:"
    if root.is_file():
        return seen(matching(root, pattern, ".yaml", ".yml"), "YOLO's train, val, names")
    for path in globbed(root, "*"):
        if path.suffix.lower() in (".yaml", ".yml") and re.search(pattern, head(path)):
            return seen(path.name, "YOLO's train, val, names")
    if (data := next(iter(globbed(root, "*.data")), None)) and re.search(rb"(?m)^names\s*=", head(data)):
        return f"{data.name}: Darknet's names and lists"
    for name in NAME_FILES:
        named = globbed(root, *(place + name for place in PLACES))
        label = matching(root, rb"\A\d+([ \t]+[-+.\deE]+){4}", ".txt") if named else ""
        if label:
            return f"{name}, and {label}: YOLO's class cx cy w h"
    return ""

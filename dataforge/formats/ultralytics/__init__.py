"""Ultralytics' NDJSON (docs.ultralytics.com/datasets/detect): a line about the set, then one for each image."""

from __future__ import annotations

from pathlib import Path

from dataforge.formats import ALLOW_OUTSIDE, IMAGES, on_use
from dataforge.formats.sniff import first, first_line, seen

LOOKS_FOR = "NDJSON whose first line is of type dataset, with class_names"
HOLDS = frozenset({"keys", "polygons", "splits", "classes"})
OPTIONS = (IMAGES, ALLOW_OUTSIDE)

__getattr__ = on_use(__name__)


def sniff(root: Path) -> str:
    return seen(first(root, is_set, ".ndjson", ".jsonl"), "Ultralytics' data set in lines")


def is_set(path: Path) -> bool:
    """Return True for lines that begin with one about a data set."""
    return {"type", "task", "class_names"} <= first_line(path).keys()

"""SQLite databases of ObjectDetectionFromScratch's plan, one per split; boxes are text, "x1,y1,x2,y2" in pixels."""

from __future__ import annotations

from pathlib import Path

from dataforge.formats import ALLOW_OUTSIDE, IMAGES, Codes, on_use
from dataforge.formats.sniff import database, seen

LOOKS_FOR = "a SQLite database"
HOLDS = frozenset({"crowd", "areas", "ids", "keys", "splits", "classes", "class_ids"})
OPTIONS = (IMAGES, ALLOW_OUTSIDE)
CODES: Codes = {"box-text": ("error", "the text cannot be read as a box")}

__getattr__ = on_use(__name__)


def sniff(root: Path) -> str:
    return seen(database(root, ".db", ".sqlite", ".sqlite3", is_sqlite=True), "SQLite")

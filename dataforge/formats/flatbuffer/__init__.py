"""DLFS FlatBuffers, ObjectDetectionFromScratch's `train.db`: one file per split, images embedded or separate."""

from __future__ import annotations

from pathlib import Path

from dataforge.formats import ALLOW_OUTSIDE, IMAGES, Codes, on_use
from dataforge.formats.sniff import database, seen

LOOKS_FOR = "a .db file that is not SQLite"
HOLDS = frozenset({"areas", "ids", "keys", "splits", "classes", "class_ids"})
OPTIONS = (IMAGES, ALLOW_OUTSIDE)
CODES: Codes = {
    "image-id": ("warning", "the image's id cannot be used"),
    "image-id-twice": ("warning", "two images have the same id"),
    "category-counts": ("info", "counts stated in the file are wrong"),
    "idx-order": ("info", "the images are not stored in the order of their idx"),
}

__getattr__ = on_use(__name__)


def sniff(root: Path) -> str:
    return seen(database(root, ".db", is_sqlite=False), "a database that is not SQLite")

"""DLFS FlatBuffers, ObjectDetectionFromScratch's `train.db`: one file per split, images embedded or separate."""

from __future__ import annotations

from pathlib import Path

from dataforge.formats import ALLOW_OUTSIDE, IMAGES, Codes, on_use
from dataforge.formats.sniff import database, seen

LOOKS_FOR = "a .db file that is not SQLite"
HOLDS = frozenset({"areas", "ids", "keys", "splits", "classes", "class_ids"})
OPTIONS = (IMAGES, ALLOW_OUTSIDE)
CODES: Codes = {
    "image-id": ("warning", "an image's number cannot be used"),
    "image-id-twice": ("warning", "two images have one number"),
    "category-counts": ("info", "counts that the file states and that are not so"),
    "idx-order": ("info", "images are numbered in another order than they stand in"),
}

__getattr__ = on_use(__name__)


def sniff(root: Path) -> str:
    return seen(database(root, ".db", is_sqlite=False), "a database that is not SQLite")

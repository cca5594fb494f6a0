"""Datumaro JSON, also CVAT's (openvinotoolkit.github.io/datumaro): a file a subset, x, y, w, h in pixels."""

from __future__ import annotations

from pathlib import Path

from dataforge.formats import ALLOW_OUTSIDE, IMAGES, on_use
from dataforge.formats.sniff import first, outline, seen

LOOKS_FOR = "a JSON object of categories and items"
HOLDS = frozenset({"polygons", "crowd", "difficult", "truncated", "keys", "splits", "classes"})
OPTIONS = (IMAGES, ALLOW_OUTSIDE)

__getattr__ = on_use(__name__)


def sniff(root: Path) -> str:
    return seen(first(root, is_datumaro, ".json"), "Datumaro's categories and items")


def is_datumaro(path: Path) -> bool:
    """Return True for an object of categories and items."""
    listed, keys = outline(path)
    return not listed and keys.get("categories") == "{" and keys.get("items") == "["

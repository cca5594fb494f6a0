"""Croissant 1.0: JSON-LD that describes tables of images and boxes, by MLCommons."""

from __future__ import annotations

from pathlib import Path

from dataforge.formats import ALLOW_OUTSIDE, Codes, on_use
from dataforge.formats.croissant.metadata import metadata
from dataforge.formats.table import CODES as TABLE
from dataforge.formats.table import HOLDS as HOLDS

LOOKS_FOR = "a JSON file with Croissant's distribution and recordSet"
OPTIONS = (ALLOW_OUTSIDE,)
CODES: Codes = TABLE

__getattr__ = on_use(__name__)


def sniff(root: Path) -> str:
    path = metadata(root)
    return f"{path.name}: Croissant's metadata" if path else ""

"""LabelMe JSON (github.com/wkentaro/labelme): one file per image, with shapes as points on the upright image."""

from __future__ import annotations

from pathlib import Path

from dataforge.formats import ALLOW_OUTSIDE, IMAGES, Codes, on_use
from dataforge.formats.sniff import first, outline, seen

LOOKS_FOR = "a JSON file with shapes"
HOLDS = frozenset({"polygons", "multipolygons", "crowd", "difficult", "truncated", "keys", "splits", "classes"})
OPTIONS = (IMAGES, ALLOW_OUTSIDE)
CODES: Codes = {"shapes-joined": ("info", "several shapes of one group are read as one object")}

__getattr__ = on_use(__name__)


def sniff(root: Path) -> str:
    return seen(first(root, lambda path: outline(path)[1].get("shapes") == "[", ".json"), "LabelMe's shapes")

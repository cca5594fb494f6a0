"""VGG Image Annotator's projects and exports, JSON and CSV (robots.ox.ac.uk/~vgg/software/via), versions 1 and 2."""

from __future__ import annotations

from pathlib import Path

from dataforge.formats import ALLOW_OUTSIDE, ATTRIBUTE, IMAGES, Codes, on_use
from dataforge.formats.sniff import first, head, outline, seen

LOOKS_FOR = "a JSON object of filename and regions, or a CSV file with region_shape_attributes"
HOLDS = frozenset({"polygons", "keys", "splits"})
OPTIONS = (IMAGES, ATTRIBUTE, ALLOW_OUTSIDE)
CODES: Codes = {"class-unstated": ("info", "no region states a class; all are read as 'object'")}

__getattr__ = on_use(__name__)


def sniff(root: Path) -> str:
    return seen(first(root, is_via, ".json", ".csv"), "VGG Image Annotator's regions")


def is_via(path: Path) -> bool:
    """Return True for a project, an export of its images, or a CSV export."""
    if path.suffix.lower() == ".csv":
        return b"region_shape_attributes" in head(path).partition(b"\n")[0]
    listed, keys = outline(path)
    inner = {} if listed or "_via_img_metadata" in keys else outline(path, inner=True)[1]
    return keys.get("_via_img_metadata") == "{" or {"filename", "regions"} <= inner.keys()

"""COCO JSON (cocodataset.org/#format-data): boxes `[x, y, width, height]` in pixels, sparse category ids."""

from __future__ import annotations

from pathlib import Path

from dataforge.formats import ALLOW_OUTSIDE, BOXES, IMAGES, UNIT, Codes, Option, on_use
from dataforge.formats.sniff import first, outline, seen
from dataforge.formats.splits import WORD

LOOKS_FOR = "a JSON file with images, annotations, categories"
HOLDS = frozenset(
    {"crowd", "difficult", "truncated", "polygons", "multipolygons", "loose_polygons"}
    | {"areas", "ids", "keys", "splits", "classes", "class_ids", "judged"}
)
OPTIONS = (Option("annotations", "This JSON file, instead of those found.", Path), IMAGES, BOXES, UNIT, ALLOW_OUTSIDE)

CODES: Codes = {
    "classes-federated": ("info", "images state which classes were looked for (LVIS)"),
    "box-of-mask": ("info", "annotations without a box got that of their mask or polygons"),
}

__getattr__ = on_use(__name__)


def sniff(root: Path) -> str:
    name = first(root, is_coco, ".json", deep=1)
    name = name or first(root, lambda path: is_inner(path.parent) and is_coco(path), ".json", deep=2)
    return seen(name, "COCO's images, annotations, categories")


def is_inner(folder: Path) -> bool:
    """Return True for `<split>/annotations`."""
    return folder.name == "annotations" and WORD.fullmatch(folder.parent.name) is not None


def is_coco(path: Path) -> bool:
    """Return True for a JSON object with lists of images, annotations and categories."""
    listed, keys = outline(path)
    return not listed and all(keys.get(name) == "[" for name in ("images", "annotations", "categories"))

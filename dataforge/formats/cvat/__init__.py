"""CVAT's XML, "CVAT for images 1.1" (docs.cvat.ai): one file for many images, shapes as points on the upright image."""

from __future__ import annotations

from pathlib import Path

from dataforge.formats import ALLOW_OUTSIDE, IMAGES, on_use
from dataforge.formats.sniff import first, root_tag, seen

LOOKS_FOR = "an XML file with <annotations>"
HOLDS = frozenset({"polygons", "crowd", "difficult", "truncated", "keys", "splits", "classes"})
OPTIONS = (IMAGES, ALLOW_OUTSIDE)

__getattr__ = on_use(__name__)


def sniff(root: Path) -> str:
    return seen(first(root, lambda path: root_tag(path) == "annotations", ".xml", deep=1), "CVAT's <annotations>")

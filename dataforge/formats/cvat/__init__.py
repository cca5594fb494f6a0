"""CVAT's XML, "CVAT for images 1.1" (docs.cvat.ai): one file for many images, shapes as points on the upright image."""

from __future__ import annotations

from pathlib import Path

from dataforge.formats import ALLOW_OUTSIDE, IMAGES, Codes, on_use
from dataforge.formats.sniff import matching, seen

LOOKS_FOR = "an XML file with <annotations>"
HOLDS = frozenset({"crowd", "difficult", "truncated", "keys", "splits", "classes"})
OPTIONS = (IMAGES, ALLOW_OUTSIDE)
CODES: Codes = {"box-rotated": ("error", "a rotated box cannot be stored")}

__getattr__ = on_use(__name__)


def sniff(root: Path) -> str:
    return seen(matching(root, rb"<annotations[\s>]", ".xml"), "CVAT's <annotations>")

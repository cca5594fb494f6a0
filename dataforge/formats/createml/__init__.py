"""Apple's Create ML JSON: a list of images, each with boxes as center, width and height in pixels."""

from __future__ import annotations

from pathlib import Path

from dataforge.formats import ALLOW_OUTSIDE, IMAGES, on_use
from dataforge.formats.sniff import first, outline, seen

LOOKS_FOR = "a JSON list of image and annotations"
HOLDS = frozenset({"keys", "splits"})
OPTIONS = (IMAGES, ALLOW_OUTSIDE)

__getattr__ = on_use(__name__)


def sniff(root: Path) -> str:
    return seen(first(root, _is_createml, ".json"), "Create ML's image and annotations")


def _is_createml(path: Path) -> bool:
    listed, keys = outline(path)
    return listed and keys.get("annotations") == "[" and '"' in (keys.get("image"), keys.get("imagefilename"))

"""COCO JSON (cocodataset.org/#format-data): boxes `[x, y, width, height]` in pixels, sparse category ids."""

from __future__ import annotations

from pathlib import Path

from dataforge.formats import ALLOW_OUTSIDE, IMAGES, Option, on_use
from dataforge.formats.sniff import matching, seen

LOOKS_FOR = "a JSON file with images, annotations, categories"
HOLDS = frozenset({"crowd", "difficult", "truncated", "areas", "ids", "keys", "splits", "classes", "class_ids"})
OPTIONS = (Option("annotations", "This JSON file, instead of those found.", Path), IMAGES, ALLOW_OUTSIDE)

__getattr__ = on_use(__name__)


def sniff(root: Path) -> str:
    pattern = rb'(?s)\A\{.*"(images|annotations|categories)"\s*:\s*\['
    name = matching(root, pattern, ".json", unless=rb'"shapes"\s*:\s*\[')
    return seen(name, "COCO's images, annotations, categories")

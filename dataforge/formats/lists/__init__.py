"""JSON lists, as a PyTorch SSD tutorial creates them from VOC: TRAIN_images.json, TRAIN_objects.json, label_map.json.

Boxes are `[xmin, ymin, xmax, ymax]`, 0-based and inclusive: VOC's numbers minus one. Label 0 is the background.
"""

from __future__ import annotations

from pathlib import Path

from dataforge.files import globbed
from dataforge.formats import ALLOW_OUTSIDE, IMAGES, Codes, on_use

LOOKS_FOR = "TRAIN_images.json, TRAIN_objects.json and label_map.json"
HOLDS = frozenset({"difficult", "keys", "splits", "classes"})
OPTIONS = (IMAGES, ALLOW_OUTSIDE)
CODES: Codes = {"lists-differ": ("error", "lists that belong together have different lengths")}

__getattr__ = on_use(__name__)


def sniff(root: Path) -> str:
    for path in globbed(root, "?*_images.json") if root.is_dir() else ():
        other = path.with_name(path.name.removesuffix("_images.json") + "_objects.json")
        if other.is_file() and (root / "label_map.json").is_file():
            return f"{path.name}, {other.name} and label_map.json"
    return ""

"""VoTT's JSON (github.com/microsoft/VoTT): an export of a project, or a file for each image. Read-only.

VoTT's CSV export, with the columns image, xmin, ymin, xmax, ymax and label, is read by `table`.
"""

from __future__ import annotations

from pathlib import Path

from dataforge.formats import ALLOW_OUTSIDE, IMAGES, on_use
from dataforge.formats.sniff import first, outline, seen

LOOKS_FOR = "a JSON object of assets and tags, or of asset and regions"
OPTIONS = (IMAGES, ALLOW_OUTSIDE)

__getattr__ = on_use(__name__)


def sniff(root: Path) -> str:
    return seen(first(root, is_vott, ".json"), "VoTT's assets and regions")


def is_vott(path: Path) -> bool:
    """Return True for a project's export, or the file of one image."""
    listed, keys = outline(path)
    if listed or keys.get("assets") != "{":
        return not listed and keys.get("asset") == "{" and keys.get("regions") == "["
    return "tags" in keys

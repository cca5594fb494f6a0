"""BDD100K's labels (doc.bdd100k.com/format.html), Scalabel's JSON: frames with labels, or a file for each image."""

from __future__ import annotations

from pathlib import Path

from dataforge.formats import ALLOW_OUTSIDE, IMAGES, Codes, on_use
from dataforge.formats.sniff import first, outline, seen

LOOKS_FOR = "a JSON list of name and labels, or an object of name and frames"
HOLDS = frozenset({"crowd", "truncated", "keys", "splits"})
OPTIONS = (IMAGES, ALLOW_OUTSIDE)
CODES: Codes = {"labels-without-box": ("info", "labels of lanes and areas have no box, and are left out")}

__getattr__ = on_use(__name__)


def sniff(root: Path) -> str:
    return seen(first(root, is_bdd, ".json"), "BDD100K's frames of name and labels")


def is_bdd(path: Path) -> bool:
    """Return True for a list of frames, Scalabel's data set of them, or the file of one image."""
    listed, keys = outline(path)
    if listed:
        return keys.get("name") == '"' and ("labels" in keys or {"attributes", "timestamp"} <= keys.keys())
    return keys.get("frames") == "[" and (keys.get("name") == '"' or keys.get("config") == "{")

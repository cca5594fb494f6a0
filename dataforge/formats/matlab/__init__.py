"""MATLAB ImageLabeler's JSON: `jsonencode` of a ground truth table, one row per image, one key per class."""

from __future__ import annotations

from pathlib import Path

from dataforge.formats import ALLOW_OUTSIDE, IMAGES, Codes, Option, on_use
from dataforge.formats.sniff import first, outline, seen

LOOKS_FOR = "a JSON file with rows of Var1 and a key for each class"
HOLDS = frozenset({"keys", "splits", "classes"})
CORNERS = Option("corners", "matlab (default) for [x y w h] from 1, converter for [x, y + h, x + w, y].")
OPTIONS = (IMAGES, CORNERS, ALLOW_OUTSIDE)
CODES: Codes = {"box-twice": ("warning", "the same box is listed twice; the second is left out")}

__getattr__ = on_use(__name__)


def sniff(root: Path) -> str:
    name = first(root, lambda path: bool({"Var1", "imageFilename"} & outline(path)[1].keys()), ".json")
    return seen(name, "ImageLabeler's rows of Var1 and classes")

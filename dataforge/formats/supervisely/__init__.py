"""Supervisely's projects (developer.supervisely.com): meta.json, and a JSON file in ann/ for each image in img/."""

from __future__ import annotations

from pathlib import Path

from dataforge.formats import Codes, on_use
from dataforge.formats.sniff import first, outline, seen
from dataforge.formats.yolo import CODES as YOLO

LOOKS_FOR = "JSON files with size and objects in ann/, beside img/"
HOLDS = frozenset({"splits", "classes"})
OPTIONS = ()
CODES: Codes = {code: YOLO[code] for code in ("no-label", "label-orphan")}

__getattr__ = on_use(__name__)


def sniff(root: Path) -> str:
    name = first(root, lambda path: path.parent.name == "ann" and is_annotation(path), ".json")
    return seen(name if root.is_dir() else "", "Supervisely's objects")


def is_annotation(path: Path) -> bool:
    """Return True for the file of one image."""
    listed, keys = outline(path)
    return not listed and keys.get("size") == "{" and keys.get("objects") == "["

"""KITTI's 2D boxes (cvlibs.net/datasets/kitti): a text file per image, a line of a type and 14 numbers per object.

Boxes are in pixels, edge coordinates. `DontCare` regions are a class of crowds; `--crowd drop` drops them.
"""

from __future__ import annotations

from pathlib import Path

from dataforge.formats import Codes, on_use
from dataforge.formats.sniff import matching, seen
from dataforge.formats.yolo import CODES as YOLO

LOOKS_FOR = "text files with lines of type, truncated, occluded, alpha, x1 y1 x2 y2 and 3D values"
HOLDS = frozenset({"truncated", "splits"})
OPTIONS = ()
CODES: Codes = {code: YOLO[code] for code in ("no-label", "label-orphan", "label-broken", "splits-overlap")}

__getattr__ = on_use(__name__)


def sniff(root: Path) -> str:
    pattern = rb"\A[^\d\s,][^\n,]*?( +-?[\d.]+(e-?\d+)?){14,15} *\r?(\n|\Z)"
    return seen(matching(root, pattern, ".txt") if root.is_dir() else "", "KITTI's type and 14 numbers")

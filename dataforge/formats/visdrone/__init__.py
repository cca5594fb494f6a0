"""VisDrone's detection in images (github.com/VisDrone/VisDrone2018-DET-toolkit): a text file a picture. Read-only.

Ignored regions and the class "others" are crowds, as their score of 0 says; `--crowd drop` drops them.
"""

from __future__ import annotations

from pathlib import Path

from dataforge.formats import Codes, on_use
from dataforge.formats.sniff import matching, seen
from dataforge.formats.yolo import CODES as YOLO

LOOKS_FOR = "text files with lines of left, top, width, height, score, category, truncation, occlusion"
OPTIONS = ()
CODES: Codes = {code: YOLO[code] for code in ("no-label", "label-orphan", "label-broken", "splits-overlap")}

__getattr__ = on_use(__name__)


def sniff(root: Path) -> str:
    pattern = rb"\A(-?\d+(\.\d+)?,){7}-?\d+,?\s*?(\n|\Z)"
    return seen(matching(root, pattern, ".txt") if root.is_dir() else "", "VisDrone's eight numbers")

"""Reader of VisDrone's label files: `left,top,width,height,score,category,truncation,occlusion`, in pixels."""

from __future__ import annotations

import re
from pathlib import Path

from dataforge.formats.label_files import Layout, read_labels
from dataforge.record import CROWD, TRUNCATED, Source

EXPECTED = "images/ and annotations/, there or in folders such as VisDrone2019-DET-train/"
CLASSES = ("ignored regions", "pedestrian", "people", "bicycle", "car", "van", "truck", "tricycle", "awning-tricycle",
           "bus", "motor", "others")  # fmt: skip


def read(root: Path, *, split: tuple[str, ...] | None = None) -> Source:
    """Read label files. Classes are VisDrone's twelve, by their numbers; a score of 0 flags a crowd.

    Splits are the ends of the folders' names: `VisDrone2019-DET-test-dev` is "test-dev".

    Args:
        split: read only these splits.

    Raises:
        FormatError: no layout fits. ConfigError: no such split.
    """
    line = "left,top,width,height,score,category,truncation,occlusion"
    layout = Layout((("images", "annotations"),), _line, line, EXPECTED, _split, CLASSES)
    return read_labels(root, split, layout)


def _split(name: str) -> str:
    match = re.fullmatch(r"(?i)VisDrone\d*-\w+-(.+)", name)
    return match[1] if match else ""


def _line(line: str) -> tuple[str, list[float], int] | None:
    try:
        left, top, width, height, score, category, truncation, _ = map(float, line.removesuffix(",").split(","))
        name = CLASSES[int(category)] if category >= 0 else ""
    except (ValueError, IndexError, OverflowError):
        return None
    flag = (CROWD if score == 0 else 0) | (TRUNCATED if truncation > 0 else 0)
    return (name, [left, top, left + width, top + height], flag) if name else None

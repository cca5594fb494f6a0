"""Reader of KITTI's 2D boxes: `type truncated occluded alpha x1 y1 x2 y2 h w l x y z rotation`, an optional score."""

from __future__ import annotations

from pathlib import Path

from dataforge.formats.label_files import Layout, read_labels
from dataforge.record import CROWD, TRUNCATED, Source

EXPECTED = (
    "image_2/ and label_2/ (or images/ and labels/, data/ and labels/), there or in <split>/ such as training/; "
    "or pictures and label files in one folder"
)
FOLDERS = (("image_2", "label_2"), ("images", "labels"), ("data", "labels"))
REGION = "DontCare"
NUMBERS = 14  # numbers that follow the type, without the score


def read(root: Path, *, split: tuple[str, ...] | None = None) -> Source:
    """Read KITTI's label files. Classes are the sorted types of all label files, independent of the selected splits.

    Splits are folders such as `training`, or the lists of names in `ImageSets/<split>.txt`. A folder of images without
    a folder of labels, such as `testing`, is left out.

    Args:
        split: read only these splits.

    Raises:
        FormatError: no layout fits. ConfigError: no such split.
    """
    line = f"a type and {NUMBERS} numbers: truncated, occluded, alpha, x1 y1 x2 y2, ..."
    return read_labels(root, split, Layout(FOLDERS, _line, line, EXPECTED))


def _line(line: str) -> tuple[str, list[float], int] | None:
    """Return a line's type, which may have blanks in it, its box and its flag."""
    for count in (NUMBERS + 1, NUMBERS):
        name, *fields = line.rsplit(None, count)
        if len(fields) == count and name:
            try:
                numbers = [float(field) for field in fields]
            except ValueError:
                continue
            return name, numbers[3:7], CROWD if name == REGION else TRUNCATED if numbers[0] > 0 else 0
    return None

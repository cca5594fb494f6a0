"""MOTChallenge's sequences (motchallenge.net/instructions), also CVAT's MOT 1.1: gt/gt.txt beside frames. Read-only.

Objects that the evaluation ignores, whose flag is 0, are crowds; `--crowd drop` drops them.
"""

from __future__ import annotations

from pathlib import Path

from dataforge.formats import on_use
from dataforge.formats.sniff import first, head, seen

LOOKS_FOR = "gt/gt.txt of lines of frame, id, left, top, width, height, flag, class"
OPTIONS = ()

__getattr__ = on_use(__name__)


def sniff(root: Path) -> str:
    return seen(first(root, is_truth, ".txt") if root.is_dir() else "", "MOTChallenge's ground truth")


def is_truth(path: Path) -> bool:
    """Return True for a sequence's gt/gt.txt."""
    return path.name == "gt.txt" and path.parent.name == "gt" and head(path)[:1].isdigit()

"""WIDER FACE (shuoyang1213.me/WIDERFACE): a text file a split, of names, counts and lines of faces. Read-only.

Faces marked invalid are flagged as difficult.
"""

from __future__ import annotations

from pathlib import Path

from dataforge.formats import ALLOW_OUTSIDE, IMAGES, on_use
from dataforge.formats.sniff import matching, seen

LOOKS_FOR = "a text file of a picture's name, a count, and a line of numbers for each face"
OPTIONS = (IMAGES, ALLOW_OUTSIDE)
HEAD = rb"(?i)\A[^\n]+\.(jpg|jpeg|png) *\r?\n *\d+ *\r?\n *-?[\d.]+( +-?[\d.]+){3}"

__getattr__ = on_use(__name__)


def sniff(root: Path) -> str:
    return seen(matching(root, HEAD, ".txt"), "WIDER FACE's names, counts and faces")

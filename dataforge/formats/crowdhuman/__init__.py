"""CrowdHuman's .odgt (crowdhuman.org): a JSON object a line, with the boxes of persons in pixels. Read-only.

Persons to be ignored, and boxes tagged as mask, are crowds; `--crowd drop` drops them.
"""

from __future__ import annotations

from pathlib import Path

from dataforge.formats import ALLOW_OUTSIDE, IMAGES, Option, on_use
from dataforge.formats.sniff import first, first_line, seen

LOOKS_FOR = "lines of ID and gtboxes in a file .odgt"
PERSON_BOX = Option("person_box", "The box of a person: of its whole body, what is visible of it, or its head.",
                    metavar="full|visible|head")  # fmt: skip
OPTIONS = (IMAGES, PERSON_BOX, ALLOW_OUTSIDE)

__getattr__ = on_use(__name__)


def sniff(root: Path) -> str:
    return seen(first(root, is_odgt, ".odgt"), "CrowdHuman's ID and gtboxes")


def is_odgt(path: Path) -> bool:
    """Return True for lines of images with boxes."""
    return {"ID", "gtboxes"} <= first_line(path).keys()

"""Labelbox's NDJSON export (docs.labelbox.com/reference/label-export): a data row a line, in pixels. Read-only."""

from __future__ import annotations

from pathlib import Path

from dataforge.formats import ALLOW_OUTSIDE, IMAGES, Option, on_use
from dataforge.formats.sniff import first, first_line, seen

LOOKS_FOR = "NDJSON lines of data_row and projects"
OPTIONS = (
    IMAGES,
    Option("project", "Name or id of the Labelbox project, if several annotated an image."),
    ALLOW_OUTSIDE,
)

__getattr__ = on_use(__name__)


def sniff(root: Path) -> str:
    return seen(first(root, is_export, ".ndjson", ".jsonl", ".json"), "Labelbox's data rows")


def is_export(path: Path) -> bool:
    """Return True for lines of data rows."""
    keys = first_line(path)
    return keys.get("data_row") == "{" and "projects" in keys

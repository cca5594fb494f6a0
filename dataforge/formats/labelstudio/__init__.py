"""Label Studio's JSON and JSON-min exports (labelstud.io/guide/export): boxes in percent of the image's size."""

from __future__ import annotations

from pathlib import Path

from dataforge.formats import ALLOW_OUTSIDE, IMAGES, on_use
from dataforge.formats.sniff import first, outline, seen

LOOKS_FOR = "a JSON list of tasks with data and annotations, or of JSON-min's rows with annotation_id"
HOLDS = frozenset({"keys", "polygons", "splits"})
OPTIONS = (IMAGES, ALLOW_OUTSIDE)

__getattr__ = on_use(__name__)


def sniff(root: Path) -> str:
    return seen(first(root, is_tasks, ".json"), "Label Studio's tasks")


def is_tasks(path: Path) -> bool:
    """Return True for a list of tasks, or of rows of JSON-min."""
    listed, keys = outline(path)
    is_task = keys.get("data") == "{" and "[" in (keys.get("annotations"), keys.get("completions"))
    return listed and (is_task or {"id", "annotation_id", "lead_time"} <= keys.keys())

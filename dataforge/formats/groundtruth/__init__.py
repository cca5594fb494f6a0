"""SageMaker Ground Truth's manifests (docs.aws.amazon.com/sagemaker/latest/dg/sms-data-output.html), in JSON lines."""

from __future__ import annotations

from pathlib import Path

from dataforge.formats import ALLOW_OUTSIDE, ATTRIBUTE, IMAGES, on_use
from dataforge.formats.sniff import first, first_line, seen

LOOKS_FOR = "JSON lines of source-ref and the metadata of object detection"
HOLDS = frozenset({"keys", "splits"})
OPTIONS = (IMAGES, ATTRIBUTE, ALLOW_OUTSIDE)
SUFFIXES = (".manifest", ".jsonl", ".json", ".ndjson")

__getattr__ = on_use(__name__)


def sniff(root: Path) -> str:
    return seen(first(root, is_manifest, *SUFFIXES), "Ground Truth's source-ref and labels")


def is_manifest(path: Path) -> bool:
    """Return True for lines of images with labels."""
    keys = first_line(path)
    return keys.get("source-ref") == '"' and any(name.endswith("-metadata") for name in keys)

"""Pascal VOC XML (host.robots.ox.ac.uk/pascal/VOC): one file per image; boxes are 1-based and inclusive."""

from __future__ import annotations

import re
from pathlib import Path

from dataforge.files import globbed
from dataforge.formats import ALLOW_OUTSIDE, Codes, Option, on_use
from dataforge.formats.sniff import first, head, root_tag, seen

LOOKS_FOR = "an XML file with <annotation>"
HOLDS = frozenset({"difficult", "truncated", "splits", "unions"})
VOC_OFFSET = Option("voc_offset", "1 (default) for 1-based inclusive boxes, 0 for boxes in edge coordinates.", int)
OPTIONS = (VOC_OFFSET, ALLOW_OUTSIDE)
CODES: Codes = {
    "no-annotation": ("warning", "the image has no annotation file: it may be empty or unlabelled"),
    "annotation-missing": ("error", "a listed image has no annotation file"),
    "annotation-not-listed": ("warning", "the annotation file belongs to no split"),
    "image-not-listed": ("warning", "the image belongs to no split"),
    "splits-overlap": ("warning", "two splits contain the same images"),
    "box-one-pixel": ("info", "the box is one pixel wide or high"),
    "filename-differs": ("warning", "the annotation names another image than the file of its own name"),
    "touches-zero": ("warning", "boxes start at 0, but the format counts from 1"),
    "flag-unknown": ("warning", "a flag is neither 0 nor 1"),
}

__getattr__ = on_use(__name__)


def sniff(root: Path) -> str:
    name = first(root, _is_voc, ".xml") if root.is_dir() else ""
    lists = next(iter(globbed(root, "ImageSets/**/*.txt")), None) if name else None
    return seen(name, "VOC's <annotation>" + (f", and {lists.relative_to(root).as_posix()}" if lists else ""))


def _is_voc(path: Path) -> bool:
    """Return True for <annotation> with boxes, or without an object: MIT's LabelMe, say, has polygons in such files."""
    return (
        root_tag(path).lower() == "annotation"
        and re.search(rb"(?i)<bndbox|\A((?!<object\b).)*\Z", head(path), re.S) is not None
    )

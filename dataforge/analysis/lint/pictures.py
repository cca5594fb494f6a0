"""The findings as sections of a page, with pictures: the boxes in question, or pairs of images side by side."""

from __future__ import annotations

import re

import numpy as np

from dataforge.analysis.html_page import Section
from dataforge.analysis.lint.run import Kind, Report
from dataforge.errors import ImageError
from dataforge.images.decode import decode
from dataforge.images.draw import thumbnail
from dataforge.ingest.run import take
from dataforge.record import Finding, Record, Source

SHOWN = 6  # findings of a code that get pictures
Pictures = dict[str, tuple[Record, bytes, int]]  # by key, and by split and key: the record, its image, orientation


def sections(report: Report, source: Source) -> list[Section]:
    """A table of the kinds, then a section for each of them.

    Args:
        source: the set once more, for the images.
    """
    kinds = report.sorted()
    rows = [[kind.severity, code, kind.count, kind.meaning] for code, kind in kinds]
    made = [Section("Findings", table=(("severity", "code", "count", "meaning"), rows))]
    wanted = {name for _, kind in kinds for finding in kind.examples[:SHOWN] for name in _names(finding)}
    pictures = _find(source, wanted)
    return made + [_section(code, kind, pictures, source.classes) for code, kind in kinds]


def _section(code: str, kind: Kind, pictures: Pictures, classes: tuple[str, ...]) -> Section:
    more = f"; the first {len(kind.examples)} are listed" if kind.count > len(kind.examples) else ""
    rows = [[one.file, one.key, one.value, one.reason] for one in kind.examples]
    drawn = []
    for finding in kind.examples[:SHOWN]:
        for name in _names(finding):
            if name in pictures:
                image = _draw(finding, *pictures[name], classes)
                drawn += [(f"{name}: {finding.value}" if name != finding.value else name, image)] if image else []
    text = f"{kind.severity}, {kind.count} in all: {kind.meaning}{more}"
    return Section(code, text, (("file", "key", "value", "what was done"), rows), drawn)


def _names(finding: Finding) -> list[str]:
    """The images that a finding is about, as `Pictures` names them."""
    if finding.scope == "set":
        return []
    key = re.sub(r" (box|line|row) \d+$", "", finding.key)
    return [key, finding.value] if finding.code.removesuffix("-across") in ("copy", "alike") else [key]


def _find(source: Source, wanted: set[str]) -> Pictures:
    found: Pictures = {}
    for item in source.records if wanted else ():
        if isinstance(item, Record):
            names = {item.key, f"{item.split}: {item.key}"} & wanted - found.keys()
            for one in take(item, set()) if names else ():
                if not isinstance(one, Finding):
                    found |= dict.fromkeys(names, (one[0], one[1], one[2].orientation))
    return found


def _draw(finding: Finding, record: Record, blob: bytes, orientation: int, classes: tuple[str, ...]) -> bytes | None:
    """The image with the boxes that the finding names, or else with all of its own; None if it cannot be decoded."""
    try:
        pixels = decode(blob, orientation)
    except ImageError:
        return None
    corners = re.fullmatch(r"xyxy \[(.*)\]", finding.value)
    if corners:
        box = np.array([[float(number) for number in corners[1].split(",")]])
        if not np.isfinite(box).all():
            return thumbnail(pixels, record.boxes[:0], record.labels[:0], classes)
        return thumbnail(pixels, box, np.zeros(1, np.int64), [finding.code])
    return thumbnail(pixels, record.boxes, record.labels, classes)

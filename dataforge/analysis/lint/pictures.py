"""Findings as sections of a page, with images: one with the box in question, or a pair."""

from __future__ import annotations

import numpy as np

from dataforge.analysis.html_page import Section
from dataforge.analysis.lint.run import Kind, Report
from dataforge.errors import ImageError
from dataforge.images.decode import decode
from dataforge.images.draw import thumbnail
from dataforge.ingest.take import Stored, take
from dataforge.record import Finding, Record, Source

SHOWN = 6  # findings per code that are shown with images
Name = tuple[str | None, str]  # split and key of a record; no split if the finding does not give it
Pictures = dict[Name, Stored]


def sections(report: Report, source: Source) -> list[Section]:
    """Return a table of the kinds, then a section per kind.

    Args:
        source: the set, read again for its images.
    """
    kinds = report.sorted()
    rows = [[kind.severity, code, kind.count, kind.meaning] for code, kind in kinds]
    table = Section("Findings", table=(("severity", "code", "count", "meaning"), rows))
    wanted = {name for _, kind in kinds for finding in kind.examples[:SHOWN] for name in _names(finding)}
    pictures = _read(source, wanted)
    return [table, *(_section(code, kind, pictures, source.classes) for code, kind in kinds)]


def _section(code: str, kind: Kind, pictures: Pictures, classes: tuple[str, ...]) -> Section:
    more = f"; the first {len(kind.examples)} are listed" if kind.count > len(kind.examples) else ""
    rows = [[finding.file, _key(finding), finding.value, finding.reason] for finding in kind.examples]
    drawn = []
    for finding in kind.examples[:SHOWN]:
        for name in _names(finding):
            image = _draw(finding, pictures[name], classes) if name in pictures else None
            if image is not None:
                caption = f"{_key(finding)}: {finding.value}" if finding.other is None else f"{name[0]}: {name[1]}"
                drawn.append((caption.removesuffix(": "), image))
    text = f"{kind.severity}, {kind.count} in all: {kind.meaning}{more}"
    return Section(code, text, (("file", "key", "value", "what was done"), rows), drawn)


def _key(finding: Finding) -> str:
    return finding.key if finding.box is None else f"{finding.key} box {finding.box}"


def _names(finding: Finding) -> list[Name]:
    """Return the images that a finding refers to."""
    if finding.scope == "set":
        return []
    return [(finding.split, finding.key), *([] if finding.other is None else [finding.other])]


def _read(source: Source, wanted: set[Name]) -> Pictures:
    """Read the wanted records, skipping unreadable ones; without a split, the first one with the key."""
    pictures: Pictures = {}
    for item in source.records if wanted else ():
        if isinstance(item, Record):
            names = {(None, item.key), (item.split, item.key)} & wanted - pictures.keys()
            _, stored = take(item) if names else ([], None)
            if stored is not None:
                pictures |= dict.fromkeys(names, stored)
    return pictures


def _draw(finding: Finding, picture: Stored, classes: tuple[str, ...]) -> bytes | None:
    """Draw the image with the box of the finding, or with all its boxes if there is none; None if decoding fails."""
    record, blob, info = picture
    try:
        pixels = decode(blob, info.orientation)
    except ImageError:
        return None
    if finding.xyxy is None:
        return thumbnail(pixels, record.boxes, record.labels, classes)
    corners = np.sort(np.array(finding.xyxy, np.float64).reshape(2, 2), axis=0)  # a box may be inverted
    return thumbnail(pixels, corners.reshape(1, 4), np.zeros(1, np.int64), [finding.code])

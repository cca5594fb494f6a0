"""VOC's XML files, parsed: what each says of its image."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator
from pathlib import Path

from dataforge.errors import FormatError
from dataforge.files import read_bytes, reading
from dataforge.formats.annotated import Annotated, Edges, hull
from dataforge.formats.boxes import rotated
from dataforge.formats.pictures import as_size
from dataforge.formats.voc.forms import HEAD, Fields, Forms
from dataforge.record import DIFFICULT, TRUNCATED

CORNERS = ("xmin", "ymin", "xmax", "ymax")


class Parser:
    """Parser of the files of a set.

    Attributes:
        offset: 1 for 1-based inclusive corners, 0 for edges.
        broken: file, as text -> the error that makes all of it unusable.
        zeros: file, as text -> the number of boxes that start at 0.
    """

    def __init__(self, offset: int) -> None:
        self.offset = offset
        self.broken: dict[str, str] = {}
        self.zeros: dict[str, int] = {}
        self._forms = Forms()

    def parse(self, path: Path) -> Annotated:
        """Read a file. One that is `broken` has no boxes."""
        try:
            with reading(path):
                data = read_bytes(path)
            texts = self._forms.read(data)
            if texts:
                head, objects = texts
                return self._annotated(path, head, ((fields, "") for fields in objects)).close()
            if b"<!ENTITY" in data.replace(b"\0", b""):  # an entity can expand to gigabytes; NULs are UTF-16's
                raise FormatError(f"{path}: declares an XML entity, which is not allowed here")
            tree = ET.fromstring(data)
            for element in tree.iter():
                element.tag = element.tag.lower()
            if tree.tag != "annotation":
                raise FormatError(f"{path}: the root element is <{tree.tag}>; expected <annotation>")
        except FormatError as error:
            self.broken[str(path)] = str(error)
        except (ET.ParseError, ValueError, LookupError) as error:
            self.broken[str(path)] = f"{path}: not XML: {error}"
        else:
            self._forms.learn(data)
            head = tuple(tree.findtext(name.removeprefix("annotation/")) or "" for name in HEAD)
            item = self._annotated(path, head, _objects(tree))
            for _ in _boxes(tree):
                item.note("refused", "box-missing", "", "a <bndbox> that is in no <object>")
            return item.close()
        return Annotated("", str(path)).close()

    def _annotated(self, path: Path, head: Fields, objects: Iterable[tuple[Fields, str]]) -> Annotated:
        filename, height, width = head
        item = Annotated(filename.strip(), str(path), as_size(width), as_size(height))
        for fields, rotation in objects:
            self._add(item, fields, rotation)
        return item

    def _add(self, item: Annotated, fields: Fields, rotation: str) -> None:
        """Add a box, given by the texts of `OBJECT`, or the finding why it is left out."""
        name, left, top, right, bottom, difficult, truncated = fields
        name, texts = name.strip(), (left, top, right, bottom)
        try:
            corners = [float(left), float(top), float(right), float(bottom)]
        except ValueError:
            value = ", ".join(f"{corner} {text.strip()!r}" for corner, text in zip(CORNERS, texts, strict=True))
            item.note("refused", "box-missing", value, "expected four numbers in <bndbox>")
            return
        edges, ring = self._edges(*corners), None
        if rotation:
            try:
                ring = rotated(edges, rotation)
            except ValueError:
                item.note("refused", "box-rotated", name, f"rotated by {rotation!r}; expected degrees")
                return
        if not name:
            item.note("refused", "unknown-class", "", "has no <name>", edges)
            return
        if ring:
            x1, y1, x2, y2 = hull(ring[0::2], ring[1::2])
            corners = [x1 + self.offset, y1 + self.offset, x2, y2]
            edges = self._edges(*corners)
        flag = 0
        if difficult or truncated:
            flag = DIFFICULT * _flag(item, "difficult", difficult, edges)
            flag |= TRUNCATED * _flag(item, "truncated", truncated, edges)
        if self.offset:
            if corners[0] == corners[2] or corners[1] == corners[3]:
                value = "xmin, ymin, xmax, ymax " + ", ".join(f"{number:g}" for number in corners)
                reason = "first and last pixel are the same; kept, one pixel wide or high"
                item.note("noted", "box-one-pixel", value, reason, edges)
            if min(corners[0], corners[1]) == 0:
                self.zeros[str(item.origin)] = self.zeros.get(str(item.origin), 0) + 1
        item.add(name, edges, flag, ring=ring)

    def _edges(self, x1: float, y1: float, x2: float, y2: float) -> Edges:
        """Return the edges of a box, as `boxes.include_last`."""
        x1, x2 = (x1, x2 - self.offset) if x1 - self.offset >= x2 else (x1 - self.offset, x2)
        y1, y2 = (y1, y2 - self.offset) if y1 - self.offset >= y2 else (y1 - self.offset, y2)
        return x1, y1, x2, y2


def _flag(item: Annotated, tag: str, text: str, xyxy: Edges) -> bool:
    """Return whether a flag is set; one that is neither 0 nor 1 is noted."""
    if text in ("0", "1", ""):
        return text == "1"
    text = text.strip().lower()
    if text not in ("", "0", "1", "true", "false", "unspecified"):
        item.note("noted", "flag-unknown", f"{tag} {text!r}", "expected 0 or 1; taken as 0", xyxy)
    return text in ("1", "true")


def _objects(tree: ET.Element) -> Iterator[tuple[Fields, str]]:
    """Yield the texts of `OBJECT` of each box, and its rotation."""
    for element in tree.iter("object"):
        attributes = ((a.findtext("name"), a.findtext("value")) for a in element.iter("attribute"))
        rotation = next((value for name, value in attributes if name == "rotation"), None)
        for box in [*_boxes(element)] or [element]:
            # direct children only: CVAT's <attributes> and VOC's <part> have their own <name>
            corners = (box.findtext(corner) or "" for corner in CORNERS)
            name, *flags = (element.findtext(tag) or "" for tag in ("name", "difficult", "truncated"))
            yield (name, *corners, *flags), rotation or ""


def _boxes(element: ET.Element) -> Iterator[ET.Element]:
    """Yield the boxes of an object, at any depth; not those of its parts."""
    left = [*reversed(element)]
    while left:
        child = left.pop()
        if child.tag == "bndbox":
            yield child
        elif child.tag not in ("part", "object"):
            left += reversed(child)

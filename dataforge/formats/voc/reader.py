"""Pascal VOC XML (host.robots.ox.ac.uk/pascal/VOC): one file per image; boxes are 1-based and inclusive."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path

import numpy as np

from dataforge.errors import ConfigError, FormatError
from dataforge.files import check_root, inside, reading
from dataforge.formats.boxes import as_xyxy, hull, include_last, rotated
from dataforge.formats.pictures import Index, as_size
from dataforge.formats.voc.files import (
    EXPECTED,
    SplitFiles,
    files_of_lists,
    find_unions,
    from_folders,
    key_of,
    named_picture,
    orphans,
    picture_of,
    read_lists,
)
from dataforge.polygons import Polygons
from dataforge.record import DIFFICULT, TRUNCATED, Finding, Record, Source, as_boxes, pick_splits

CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass
class _Annotation:
    filename: str = ""
    height: int = 0
    width: int = 0
    names: list[str] = field(default_factory=list)
    corners: list[list[float]] = field(default_factory=list)
    flags: list[int] = field(default_factory=list)
    rings: list[list[list[float]]] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)  # box numbers among the file's objects
    findings: list[Finding] = field(default_factory=list)
    broken: str = ""


def read(
    root: Path, *, split: tuple[str, ...] | None = None, voc_offset: int = 1, allow_outside: bool = False
) -> Source:
    """Read a VOC folder. Classes are the sorted names of all XML files, independent of the selected splits.

    Args:
        split: read only these splits.
        voc_offset: 1 turns VOC's 1-based inclusive corners into edges, `(xmin - 1, ymin - 1, xmax, ymax)`; 0 keeps
            them unchanged.
        allow_outside: allow a `<filename>` outside the folder: absolute, or with `..`.

    Raises:
        FormatError: no layout fits. ConfigError: no such split, or no such offset.
    """
    if voc_offset not in (0, 1):
        raise ConfigError(f"--voc-offset {voc_offset}: expected 1 or 0")
    check_root(root, EXPECTED)
    findings: list[Finding] = []
    files = files_of_lists(root)
    known = {*files.xml, *files.pictures} if files else set()
    listed, main = read_lists(root, known, findings)
    if listed and files is None:
        raise FormatError(
            f"{main}: lists are there, but no one folder of XML files and of pictures; expected {EXPECTED}"
        )
    splits = {name: replace(files, ids=ids) for name, ids in listed.items()} if files and listed else from_folders(root)
    chosen = pick_splits(split, splits)
    unions = find_unions({name: set(splits[name].ids) for name in chosen}) if listed else {}
    stored = [name for name in chosen if name not in unions]
    for one, other in combinations(stored, 2) if listed else ():
        common = len({*splits[one].ids} & {*splits[other].ids})
        if common:
            reason = "images are in both splits; stored in both"
            value = f"{one} and {other}: {common}"
            findings.append(Finding("noted", "splits-overlap", str(main), "", value, reason, "set"))
    if listed:
        findings += orphans(root, splits, main)
    paths = {path for files in splits.values() for same in files.xml.values() for path in same}
    parsed = {path: _parse(path, voc_offset) for path in sorted(paths)}
    classes = tuple(sorted({name for annotation in parsed.values() for name in annotation.names}))
    if not classes and all(annotation.broken for annotation in parsed.values()):
        raise FormatError(
            next((annotation.broken for annotation in parsed.values()), f"{root}: no XML files; expected {EXPECTED}")
        )
    if voc_offset == 1:
        taken = {path for name in stored for i in splits[name].ids for path in splits[name].xml.get(i, ())}
        zeros = sum(min(corners[:2]) == 0 for path in taken for corners in parsed[path].corners)
        if zeros:
            reason = "xmin or ymin is 0, but VOC counts from 1; if these are not VOC's, try --voc-offset 0"
            findings.append(Finding("noted", "touches-zero", str(root), "", f"{zeros} boxes", reason, "set"))

    index: Index = {}  # the images below the root, among which absolute paths of other machines are sought

    def records() -> Iterator[Record | Finding]:
        yield from findings
        for name in stored:
            apart = _named_apart(splits[name], parsed)
            how = (parsed, apart, classes, voc_offset, main if listed else None, allow_outside, index)
            for i in splits[name].ids:
                yield from _record(root, name, i, splits[name], *how)

    total = sum(len(splits[name].ids) for name in stored)
    lists = main.glob("*.txt") if main != root else (root / f"{name}.txt" for name in listed)
    return Source(classes, records(), unions=unions, total=total, files=[*lists])


def _named_apart(files: SplitFiles, parsed: dict[Path, _Annotation]) -> dict[str, Path]:
    """Return, by id, the images that XML files name although another one has the file's own name."""
    apart = {}
    for i, paths in files.xml.items():
        filename = parsed[paths[0]].filename
        names = {path.name for path in files.pictures.get(i, ())}
        other = named_picture(filename, files) if names and filename else None
        if other and other.name not in names:
            apart[i] = other
    return apart


def _record(
    root: Path,
    split: str,
    i: str,
    files: SplitFiles,
    parsed: dict[Path, _Annotation],
    apart: dict[str, Path],
    classes: tuple[str, ...],
    offset: int,
    lists: Path | None,
    allow_outside: bool,
    index: Index,
) -> Iterator[Record | Finding]:
    origin = next(iter(files.xml.get(i, ())), None)
    annotation = parsed[origin] if origin else _Annotation()
    file = str(origin or (lists / f"{split}.txt" if lists else root))
    picture = picture_of(i, annotation.filename, files, root, allow_outside, index)
    key = key_of(picture, root) if picture else ""
    other = apart.get(i)
    if other and other.relative_to(files.folder).with_suffix("").as_posix() in files.xml:
        reason = "another image, which has a file of its own; the image of this file's name is taken"
        yield Finding("noted", "filename-differs", file, key, annotation.filename, reason, "image")
        other = None
    rival = origin is None and picture in apart.values()
    if annotation.broken or picture is None or (lists and origin is None) or other or rival:
        if annotation.broken:
            code, value, reason = "annotation-broken", "", annotation.broken.removeprefix(f"{file}: ")
        elif other or rival:
            code, value = "image-ambiguous", annotation.filename
            reason = (
                f"may be of {picture} or {other}; left out" if other else "a file of another name names it; left out"
            )
        elif lists and origin is None:
            code, value, reason = "annotation-missing", i, "is listed, but has no XML file"
        else:
            hint = " (others need --allow-outside)" if inside(annotation.filename or i) is None else ""
            code, value, reason = "image-missing", annotation.filename or i, f"no picture has this name{hint}; left out"
        yield Finding("refused", code, file, key, value, reason, "image")
        return
    if origin is None:
        yield Finding("noted", "no-annotation", str(picture), key, "", "no XML file; taken as an empty image", "image")
    yield from (replace(finding, key=key) for finding in annotation.findings)
    corners = np.array(annotation.corners, np.float64).reshape(-1, 4)
    boxes = as_boxes(include_last(corners, -offset, 0))
    if offset:
        for n in np.nonzero((corners[:, :2] == corners[:, 2:]).any(1))[0]:
            value = "xmin, ymin, xmax, ymax " + ", ".join(f"{number:g}" for number in corners[n].tolist())
            reason = "first and last pixel are the same; kept, one pixel wide or high"
            box, xyxy = annotation.numbers[n], as_xyxy(boxes[n])
            yield Finding("noted", "box-one-pixel", file, key, value, reason, box=box, xyxy=xyxy)
    yield Record(
        key=key,
        split=split,
        image=picture,
        height=annotation.height,
        width=annotation.width,
        boxes=boxes,
        labels=np.array([classes.index(name) for name in annotation.names], np.int32),
        flags=np.array(annotation.flags, np.uint8),
        origin=file,
        polygons=Polygons.of(annotation.rings) if any(annotation.rings) else None,
    )


def _parse(path: Path, offset: int) -> _Annotation:
    """Read one XML file. An error that makes the whole file unusable is stored in `broken`."""
    try:
        with reading(path):
            data = path.read_bytes()
        if b"<!ENTITY" in data.replace(b"\0", b""):  # an entity can expand to gigabytes; NULs are UTF-16's
            return _Annotation(broken=f"{path}: declares an XML entity, which is not allowed here")
        tree = ET.fromstring(data)
    except FormatError as error:
        return _Annotation(broken=str(error))
    except (ET.ParseError, ValueError, LookupError) as error:
        return _Annotation(broken=f"{path}: not XML: {error}")
    for element in tree.iter():
        element.tag = element.tag.lower()
    if tree.tag != "annotation":
        return _Annotation(broken=f"{path}: the root element is <{tree.tag}>; expected <annotation>")
    read = _Annotation((tree.findtext("filename") or "").strip())
    read.height, read.width = (as_size(tree.findtext(f"size/{name}")) for name in ("height", "width"))
    n = 0
    for element in tree.iter("object"):
        for box in [*_boxes(element)] or [element]:
            _read_object(read, element, box, path, n, offset)
            n += 1
    for _ in _boxes(tree):
        reason = "a <bndbox> that is in no <object>; left out"
        read.findings.append(Finding("refused", "box-missing", str(path), "", "", reason, box=n))
        n += 1
    return read


def _boxes(element: ET.Element) -> Iterator[ET.Element]:
    """Yield the boxes of an object, at any depth; not those of its parts."""
    left = [*reversed(element)]
    while left:
        child = left.pop()
        if child.tag == "bndbox":
            yield child
        elif child.tag not in ("part", "object"):
            left += reversed(child)


def _read_object(read: _Annotation, element: ET.Element, bndbox: ET.Element, path: Path, n: int, offset: int) -> None:
    """Add a box of an object to the annotation, or the finding why it is left out."""
    # direct children only: CVAT's <attributes> and VOC's <part> have their own <name>
    name = (element.findtext("name") or "").strip()
    texts = [(bndbox.findtext(corner) or "").strip() for corner in CORNERS]

    def refuse(code: str, value: str, reason: str, xyxy: tuple[float, float, float, float] | None = None) -> None:
        reason = f"{reason}; left out"
        read.findings.append(Finding("refused", code, str(path), "", value, reason, box=n, xyxy=xyxy))

    try:
        corners = [float(text) for text in texts]
    except ValueError:
        value = ", ".join(f"{corner} {text!r}" for corner, text in zip(CORNERS, texts, strict=True))
        refuse("box-missing", value, "expected four numbers in <bndbox>")
        return

    def xyxy() -> tuple[float, float, float, float]:  # rarely needed, and takes longer than all else here
        return as_xyxy(include_last(np.array([corners]), -offset, 0)[0])

    rotation = next((a.findtext("value") for a in element.iter("attribute") if a.findtext("name") == "rotation"), None)
    try:
        ring = rotated(xyxy(), rotation) if rotation else None
    except ValueError:
        refuse("box-rotated", name, f"rotated by {rotation!r}; expected degrees")
        return
    if not name:
        refuse("unknown-class", "", "has no <name>", xyxy())
    else:
        read.names.append(name)
        if ring:
            x1, y1, x2, y2 = hull(ring)
            corners = [x1 + offset, y1 + offset, x2, y2]
        read.corners.append(corners)
        read.rings.append([ring] if ring else [])
        read.flags.append(_flags(read, element, path, n, xyxy))
        read.numbers.append(n)


def _flags(
    read: _Annotation,
    element: ET.Element,
    path: Path,
    n: int,
    xyxy: Callable[[], tuple[float, float, float, float] | None],
) -> int:
    flag = 0
    for tag, bit in (("difficult", DIFFICULT), ("truncated", TRUNCATED)):
        text = (element.findtext(tag) or "").strip().lower()
        flag |= bit if text in ("1", "true") else 0
        if text not in ("", "0", "1", "true", "false", "unspecified"):
            value, reason = f"{tag} {text!r}", "expected 0 or 1; taken as 0"
            read.findings.append(Finding("noted", "flag-unknown", str(path), "", value, reason, box=n, xyxy=xyxy()))
    return flag

"""Pascal VOC XML (host.robots.ox.ac.uk/pascal/VOC): one file an image; boxes are 1-based and inclusive."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path, PurePosixPath
from xml.sax.saxutils import escape

import numpy as np

from dataforge.errors import ConfigError, FormatError
from dataforge.files import check_root, inside, new_folder, put_text
from dataforge.formats.decimals import decimals
from dataforge.formats.pictures import as_size, is_picture, picture_name, put_picture
from dataforge.formats.voc.files import (
    EXPECTED,
    Split,
    from_folders,
    from_lists,
    is_per_class,
    key_of,
    orphans,
    picture_of,
    read_lists,
)
from dataforge.record import DIFFICULT, TRUNCATED, Finding, Record, Source, as_boxes, pick_splits

CORNERS = ("xmin", "ymin", "xmax", "ymax")
HOLDS = frozenset({"difficult", "truncated", "splits", "unions"})
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass
class _Annotation:
    filename: str = ""
    height: int = 0
    width: int = 0
    names: list[str] = field(default_factory=list)
    corners: list[list[float]] = field(default_factory=list)
    flags: list[int] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    broken: str = ""


def read(
    root: Path, *, split: tuple[str, ...] | None = None, voc_offset: int = 1, allow_outside: bool = False
) -> Source:
    """Read a VOC folder. Classes are the sorted names over all XML files, whichever splits are taken.

    Args:
        split: take these only.
        voc_offset: 1 turns VOC's 1-based inclusive corners into edges, `(xmin - 1, ymin - 1, xmax, ymax)`; 0 takes
            them as they are.
        allow_outside: `<filename>` may lead out of the folder: absolute, or with `..`.

    Raises:
        FormatError: no layout fits. ConfigError: no such split, or no such offset.
    """
    if voc_offset not in (0, 1):
        raise ConfigError(f"--voc-offset {voc_offset}: expected 1 or 0")
    check_root(root, EXPECTED)
    found: list[Finding] = []
    listed = read_lists(root / "ImageSets" / "Main", found)
    splits = from_lists(root, listed) if listed else from_folders(root)
    chosen = pick_splits(split, splits)
    unions = _unions({name: set(splits[name].ids) for name in chosen}) if listed else {}
    stored = [name for name in chosen if name not in unions]
    for one, other in combinations(stored, 2) if listed else ():
        common = len({*splits[one].ids} & {*splits[other].ids})
        if common:
            reason = "images are in both splits; stored in both"
            place = str(root / "ImageSets" / "Main")
            found.append(Finding("noted", "splits-overlap", place, f"{one}, {other}", str(common), reason, "set"))
    if listed:
        found += orphans(root, splits)
    files = {path for part in splits.values() for paths in part.xml.values() for path in paths}
    parsed = {path: _parse(path) for path in sorted(files)}
    classes = tuple(sorted({name for annotation in parsed.values() for name in annotation.names}))
    if not classes and all(annotation.broken for annotation in parsed.values()):
        raise FormatError(next((one.broken for one in parsed.values()), f"{root}: no XML files; expected {EXPECTED}"))
    if voc_offset == 1:
        taken = {path for name in stored for i in splits[name].ids for path in splits[name].xml.get(i, ())}
        zeros = sum(min(corners[:2]) == 0 for path in taken for corners in parsed[path].corners)
        if zeros:
            reason = "xmin or ymin is 0, but VOC counts from 1; if these are not VOC's, try --voc-offset 0"
            found.append(Finding("noted", "touches-zero", str(root), "xmin, ymin", f"{zeros} boxes", reason, "set"))

    how = (parsed, classes, voc_offset, bool(listed), allow_outside)

    def records() -> Iterator[Record | Finding]:
        yield from found
        for name in stored:
            for i in splits[name].ids:
                yield from _record(root, name, i, splits[name], *how)

    return Source(classes, records(), unions=unions, total=sum(len(splits[name].ids) for name in stored))


def _unions(ids: dict[str, set[str]]) -> dict[str, tuple[str, ...]]:
    """Splits that are exactly others, disjoint ones, put together."""
    unions: dict[str, tuple[str, ...]] = {}
    for name in sorted(ids, key=lambda name: len(ids[name])):
        parts: list[str] = []
        left = set(ids[name])
        smaller = [other for other in ids if other not in unions and ids[other] and ids[other] < ids[name]]
        for other in sorted(smaller, key=lambda other: -len(ids[other])):
            if ids[other] <= left:
                parts.append(other)
                left -= ids[other]
        if parts and not left:
            unions[name] = tuple(other for other in ids if other in parts)
    return unions


def _record(
    root: Path,
    split: str,
    i: str,
    part: Split,
    parsed: dict[Path, _Annotation],
    classes: tuple[str, ...],
    offset: int,
    listed: bool,
    allow_outside: bool,
) -> Iterator[Record | Finding]:
    origin = next(iter(part.xml.get(i, ())), None)
    annotation = parsed[origin] if origin else _Annotation()
    file = str(origin or (root / "ImageSets" / "Main" / f"{split}.txt" if listed else root))
    picture = picture_of(i, annotation.filename, part, allow_outside)
    if annotation.broken or picture is None or (listed and origin is None):
        if annotation.broken:
            code, value, reason = "annotation-broken", "", annotation.broken.removeprefix(f"{file}: ")
        elif listed and origin is None:
            code, value, reason = "annotation-missing", "", "is listed, but has no XML file"
        else:
            hint = " (others need --allow-outside)" if inside(annotation.filename or i) is None else ""
            code, value, reason = "image-missing", annotation.filename, f"no picture has this name{hint}; left out"
        yield Finding("refused", code, file, i, value, reason, "image")
        return
    key = key_of(picture, root)
    if origin is None:
        yield Finding("noted", "no-annotation", str(picture), key, "", "no XML file; taken as an empty image", "image")
    yield from annotation.findings
    corners = np.array(annotation.corners, np.float64).reshape(-1, 4)
    boxes = as_boxes(corners - (offset, offset, 0, 0))
    if offset:
        for n in np.nonzero((corners[:, :2] == corners[:, 2:]).any(1))[0]:
            value = "xmin, ymin, xmax, ymax " + ", ".join(f"{number:g}" for number in corners[n].tolist())
            reason = "first and last pixel are the same; kept, one pixel wide or high"
            yield Finding("noted", "box-one-pixel", file, f"{key} box {n}", value, reason)
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
    )


def _parse(path: Path) -> _Annotation:
    """Read one XML file; what makes all of it useless is put in `broken`."""
    try:
        data = path.read_bytes()
        if b"<!ENTITY" in data.replace(b"\0", b""):  # an entity can expand to gigabytes; NULs are UTF-16's
            return _Annotation(broken=f"{path}: declares an XML entity, which is not allowed here")
        tree = ET.fromstring(data)
    except OSError as error:
        return _Annotation(broken=f"{path}: cannot be read: {error.strerror}")
    except (ET.ParseError, ValueError, LookupError) as error:
        return _Annotation(broken=f"{path}: not XML: {error}")
    if tree.tag != "annotation":
        return _Annotation(broken=f"{path}: the root element is <{tree.tag}>; expected <annotation>")
    read = _Annotation((tree.findtext("filename") or "").strip())
    read.height, read.width = (as_size(tree.findtext(f"size/{name}")) for name in ("height", "width"))
    for n, element in enumerate(tree.findall("object")):
        key = f"{path.stem} object {n}"
        # direct children only: CVAT's <attributes> and VOC's <part> have a <name> of their own
        name = (element.findtext("name") or "").strip()
        texts = [(element.findtext(f"bndbox/{corner}") or "").strip() for corner in CORNERS]
        try:
            corners = [float(text) for text in texts]
        except ValueError:
            value = ", ".join(f"{corner} {text!r}" for corner, text in zip(CORNERS, texts, strict=True))
            reason = "expected four numbers in <bndbox>; left out"
            read.findings.append(Finding("refused", "box-missing", str(path), key, value, reason))
            continue
        if not name:
            read.findings.append(Finding("refused", "unknown-class", str(path), key, "", "has no <name>; left out"))
            continue
        flag = 0
        for tag, bit in (("difficult", DIFFICULT), ("truncated", TRUNCATED)):
            text = (element.findtext(tag) or "").strip().lower()
            flag |= bit if text in ("1", "true") else 0
            if text not in ("", "0", "1", "true", "false", "unspecified"):
                reason = "expected 0 or 1; taken as 0"
                read.findings.append(Finding("noted", "flag-unknown", str(path), key, f"{tag} {text!r}", reason))
        read.names.append(name)
        read.corners.append(corners)
        read.flags.append(flag)
    return read


def write(source: Source, root: Path) -> None:
    """Write `JPEGImages/<key>`, `Annotations/*.xml` and `ImageSets/Main/<split>.txt`.

    Corners are decimals, 1-based as VOC's, and come back bit for bit (but for those nearer to the edge than 1e-6
    pixels). A key that two splits share goes below a folder of the split's name in one of them. Of two pictures that
    differ in their suffix alone, the second one's XML is named after all of its name. A key without a picture's suffix
    gets one. Crowd flags, areas, image and
    class numbers and unused classes cannot be held.

    Raises:
        FormatError: `root` is not empty, something cannot be written, there are no images, or a name is one that the
            lists or XML cannot hold.
    """
    new_folder(root)
    for name in source.classes:
        if not name or name != name.strip() or _NOT_XML.search(name):
            raise FormatError(f"{root}: class {name!r}: XML cannot hold it; expected text without blanks around it")
    names = [escape(name, {"\r": "&#13;"}) for name in source.classes]
    lists: dict[str, list[str]] = {}
    pictures: set[str] = set()
    ids: dict[str, str] = {}
    for item in source.records:
        if isinstance(item, Finding):
            continue
        name = picture_name(item)
        name = (inside(name) or name).removeprefix("JPEGImages/")
        while name in pictures:
            name = f"{item.split}/{name}"
        i = _new_id(name, ids)
        put_picture(replace(item, key=name), root / "JPEGImages")
        put_text(root / "Annotations" / f"{i}.xml", _xml(item, name, names).encode())
        pictures.add(name)
        ids[i] = name
        lists.setdefault(item.split, []).append(i)
    if not lists:
        raise FormatError(f"{root}: there are no images to write")
    for union, parts in source.unions.items():
        here = [part for part in parts if part in lists]
        if len(here) > 1:  # a list that is the same as one split's would be read as a second copy of it
            lists[union] = [i for part in here for i in lists[part]]
    for split, lines in lists.items():
        if all(map(is_per_class, lines)):
            raise FormatError(f"{root}: split {split!r}: all names end in 1, -1 or 0, as in VOC's per-class lists")
        put_text(root / "ImageSets" / "Main" / f"{split}.txt", "".join(f"{line}\n" for line in lines).encode())


def _new_id(name: str, ids: dict[str, str]) -> str:
    """The id of a picture: its name without the suffix, or all of it where that is taken."""
    i = str(PurePosixPath(name).with_suffix("")) if is_picture(name) else ""
    if not i or i.strip().splitlines() != [i] or _NOT_XML.search(name):
        raise FormatError(f"{name!r}: VOC cannot hold it; expected a picture's name, and no blanks around it")
    if i in ids and ids[i] != i and name not in ids:
        i = name
    if i in ids:
        raise FormatError(f"{name!r}: VOC cannot hold it beside {ids[i]!r}")
    return i


def _xml(record: Record, name: str, names: list[str]) -> str:
    corners = np.concatenate([decimals(record.boxes[:, :2], -1.0), decimals(record.boxes[:, 2:])], 1)
    rows = zip(record.labels.tolist(), record.flags.tolist(), corners.tolist(), strict=True)
    lines = [
        "<annotation>",
        f"  <filename>{escape(name)}</filename>",
        f"  <size><width>{record.width}</width><height>{record.height}</height></size>",
    ]
    for label, flag, box in rows:
        tags = "".join(f"<{tag}>{repr(v).removesuffix('.0')}</{tag}>" for tag, v in zip(CORNERS, box, strict=True))
        difficult, truncated = int(flag & DIFFICULT > 0), int(flag & TRUNCATED > 0)
        lines += [
            "  <object>",
            f"    <name>{names[label]}</name>",
            f"    <truncated>{truncated}</truncated>",
            f"    <difficult>{difficult}</difficult>",
            f"    <bndbox>{tags}</bndbox>",
            "  </object>",
        ]
    return "\n".join([*lines, "</annotation>", ""])

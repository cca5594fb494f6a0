"""CVAT's XML, "CVAT for images 1.1" (docs.cvat.ai): one file for many images, shapes as points on the upright image."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dataforge.errors import FormatError
from dataforge.files import check_root, globbed
from dataforge.formats.annotated import hull
from dataforge.formats.boxes import as_xyxy, rotated
from dataforge.formats.pictures import as_size, base_of, given, locate, picture_folders
from dataforge.formats.splits import split_word
from dataforge.formats.xml_files import iterparse
from dataforge.polygons import Polygons
from dataforge.record import FLAGS, Finding, Record, Source, as_boxes, pick_splits

EXPECTED = "annotations.xml (CVAT for images 1.1) with images/<subset>/ or images/"
NO_BOX = {"points", "polyline", "cuboid", "skeleton", "tag"}  # these do not state the width and height of the object


@dataclass
class _File:
    """Result of the first pass over a file: the data needed to name classes and splits, and to find the images."""

    classes: dict[str, None] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    names: dict[str, list[str]] = field(default_factory=dict)  # by split
    split: str = "train"  # of images without a subset
    subsets: dict[str, str] = field(default_factory=dict)  # of the tasks, by their ids

    def split_of(self, image: ET.Element) -> str:
        """Return an image's subset, or that of its task."""
        only = next(iter(self.subsets.values()), "") if len(set(self.subsets.values())) == 1 else ""
        return image.get("subset") or self.subsets.get(image.get("task_id", "")) or only or self.split


def read(
    root: Path, *, split: tuple[str, ...] | None = None, images: Path | None = None, allow_outside: bool = False
) -> Source:
    """Read CVAT's images XML; several files of a folder form one set.

    Splits are the images' subsets, else those of their tasks, else words in the names of the files, else "train".

    Ellipses and masks are converted to their bounding boxes. Points, polylines, cuboids and skeletons are refused.
    Shape attributes named crowd, difficult and truncated are kept; `occluded` is not.
    Classes are the task's labels in its order, or the names in use if the file lists none.

    Args:
        root: the folder or the XML file.
        split: read only these splits.
        images: the folder with the images; by default they are searched below `root`.
        allow_outside: allow names outside the folder: absolute, or with `..`.

    Raises:
        FormatError: no such file, or it is not CVAT's images XML. ConfigError: no such split.
    """
    if not root.is_file():
        check_root(root, EXPECTED)
    images = given(root, images, "--images")
    places = ("*.xml", "[aA]nnotations/*.xml", "*/*.xml")
    paths = [root] if root.is_file() else next(filter(None, (globbed(root, place) for place in places)), [])
    if not paths:
        raise FormatError(f"{root}: no XML file found; expected {EXPECTED}")
    folder = base_of(root)
    files = {path: _survey(path, root) for path in paths}
    classes = tuple(dict.fromkeys(name for file in files.values() for name in file.classes or sorted(file.used)))
    chosen = pick_splits(split, dict.fromkeys(name for file in files.values() for name in file.names))
    label_of = {name: label for label, name in enumerate(classes)}

    def records() -> Iterator[Record | Finding]:
        for path, file in files.items():
            pictures: dict[str, dict[str, tuple[str, Path]]] = {}
            for name in [name for name in chosen if name in file.names]:
                folders = picture_folders(folder, name, path, images)
                below = images or folder
                pictures[name], findings = locate(file.names[name], folders, below, path, allow_outside=allow_outside)
                yield from findings
            for element in _images(path):
                name = file.split_of(element)
                picture = pictures.get(name, {}).get(element.get("name", ""))
                if picture:
                    yield from _record(name, *picture, element, label_of, str(path))

    total = sum(len(file.names.get(name, ())) for file in files.values() for name in chosen)
    return Source(classes, records(), total=total, files=paths)


def _survey(path: Path, root: Path) -> _File:
    inner = path.parent.name if path.parent != root else ""  # a folder for each split
    file = _File(split=split_word(path.stem) or split_word(inner) or "train")
    first = ""
    for event, element in iterparse(path):
        first = first or element.tag
        if first != "annotations":
            raise FormatError(f"{path}: the root element is <{first}>; expected CVAT's <annotations>")
        if event == "start":
            continue
        if element.tag == "track":
            raise FormatError(f'{path}: holds tracks of a video; export it as "CVAT for images 1.1"')
        if element.tag == "label" and element.find("parent") is None:  # labels with a parent are points of a skeleton
            name = element.findtext("name")
            if name:
                file.classes[name] = None
        elif element.tag in ("task", "job") and element.findtext("subset"):
            file.subsets[element.findtext("id") or ""] = element.findtext("subset") or ""
        elif element.tag == "image":
            name = element.get("name")
            if not name:
                raise FormatError(f"{path}: image {element.get('id')}: has no name")
            if (
                len({*file.subsets.values()}) > 1
                and not element.get("subset")
                and element.get("task_id") not in file.subsets
            ):
                subsets = ", ".join(dict.fromkeys(file.subsets.values()))
                raise FormatError(f"{path}: image {name}: no telling its subset; the file has tasks of {subsets}")
            file.names.setdefault(file.split_of(element), []).append(name)
            file.used |= {shape.get("label", "") for shape in element} - {""}
            element.clear()
    if not file.names:
        raise FormatError(f"{path}: has no <image>; expected {EXPECTED}")
    return file


def _images(path: Path) -> Iterator[ET.Element]:
    """Yield the image elements; each is cleared when the next one is requested."""
    top: ET.Element | None = None
    for event, element in iterparse(path):
        top = element if top is None else top
        if event == "end" and element.tag == "image":
            yield element
            top.clear()


def _record(
    split: str, key: str, image: Path, element: ET.Element, label_of: dict[str, int], origin: str
) -> Iterator[Record | Finding]:
    boxes: list[list[float]] = []
    labels: list[int] = []
    flags: list[int] = []
    rings: list[list[list[float]]] = []
    for n, shape in enumerate(element):
        name = shape.get("label", "")
        try:
            box, ring = _box(shape)
        except ValueError as error:
            value = f"{shape.tag} {shape.get('points') or dict(shape.attrib)}"
            value = value if len(value) <= 80 else value[:77] + "..."
            yield Finding("refused", "box-missing", origin, key, value, f"{error}; left out", box=n)
            continue
        if isinstance(box, str):
            yield Finding("refused", "shape-unknown", origin, key, f"{shape.tag} {name}", f"{box}; left out", box=n)
        elif name not in label_of:
            reason = "expected one of the task's labels; left out"
            xyxy = as_xyxy(box)
            yield Finding("refused", "unknown-class", origin, key, repr(name), reason, box=n, xyxy=xyxy)
        else:
            boxes.append(box)
            rings.append([ring] if ring else [])
            labels.append(label_of[name])
            marks = {(a.get("name") or "").lower(): (a.text or "").strip().lower() for a in shape.iter("attribute")}
            flags.append(sum(bit for flag, bit in FLAGS.items() if marks.get(flag) in ("true", "1")))
    yield Record(
        key=key,
        split=split,
        image=image,
        height=as_size(element.get("height")),
        width=as_size(element.get("width")),
        boxes=as_boxes(boxes),
        labels=np.array(labels, np.int32),
        flags=np.array(flags, np.uint8),
        origin=origin,
        polygons=Polygons.of(rings) if any(rings) else None,
    )


def _box(shape: ET.Element) -> tuple[list[float] | str, list[float] | None]:
    """Return the bounding box of a shape, or the reason why it has none; and its polygon x, y, x, y, ..., if it is one.

    Raises:
        ValueError: a number is missing or invalid.
    """
    if shape.tag in NO_BOX:
        return f"a {shape.tag} is not around an object; expected a box, a polygon, an ellipse or a mask", None
    if shape.tag == "box":
        box = _numbers(shape, "xtl", "ytl", "xbr", "ybr")
        ring = rotated(box, shape.get("rotation"))
        return ([*hull(ring[0::2], ring[1::2])], ring) if ring else (box, None)
    if shape.tag == "ellipse":
        x, y, rx, ry = _numbers(shape, "cx", "cy", "rx", "ry")
        turned = math.radians(float(shape.get("rotation") or 0))
        half_x = math.hypot(rx * math.cos(turned), ry * math.sin(turned))
        half_y = math.hypot(rx * math.sin(turned), ry * math.cos(turned))
        return [x - half_x, y - half_y, x + half_x, y + half_y], None
    if shape.tag == "mask":
        left, top, width, height = _numbers(shape, "left", "top", "width", "height")
        return [left, top, left + width, top + height], None
    if shape.tag == "polygon":
        pairs = [point.split(",") for point in (shape.get("points") or "").split(";")]
        if len(pairs) < 3 or {len(pair) for pair in pairs} != {2}:
            raise ValueError('expected at least 3 points as "x,y;x,y;x,y"')
        points = [float(number) for pair in pairs for number in pair]
        return [*hull(points[0::2], points[1::2])], points
    return f"a {shape.tag} is not known here; expected a box, a polygon, an ellipse or a mask", None


def _numbers(shape: ET.Element, *names: str) -> list[float]:
    try:
        return [float(shape.attrib[name]) for name in names]
    except (KeyError, ValueError):
        raise ValueError(f"expected numbers as {', '.join(names)}") from None

"""Images as annotation files state them, and the `Source` of such images.

For readers of files that name images and classes in text: each yields an `Annotated` per image, and findings.
"""

from __future__ import annotations

import glob
import math
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from sys import intern
from typing import Literal, TypeVar

import numpy as np

from dataforge.errors import FormatError, ImageError
from dataforge.files import check_root
from dataforge.formats.boxes import as_xyxy, rotated
from dataforge.formats.json_files import json_splits, uncollected
from dataforge.formats.pictures import base_of, given, locate, picture_folders
from dataforge.formats.sniff import is_json
from dataforge.images.header import read_size
from dataforge.polygons import Polygons, Ring
from dataforge.record import Finding, Record, Source, as_boxes, pick_splits

T = TypeVar("T")
Numbers = Sequence[float | None]
Edges = tuple[float, float, float, float]
NAN = (math.nan, math.nan, math.nan, math.nan)
TOGETHER, EMBEDDED = 256, 8 << 20  # images, and the bytes of those that are embedded


@dataclass(slots=True)
class Annotated:
    """One image and its boxes, as a file states them.

    Attributes:
        name: the image's path.
        origin: the annotation file.
        width, height: pixels; 0 if unknown.
        unit: the numbers of boxes are fractions of the image's size, not pixels.
        names, boxes, flags: of the boxes that are kept: class names, edges (4 numbers each) and flags.
        rings: their polygons, in the unit of the boxes.
        findings: about the others; their keys, and pixels for fractions, are added with the record.
        count: annotations seen so far.
    """

    name: str
    origin: Path | str
    width: int = 0
    height: int = 0
    unit: bool = False
    names: list[str] = field(default_factory=list)
    boxes: array = field(default_factory=lambda: array("d"))
    flags: bytearray = field(default_factory=bytearray)
    rings: list[Sequence[Ring]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    count: int = 0

    def add(
        self, name: str | None, xyxy: Numbers, flag: int = 0, *, rotation: object = None, ring: Ring | None = None
    ) -> None:
        """Add a box of four edges, where None is no number. One without a class is refused.

        Args:
            rotation: degrees, clockwise around the center: the hull becomes the box, the corners its polygon.
            ring: the polygon: x, y, x, y, ... or pairs.
        """
        if rotation:
            try:
                turned = rotated(xyxy, rotation)
            except (TypeError, ValueError):
                self.refuse("box-rotated", name or "", f"rotated by {rotation!r}; expected degrees", xyxy)
                return
            if turned:
                xyxy, ring = hull(turned[0::2], turned[1::2]), turned
        if not name:
            self.refuse("unknown-class", "", "expected a class's name", xyxy)
        else:
            self.rings.append(() if ring is None else (ring,))
            self.names.append(intern(name))  # a file's text is new each time
            self.boxes.extend(xyxy if None not in xyxy else [math.nan if number is None else number for number in xyxy])
            self.flags.append(flag)
            self.count += 1

    def refuse(self, code: str, value: str, reason: str, xyxy: Numbers = NAN) -> None:
        """Leave an annotation out, with a finding."""
        box = as_xyxy(numbers) if len(numbers := [n for n in xyxy if n is not None and math.isfinite(n)]) == 4 else None
        value = f"annotation {self.count}: {value}" if value else f"annotation {self.count}"
        self.note("refused", code, value, reason, box)

    def note(
        self, action: Literal["refused", "noted"], code: str, value: str, reason: str, xyxy: Edges | None = None
    ) -> None:
        """Add a finding about the next annotation. One that is refused is counted and left out."""
        reason += "; left out" if action == "refused" else ""
        self.findings.append(Finding(action, code, str(self.origin), "", value, reason, box=self.count, xyxy=xyxy))
        self.count += action == "refused"

    def close(self) -> Annotated:
        """Take no more annotations: an image that waits until all classes are known takes half the memory."""
        self.names, self.rings = tuple(self.names), tuple(self.rings) if any(self.rings) else ()  # type: ignore[assignment]
        self.boxes, self.flags = self.boxes.tobytes(), bytes(self.flags)  # type: ignore[assignment]
        self.findings = self.findings or ()  # type: ignore[assignment]
        return self

    def unite(self, other: Annotated) -> None:
        """Append the annotations of another entry for the same image. Both are closed, or none is."""
        moved = [replace(one, box=None if one.box is None else one.box + self.count) for one in other.findings]
        self.findings = [*self.findings, *moved]
        self.rings = [*(self.rings or [()] * len(self.names)), *(other.rings or [()] * len(other.names))]
        self.names = [*self.names, *other.names]
        self.boxes += other.boxes
        self.flags += other.flags
        self.count += other.count


Item = Finding | tuple[str, str, Path | bytes, Annotated]  # split, key, image, and what is annotated


def xywh(x: float | None, y: float | None, width: float | None, height: float | None) -> Numbers:
    """Return the edges of a box given by its corner and its size; NaN if a number is missing."""
    if x is None or y is None or width is None or height is None:
        return NAN
    return x, y, x + width, y + height


def cxcywh(cx: float | None, cy: float | None, width: float | None, height: float | None) -> Numbers:
    """Return the edges of a box given by its center and its size; NaN if a number is missing."""
    if cx is None or cy is None or width is None or height is None:
        return NAN
    return cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2


def first_last(x1: float | None, y1: float | None, x2: float | None, y2: float | None) -> Numbers:
    """Return the edges of a box given by its first and last pixels, as `boxes.include_last`; NaN if one is missing."""
    if x1 is None or y1 is None or x2 is None or y2 is None:
        return NAN
    x1, x2 = (x1, x2 + 1) if x1 < x2 + 1 else (x1 + 1, x2)
    y1, y2 = (y1, y2 + 1) if y1 < y2 + 1 else (y1 + 1, y2)
    return x1, y1, x2, y2


def hull(xs: Sequence[float], ys: Sequence[float]) -> Edges:
    """Return the edges of the box around points; NaN if a coordinate is not finite."""
    if not (len(xs) == len(ys) > 0 and math.isfinite(sum(xs)) and math.isfinite(sum(ys))):
        return NAN
    return min(xs), min(ys), max(xs), max(ys)


def ring_of(xs: Iterable[float], ys: Iterable[float]) -> list[float]:
    """Return x, y, x, y, ... of points."""
    return [number for point in zip(xs, ys, strict=False) for number in point]


def by_split(items: Iterable[tuple[str, T]]) -> dict[str, list[T]]:
    """Group items by their splits, in the order of their first ones."""
    splits: dict[str, list[T]] = {}
    for name, item in items:
        splits.setdefault(name, []).append(item)
    return splits


def files_of(root: Path, fits: Callable[[Path], bool], expected: str, *suffixes: str) -> dict[str, Sequence[Path]]:
    """Return the files of a format by split: those that fit, and JSON files that are damaged.

    Args:
        suffixes: in lower case; by default ".json".

    Raises:
        FormatError: there are none.
    """
    if root.is_file():
        return json_splits(root)
    check_root(root, expected)
    splits: dict[str, Sequence[Path]] = {}
    for name, paths in json_splits(root, *suffixes).items():
        own = [path for path in paths if fits(path) or not (path.suffix.lower() == ".csv" or is_json(path))]
        if own:
            splits[name] = own
    if not splits:
        raise FormatError(f"{root}: no such file found; expected {expected}")
    return splits


def source(
    root: Path,
    splits: Mapping[str, Iterable[Annotated | Finding]],
    split: tuple[str, ...] | None,
    images: Path | None,
    allow_outside: bool,
    *,
    classes: Iterable[str] = (),
    files: Iterable[Path] = (),
    places: Sequence[str] = (),
) -> Source:
    """Return the source of images by split. Entries for one image are united within a split.

    Args:
        root: the folder or file that was read; images are searched below its folder.
        splits: each split's images, and findings about others; only those of the selected splits are iterated.
        split, images, allow_outside: as given to `read`.
        classes: names in their order; others in use follow, sorted.
        files: the files that were read.
        places: folders of images besides the usual ones: patterns below the folder, {} for the split.

    Raises:
        FormatError: raised by `splits`. ConfigError: no such split, or no such folder of images.
    """
    images = given(root, images, "--images")
    base = base_of(root)
    noted: list[Finding] = []
    with uncollected():
        parts = {name: _united(splits[name], noted) for name in pick_splits(split, splits)}
    used = {one for part in parts.values() for item in part.values() for one in item.names}
    listed = dict.fromkeys(classes)
    label_of = {one: label for label, one in enumerate([*listed, *sorted(used - listed.keys())])}

    def records() -> Iterator[Record | Finding]:
        yield from noted
        for name, part in parts.items():
            if not part:
                continue
            origin = next(iter(part.values())).origin
            assert isinstance(origin, Path), f"{origin} is text, as of images that wait for all classes"
            patterns = [place.format(glob.escape(name)) for place in places] if images is None else []
            own = [path for pattern in patterns for path in sorted(base.glob(pattern)) if path.is_dir()]
            folders = picture_folders(base, name, origin, images) + own
            pictures, findings = locate(part, folders, images or base, origin, allow_outside=allow_outside)
            yield from findings
            found = ((name, *pictures[item.name], item) for item in part.values() if item.name in pictures)
            yield from records_of(found, label_of)

    return Source(tuple(label_of), records(), total=sum(map(len, parts.values())), files=list(files))


def _united(items: Iterable[Annotated | Finding], noted: list[Finding]) -> dict[str, Annotated]:
    """Return images by name; findings are added to `noted`."""
    images: dict[str, Annotated] = {}
    for item in items:
        if isinstance(item, Finding):
            noted.append(item)
        elif item.name in images:
            images[item.name].unite(item)
        else:
            images[item.name] = item
    return images


def records_of(items: Iterable[Item], label_of: Mapping[str, int]) -> Iterator[Record | Finding]:
    """Yield the records of images, each after its findings.

    The boxes of several images are computed at once: NumPy's calls for those of one take longer than reading it.

    Args:
        items: findings among them are passed on.
        label_of: class name -> label.
    """
    for chunk in _chunks(items):
        images = [(image, item) for _, _, image, item in (one for one in chunk if not isinstance(one, Finding))]
        sizes = [_size(image, item) for image, item in images]
        scales = [(w, h, w, h) if item.unit else (1, 1, 1, 1) for (h, w), (_, item) in zip(sizes, images, strict=True)]
        unscaled = np.frombuffer(b"".join(item.boxes for _, item in images), np.float64).reshape(-1, 4)
        with np.errstate(all="ignore"):
            scale = np.array(scales, np.float64).reshape(-1, 4)
            boxes = (unscaled * np.repeat(scale, [len(item.flags) for _, item in images], 0)).astype(np.float32)
        labels = np.array([label_of[name] for _, item in images for name in item.names], np.int32)
        flags = np.frombuffer(b"".join(item.flags for _, item in images), np.uint8)
        facts, end = iter(zip(sizes, scales, strict=True)), 0
        for one in chunk:
            if isinstance(one, Finding):
                yield one
                continue
            split, key, image, item = one
            ((height, width), by), own = next(facts), slice(end, end := end + len(item.flags))
            for finding in item.findings:
                edges = [edge * side for edge, side in zip(finding.xyxy or (), by, strict=False)]
                yield replace(finding, key=key, xyxy=as_xyxy(as_boxes(edges)[0]) if edges else None)
            yield Record(
                key=key,
                split=split,
                image=image,
                height=height,
                width=width,
                boxes=boxes[own],
                labels=labels[own],
                flags=flags[own],
                origin=str(item.origin),
                polygons=Polygons.of(item.rings, by[:2]) if any(item.rings) else None,
            )


def _chunks(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Yield the items in lists that end at `TOGETHER` items or `EMBEDDED` bytes."""
    chunk, held = list[Item](), 0
    for item in items:
        chunk.append(item)
        held += len(item[2]) if not isinstance(item, Finding) and isinstance(item[2], bytes) else 0
        if len(chunk) == TOGETHER or held >= EMBEDDED:
            yield chunk
            chunk, held = [], 0
    if chunk:
        yield chunk


def _size(image: Path | bytes, item: Annotated) -> tuple[int, int]:
    """Return height and width: as stated, or as the image's header says where boxes are fractions of them."""
    if item.unit and isinstance(image, Path):
        with suppress(OSError, ValueError, ImageError):  # ingest opens it too, and reports the error
            height, width = read_size(image)
            if (width, height) != (item.height, item.width):  # else: of the pixels before EXIF orientation
                return height, width
    return item.height, item.width

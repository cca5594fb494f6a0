"""Reader of Create ML JSON."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np

from dataforge.errors import FormatError
from dataforge.files import check_root
from dataforge.formats.boxes import as_xyxy, edges
from dataforge.formats.json_files import json_splits, read_json
from dataforge.formats.pictures import base_of, given, locate, picture_folders
from dataforge.record import Boxes, Finding, Record, Source, as_boxes, pick_splits

EXPECTED = "JSON files, in one folder or in <split>/: lists of image and annotations with label and coordinates"


class Coordinates(msgspec.Struct, gc=False):
    """The box's center and size, in pixels."""

    x: float | None = None
    y: float | None = None
    width: float | None = None
    height: float | None = None


class Annotation(msgspec.Struct, gc=False):
    label: str | None = None
    coordinates: Coordinates | None = None


class Row(msgspec.Struct, gc=False):
    annotations: list[Annotation]
    image: str | None = None
    imagefilename: str | None = None  # older files

    @property
    def name(self) -> str:
        return self.image or self.imagefilename or ""


def read(
    root: Path, *, split: tuple[str, ...] | None = None, images: Path | None = None, allow_outside: bool = False
) -> Source:
    """Read Create ML JSON. Rows of one image are merged within a split. Classes are the sorted names in use.

    Args:
        root: a folder of files, or one file.
        split: read only these splits.
        images: the folder with the images; by default they are searched below `root`.
        allow_outside: allow names outside the folder: absolute, or with `..`.

    Raises:
        FormatError: no such files, or a file is not Create ML JSON. ConfigError: no such split.
    """
    if not root.is_file():
        check_root(root, EXPECTED)
    images = given(root, images, "--images")
    splits = json_splits(root)
    if not splits:
        raise FormatError(f"{root}: no JSON file found; expected {EXPECTED}")
    chosen = pick_splits(split, splits)
    parts: dict[str, dict[str, list[Annotation]]] = {name: {} for name in chosen}
    for name in chosen:
        for path in splits[name]:
            for row in read_json(path, list[Row], EXPECTED):
                parts[name].setdefault(row.name, []).extend(row.annotations)
    labels = {one.label for part in parts.values() for own in part.values() for one in own if one.label}
    label_of = {name: label for label, name in enumerate(sorted(labels))}
    base = base_of(root)

    def records() -> Iterator[Record | Finding]:
        for name, part in parts.items():
            origin = splits[name][0]
            folders = picture_folders(base, name, origin, images)
            pictures, findings = locate(part, folders, images or base, origin, allow_outside=allow_outside)
            yield from findings
            for image, own in part.items():
                if image in pictures:
                    yield from _record(name, *pictures[image], own, label_of, str(origin))

    files = [path for name in chosen for path in splits[name]]
    return Source(tuple(label_of), records(), total=sum(map(len, parts.values())), files=files)


def _record(
    split: str, key: str, image: Path, annotations: list[Annotation], label_of: dict[str, int], origin: str
) -> Iterator[Record | Finding]:
    kept: list[Annotation] = []
    for n, annotation in enumerate(annotations):
        if annotation.coordinates is None:
            yield Finding("refused", "box-missing", origin, key, f"annotation {n}", "no coordinates; left out", box=n)
        elif not annotation.label:
            xyxy = as_xyxy(_edges([annotation])[0])
            reason = "has no label; left out"
            yield Finding("refused", "unknown-class", origin, key, f"annotation {n}", reason, box=n, xyxy=xyxy)
        else:
            kept.append(annotation)
    yield Record(
        key=key,
        split=split,
        image=image,
        height=0,
        width=0,
        boxes=_edges(kept),
        labels=np.array([label_of[annotation.label or ""] for annotation in kept], np.int32),
        flags=np.zeros(len(kept), np.uint8),
        origin=origin,
    )


def _edges(annotations: list[Annotation]) -> Boxes:
    cxcywh = [(c.x, c.y, c.width, c.height) for one in annotations if (c := one.coordinates)]
    with np.errstate(all="ignore"):
        return as_boxes(edges(np.array(cxcywh, np.float64).reshape(-1, 4), "cxcywh"))

"""COCO JSON (cocodataset.org/#format-data): boxes `[x, y, width, height]` in pixels, sparse category ids."""

from __future__ import annotations

import re
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from dataforge.errors import FormatError
from dataforge.files import check_root
from dataforge.formats.json_files import read_json
from dataforge.formats.pictures import NOT_BELOW, as_size, given, likeliest, resolve
from dataforge.record import CROWD, DIFFICULT, TRUNCATED, Finding, Record, Source, as_boxes, pick_splits

EXPECTED = (
    "annotations/instances_<split>.json with <split>/, images/<split>/ or images/; "
    "<split>/_annotations.coco.json beside its pictures; or one JSON file (--annotations FILE --images DIR)"
)
CONTENT = "COCO's images, annotations and categories"
ROBOFLOW = "_annotations.coco.json"


class _Image(msgspec.Struct, gc=False):
    id: int | str
    file_name: str
    width: float | None = None
    height: float | None = None


class _Category(msgspec.Struct, gc=False):
    id: int
    name: str


class _Annotation(msgspec.Struct, gc=False):
    image_id: int | str
    category_id: int
    id: int | str | None = None
    bbox: list[float | None] | None = None
    area: float | None = None
    iscrowd: int | bool | None = 0
    difficult: int | bool | None = 0  # these two are not COCO's own; `write` adds them where they are set
    truncated: int | bool | None = 0


class _File(msgspec.Struct):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]


class _Split(NamedTuple):
    path: Path
    folders: list[Path]  # where its pictures may be, the likeliest first


def read(
    root: Path,
    *,
    split: tuple[str, ...] | None = None,
    annotations: Path | None = None,
    images: Path | None = None,
    allow_outside: bool = False,
) -> Source:
    """Read a COCO folder.

    Args:
        split: take these only; with `annotations`, one name here is the name that the split gets.
        annotations: this file instead of those found below `root`.
        images: the folder that `file_name` is relative to, or that holds a folder for each split.
        allow_outside: names may lead out of the folder: absolute ones, or with `..`.

    Raises:
        FormatError: no layout fits, or a file is not COCO JSON. ConfigError: no such split.
    """
    check_root(root, EXPECTED)
    annotations, images = given(root, annotations, "--annotations"), given(root, images, "--images")
    if annotations:
        name = split[0] if split and len(split) == 1 else _split_name(annotations)
        splits = {name: _Split(annotations, _folders(root, name, annotations))}
    else:
        splits = _discover(root)
    chosen = pick_splits(split, splits)
    files = {name: read_json(splits[name].path, _File, CONTENT) for name in chosen}
    classes, class_ids, noted = _classes({splits[name].path: file for name, file in files.items()})

    def records() -> Iterator[Record | Finding]:
        yield from noted
        for name in chosen:
            folders = [images, images / name] if images else splits[name].folders
            yield from _records(name, splits[name].path, folders, files.pop(name), classes, allow_outside)

    return Source(classes, records(), class_ids, total=sum(len(file.images) for file in files.values()))


def _split_name(path: Path) -> str:
    found = re.fullmatch(r"(?:instances|person_keypoints)_(.+)", path.stem)
    return found[1] if found else "train"


def _folders(root: Path, name: str, path: Path) -> list[Path]:
    places = (root / name, root / "images" / name, root / "images", path.parent, root)
    return [place for place in places if place.is_dir()]


def _discover(root: Path) -> dict[str, _Split]:
    roboflow = sorted(root.glob(f"*/{ROBOFLOW}"))
    if roboflow:
        return {file.parent.name: _Split(file, [file.parent]) for file in roboflow}
    for folder in (root / "annotations", root):
        files = sorted(file for file in folder.glob("*") if file.suffix.lower() == ".json")
        found = {_split_name(file): file for file in files if file.name.startswith("instances_")}
        if not found:  # train.json, val.json, ... beside folders of these names
            found = {
                file.stem: file
                for file in files
                if (root / file.stem).is_dir() or (root / "images" / file.stem).is_dir()
            }
        if not found and len(files) == 1:
            found = {_split_name(files[0]): files[0]}
        if found:
            return {name: _Split(file, _folders(root, name, file)) for name, file in found.items()}
        if files:
            names = ", ".join(file.name for file in files)
            raise FormatError(f"{folder}: several JSON files ({names}); say which with --annotations FILE --images DIR")
    raise FormatError(f"{root}: no COCO annotations found; expected {EXPECTED}")


def _classes(files: dict[Path, _File]) -> tuple[tuple[str, ...], tuple[int, ...], list[Finding]]:
    """Names in the order of their ids, joined over the files by name, and what was odd about them."""
    noted: list[Finding] = []
    by_file: dict[Path, dict[str, int]] = {}
    first: dict[str, int] = {}
    for path, file in files.items():
        names: dict[int, str] = {}
        here = by_file[path] = {}
        for category in file.categories:
            if names.setdefault(category.id, category.name) != category.name:
                both = f"{names[category.id]!r} and {category.name!r}"
                raise FormatError(f"{path}: category id {category.id} is given twice, to {both}")
            if here.setdefault(category.name, category.id) != category.id:
                value = f"{category.name!r}: {here[category.name]} and {category.id}"
                reason = "one name has two ids; taken for one class"
                noted.append(Finding("noted", "class-twice", str(path), "categories", value, reason, "set"))
            first.setdefault(category.name, category.id)
        if not here:
            raise FormatError(f"{path}: categories is empty; expected a list of {{id, name}}")
    classes = tuple(sorted(first, key=lambda name: first[name]))
    ids = tuple(first[name] for name in classes)
    for path, here in by_file.items():
        value = "; ".join(
            f"{what}: {', '.join(names)}"
            for what, names in (
                ("lacks", [name for name in classes if name not in here]),
                ("other ids", [name for name in classes if here.get(name, first[name]) != first[name]]),
            )
            if names
        )
        if value:
            reason = "the files' classes differ; joined by name"
            noted.append(Finding("noted", "classes-differ", str(path), "categories", value, reason, "set"))
    return classes, ids if len(set(ids)) == len(ids) else (), noted


def _records(
    split: str, path: Path, folders: list[Path], file: _File, classes: tuple[str, ...], allow_outside: bool
) -> Iterator[Record | Finding]:
    folder = likeliest(folders, (image.file_name for image in file.images), allow_outside)
    row_of = {image.id: row for row, image in enumerate(file.images)}
    if len(row_of) < len(file.images):
        twice = next(image for row, image in enumerate(file.images) if row_of[image.id] != row)
        raise FormatError(f"{path}: images: id {twice.id} is given twice; expected each once")
    label_of = {category.id: classes.index(category.name) for category in file.categories}
    kept: list[_Annotation] = []
    place_of: list[int] = []
    seen = set()
    for place, annotation in enumerate(file.annotations):
        row, bbox = row_of.get(annotation.image_id), annotation.bbox
        if row is not None and bbox is not None and len(bbox) == 4 and annotation.category_id in label_of:
            kept.append(annotation)
            place_of.append(row)
            if annotation.id is not None and annotation.id in seen:
                where, reason = file.images[row].file_name, "an id that is given twice; both kept"
                yield Finding("noted", "annotation-twice", str(path), f"annotation {annotation.id}", where, reason)
            seen.add(annotation.id)
            continue
        key = f"annotation {place if annotation.id is None else annotation.id}"
        if row is None:
            wrong = ("unknown-image", f"image_id {annotation.image_id}", "expected an id from images; left out")
        elif annotation.category_id not in label_of:
            value = f"category_id {annotation.category_id}"
            wrong = ("unknown-class", value, "expected an id from categories; left out")
        else:
            value = "no bbox" if bbox is None else f"bbox {bbox}"
            wrong = ("box-missing", value, "expected bbox [x, y, width, height]; left out")
        if row is not None:
            key = f"{file.images[row].file_name} {key}"
        yield Finding("refused", wrong[0], str(path), key, wrong[1], wrong[2])
    rows = np.array(place_of, np.int64)
    order = np.argsort(rows, kind="stable")
    bounds = np.searchsorted(rows[order], np.arange(len(file.images) + 1))
    xywh = np.array([annotation.bbox for annotation in kept], np.float64).reshape(-1, 4)[order]
    with np.errstate(all="ignore"):
        boxes = as_boxes(np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], 1))
        areas = np.array([annotation.area for annotation in kept], np.float64).astype(np.float32)[order]
    labels = np.array([label_of[annotation.category_id] for annotation in kept], np.int32)[order]
    flags = np.zeros(len(kept), np.uint8)
    for name, flag in (("iscrowd", CROWD), ("difficult", DIFFICULT), ("truncated", TRUNCATED)):
        flags[np.fromiter(map(bool, map(attrgetter(name), kept)), bool, len(kept))] |= flag
    flags = flags[order]
    del file.annotations, kept
    for row, image in enumerate(file.images):
        there = resolve(image.file_name, folder, allow_outside)
        if there is None:
            yield Finding("refused", "image-path", str(path), image.file_name, f"id {image.id}", NOT_BELOW, "image")
            continue
        mine = slice(bounds[row], bounds[row + 1])
        yield Record(
            key=there[0],
            split=split,
            image=there[1],
            height=as_size(image.height),
            width=as_size(image.width),
            boxes=boxes[mine],
            labels=labels[mine],
            flags=flags[mine],
            areas=areas[mine],
            id=image.id if isinstance(image.id, int) and -(1 << 63) <= image.id < 1 << 63 else -1,
            origin=str(path),
        )

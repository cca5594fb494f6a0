"""COCO JSON (cocodataset.org/#format-data): boxes `[x, y, width, height]` in pixels, sparse category ids."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from dataforge.errors import FormatError
from dataforge.files import check_root
from dataforge.formats.boxes import as_xyxy, ranks
from dataforge.formats.classes import by_number, unique_ids, unite
from dataforge.formats.coco.file import Annotation, CocoFile, read_coco
from dataforge.formats.pictures import NOT_BELOW, as_size, given, likeliest, resolve
from dataforge.record import CROWD, DIFFICULT, TRUNCATED, Boxes, Finding, Record, Source, as_boxes, pick_splits

EXPECTED = (
    "annotations/instances_<split>.json with <split>/, images/<split>/ or images/; "
    "<split>/_annotations.coco.json beside its pictures; or one JSON file (--annotations FILE --images DIR)"
)
ROBOFLOW = "_annotations.coco.json"


class _SplitFiles(NamedTuple):
    path: Path
    folders: list[Path]  # candidate folders of its images, likeliest first


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
        split: read only these splits; with `annotations`, a single name here names the split.
        annotations: the file to read instead of those found below `root`.
        images: the folder that `file_name` is relative to, or that contains a folder for each split.
        allow_outside: allow names outside the folder: absolute, or with `..`.

    Raises:
        FormatError: no layout fits, or a file is not COCO JSON. ConfigError: no such split.
    """
    check_root(root, EXPECTED)
    annotations, images = given(root, annotations, "--annotations"), given(root, images, "--images")
    if annotations:
        name = split[0] if split and len(split) == 1 else _split_name(annotations)
        splits = {name: _SplitFiles(annotations, _folders(root, name, annotations))}
    else:
        splits = _discover(root)
    chosen = pick_splits(split, splits)
    files = {name: read_coco(splits[name].path) for name in chosen}
    total = sum(len(file.images) for file in files.values())
    numbers, noted = _classes({splits[name].path: file for name, file in files.items()})
    classes = tuple(numbers)

    def records() -> Iterator[Record | Finding]:
        yield from noted
        for name in chosen:
            folders = [images, images / name] if images else splits[name].folders
            yield from _records(name, splits[name].path, folders, files.pop(name), classes, allow_outside)

    return Source(classes, records(), unique_ids(numbers), total=total, files=[splits[name].path for name in chosen])


def _split_name(path: Path) -> str:
    found = re.fullmatch(r"(?:instances|person_keypoints)_(.+)", path.stem)
    return found[1] if found else "train"


def _folders(root: Path, name: str, path: Path) -> list[Path]:
    folders = (root / name, root / "images" / name, root / "images", path.parent, root)
    return [place for place in folders if place.is_dir()]


def _discover(root: Path) -> dict[str, _SplitFiles]:
    roboflow = sorted(root.glob(f"*/{ROBOFLOW}"))
    if roboflow:
        return {file.parent.name: _SplitFiles(file, [file.parent]) for file in roboflow}
    for folder in (root / "annotations", root):
        files = sorted(file for file in folder.glob("*") if file.suffix.lower() == ".json")
        by_split = {_split_name(file): file for file in files if file.name.startswith("instances_")}
        if not by_split:  # train.json, val.json, ... next to folders of these names
            by_split = {
                file.stem: file
                for file in files
                if (root / file.stem).is_dir() or (root / "images" / file.stem).is_dir()
            }
        if not by_split and len(files) == 1:
            by_split = {_split_name(files[0]): files[0]}
        if by_split:
            return {name: _SplitFiles(file, _folders(root, name, file)) for name, file in by_split.items()}
        if files:
            names = ", ".join(file.name for file in files)
            raise FormatError(f"{folder}: several JSON files ({names}); say which with --annotations FILE --images DIR")
    raise FormatError(f"{root}: no COCO annotations found; expected {EXPECTED}")


def _classes(files: dict[Path, CocoFile]) -> tuple[dict[str, int], list[Finding]]:
    """Merge the class names and ids of the files, in the order of the ids; and report irregularities."""
    lists = {}
    for path, file in files.items():
        pairs = ((category.id, category.name) for category in file.categories)
        lists[path] = by_number(pairs, f"{path}: category id")
        if not lists[path] and (file.annotations or not file.images):
            raise FormatError(f"{path}: categories is empty; expected a list of {{id, name}}")
    numbers, noted = unite(lists)
    return dict(sorted(numbers.items(), key=itemgetter(1))), noted


def _records(
    split: str, path: Path, folders: list[Path], file: CocoFile, classes: tuple[str, ...], allow_outside: bool
) -> Iterator[Record | Finding]:
    folder = likeliest(folders, (image.file_name for image in file.images), allow_outside)
    row_of = {image.id: row for row, image in enumerate(file.images)}
    if len(row_of) < len(file.images):
        twice = next(image for row, image in enumerate(file.images) if row_of[image.id] != row)
        raise FormatError(f"{path}: images: id {twice.id} is given twice; expected each once")
    label_of = {category.id: classes.index(category.name) for category in file.categories}
    kept: list[Annotation] = []
    rows: list[int] = []  # rows of their images
    odd: list[int] = []  # positions in the list
    seen = set()
    for place, annotation in enumerate(file.annotations):
        row, bbox = row_of.get(annotation.image_id), annotation.bbox
        if row is not None and bbox is not None and len(bbox) == 4 and annotation.category_id in label_of:
            kept.append(annotation)
            rows.append(row)
            if annotation.id is not None and annotation.id in seen:
                odd.append(place)
            seen.add(annotation.id)
        else:
            odd.append(place)
    yield from _odd(file, odd, row_of, label_of, path, lambda name: resolve(name, folder, allow_outside))
    image_of = np.array(rows, np.int64)
    order = np.argsort(image_of, kind="stable")
    bounds = np.searchsorted(image_of[order], np.arange(len(file.images) + 1))
    boxes = _edges([annotation.bbox for annotation in kept])[order]
    with np.errstate(all="ignore"):
        areas = np.array([annotation.area for annotation in kept], np.float64).astype(np.float32)[order]
    labels = np.array([label_of[annotation.category_id] for annotation in kept], np.int32)[order]
    flags = np.zeros(len(kept), np.uint8)
    for name, flag in (("iscrowd", CROWD), ("difficult", DIFFICULT), ("truncated", TRUNCATED)):
        flags[np.fromiter(map(bool, map(attrgetter(name), kept)), bool, len(kept))] |= flag
    flags = flags[order]
    del file.annotations, kept
    for row, image in enumerate(file.images):
        picture = resolve(image.file_name, folder, allow_outside)
        if picture is None:
            reason = NOT_BELOW if image.file_name else "expected a file_name; left out"
            yield Finding("refused", "image-path", str(path), image.file_name, f"id {image.id}", reason, "image")
            continue
        own = slice(bounds[row], bounds[row + 1])
        yield Record(
            key=picture[0],
            split=split,
            image=picture[1],
            height=as_size(image.height),
            width=as_size(image.width),
            boxes=boxes[own],
            labels=labels[own],
            flags=flags[own],
            areas=areas[own],
            id=image.id if isinstance(image.id, int) and -(1 << 63) <= image.id < 1 << 63 else -1,
            origin=str(path),
        )


def _edges(bboxes: list[list[float | None] | None]) -> Boxes:
    xywh = np.array(bboxes, np.float64).reshape(-1, 4)
    with np.errstate(all="ignore"):
        return as_boxes(np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], 1))


def _odd(
    file: CocoFile,
    places: list[int],
    row_of: dict[int | str, int],
    label_of: dict[int, int],
    path: Path,
    find: Callable[[str], tuple[str, Path] | None],
) -> Iterator[Finding]:
    """Report errors of annotations: those that are left out, and duplicate ids."""
    if not places:
        return
    numbers = ranks(np.array([row_of.get(annotation.image_id, -1) for annotation in file.annotations], np.int64))
    for place in places:
        annotation = file.annotations[place]
        row, bbox = row_of.get(annotation.image_id), annotation.bbox
        four = bbox is not None and len(bbox) == 4
        action: Literal["refused", "noted"] = "refused"
        if row is None:
            code, value, reason = "unknown-image", f"image_id {annotation.image_id}", "expected an id from images"
        elif annotation.category_id not in label_of:
            code, value = "unknown-class", f"category_id {annotation.category_id}"
            reason = "expected an id from categories"
        elif not four:
            value = "no bbox" if bbox is None else f"bbox {bbox}"
            code, reason = "box-missing", "expected bbox [x, y, width, height]"
        else:
            action, code, value, reason = "noted", "annotation-twice", "", "an id that is given twice; both kept"
        name = f"annotation {place if annotation.id is None else annotation.id}"
        picture = None if row is None else find(file.images[row].file_name)
        yield Finding(
            action,
            code,
            str(path),
            picture[0] if picture else "",
            f"{name}: {value}" if value else name,
            reason if action == "noted" else f"{reason}; left out",
            box=None if row is None else int(numbers[place]),
            xyxy=as_xyxy(_edges([bbox])[0]) if four else None,
        )

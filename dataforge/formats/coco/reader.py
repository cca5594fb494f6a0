"""COCO JSON (cocodataset.org/#format-data): boxes `[x, y, width, height]` in pixels, sparse category ids."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from dataforge.errors import FormatError
from dataforge.files import check_root
from dataforge.formats.annotated import hull
from dataforge.formats.boxes import FORMS, UNITS, as_xyxy, check_form, check_reading, edges, ranks, rotated
from dataforge.formats.classes import by_number, unique_ids, unite
from dataforge.formats.coco.file import (
    Annotation,
    Attributes,
    CocoFile,
    Id,
    federated,
    judged,
    plain,
    read_coco,
    rings_of,
)
from dataforge.formats.coco.layout import EXPECTED, SplitFiles, discover, folders, split_name
from dataforge.formats.pictures import as_size, base_of, find, given, nearest
from dataforge.record import CROWD, DIFFICULT, TRUNCATED, Boxes, Finding, Record, Source, as_boxes, pick_splits


def read(
    root: Path,
    *,
    split: tuple[str, ...] | None = None,
    annotations: Path | None = None,
    images: Path | None = None,
    boxes: str | None = None,
    unit: str | None = None,
    allow_outside: bool = False,
) -> Source:
    """Read COCO JSON.

    Args:
        root: the folder, or a JSON file.
        split: read only these splits; with one file, a single name here names the split.
        annotations: the file to read instead of those found below `root`.
        images: the folder that `file_name` is relative to, or that contains a folder for each split.
        boxes, unit: what `bbox` is, if not "xywh" in "pixel".
        allow_outside: allow names outside the folder: absolute, or with `..`.

    Raises:
        FormatError: no layout fits, a file is not COCO JSON, or its boxes contradict their convention.
        ConfigError: no such split, or an unknown convention.
    """
    check_form(boxes, unit)
    if root.is_file():
        root, annotations = base_of(root), annotations or root.absolute()
    else:
        check_root(root, EXPECTED)
    annotations, images = given(root, annotations, "--annotations"), given(root, images, "--images")
    if annotations:
        name = split[0] if split and len(split) == 1 else split_name(annotations, root)
        splits = {name: SplitFiles(annotations, folders(root, name, annotations))}
    else:
        splits = discover(root)
    chosen = pick_splits(split, splits)
    files = {name: read_coco(splits[name].path) for name in chosen}
    total = sum(len(file.images) for file in files.values())
    numbers, noted = _classes({splits[name].path: file for name, file in files.items()})
    classes = tuple(numbers)
    ids_are_numbers = all(isinstance(plain(one.id), int) for file in files.values() for one in file.categories)

    def records() -> Iterator[Record | Finding]:
        yield from noted
        for name in chosen:
            folders = [images, images / name] if images else splits[name].folders
            how = (root, classes, boxes, unit, allow_outside)
            yield from _records(name, splits[name].path, folders, files.pop(name), *how)

    class_ids = unique_ids(numbers) if ids_are_numbers else ()
    frequencies = {one.name: one.frequency for file in files.values() for one in file.categories if one.frequency}
    used = [splits[name].path for name in chosen]
    return Source(classes, records(), class_ids, total=total, files=used, frequencies=frequencies)


def _classes(files: dict[Path, CocoFile]) -> tuple[dict[str, int], list[Finding]]:
    """Merge the class names and ids of the files, in the order of the ids; and report irregularities."""
    lists = {}
    for path, file in files.items():
        names = by_number(((plain(one.id), one.name) for one in file.categories), f"{path}: category id")
        numbers = {number: name for number, name in names.items() if isinstance(number, int)}
        lists[path] = numbers if len(numbers) == len(names) else dict(enumerate(names.values()))
        if not lists[path] and (file.annotations or not file.images):
            raise FormatError(f"{path}: categories is empty; expected a list of {{id, name}}")
    united, noted = unite(lists)
    return dict(sorted(united.items(), key=itemgetter(1))), noted


def _records(
    split: str,
    path: Path,
    folders: list[Path],
    file: CocoFile,
    root: Path,
    classes: tuple[str, ...],
    form: str | None,
    unit: str | None,
    allow_outside: bool,
) -> Iterator[Record | Finding]:
    folder, names, moved = nearest(folders, [image.name for image in file.images], path, allow_outside)
    pictures, refused, noted = find(names, folder, root, path, allow_outside)
    yield from (*moved, *noted)
    if not all(image.neg_category_ids is image.not_exhaustive_category_ids is None for image in file.images):
        yield federated(file, path)
    if file.hulls:
        if (form or "xywh", unit or "pixel") != ("xywh", "pixel"):
            raise FormatError(f"{path}: {file.hulls} annotations have no bbox; --boxes and --unit need one in each")
        reason = "have no bbox; the box of their segmentation is taken"
        yield Finding("noted", "box-of-mask", str(path), "", f"{file.hulls} annotations", reason, "set")
    row_of = {plain(image.id): row for row, image in enumerate(file.images)}
    if len(row_of) < len(file.images):
        twice = next(image for row, image in enumerate(file.images) if row_of[plain(image.id)] != row)
        raise FormatError(f"{path}: images: id {twice.id} is given twice; expected each once")
    label_of = {plain(category.id): classes.index(category.name) for category in file.categories}
    kept: list[Annotation] = []
    rows: list[int] = []  # rows of their images
    numbered: list[int] = []  # labels
    odd: list[int] = []  # positions in the list
    seen = set()
    for place, annotation in enumerate(file.annotations):
        row, label, bbox = row_of.get(annotation.image_id), label_of.get(annotation.category_id), annotation.bbox
        if row is None or label is None:
            annotation.image_id, annotation.category_id = plain(annotation.image_id), plain(annotation.category_id)
            row, label = row_of.get(annotation.image_id), label_of.get(annotation.category_id)
        if (
            row is not None
            and bbox is not None
            and len(bbox) == 4
            and label is not None
            and (annotation.attributes is None or not _misstated(annotation))
        ):
            kept.append(annotation)
            rows.append(row)
            numbered.append(label)
            if annotation.id is not None and annotation.id in seen:
                odd.append(place)
            seen.add(annotation.id)
        else:
            odd.append(place)
    measured = [(as_size(image.width), as_size(image.height)) for image in file.images]
    sizes = np.array(measured, np.float64).reshape(-1, 2)
    read_as = _Reading(form or "xywh", unit or "pixel", sizes)
    yield from _odd(file, odd, row_of, label_of, path, lambda row: pictures.get(names[row]), read_as)
    image_of = np.array(rows, np.int64)
    order = np.argsort(image_of, kind="stable")
    bounds = np.searchsorted(image_of[order], np.arange(len(file.images) + 1))
    numbers = np.array([annotation.bbox for annotation in kept], np.float64).reshape(-1, 4)
    stated = np.array([annotation.area for annotation in kept], np.float64)
    forms, units = (form,) if form else FORMS, (unit,) if unit else UNITS
    # COCO defines its boxes: a few thin masks are no reason to doubt
    check_reading(
        str(path), numbers, sizes[image_of], stated, read_as.form, read_as.unit, forms=forms, units=units, least=10
    )
    boxes = _turned(kept, read_as.boxes(numbers, image_of, path))[order]
    outlines = [kept[row].segmentation for row in order.tolist()]
    with np.errstate(all="ignore"):
        areas = stated.astype(np.float32)[order]
    labels = np.array(numbered, np.int32)[order]
    flags = np.zeros(len(kept), np.uint8)
    for name, flag in (("iscrowd", CROWD), ("difficult", DIFFICULT), ("truncated", TRUNCATED)):
        flags[np.fromiter(map(bool, map(attrgetter(name), kept)), bool, len(kept))] |= flag
    flags = flags[order]
    del file.annotations, kept
    for row, image in enumerate(file.images):
        picture = pictures.get(names[row])
        if picture is None:
            reason = "expected a file_name or coco_url; left out"
            nameless = Finding("refused", "image-path", str(path), names[row], "", reason, "image")
            yield replace(refused.get(names[row], nameless), value=f"id {image.id}")
            continue
        number = plain(image.id)
        own = slice(int(bounds[row]), int(bounds[row + 1]))
        yield Record(
            key=picture[0],
            split=split,
            image=picture[1],
            height=measured[row][1],
            width=measured[row][0],
            boxes=boxes[own],
            labels=labels[own],
            flags=flags[own],
            areas=areas[own],
            id=number if isinstance(number, int) and -(1 << 63) <= number < 1 << 63 else -1,
            judged=judged(image, label_of),
            origin=str(path),
            polygons=rings_of(outlines[own]),
        )


@dataclass
class _Reading:
    """How `bbox` is read. `sizes`: (n, 2) width and height of the images, as stated."""

    form: str
    unit: str
    sizes: NDArray[np.float64]

    def boxes(self, numbers: NDArray[np.float64], rows: NDArray[np.int64], path: Path) -> Boxes:
        """Convert numbers (n, 4) of boxes in the images of `rows` (n,)."""
        with np.errstate(all="ignore"):
            xyxy = edges(numbers, self.form)
            if self.unit == "unit":
                if not self.sizes[rows].all():
                    raise FormatError(f"{path}: images without width and height; --unit unit needs them")
                xyxy = xyxy * np.tile(self.sizes[rows], 2)
            return as_boxes(xyxy)


def _rotation(annotation: Annotation) -> float | str | None:
    """Return the rotation that CVAT states beside the box as it was before it."""
    return annotation.attributes.rotation if isinstance(annotation.attributes, Attributes) else None


def _misstated(annotation: Annotation) -> str:
    """Return why a rotation cannot be read; "" if it can, or there is none."""
    try:
        rotated((0, 0, 0, 0), _rotation(annotation))
    except ValueError:
        return f"attributes.rotation {_rotation(annotation)!r} is no number of degrees"
    return ""


def _turned(annotations: list[Annotation], boxes: Boxes) -> Boxes:
    """Return boxes (n, 4), of those that are rotated the hulls; their segmentations become their corners."""
    for n, one in enumerate(annotations):
        if one.attributes is not None and (ring := rotated(boxes[n].tolist(), _rotation(one))):
            boxes[n] = hull(ring[0::2], ring[1::2])
            one.segmentation = msgspec.Raw(msgspec.json.encode([ring]))
    return boxes


def _odd(
    file: CocoFile,
    places: list[int],
    row_of: dict[Id, int],
    label_of: dict[Id, int],
    path: Path,
    find: Callable[[int], tuple[str, Path] | None],
    read_as: _Reading,
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
            code, reason = "box-missing", "expected bbox [x, y, width, height], or a segmentation of the image's size"
        elif reason := _misstated(annotation):
            code, value = "box-rotated", f"bbox {bbox}"
        else:
            action, code, value, reason = "noted", "annotation-twice", "", "an id that is given twice; both kept"
        name = f"annotation {place if annotation.id is None else annotation.id}"
        picture = None if row is None else find(row)
        xyxy = None
        if four and (row is not None or read_as.unit == "pixel"):
            xyxy = as_xyxy(read_as.boxes(np.array([bbox], np.float64), np.array([row or 0]), path)[0])
        yield Finding(
            action,
            code,
            str(path),
            picture[0] if picture else "",
            f"{name}: {value}" if value else name,
            reason if action == "noted" else f"{reason}; left out",
            box=None if row is None else int(numbers[place]),
            xyxy=xyxy,
        )

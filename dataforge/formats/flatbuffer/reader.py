"""DLFS FlatBuffers, ObjectDetectionFromScratch's `train.db`: a split a file, images within it or beside it.

Nothing is turned into a Python object but a record at a time: `dlfs` gathers each column of all tables at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dataforge.errors import FormatError
from dataforge.files import check_root
from dataforge.formats.flatbuffer.dlfs import Columns, load
from dataforge.formats.pictures import NOT_BELOW, given, likeliest, picture_folders, resolve
from dataforge.record import Finding, Record, Source, pick_splits

EXPECTED = "a DLFS FlatBuffer, or a folder of <split>.db"


def read(
    root: Path, *, split: tuple[str, ...] | None = None, images: Path | None = None, allow_outside: bool = False
) -> Source:
    """Read DLFS FlatBuffers. Every distance in them is checked before it is followed.

    Embedded images win over files. An absent width, height or area is the image's or the box's; an annotation's
    `image_id` and the categories' lists and counts are derived, so they are compared, not used.

    Args:
        root: a file, or a folder of them; a file's stem is its split's name.
        split: take these only.
        images: the folder that `file_name` is relative to, or that holds a folder for each split.
        allow_outside: names may lead out of the folder: absolute ones, or with `..`.

    Raises:
        FormatError: no such file there, or a damaged one. ConfigError: no such split.
    """
    images = given(root, images, "--images")
    files = _files(root)
    chosen = pick_splits(split, files)
    base = root.parent if root.is_file() else root
    sets = {name: load(files[name]) for name in chosen}
    classes, class_ids, noted = _classes({files[name]: found.names for name, found in sets.items()})

    def records() -> Iterator[Record | Finding]:
        yield from noted
        for name in chosen:
            folders = picture_folders(base, name, files[name], images)
            yield from _records(name, sets[name], folders, classes, allow_outside)

    return Source(classes, records(), class_ids, total=sum(len(found.examples) for found in sets.values()))


def _files(root: Path) -> dict[str, Path]:
    if root.is_file():
        return {root.stem: root}
    check_root(root, EXPECTED)
    files = sorted(path for path in root.glob("*.db") if not path.name.startswith(".") and path.is_file())
    if not files:
        raise FormatError(f"{root}: no .db file found; expected {EXPECTED}")
    return {path.stem: path for path in files}


def _classes(files: dict[Path, dict[int, str]]) -> tuple[tuple[str, ...], tuple[int, ...], list[Finding]]:
    """Names in the order of their ids, joined over the files by name, and what was odd about them."""
    noted: list[Finding] = []
    first: dict[str, int] = {}
    for names in files.values():
        for number, name in sorted(names.items()):
            first.setdefault(name, number)
    classes = tuple(sorted(first, key=lambda name: first[name]))
    for path, names in files.items():
        lacks = [name for name in classes if name not in names.values()]
        others = [f"{name} ({number})" for number, name in names.items() if first[name] != number]
        value = "; ".join(f"{what}: {', '.join(o)}" for what, o in (("lacks", lacks), ("other ids", others)) if o)
        if value:
            reason = "the files' classes differ, or a name has several ids; joined by name"
            noted.append(Finding("noted", "classes-differ", str(path), "categories", value, reason, "set"))
    class_ids = tuple(first[name] for name in classes)
    return classes, class_ids if len(set(class_ids)) == len(class_ids) else (), noted


def _records(
    split: str, found: Columns, folders: list[Path], classes: tuple[str, ...], allow_outside: bool
) -> Iterator[Record | Finding]:
    origin = str(found.examples.path)
    image_of = np.repeat(np.arange(len(found.examples)), np.diff(found.bounds))
    label_of = np.full(1 << 16, -1, np.int32)
    for number, name in found.names.items():
        label_of[number] = classes.index(name)
    labels = label_of[found.cat_ids]
    yield from _noted(found, origin, image_of)
    for row in np.nonzero((labels < 0) | ~found.boxed)[0].tolist():
        place = image_of[row]
        key = f"{found.text(place)} annotation {row - found.bounds[place]}"
        if labels[row] < 0:
            value, reason = f"cat_id {found.cat_ids[row]}", "expected the id of a Category; left out"
            yield Finding("refused", "unknown-class", origin, key, value, reason)
        else:
            yield Finding("refused", "box-missing", origin, key, "no bbox", "expected one; left out")
    kept = (labels >= 0) & found.boxed
    bounds = np.append(0, np.cumsum(kept))[found.bounds]
    labels, boxes, areas = labels[kept], found.boxes[kept], found.areas[kept]
    names = (found.text(row) for row in range(len(found.examples)))
    folder = likeliest(folders or [found.examples.path.parent], names, allow_outside)
    unique, times = np.unique(found.ids, return_counts=True)
    own = ~np.isin(found.ids, unique[times > 1]) & (found.ids < 1 << 63)
    for row in range(len(found.examples)):
        text = found.text(row)
        there = resolve(text, folder, allow_outside)
        if there is None:
            yield Finding("refused", "image-path", origin, text, f"Example {row}", NOT_BELOW, "image")
            continue
        start, length = (int(column[row]) for column in found.image)
        mine = slice(bounds[row], bounds[row + 1])
        yield Record(
            key=there[0],
            split=split,
            image=found.examples.data[start : start + length].tobytes() if length else there[1],
            height=int(found.size[row, 0]),
            width=int(found.size[row, 1]),
            boxes=boxes[mine],
            labels=labels[mine],
            flags=np.zeros(len(labels[mine]), np.uint8),
            areas=None if np.isnan(areas[mine]).all() else areas[mine],
            id=int(found.ids[row]) if own[row] else -1,
            origin=origin,
        )


def _noted(found: Columns, origin: str, image_of: NDArray) -> Iterator[Finding]:
    """What a file says of itself that is not so. Nothing hangs on it here, so each kind is one finding."""

    def one(code: str, key: str, value: str, reason: str) -> Finding:
        return Finding("noted", code, origin, key, value, reason, "set")

    other = found.image_ids != found.ids[image_of]
    if other.any():
        row = int(other.argmax())
        value = f"{other.sum()} annotations; the first has image_id {found.image_ids[row]}"
        reason = f"expected its Example's id, {found.ids[image_of[row]]}; kept with the Example that holds it"
        yield one("image-id", found.text(image_of[row]), value, reason)
    for code, ids, reason in (
        ("image-id-twice", found.ids, "expected each Example's id once; all are kept, without their number"),
        ("annotation-twice", found.annotation_ids, "expected each Annotation's id once; all are kept"),
    ):
        unique, times = np.unique(ids, return_counts=True)
        if (times > 1).any():
            yield one(code, "", f"{(times > 1).sum()} ids; the first is {unique[(times > 1).argmax()]}", reason)
    disorder = found.idx[1:] <= found.idx[:-1]
    if disorder.any():
        row = int(disorder.argmax()) + 1
        reason = "expected idx to rise: it is the key that is searched by; read in the file's order"
        yield one("idx-order", found.text(row), f"Example {row} has idx {found.idx[row]}", reason)
    pairs = np.unique(image_of.astype(np.int64) << 16 | found.cat_ids)
    counts = [np.bincount(column, minlength=1 << 16) for column in (pairs & 0xFFFF, found.cat_ids)]
    wrong = [n for n, stated in found.stated.items() if stated not in ((0, 0), (counts[0][n], counts[1][n]))]
    if wrong:
        n = wrong[0]
        value = "{} categories; id {} states num_images {}, num_anns {}".format(len(wrong), n, *found.stated[n])
        yield one("category-counts", found.names[n], value, f"there are {counts[0][n]} and {counts[1][n]}; not used")

"""Reader of DLFS FlatBuffers, ObjectDetectionFromScratch's `train.db`: one file per split, images embedded or separate.

Python objects are created for one record at a time; `dlfs` gathers each column of all tables at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from operator import itemgetter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dataforge.errors import FormatError
from dataforge.files import check_root, globbed
from dataforge.formats.boxes import as_xyxy
from dataforge.formats.classes import unique_ids, unite
from dataforge.formats.flatbuffer.dlfs import Columns, load
from dataforge.formats.pictures import NOT_BELOW, find, given, likeliest, picture_folders, resolve
from dataforge.record import Finding, Record, Source, pick_splits

EXPECTED = "a DLFS FlatBuffer, or a folder of <split>.db"


def read(
    root: Path, *, split: tuple[str, ...] | None = None, images: Path | None = None, allow_outside: bool = False
) -> Source:
    """Read DLFS FlatBuffers. Every offset is checked before it is followed.

    Embedded images take precedence over files. An absent width, height or area is that of the image or the box; an
    annotation's `image_id` and the categories' lists and counts are derived, so they are compared, not used.

    Args:
        root: a file, or a folder of files; the stem of a file is the name of its split.
        split: read only these splits.
        images: the folder that `file_name` is relative to, or that contains one folder per split.
        allow_outside: allow names that point outside the folder: absolute paths, or paths with `..`.

    Raises:
        FormatError: no such file, or a damaged file. ConfigError: no such split.
    """
    images = given(root, images, "--images")
    files = _files(root)
    chosen = pick_splits(split, files)
    base = root.parent if root.is_file() else root
    sets = {name: load(files[name]) for name in chosen}
    numbers, noted = unite({files[name]: dict(sorted(columns.names.items())) for name, columns in sets.items()})
    numbers = dict(sorted(numbers.items(), key=itemgetter(1)))
    classes = tuple(numbers)

    def records() -> Iterator[Record | Finding]:
        yield from noted
        for name in chosen:
            folders = picture_folders(base, name, files[name], images)
            yield from _records(name, sets[name], folders, base, classes, allow_outside)

    total = sum(len(columns.examples) for columns in sets.values())
    return Source(classes, records(), unique_ids(numbers), total=total, files=[files[name] for name in chosen])


def _files(root: Path) -> dict[str, Path]:
    if root.is_file():
        return {root.stem: root}
    check_root(root, EXPECTED)
    files = [path for path in globbed(root, "*.db") if path.is_file()]
    if not files:
        raise FormatError(f"{root}: no .db file found; expected {EXPECTED}")
    return {path.stem: path for path in files}


def _records(
    split: str, columns: Columns, folders: list[Path], base: Path, classes: tuple[str, ...], allow_outside: bool
) -> Iterator[Record | Finding]:
    origin = str(columns.examples.path)
    image_of = np.repeat(np.arange(len(columns.examples)), np.diff(columns.bounds))
    label_of = np.full(1 << 16, -1, np.int32)
    for number, name in columns.names.items():
        label_of[number] = classes.index(name)
    labels = label_of[columns.cat_ids]
    names = [columns.text(row) for row in range(len(columns.examples))]
    folder = likeliest(folders or [columns.examples.path.parent], names, allow_outside)
    pictures, refused, noted = find(names, folder, base, columns.examples.path, allow_outside)
    yield from noted
    yield from _noted(columns, origin, image_of)
    for row in np.nonzero((labels < 0) | ~columns.boxed)[0].tolist():
        example = image_of[row]
        picture = pictures.get(names[example])
        if labels[row] < 0:
            code, value, reason = (
                "unknown-class",
                f"cat_id {columns.cat_ids[row]}",
                "expected the id of a Category; left out",
            )
        else:
            code, value, reason = "box-missing", "no bbox", "expected one; left out"
        number = int(row - columns.bounds[example])
        xyxy = as_xyxy(columns.boxes[row]) if columns.boxed[row] else None
        key = picture[0] if picture else ""
        yield Finding("refused", code, origin, key, value, reason, box=number, xyxy=xyxy)
    kept = (labels >= 0) & columns.boxed
    bounds = np.append(0, np.cumsum(kept))[columns.bounds]
    labels, boxes, areas = labels[kept], columns.boxes[kept], columns.areas[kept]
    unique, times = np.unique(columns.ids, return_counts=True)
    own = ~np.isin(columns.ids, unique[times > 1]) & (columns.ids < 1 << 63)
    for row in range(len(columns.examples)):
        start, length = (int(column[row]) for column in columns.image)
        text = names[row]
        picture = resolve(text, folder, allow_outside) if length else pictures.get(text)
        if picture is None:
            nowhere = Finding("refused", "image-path", origin, text, "", NOT_BELOW, "image")
            yield replace(refused.get(text, nowhere), value=f"Example {row}")
            continue
        own_boxes = slice(bounds[row], bounds[row + 1])
        yield Record(
            key=picture[0],
            split=split,
            image=columns.examples.data[start : start + length].tobytes() if length else picture[1],
            height=int(columns.size[row, 0]),
            width=int(columns.size[row, 1]),
            boxes=boxes[own_boxes],
            labels=labels[own_boxes],
            flags=np.zeros(len(labels[own_boxes]), np.uint8),
            areas=None if np.isnan(areas[own_boxes]).all() else areas[own_boxes],
            id=int(columns.ids[row]) if own[row] else -1,
            origin=origin,
        )


def _noted(columns: Columns, origin: str, image_of: NDArray) -> Iterator[Finding]:
    """Yield one finding per kind of inconsistency in a file's metadata. None of them drops an image or a box."""

    def noted(code: str, key: str, value: str, reason: str) -> Finding:
        return Finding("noted", code, origin, key, value, reason, "set")

    other = columns.image_ids != columns.ids[image_of]
    if other.any():
        row = int(other.argmax())
        value = f"{other.sum()} annotations; the first has image_id {columns.image_ids[row]}"
        reason = f"expected its Example's id, {columns.ids[image_of[row]]}; kept with the Example that holds it"
        yield noted("image-id", columns.text(image_of[row]), value, reason)
    for code, ids, reason in (
        ("image-id-twice", columns.ids, "expected each Example's id once; all are kept, without their number"),
        ("annotation-twice", columns.annotation_ids, "expected each Annotation's id once; all are kept"),
    ):
        unique, times = np.unique(ids, return_counts=True)
        if (times > 1).any():
            yield noted(code, "", f"{(times > 1).sum()} ids; the first is {unique[(times > 1).argmax()]}", reason)
    disorder = columns.idx[1:] <= columns.idx[:-1]
    if disorder.any():
        row = int(disorder.argmax()) + 1
        reason = "expected idx to rise: it is the key that is searched by; read in the file's order"
        yield noted("idx-order", columns.text(row), f"Example {row} has idx {columns.idx[row]}", reason)
    pairs = np.unique(image_of.astype(np.int64) << 16 | columns.cat_ids)
    counts = [np.bincount(numbers, minlength=1 << 16) for numbers in (pairs & 0xFFFF, columns.cat_ids)]
    wrong = [n for n, stated in columns.stated.items() if stated not in ((0, 0), (counts[0][n], counts[1][n]))]
    if wrong:
        n = wrong[0]
        value = "{} categories; id {} states num_images {}, num_anns {}".format(len(wrong), n, *columns.stated[n])
        yield noted(
            "category-counts", columns.names[n], value, f"there are {counts[0][n]} and {counts[1][n]}; not used"
        )

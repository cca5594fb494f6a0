"""DLFS FlatBuffers, ObjectDetectionFromScratch's `train.db`: a split a file, images within it or beside it.

Nothing is turned into a Python object but a record at a time: `dlfs` gathers each column of all tables at once.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import numpy as np
from numpy.typing import NDArray

from dataforge.errors import FormatError
from dataforge.files import check_root, inside, new_folder
from dataforge.formats.flatbuffer import dlfs_pack
from dataforge.formats.flatbuffer.dlfs import Columns, load
from dataforge.formats.pictures import NOT_BELOW, given, likeliest, picture_folders, resolve
from dataforge.record import Finding, Record, Source, object_areas, pick_splits

HOLDS = frozenset({"areas", "ids", "keys", "splits", "classes", "class_ids"})
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


@dataclass
class _Split:
    """What is to be written into one file."""

    spool: IO[bytes]  # the images' vectors
    records: list[Record] = field(default_factory=list)  # without their images
    names: list[bytes] = field(default_factory=list)
    images: list[int] = field(default_factory=list)  # places in the spool


def write(source: Source, root: Path) -> None:
    """Write `<split>.db` files that hold their images.

    Boxes, areas, sizes, image numbers, the classes and their numbers come back exactly. The schema has no place for
    flags. An image without a number gets one, and so does one whose number is taken in its split.

    A FlatBuffer's tables come before what they point at, so the images wait in an unnamed file in `root` until all
    tables are known: memory grows with the tables alone, about 300 MB for COCO's 118k images and 860k boxes.

    Raises:
        FormatError: `root` is not empty, something cannot be written or does not fit (a file of 2 GiB, class numbers
            of 16 bits), or there are no images.
    """
    new_folder(root)
    numbers = source.class_ids or tuple(range(len(source.classes)))
    categories = sorted(_category(number, name, root) for number, name in zip(numbers, source.classes, strict=True))
    splits: dict[str, _Split] = {}
    with ExitStack() as stack:
        try:
            for record in source.records:
                if isinstance(record, Finding):
                    continue
                if record.split not in splits:
                    if inside(record.split) != record.split or "/" in record.split or record.split[0] == ".":
                        raise FormatError(f"split {record.split!r}: cannot be a file's name")
                    splits[record.split] = _Split(stack.enter_context(TemporaryFile(dir=root)))
                _spool(record, splits[record.split], root)
            if not splits:
                raise FormatError(f"{root}: there are no images to write")
            for split, made in splits.items():
                parts = _packed(made, categories, numbers, root / f"{split}.db")
                with open(root / f"{split}.db", "xb") as file:
                    file.writelines(parts)
                    made.spool.seek(0)
                    shutil.copyfileobj(made.spool, file, 1 << 20)
        except OSError as error:
            raise FormatError(f"{root}: cannot be written: {error.strerror}") from None


def _category(number: int, name: str, root: Path) -> tuple[int, bytes]:
    try:
        text = name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        text = b""
    if not 0 <= number < 1 << 16 or not text:
        raise FormatError(
            f"{root}: class {name!r}, number {number}: expected a Unicode name, and 0 to 65535 or no number"
        )
    return number, text


def _spool(record: Record, made: _Split, root: Path) -> None:
    where = f"{record.origin}: {record.key!r}"
    if inside(record.key) is None:
        raise FormatError(f"{where}: expected a key that is a path below a folder")
    try:
        made.names.append(record.key.encode("utf-8", "surrogateescape"))
        data = record.image.read_bytes() if isinstance(record.image, Path) else record.image
    except UnicodeEncodeError:
        raise FormatError(f"{where}: the name is not Unicode text") from None
    except (OSError, ValueError) as error:
        raise FormatError(f"{record.image!s}: cannot be read: {getattr(error, 'strerror', '') or error}") from None
    made.images.append(made.spool.tell())
    made.records.append(replace(record, image=b""))
    if made.images[-1] + len(data) > dlfs_pack.LIMIT:
        raise FormatError(_too_long(root / f"{record.split}.db", f"at {where}"))
    made.spool.write(len(data).to_bytes(4, "little") + data + bytes(-len(data) % 4))


def _too_long(path: Path, where: str) -> str:
    most = f"{dlfs_pack.LIMIT} bytes {where}, where a FlatBuffer ends; put less into a split"
    return f"{path}: its images and annotations pass {most}"


def _packed(made: _Split, categories: list[tuple[int, bytes]], numbers: tuple[int, ...], path: Path) -> list[bytes]:
    records = made.records
    free = max([0, *(record.id for record in records)]) + 1
    ids: dict[int, None] = {}
    for record in records:
        mine = record.id
        if mine < 0 or mine in ids:
            mine, free = free, free + 1
        ids[mine] = None
    boxes = np.concatenate([record.boxes for record in records])
    parts = dlfs_pack.pack(
        made.names,
        np.array(list(ids), np.uint64),
        np.array([(record.height, record.width) for record in records]),
        np.array(made.images),
        boxes,
        np.array(numbers, np.int64)[np.concatenate([record.labels for record in records])],
        np.concatenate([object_areas(record) for record in records]),
        np.append(0, np.cumsum([len(record.boxes) for record in records])),
        categories,
    )
    if sum(map(len, parts)) + made.spool.tell() > dlfs_pack.LIMIT:
        raise FormatError(_too_long(path, "in all"))
    return parts

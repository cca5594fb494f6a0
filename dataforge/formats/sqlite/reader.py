"""Reader of SQLite databases of ObjectDetectionFromScratch's plan; boxes are text, "x1,y1,x2,y2" in pixels."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from dataforge.archives.path import ArchivePath
from dataforge.errors import FormatError
from dataforge.files import check_root, exists, globbed
from dataforge.formats.boxes import as_xyxy
from dataforge.formats.classes import by_number, unique_ids, unite
from dataforge.formats.pictures import NOT_BELOW, as_size, find, given, likeliest, picture_folders
from dataforge.record import CROWD, Finding, Record, Source, as_boxes, pick_splits

SUFFIXES = (".db", ".sqlite", ".sqlite3")
EXPECTED = "a SQLite database, or a folder of <split>.db, .sqlite or .sqlite3"
SCHEMA = {
    "categories": {"id": "INTEGER PRIMARY KEY", "name": "TEXT", "coco_id": "INTEGER"},
    "images": {"filename": "TEXT", "coco_id": "INTEGER", "width": "INTEGER", "height": "INTEGER", "area": "REAL"},
    "annotations": {
        "box": "TEXT",
        "cat_coco_id": "INTEGER",
        "image_coco_id": "INTEGER",
        "is_crowd": "INTEGER",
        "area": "REAL",
    },
}
JOIN = """
    SELECT i.rowid, i.filename, i.coco_id, i.width, i.height, a.rowid, a.box, a.cat_coco_id, a.is_crowd, a.area
    FROM images AS i LEFT JOIN annotations AS a ON a.image_coco_id = i.coco_id
    ORDER BY i.rowid, a.rowid
"""
ORPHANS = """
    SELECT rowid, image_coco_id FROM annotations
    WHERE image_coco_id IS NULL OR image_coco_id NOT IN (SELECT coco_id FROM images WHERE coco_id IS NOT NULL)
"""


def read(
    root: Path, *, split: tuple[str, ...] | None = None, images: Path | None = None, allow_outside: bool = False
) -> Source:
    """Read SQLite databases. They are opened read-only, and rows are fetched one by one.

    Args:
        root: a database, or a folder of databases; the stem of a database is the name of its split.
        split: read only these splits.
        images: the folder that `filename` is relative to, or that contains one folder per split.
        allow_outside: allow names that point outside the folder: absolute paths, or paths with `..`.

    Raises:
        FormatError: no database, a damaged database, or missing tables or columns. ConfigError: no such split.
    """
    images = given(root, images, "--images")
    files = _files(root)
    chosen = pick_splits(split, files)
    names: dict[str, dict[int, str]] = {}  # per split: the category's coco_id -> its name
    total = 0
    for name in chosen:
        with _opened(files[name]) as query:
            _check_schema(files[name], query)
            names[name] = _categories(files[name], query)
            total += next(query("SELECT count(*) FROM images"))[0]
    numbers, noted = unite({files[name]: names[name] for name in chosen})
    classes = tuple(numbers)

    def records() -> Iterator[Record | Finding]:
        yield from noted
        for name in chosen:
            label_of = {number: classes.index(class_name) for number, class_name in names[name].items()}
            base = root.parent if root.is_file() else root
            folders = picture_folders(base, name, files[name], images)
            yield from _records(name, files[name], folders, base, label_of, allow_outside)

    return Source(classes, records(), unique_ids(numbers), total=total, files=[files[name] for name in chosen])


def _files(root: Path) -> dict[str, Path]:
    if root.is_file():
        return {root.stem: root}
    check_root(root, EXPECTED)
    by_split: dict[str, Path] = {}
    for path in [path for path in globbed(root, "*") if path.suffix.lower() in SUFFIXES and path.is_file()]:
        if by_split.setdefault(path.stem, path) != path:
            raise FormatError(
                f"{path}: the split {path.stem!r} is in {by_split[path.stem].name} too; expected one file"
            )
    if not by_split:
        raise FormatError(f"{root}: no SQLite database found; expected {EXPECTED}")
    return by_split


@contextmanager
def _opened(path: Path) -> Iterator[Callable[[str], Iterator[Any]]]:
    """Yield a function that returns the rows of a query. Only fixed SQL from this project is passed to it."""
    for rest in ("-wal", "-journal"):  # SQLite ignores these for immutable files
        log = path.with_name(path.name + rest)
        if exists(log) and log.stat().st_size:
            raise FormatError(f"{path}: has unfinished changes in {log.name}; open it once with sqlite3 and close it")
    # absolute, because "//a" at the start of a URI names a host
    address = f"file:{quote(os.path.abspath(path))}?mode=ro&immutable=1"  # noqa: PTH100
    archived = isinstance(path, ArchivePath)
    try:
        with closing(sqlite3.connect(":memory:" if archived else address, uri=True)) as connection:
            if archived:
                connection.deserialize(path.read_bytes())
            connection.text_factory = lambda data: data.decode("utf-8", "surrogateescape")
            connection.execute("PRAGMA trusted_schema = OFF")

            def query(sql: str) -> Iterator[Any]:
                return connection.execute(sql)

            yield query
    except (sqlite3.Error, OverflowError, UnicodeDecodeError) as error:
        raise FormatError(f"{path}: cannot be read as a SQLite database: {error}") from None


def _check_schema(path: Path, query: Callable[[str], Iterator[Any]]) -> None:
    tables = "; ".join(f"{table}({', '.join(columns)})" for table, columns in SCHEMA.items())
    for (damage,) in query("PRAGMA quick_check(1)"):  # else lost data in a damaged or truncated file goes unnoticed
        if damage != "ok":
            raise FormatError(f"{path}: the database is damaged or cut short: {' '.join(damage.split())}")
    # rootpage is 0 for views and virtual tables, which would run SQL from the file
    known = {
        name.lower() for name, page in query("SELECT name, rootpage FROM sqlite_master WHERE type = 'table'") if page
    }
    for table, columns in SCHEMA.items():
        if table not in known:
            raise FormatError(f"{path}: no table {table!r}; expected the tables {tables}")
        present = {row[1].lower() for row in query(f"PRAGMA table_info({table})")}
        missing = ", ".join(column for column in columns if column not in present)
        if missing:
            raise FormatError(f"{path}: table {table!r} lacks {missing}; expected the tables {tables}")


def _categories(path: Path, query: Callable[[str], Iterator[Any]]) -> dict[int, str]:
    rows = list(query("SELECT rowid, name, coco_id FROM categories ORDER BY rowid"))
    for row, name, number in rows:
        if not isinstance(name, str) or not isinstance(number, int):
            raise FormatError(
                f"{path}: categories row {row}: name {name!r}, coco_id {number!r}; expected text, a number"
            )
    names = by_number(((number, name) for _, name, number in rows), f"{path}: categories: coco_id")
    if not names and (next(query("SELECT 1 FROM annotations"), None) or not next(query("SELECT 1 FROM images"), None)):
        raise FormatError(f"{path}: categories is empty; expected a row for each class")
    twice = "SELECT coco_id FROM images WHERE coco_id IS NOT NULL GROUP BY coco_id HAVING count(*) > 1 LIMIT 1"
    for (number,) in query(twice):
        raise FormatError(f"{path}: images: coco_id {number} is given twice; expected each once")
    return names


def _records(
    split: str, path: Path, folders: list[Path], base: Path, label_of: dict[int, int], allow_outside: bool
) -> Iterator[Record | Finding]:
    def refused(code: str, key: str, where: str, value: object, reason: str, **more: Any) -> Finding:
        text = repr(value)
        text = text if len(text) <= 160 else text[:157] + "..."
        return Finding("refused", code, str(path), key, f"{where}: {text}", reason, **more)

    with _opened(path) as query:
        names = [name for (name,) in query("SELECT filename FROM images") if isinstance(name, str)]
        folder = likeliest(folders or [path.parent], names, allow_outside)
        pictures, nowhere, noted = find(names, folder, base, path, allow_outside)
        yield from noted
        for row, number in query(ORPHANS):
            reason = "image_coco_id is none of images' coco_id; left out"
            yield refused("unknown-image", "", f"annotations row {row}", number, reason)
        for (image, name, number, width, height), rows in groupby(query(JOIN), lambda row: row[:5]):
            picture = pictures.get(name) if isinstance(name, str) else None
            if picture is None:
                why = nowhere.get(name) if isinstance(name, str) else None
                code, reason = (why.code, why.reason) if why else ("image-path", NOT_BELOW)
                yield refused(code, "", f"images row {image}", name, reason, scope="image")
                continue
            key, file = picture
            boxes, labels, flags, areas = [], [], [], []
            for n, (*_, annotation, text, category, crowd, area) in enumerate(rows):
                if annotation is None:  # the join's row for an image without annotations
                    continue
                where = f"annotations row {annotation}"
                box = _box(text)
                if box is None:
                    yield refused("box-text", key, where, text, 'expected the text "x1,y1,x2,y2"; left out', box=n)
                elif category not in label_of:
                    reason = "cat_coco_id is none of categories' coco_id; left out"
                    xyxy = as_xyxy(box)
                    yield refused("unknown-class", key, where, category, reason, box=n, xyxy=xyxy)
                else:
                    boxes.append(box)
                    labels.append(label_of[category])
                    flags.append(0 if crowd in (None, 0, "0", "") else CROWD)
                    areas.append(area if isinstance(area, int | float) else np.nan)
            with np.errstate(all="ignore"):
                stated = np.array(areas, np.float64).astype(np.float32)
            yield Record(
                key=key,
                split=split,
                image=file,
                height=_size(height),
                width=_size(width),
                boxes=as_boxes(boxes),
                labels=np.array(labels, np.int32),
                flags=np.array(flags, np.uint8),
                areas=None if np.isnan(stated).all() else stated,
                id=number if isinstance(number, int) and number >= 0 else -1,
                origin=str(path),
            )


def _box(text: object) -> list[float] | None:
    try:
        box = [float(part) for part in text.split(",")] if isinstance(text, str) else []
    except ValueError:
        return None
    return box if len(box) == 4 else None


def _size(value: object) -> int:
    return as_size(value) if isinstance(value, int | float | str) else 0

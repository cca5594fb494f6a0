"""Writer of SQLite databases."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from dataforge.errors import FormatError
from dataforge.files import new_folder
from dataforge.formats.pictures import put_picture
from dataforge.formats.sqlite.reader import SCHEMA
from dataforge.record import CROWD, Finding, Source


def write(source: Source, root: Path) -> None:
    """Write `<split>.sqlite` files and their images, `images/<split>/<key>`.

    Boxes, areas, sizes, image ids, crowd flags, classes and class ids are preserved exactly. The schema has no field
    for the flags difficult and truncated. An image without an id, or with an id already used in its split, gets a
    negative `coco_id`.

    Raises:
        FormatError: `root` is not empty, or something cannot be written.
    """
    new_folder(root)
    numbers = source.class_ids or tuple(range(len(source.classes)))
    open_files: dict[str, sqlite3.Connection] = {}
    taken: dict[str, set[int]] = {}
    try:
        for record in source.records:
            if isinstance(record, Finding):
                continue
            split = record.split
            if split not in open_files:
                open_files[split] = _create(root / f"{split}.sqlite", source.classes, numbers)
                taken[split] = set()
            put_picture(record, root / "images" / split)
            known = taken[split]
            number = record.id if record.id >= 0 and record.id not in known else -1 - len(known)
            known.add(number)
            areas = [None] * len(record.boxes) if record.areas is None else record.areas.tolist()
            image = (record.key, number, record.width, record.height, float(record.width * record.height))
            open_files[split].execute("INSERT INTO images VALUES (?, ?, ?, ?, ?)", image)
            rows = zip(
                [",".join(map(repr, box)) for box in record.boxes.tolist()],
                [numbers[label] for label in record.labels],
                [number] * len(areas),
                (record.flags & CROWD).tolist(),
                areas,
                strict=True,
            )
            open_files[split].executemany("INSERT INTO annotations VALUES (?, ?, ?, ?, ?)", rows)
        for connection in open_files.values():
            connection.execute("CREATE INDEX annotations_image ON annotations(image_coco_id)")
            connection.commit()
    except (sqlite3.Error, OverflowError) as error:
        raise FormatError(f"{root}: cannot be written: {error}") from None
    finally:
        for connection in open_files.values():
            connection.close()


def _create(path: Path, classes: tuple[str, ...], numbers: tuple[int, ...]) -> sqlite3.Connection:
    connection = sqlite3.connect(path)
    for table, columns in SCHEMA.items():
        connection.execute(f"CREATE TABLE {table} ({', '.join(f'{name} {kind}' for name, kind in columns.items())})")
    rows = [(n, name, number) for n, (name, number) in enumerate(zip(classes, numbers, strict=True), 1)]
    connection.executemany("INSERT INTO categories VALUES (?, ?, ?)", rows)
    return connection

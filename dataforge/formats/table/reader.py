"""Reader of tables: CSV, TSV, JSON lines, Parquet, Arrow; one row per box, or per image with lists of boxes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dataforge.errors import FormatError
from dataforge.files import check_root, globbed
from dataforge.formats.classes import by_number
from dataforge.formats.pictures import base_of, given, picture_folders
from dataforge.formats.splits import NO_SPLIT, WORD, split_word
from dataforge.formats.table import cells, open_images
from dataforge.formats.table import columns as col
from dataforge.formats.table.arrow_files import ARROW, CSV, PARQUET, SUFFIXES, TFRECORD, open_file, reading, suffix_of
from dataforge.formats.table.check import check_boxes
from dataforge.formats.table.hierarchy import Hierarchy, expanded, read_hierarchy
from dataforge.formats.table.rows import TableFile, folder_of
from dataforge.formats.table.rows import records as records_of
from dataforge.formats.table.samples import TAR
from dataforge.formats.table.tfrecord import label_map
from dataforge.record import Finding, Record, Source, pick_splits

EXPECTED = (
    f"a table ({', '.join(SUFFIXES)}), or a folder of <split>.<suffix>, data/<split>-00000-of-00002.<suffix> or "
    "<split>/<name>.<suffix>"
)
PLAIN = ("annotations", "annotation", "labels", "data", "dataset", "metadata", "bboxes")  # not split names


def read(
    root: Path,
    *,
    split: tuple[str, ...] | None = None,
    images: Path | None = None,
    map: str | None = None,
    boxes: str | None = None,
    unit: str | None = None,
    hierarchy: Path | None = None,
    inclusive: bool = False,
    allow_outside: bool = False,
) -> Source:
    """Read tables.

    Args:
        root: a file or a folder. Splits come from a `split` column if there is one, else from the files.
        split: read only these splits.
        images: the folder that file names are relative to, or that contains one folder per split.
        map: `file=COLUMN,label=COLUMN,...`, or the path of a TOML file of such lines; a nested column is "a.b".
        boxes: "xyxy", "xywh" or "cxcywh"; unit: "pixel" or "unit"; each for headers that do not state it.
        hierarchy: Open Images' JSON file of its classes: boxes count for the ancestors of their class, too.
        inclusive: xmax and ymax are the 0-based indices of the last pixels.
        allow_outside: allow names that point outside the folder: absolute paths, or paths with `..`.

    Raises:
        FormatError: no table, a damaged table, or missing columns. ConfigError: invalid options.
    """
    images = given(root, images, "--images")
    hierarchy = given(base_of(root), hierarchy, "--hierarchy")
    how: dict[str, Any] = {"map": map, "boxes": boxes, "unit": unit, "inclusive": inclusive, "hierarchy": hierarchy}
    return read_files(_files(root), base_of(root), split=split, images=images, allow_outside=allow_outside, **how)


def read_files(
    files: list[tuple[str, Path]],
    base: Path,
    *,
    split: tuple[str, ...] | None = None,
    images: Path | None = None,
    map: str | None = None,
    boxes: str | None = None,
    unit: str | None = None,
    hierarchy: Path | None = None,
    inclusive: bool = False,
    allow_outside: bool = False,
) -> Source:
    """Read tables as `read` does, given as names of splits and files. `base` is the folder of the set."""
    mapped = col.parse_map(map)
    tables = []
    for name, path in files:
        with reading(path):
            file = open_file(path)
            mapping = col.recognise(path, file.schema, mapped, boxes, unit, inclusive)
            folders = [file.folder] if file.folder else picture_folders(base, name, path, images)
            table = TableFile(file, name, mapping, folders, file.folder or base, allow_outside)
            table.splits = _splits(table)
            tables.append(table)
    chosen = pick_splits(split, dict.fromkeys(name for table in tables for name in table.splits))
    tables = [table for table in tables if not {*chosen}.isdisjoint(table.splits)]
    known_names = open_images.descriptions(base)
    label_maps = _label_maps(tables)
    known = {text: name for names in known_names.values() for text, name in names.items()}
    numbered = by_number((pair for names in label_maps.values() for pair in names.items()), "the label maps: id")
    tree = read_hierarchy(hierarchy) if hierarchy else None
    classes, class_ids = _classes(tables, known, numbered, tree)
    above = tree.above([table.label_of for table in tables], len(classes)) if tree else []
    verified = [path for table in tables if table.mapping.suffix for path in open_images.read_absent(table)]
    countable = all(table.mapping.per_image and table.splits == [table.split] for table in tables)

    def records() -> Iterator[Record | Finding]:
        for table in tables:
            with reading(table.file.path):
                check_boxes(table)
                for item in _items(table):
                    if isinstance(item, Finding) or item.split in chosen:
                        yield item

    stream = expanded(records(), above, tree.path) if tree else records()
    total = sum(table.count for table in tables) if countable else 0
    used = [file for table in tables for file in (table.file.path, *table.file.members)]
    used += [*known_names, *label_maps, *verified, *([tree.path] if tree else [])]
    ancestors = {classes[n]: [classes[label] for label in labels] for n, labels in enumerate(above) if labels}
    return Source(classes, stream, class_ids, total=total, files=used, ancestors=ancestors)


def _items(table: TableFile) -> Iterator[Record | Finding]:
    findings: list[Finding] = []
    pieces = table.file.rows([*dict.fromkeys(table.mapping.columns.values())], table.size, findings)
    if not table.mapping.per_image:  # the boxes of an image may be anywhere in the file
        parts = list(pieces)
        if not parts:
            return
        whole = pa.concat_tables(
            [part if isinstance(part, pa.Table) else pa.Table.from_batches([part]) for part, _ in parts]
        )
        pieces = iter([(whole, np.concatenate([rows for _, rows in parts]))])
    yield from findings
    for batch, rows in pieces:
        yield from records_of(table, batch, rows)


def _files(root: Path) -> list[tuple[str, Path]]:
    """Return split names and files: from the folder, else from its `data`, else from its subfolders, one per split."""
    if root.is_file():
        return [(split_of(root, True), root)]
    check_root(root, EXPECTED)
    for place in (root, *(root / name for name in NO_SPLIT)):
        files = _tables_in(place)
        if files:
            return [(split_of(path, len(files) == 1), path) for path in files]
    folders = sorted(path for path in root.iterdir() if path.is_dir())
    found = []
    for folder in folders:
        files = next(filter(None, map(_tables_in, (folder, *(folder / name for name in NO_SPLIT)))), [])
        one = len(files) == 1 or split_word(folder.name) == folder.name
        found += [(folder.name if one else split_of(path, False), path) for path in files]
    if not found and suffix_of(root) in TAR:  # it was opened as a folder
        return [(split_of(root, True), root)]
    if not found:
        raise FormatError(f"{root}: no table found; expected {EXPECTED}")
    return found


def _tables_in(place: Path) -> list[Path]:
    files = [path for path in globbed(place, "*") if suffix_of(path) in SUFFIXES and path.is_file()]
    # a class list is not a table of boxes
    files = [
        path
        for path in files
        if not (path.suffix.lower() in CSV and re.match(r"_?class|.*class-descriptions", path.name))
    ]
    named = "(annotations|detection)-bbox|^detections.csv$"  # Open Images', and FiftyOne's of it, beside other tables
    return sorted([path for path in files if re.search(named, path.name)] or files)


def split_of(path: Path, alone: bool) -> str:
    text = path.suffix.lower() not in (*PARQUET, *ARROW)
    name = re.sub(r"-\d{5}-of-\d{5}(-[0-9a-f]+)?$", "", path.stem)
    if suffix_of(path) in (*TFRECORD, *TAR):
        return split_word(name) or "train"
    if text:
        name = re.sub(r"^(oidv\d+|challenge-\d+)-|-(annotations|detection)-bbox$", "", name)
        words = [word for word in re.split(r"[-_. ]", name) if word and word.lower() not in PLAIN]
        name = words[0] if len(words) == 1 else name if words else ""
    return name or ("train" if alone else path.stem)


def _splits(table: TableFile) -> list[str]:
    if "split" not in table.mapping.columns:
        return _folders(table) or [table.split]
    path = table.mapping.columns["split"]
    names: dict[str, None] = {}
    for batch, _ in table.file.rows([path], 1 << 16, []):
        names |= dict.fromkeys(
            name or table.split for name in pc.unique(cells.texts(cells.column(batch, path))).to_pylist()
        )
    return list(names)


def _folders(table: TableFile) -> list[str]:
    """Return the splits in the names of a file's images, as of Hugging Face's `imagefolder`, if all names have one.

    Only if the file's own name and folder tell none.
    """
    path, columns = table.file.path, table.mapping.columns
    if "image" in columns or table.split != "train" or split_word(path.stem) or WORD.fullmatch(path.parent.name):
        return []
    names: dict[str, None] = {}
    for batch, _ in table.file.rows([columns["file"]], 1 << 16, []):
        files = pc.unique(cells.texts(cells.column(batch, columns["file"]))).to_pylist()
        names |= dict.fromkeys(folder_of(file) for file in files if file)
    table.by_folder = bool(names) and "" not in names
    return list(names) if table.by_folder else []


def _classes(
    tables: list[TableFile], known: dict[str, str], numbered: dict[int, str], tree: Hierarchy | None
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Return classes and class ids: in the files' order, else sorted (numerically if all are numbers). Set `labels`.

    Args:
        known: OpenImages' names of its labels.
        numbered: the names of TFRecord's label maps; a file may use them or their numbers.
        tree: the ancestors of the classes become classes.
    """
    numbers: dict[str, int] = {}
    stated = True
    for table in tables:
        path = table.mapping.columns["label"]
        names = col.class_names(table.file.schema, path)
        found: dict[str, None] = {}
        with reading(table.file.path):
            for batch, _ in table.file.rows([path], 1 << 16, []):
                array = cells.column(batch, path)
                table.count += len(array)
                array = array.flatten() if table.mapping.per_image else array
                found |= dict.fromkeys(text for text in pc.unique(cells.texts(array)).to_pylist() if text)
        if tree:
            found = tree.extend(found, table.file.path)
        both = {str(number): name for number, name in numbered.items()} | {name: name for name in numbered.values()}
        if suffix_of(table.file.path) in TFRECORD and numbered and found.keys() <= both.keys():
            table.labels = both
            numbers |= {name: number for number, name in numbered.items()}
        elif names is None or not all(text.isdecimal() for text in found):
            stated = False
            table.labels = {text: known.get(text, text) if table.mapping.suffix else text for text in found}
        else:
            table.labels = {str(n): name for n, name in enumerate(names)}
            numbers |= zip(names, _class_ids(table.file.schema, len(names)), strict=True)
    first = dict.fromkeys(name for table in tables for name in table.labels.values())
    if not first:
        file, broken = tables[0].file, list[Finding]()
        rows = sum(len(numbers) for _, numbers in file.rows([tables[0].mapping.columns["label"]], 1 << 16, broken))
        why = f"; {broken[0].value}: {broken[0].reason}" if broken else ""
        if rows and not broken:
            return (), ()
        raise FormatError(f"{file.path}: no row has a class{why}; expected {col.EXPECTED}")
    if stated:
        classes = tuple(first)
        ids = tuple(numbers[name] for name in classes)
    elif all(name.isdecimal() for name in first):
        classes = tuple(sorted(first, key=int))
        ids = tuple(map(int, classes))
    else:
        classes = tuple(sorted(first))
        ids = ()
    label_of = {name: n for n, name in enumerate(classes)}
    for table in tables:
        table.label_of = {text: label_of[name] for text, name in table.labels.items()}
    return classes, ids if len(set(ids)) == len(classes) else ()


def _label_maps(tables: list[TableFile]) -> dict[Path, dict[int, str]]:
    """Read the label maps beside TFRecord files."""
    folders = dict.fromkeys(table.file.path.parent for table in tables if suffix_of(table.file.path) in TFRECORD)
    return {path: label_map(path) for folder in folders for path in sorted(folder.glob("*.pbtxt"))}


def _class_ids(schema: pa.Schema, count: int) -> list[int]:
    """Return the class ids that `write` stored in the file."""
    numbers = col.stated(schema).get("class_ids")
    if isinstance(numbers, list) and len(numbers) == count and all(isinstance(one, int) for one in numbers):
        return numbers
    return list(range(count))

"""Conversion of rows to records, for `table`. A row is one box, or one image with lists of boxes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from dataforge.errors import ImageError, counted
from dataforge.formats.boxes import as_xyxy, ranks
from dataforge.formats.pictures import NOT_BELOW, Index, as_size, find, held, is_picture, likeliest, resolve
from dataforge.formats.splits import NO_SPLIT, WORD
from dataforge.formats.table import cells
from dataforge.formats.table import columns as col
from dataforge.formats.table.arrow_files import ArrowFile
from dataforge.images.header import probe, read_size
from dataforge.record import FLAGS, Boxes, Finding, Record, as_boxes

OBJECT = (*col.BOX_FIELDS, "label", *FLAGS, "flags", "area")
ROWS = 64, 256  # images per batch, if a row is an image: by default, and of small files
SMALL = 1 << 15  # bytes an image


@dataclass
class TableFile:
    """One table file. `labels`: value in the label column -> class name."""

    file: ArrowFile
    split: str
    mapping: col.ColumnMap
    folders: list[Path]
    below: Path = Path()
    allow_outside: bool = False
    index: Index = field(default_factory=dict)
    splits: list[str] = field(default_factory=list)
    labels: dict[str, str] = field(default_factory=dict)
    label_of: dict[str, int] = field(default_factory=dict)
    count: int = 0
    absent: dict[str, NDArray[np.int32]] | None = None  # Open Images' names -> labels known to be absent
    by_folder: bool = False  # the first folders of the file names are the splits

    @property
    def size(self) -> int:
        path = self.file.path
        is_small = path.is_file() and path.stat().st_size < SMALL * self.count
        return ROWS[is_small] if self.mapping.per_image else 1 << 16


def records(table: TableFile, batch: Any, rows: NDArray[np.int64]) -> Iterator[Record | Finding]:
    """Yield the images of a batch of rows. `heads` has one row per image, `image` the image index of each box."""
    columns, path = table.mapping.columns, str(table.file.path)
    get: Callable[[str], pa.Array]
    if table.mapping.per_image:
        listed = [columns[field] for field in columns if field in OBJECT]
        lengths = np.stack([lengths_of(cells.column(batch, one)) for one in listed])  # list length per column and row
        even = (lengths == lengths[0]).all(0)
        for row in np.nonzero(~even)[0]:
            sizes = ", ".join(f"{one} {length}" for one, length in zip(listed, lengths[:, row], strict=True))
            reason = "its lists have different lengths; left out"
            yield Finding("refused", "row-uneven", path, "", f"row {rows[row]}: {sizes}", reason, "image")
        heads, numbers = batch.filter(pa.array(even)), rows[even]
        image = np.repeat(np.arange(len(numbers)), lengths[0][even])
        object_rows = numbers[image]

        def get(field: str) -> pa.Array:
            return cells.column(heads, columns[field]).flatten()
    else:
        names = _names(table, batch)
        named = names.is_valid().to_numpy(zero_copy_only=False)
        for row in np.nonzero(~named)[0]:
            yield Finding("refused", "image-path", path, "", f"row {rows[row]}", "no file is named; left out")
        batch, object_rows = batch.filter(pa.array(named)), rows[named]
        code = names.drop_null().dictionary_encode().indices.to_numpy().astype(np.int64)
        if "split" in columns:
            part = cells.texts(cells.column(batch, columns["split"])).dictionary_encode("encode").indices.to_numpy()
            code = code + part * (code.max(initial=0) + 1)
        _, first, image = np.unique(code, return_index=True, return_inverse=True)
        image = np.argsort(np.argsort(first))[image]  # in order of first occurrence
        heads, numbers = batch.take(pa.array(np.sort(first))), object_rows[np.sort(first)]

        def get(field: str) -> pa.Array:
            return cells.column(batch, columns[field])

    boxes, labels, flags, areas, bad = _objects(table, get)
    if len(boxes) and not table.mapping.unit and np.nanmax(boxes, initial=-np.inf) <= 1:
        reason = "no number is above 1; if these are fractions of the image's size, say --unit unit"
        yield Finding("noted", "looks-unit", path, "", counted(len(boxes), "box"), reason, "set")
    good = np.ones(len(image), bool)
    good[list(bad)] = False
    order = np.nonzero(good)[0][np.argsort(image[good], kind="stable")]
    bounds = np.searchsorted(image[order], np.arange(len(numbers) + 1))
    splits = _texts(heads, columns, "split")
    facts = [whole(heads, columns, field).tolist() for field in ("height", "width", "id")]
    pictures, refused, noted = pictures_of(table, heads, numbers)
    yield from noted
    numbered = ranks(image) if bad else image
    for n, (kind, value, reason) in bad.items():
        if kind:
            picture = pictures[image[n]][2]
            key, value = picture[0] if picture else "", value if len(value) <= 60 else value[:57] + "..."
            xyxy = as_xyxy(boxes[n]) if kind == "unknown-class" and not table.mapping.unit else None
            value = f"row {object_rows[n]}: {value}"
            yield Finding("refused", kind, path, key, value, reason, box=int(numbered[n]), xyxy=xyxy)
    measured = [size_of(blob or one[1]) if one and table.mapping.unit else None for _, blob, one in pictures]
    boxes, labels, flags, areas = boxes[order], labels[order], flags[order], areas[order]
    if table.mapping.unit:
        scale = np.array([(size[1], size[0]) * 2 if size else (0,) * 4 for size in measured], np.float64).reshape(-1, 4)
        with np.errstate(all="ignore"):
            boxes = boxes * np.repeat(scale, np.diff(bounds), 0)
    edges = as_boxes(boxes)
    for n, (name, blob, picture) in enumerate(pictures):
        if picture is None:
            value = f"row {numbers[n]}: {name or 'no name'}"
            why = refused.get(name or "")
            code, reason = (why.code, why.reason) if why else ("image-path", NOT_BELOW)
            yield Finding("refused", code, path, "", value, reason, "image")
            continue
        own = slice(bounds[n], bounds[n + 1])
        height, width, number = (values[n] for values in facts)
        if size := measured[n]:
            height, width = size
        elif table.mapping.unit:
            own = slice(0)
        stated = areas[own] if "area" in columns else None
        yield Record(
            key=picture[0],
            split=splits[n] or (folder_of(name or "") if table.by_folder else table.split),
            image=blob or picture[1],
            height=as_size(height),
            width=as_size(width),
            boxes=edges[own],
            labels=labels[own],
            flags=flags[own],
            areas=None if stated is None or np.isnan(stated).all() else stated,
            id=max(number, -1),
            judged=_judged(table, name or ""),
            origin=path,
        )


def _judged(table: TableFile, name: str) -> NDArray[np.int32] | None:
    if table.absent is None:
        return None
    absent = table.absent.get(name.removesuffix(table.mapping.suffix), np.zeros(0, np.int32))
    return np.column_stack([absent, np.zeros_like(absent)])


def _names(table: TableFile, batch: Any) -> pa.Array:
    """Return the names of the files. Whitespace around a name is part of it only if there is such a file."""
    column = cells.column(batch, table.mapping.columns["file"])
    plain, raw = cells.texts(column), cells.texts(column, trim=False)
    blank = pc.not_equal(plain, raw).fill_null(False)
    if not pc.any(blank).as_py():
        return plain
    folders = table.folders or [table.file.path.parent]
    real = [name for name in pc.unique(raw.filter(blank)).to_pylist() if any(held(one, [name]) for one in folders)]
    return pc.if_else(pc.is_in(raw, value_set=pa.array(real, pa.string())), raw, plain)


def pictures_of(
    table: TableFile, heads: Any, numbers: NDArray[np.int64]
) -> tuple[list[tuple[str | None, bytes | None, tuple[str, Path] | None]], dict[str, Finding], list[Finding]]:
    """Return, per image, its name, its embedded bytes, and its key and file; None for each if absent; as `find`."""
    columns = table.mapping.columns
    names = _names(table, heads).to_pylist() if "file" in columns else [None] * heads.num_rows
    blobs = cells.column(heads, columns["image"]).to_pylist() if "image" in columns else [None] * len(names)
    files = [name + _suffix(name, table.mapping.suffix) if name else "" for name in names]
    table.folders = [likeliest(table.folders or [table.file.path.parent], files, table.allow_outside)]
    files = [
        file or _unnamed(blob, f"{table.file.path.stem}-{number:08d}")
        for file, blob, number in zip(files, blobs, numbers, strict=True)
    ]
    apart = [file for file, blob in zip(files, blobs, strict=True) if not blob]
    where = (table.folders[0], table.below, table.file.path, table.allow_outside, table.index)
    found, refused, noted = find(apart, *where)
    pictures = []
    for file, blob in zip(files, blobs, strict=True):
        picture = resolve(file, table.folders[0], table.allow_outside) if blob else found.get(file)
        pictures.append((file or None, blob, picture))
    return pictures, refused, noted


def folder_of(name: str) -> str:
    """Return the split that a file name has as its first folder, after one such as `images`; "" if it has none."""
    parts = [part for part in name.replace("\\", "/").split("/")[:-1] if part != "."]
    if parts and parts[0].lower() in NO_SPLIT:
        del parts[0]
    return parts[0] if parts and WORD.fullmatch(parts[0]) else ""


def numbers_of(
    mapping: col.ColumnMap, arrays: list[pa.Array]
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
    """Return (n, 4) the numbers of boxes; (n,) masks of those that are not four numbers, and of empty cells."""
    if mapping.numbers == ("box",):
        return cells.fours(arrays[0])
    parts = [cells.floats(array) for array in arrays]
    numbers = np.stack([values for values, _ in parts], 1)
    wrong = np.any([one for _, one in parts], axis=0)
    return numbers, wrong, np.isnan(numbers).all(1) & ~wrong


def _objects(
    table: TableFile, get: Callable[[str], pa.Array]
) -> tuple[NDArray[np.float64], NDArray[np.int32], NDArray[np.uint8], Boxes, dict[int, tuple[str, str, str]]]:
    """Return edges, labels, flags and areas of all boxes, and the boxes to skip: index -> code ("" for a row that only
    states that its image has no boxes), value and reason of the finding."""
    columns, mapping = table.mapping.columns, table.mapping
    arrays = [get(field) for field in mapping.numbers]
    numbers, wrong, missing = numbers_of(mapping, arrays)
    boxes = col.as_edges(numbers, mapping)
    texts = cells.texts(get("label"))
    place = pc.index_in(texts, value_set=pa.array(list(table.label_of), pa.string())).fill_null(-1).to_numpy()
    labels = np.array([*table.label_of.values(), -1], np.int32)[place]
    unnamed = texts.is_null().to_numpy(zero_copy_only=False)
    bad: dict[int, tuple[str, str, str]] = {}
    for n in np.nonzero(wrong | missing | (labels < 0))[0].tolist():
        if missing[n] and unnamed[n] and not mapping.per_image:
            bad[n] = ("", "", "")
        elif wrong[n] or missing[n]:
            value = ", ".join(str(array[n].as_py()) for array in arrays)
            bad[n] = ("line-broken", value, "expected four numbers, with points for decimals; left out")
        else:
            bad[n] = ("unknown-class", str(texts[n].as_py() or ""), "no class, or none of the names; left out")
    flags = np.zeros(len(labels), np.uint8)
    if "flags" in columns:
        flags |= np.nan_to_num(cells.floats(get("flags"))[0]).astype(np.uint8) & sum(FLAGS.values())
    for name, bit in FLAGS.items():
        if name in columns:
            flags |= cells.marks(get(name)).astype(np.uint8) * np.uint8(bit)
    with np.errstate(all="ignore"):
        areas = cells.floats(get("area"))[0] if "area" in columns else np.full(len(labels), np.nan)
        return boxes, labels, flags, areas.astype(np.float32), bad


def size_of(source: bytes | Path) -> tuple[int, int] | None:
    """Return an image's height and width; None if it cannot be read: ingest opens it too, and reports the error."""
    try:
        if isinstance(source, Path):
            return read_size(source)
        info = probe(source)
    except (OSError, ValueError, ImageError):
        return None
    return info.height, info.width


def lengths_of(array: pa.Array) -> NDArray[np.int64]:
    return pc.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)


def _texts(heads: Any, columns: dict[str, str], field: str) -> list[str | None]:
    return cells.texts(cells.column(heads, columns[field])).to_pylist() if field in columns else [None] * heads.num_rows


def whole(heads: Any, columns: dict[str, str], field: str) -> NDArray[np.int64]:
    """Return a column as integers; missing values are -1 for ids and 0 (unknown) for sizes."""
    none = -1 if field == "id" else 0
    if field not in columns:
        return np.full(heads.num_rows, none)
    array = cells.column(heads, columns[field])
    if pa.types.is_integer(array.type):
        return array.fill_null(none).cast(pa.int64(), safe=False).to_numpy(zero_copy_only=False)
    values = cells.floats(array)[0]
    return np.where(np.abs(values) < 2**53, values, none).astype(np.int64)


def _suffix(key: str | None, suffix: str) -> str:
    return "" if key is None or is_picture(key) else suffix


def _unnamed(blob: bytes | None, place: str) -> str:
    """Return a name for an unnamed image: `place` with the suffix of its image format; "" if there is no image."""
    if not blob:
        return ""
    try:
        kind = probe(blob).format.lower()
    except ImageError:
        kind = "jpeg"
    return f"{place}.{'jpg' if kind == 'jpeg' else kind}"

"""Parser of DLFS FlatBuffers (flatbuffers.dev/internals) to numpy columns, without one Python object per table.

All numbers are little-endian. A table begins with the signed offset back to its vtable; a vtable contains its own size,
the table's size, and for each slot the field's offset in the table, 0 if the field is absent. Strings and vectors
begin with their length, and are referenced by a forward offset.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dataforge.errors import FormatError
from dataforge.files import mapped, reading
from dataforge.formats.classes import by_number
from dataforge.record import Boxes

SCHEMA = {  # slots in order
    "Dataset": ("id", "examples", "categories"),
    "Category": ("name", "id", "examples", "num_images", "num_anns"),
    "Example": ("file_name", "id", "annotations", "image", "width", "height", "idx"),
    "Annotation": ("bbox", "cat_id", "id", "image_id", "area"),
}
Places = NDArray[np.int64]


class Tables:
    """Tables of one kind, with bounds checks: tables and vtables on construction, fields on access.

    The total size of the tables, and of the vectors of a slot, must not exceed the file size, so the work is linear in
    the file size even if parts overlap.

    Attributes:
        data: (bytes,) uint8, the mapped file.
        places: (n,) int64, the start of each table.
    """

    def __init__(self, path: Path, data: NDArray[np.uint8], kind: str, places: Places) -> None:
        self.path, self.data, self.kind, self.places = path, data, kind, places
        end = len(data)
        self._refuse((places < 0) | (places > end - 4), "begins at byte", places)
        self._vtable = places - _take(data, places, "<i4")
        self._refuse((self._vtable < 0) | (self._vtable > end - 4), "vtable at byte", self._vtable)
        self._slots = _take(data, self._vtable, "<u2").astype(np.int64)
        self._refuse((self._slots < 4) | (self._vtable + self._slots > end), "vtable's size", self._slots)
        self._size = _take(data, self._vtable + 2, "<u2").astype(np.int64)
        self._refuse((self._size < 4) | (places + self._size > end), "size", self._size)
        self._fits(int(self._size.sum()), "their size")

    def __len__(self) -> int:
        return len(self.places)

    def column(self, slot: str, dtype: str, count: int = 1) -> tuple[NDArray, NDArray[np.bool_]]:
        """Return the numbers of a slot, (n,) or (n, count), 0 if absent, and an (n,) mask of those present."""
        at, present = self._field(slot, np.dtype(dtype).itemsize * count)
        values = np.zeros((len(self), count) if count > 1 else len(self), dtype)
        values[present] = _take(self.data, at[present], dtype, count)
        return values, present

    def vector(self, slot: str, width: int) -> tuple[Places, Places]:
        """Return starts and lengths of a slot's vectors or strings; length 0 if absent. `width`: bytes per element."""
        at, present = self._field(slot, 4)
        end = len(self.data)
        target, length = np.zeros((2, len(self)), np.int64)
        target[present] = at[present] + _take(self.data, at[present], "<u4")
        self._refuse(present & (target > end - 4), f"{slot} at byte", target)
        length[present] = _take(self.data, target[present], "<u4")
        self._refuse(present & (length * width > end - 4 - target), f"{slot}'s length", length)
        self._fits(int(length.sum()) * width, slot)
        return target + 4, length

    def tables(self, slot: str, kind: str) -> tuple[Tables, Places]:
        """Return the tables in a slot's vectors, concatenated, and the (n + 1,) bounds of each vector's tables."""
        start, length = self.vector(slot, 4)
        bounds = np.append(0, np.cumsum(length))
        at = np.repeat(start - 4 * bounds[:-1], length) + 4 * np.arange(bounds[-1])
        return Tables(self.path, self.data, kind, at + _take(self.data, at, "<u4")), bounds

    def _field(self, slot: str, width: int) -> tuple[Places, NDArray[np.bool_]]:
        entry = 4 + 2 * SCHEMA[self.kind].index(slot)
        known = self._slots >= entry + 2  # vtables of older writers are shorter
        offset = np.zeros(len(self), np.int64)
        offset[known] = _take(self.data, self._vtable[known] + entry, "<u2")
        present = offset > 0
        self._refuse(present & ((offset < 4) | (offset + width > self._size)), f"{slot}: place in the table", offset)
        return self.places + offset, present

    def _fits(self, size: int, what: str) -> None:
        if size > len(self.data):
            raise FormatError(
                f"{self.path}: {self.kind}: {what} is {size} bytes in {len(self)} tables together; expected at most "
                f"the file's {len(self.data)} bytes: they share parts, so the file is damaged, or no DLFS FlatBuffer"
            )

    def _refuse(self, wrong: NDArray[np.bool_], what: str, values: Places) -> None:
        if wrong.any():
            n = int(wrong.argmax())
            raise FormatError(
                f"{self.path}: {self.kind} {n}: {what} {values[n]}; expected it within its table and the file's "
                f"{len(self.data)} bytes: the file is damaged, or no DLFS FlatBuffer"
            )


@dataclass
class Columns:
    """Columns of one file: of its n examples, and of its m annotations in the order of the examples."""

    examples: Tables
    names: dict[int, str]  # category names by id
    stated: dict[int, tuple[int, int]]  # num_images, num_anns
    file_name: tuple[NDArray, NDArray]  # starts, lengths
    image: tuple[NDArray, NDArray]
    size: NDArray  # (n, 2) uint64, height, width
    ids: NDArray  # (n,) uint64
    idx: NDArray
    bounds: NDArray  # (n + 1,) int64, into the annotations
    boxes: Boxes
    boxed: NDArray[np.bool_]  # (m,), True if there is a box
    areas: NDArray[np.float32]  # NaN if absent
    cat_ids: NDArray
    annotation_ids: NDArray
    image_ids: NDArray

    def text(self, row: int) -> str:
        start, length = (int(column[row]) for column in self.file_name)
        return _text(self.examples, start, length)


def _text(tables: Tables, start: int, length: int) -> str:
    """Decode a string. Invalid UTF-8 is preserved, for ingest to reject."""
    return tables.data[start : start + length].tobytes().decode("utf-8", "surrogateescape")


def load(path: Path) -> Columns:
    """Memory-map a file and gather its columns.

    Raises:
        FormatError: the file cannot be read, is not a FlatBuffer or damaged, or its categories are invalid.
    """
    dataset = _open(path)
    categories, _ = dataset.tables("categories", "Category")
    examples, _ = dataset.tables("examples", "Example")
    annotations, bounds = examples.tables("annotations", "Annotation")
    cat_ids = categories.column("id", "<u2")[0].tolist()
    texts = [_text(categories, *span) for span in zip(*categories.vector("name", 1), strict=True)]
    names = by_number(zip(cat_ids, texts, strict=True), f"{path}: Category id")
    for number, text in names.items():
        if not text:
            raise FormatError(f"{path}: Category id {number} has no name; expected one")
    if not names and (len(annotations) or not len(examples)):
        raise FormatError(f"{path}: Dataset: categories is empty; expected a Category for each class")
    counts = [categories.column(slot, "<u8")[0].tolist() for slot in ("num_images", "num_anns")]
    yxyx, boxed = annotations.column("bbox", "<f4", 4)
    areas, stated = annotations.column("area", "<f4")
    areas[~stated] = np.nan
    return Columns(
        examples,
        names,
        dict(zip(cat_ids, zip(*counts, strict=True), strict=True)),
        examples.vector("file_name", 1),
        examples.vector("image", 1),
        np.stack([examples.column(slot, "<u8")[0] for slot in ("height", "width")], 1),
        examples.column("id", "<u8")[0],
        examples.column("idx", "<u8")[0],
        bounds,
        yxyx[:, [1, 0, 3, 2]].astype(np.float32, copy=False),
        boxed,
        areas.astype(np.float32, copy=False),
        annotations.column("cat_id", "<u2")[0],
        annotations.column("id", "<u8")[0],
        annotations.column("image_id", "<u8")[0],
    )


def _open(path: Path) -> Tables:
    """Memory-map a file and return its Dataset table."""
    with reading(path):
        if path.stat().st_size < 12:  # the root offset, a table and a vtable without slots
            raise FormatError(f"{path}: {path.stat().st_size} bytes; expected a DLFS FlatBuffer, which has 12 or more")
        data = np.frombuffer(mapped(path), np.uint8)
    if data[:16].tobytes() == b"SQLite format 3\0":
        raise FormatError(f"{path}: is a SQLite database; expected a DLFS FlatBuffer. Is the format sqlite?")
    return Tables(path, data, "Dataset", _take(data, np.zeros(1, np.int64), "<u4").astype(np.int64))


def _take(data: NDArray[np.uint8], places: Places, dtype: str, count: int = 1) -> NDArray:
    """Return the numbers at byte offsets `places`, aligned or not: (n,), or (n, count)."""
    size = np.dtype(dtype).itemsize
    room = max(len(data) - size * count + 1, 0)
    if count == 1:
        return np.ndarray((room,), dtype, data, 0, (1,))[places]
    return np.ndarray((room, count), dtype, data, 0, (1, size))[places]

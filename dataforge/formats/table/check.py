"""The check of a table's boxes against the areas and the image sizes that it states, or that its images have."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dataforge.formats.boxes import check_reading, include_last
from dataforge.formats.table import cells
from dataforge.formats.table.rows import OBJECT, TableFile, lengths_of, numbers_of, pictures_of, size_of, whole

MEASURED = 64  # images opened if the file states no sizes


def check_boxes(table: TableFile) -> None:
    """Check the convention of all boxes of a file against the areas and sizes in it: see `check_reading`.

    Raises:
        FormatError: they contradict it.
    """
    columns, mapping = table.mapping.columns, table.mapping
    if len(mapping.forms) == len(mapping.units) == 1:
        return
    fields = [*mapping.numbers, *(name for name in ("width", "height", "area") if name in columns)]
    parts: list[NDArray[np.float64]] = []  # (n, 7): four numbers, width, height, area
    measured = np.empty((0, 2), np.int64) if {"width", "height"} <= columns.keys() else _measured(table)
    opened = len(measured) > 0
    for batch, _ in table.file.rows([columns[name] for name in fields], 1 << 14, []):
        arrays = {name: cells.column(batch, columns[name]) for name in fields}
        listed = [name for name in fields if mapping.per_image and name in OBJECT]
        sizes = [whole(batch, columns, name) for name in ("width", "height")]
        if opened:
            sizes = list(np.zeros((2, batch.num_rows), np.int64))
            for values, own in zip(sizes, measured[: batch.num_rows].T, strict=True):
                values[: len(own)] = own
            measured = measured[batch.num_rows :]
        if listed:
            lengths = np.stack([lengths_of(arrays[name]) for name in listed])
            even = (lengths == lengths[0]).all(0)
            arrays |= {name: arrays[name].filter(pa.array(even)).flatten() for name in listed}
            sizes = [np.repeat(values[even], lengths[0][even]) for values in sizes]
        numbers = numbers_of(mapping, [arrays[name] for name in mapping.numbers])[0]
        areas = cells.floats(arrays["area"])[0] if "area" in arrays else np.full(len(numbers), np.nan)
        parts.append(np.column_stack([numbers, *sizes, areas]))
    every = np.concatenate(parts) if parts else np.empty((0, 7))
    for rows in (every, every[every[:, 4] > 0]) if opened else (every,):
        numbers = include_last(rows[:, :4], 0, 1) if mapping.inclusive else rows[:, :4]
        check_reading(
            str(table.file.path),
            numbers,
            rows[:, 4:6],
            rows[:, 6],
            mapping.boxes,
            "unit" if mapping.unit else "pixel",
            forms=mapping.forms,
            units=mapping.units,
            named=mapping.numbers != ("box",),
        )


def _measured(table: TableFile) -> NDArray[np.int64]:
    """Return (n, 2) width and height of the images of the first rows; 0 for those that cannot be read."""
    fields = [table.mapping.columns[name] for name in ("file", "image") if name in table.mapping.columns]
    for batch, rows in table.file.rows(fields, MEASURED, []):
        heads, numbers = batch.slice(0, MEASURED), rows[:MEASURED]
        sizes = np.zeros((len(numbers), 2), np.int64)
        for n, (_, blob, picture) in enumerate(pictures_of(table, heads, numbers)[0]):
            if (blob or picture) and (size := size_of(blob or picture[1])):  # type: ignore[index]
                sizes[n] = size[::-1]
        return sizes
    return np.empty((0, 2), np.int64)

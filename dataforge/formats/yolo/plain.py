"""Label files of nothing but boxes, parsed many at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from pyarrow import csv

from dataforge.formats.boxes import edges

Parsed = tuple[list[str], bytes, bytes]  # class names, edges in fractions as float64, and flags
_COLUMNS = {name: pa.float64() for name in ("class", "cx", "cy", "w", "h")}
_READ = csv.ReadOptions(use_threads=False, column_names=[*_COLUMNS])
_LINES = csv.ParseOptions(delimiter=" ", quote_char=False)
_NUMBERS = csv.ConvertOptions(column_types=_COLUMNS)


def parse(texts: Sequence[str], names: Mapping[int, str]) -> tuple[dict[int, Parsed], set[float]]:
    """Return what label files hold, by their places among the texts, and the class numbers in them.

    A file is left out, right or not, unless each line is five numbers with a blank between them, the first a known
    class and the others at most 2. If one looks so and cannot be parsed, all may be left out.
    """
    texts = [text if text.endswith("\n") else text + "\n" for text in texts]
    chosen = [n for n, text in enumerate(texts) if text.isascii() and 4 * text.count("\n") == text.count(" ")]
    data = "".join([texts[n] for n in chosen]).encode()
    try:
        table = csv.read_csv(pa.py_buffer(data), _READ, _LINES, _NUMBERS)
    except pa.ArrowInvalid:
        return {}, set()
    if any(column.null_count for column in table.columns):
        return {}, set()
    label, *cxcywh = (np.from_dlpack(column.chunk(0)) for column in table.combine_chunks().columns)
    cxcywh_unit = np.stack(cxcywh, 1)
    with np.errstate(all="ignore"):
        xyxy_unit = edges(cxcywh_unit, "cxcywh")
    named = [names.get(number, "") for number in label.tolist()]
    fits = (np.abs(cxcywh_unit) <= 2).all(1) & np.array([*map(bool, named)])
    ends = np.cumsum([texts[n].count("\n") for n in chosen])
    left_out = {*np.searchsorted(ends, np.flatnonzero(~fits), "right").tolist()}
    parsed, start = {}, 0
    for place, (n, end) in enumerate(zip(chosen, ends.tolist(), strict=True)):
        if place not in left_out:
            parsed[n] = named[start:end], xyxy_unit[start:end].tobytes(), bytes(end - start)
        start = end
    return parsed, {*label[fits].tolist()}

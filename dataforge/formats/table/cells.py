"""Conversion of the cells of an Arrow column to text, numbers and booleans, for `table`."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$|^[+-]?(nan|NaN|inf|Infinity)$"


def is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def column(batch: pa.RecordBatch | pa.Table, path: str) -> pa.Array:
    """Return the column at a path, as one array."""
    name = max((name for name in batch.schema.names if path == name or path.startswith(name + ".")), key=len)
    array = batch.column(name)
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    for part in path[len(name) + 1 :].split(".") if path != name else ():
        if is_list(array.type):
            if pa.types.is_fixed_size_list(array.type):
                array = array.cast(pa.list_(array.type.value_type))
            array = type(array).from_arrays(array.offsets, pc.struct_field(array.values, part))
        else:
            array = pc.struct_field(array, part)
    return array.dictionary_decode() if isinstance(array, pa.DictionaryArray) else array


def texts(array: pa.Array, trim: bool = True) -> pa.Array:
    """Return a column as text, stripped of whitespace; null if empty. Whole floats have no decimal point.

    Args:
        trim: False keeps the whitespace of cells that hold more than that.
    """
    if pa.types.is_temporal(array.type):  # pyarrow parses some JSON strings as dates
        raise pa.ArrowTypeError(f"a column of type {array.type}; expected text or numbers")
    if pa.types.is_floating(array.type):
        with suppress(pa.ArrowInvalid):
            array = array.cast(pa.int64())
    array = array.cast(pa.string())
    trimmed = pc.utf8_trim_whitespace(array)
    return pc.if_else(pc.equal(trimmed, ""), pa.scalar(None, pa.string()), trimmed if trim else array)


def floats(array: pa.Array) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return a column as float64, with NaN for cells without a number, and a mask of the cells that are not numeric."""
    if pa.types.is_null(array.type):
        return np.full(len(array), np.nan), np.zeros(len(array), bool)
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        array = texts(array)
        fits = pc.match_substring_regex(array, NUMBER).fill_null(False)
        wrong = pc.and_(pc.invert(fits), array.is_valid()).to_numpy(zero_copy_only=False)
        array = pc.utf8_ltrim(pc.if_else(fits, array, pa.scalar(None, pa.string())), characters="+")
    elif pa.types.is_integer(array.type) or pa.types.is_floating(array.type) or pa.types.is_boolean(array.type):
        wrong = np.zeros(len(array), bool)
    else:
        raise pa.ArrowTypeError(f"a column of type {array.type}; expected numbers")
    return array.cast(pa.float64(), safe=False).fill_null(np.nan).to_numpy(zero_copy_only=False), wrong


def marks(array: pa.Array) -> NDArray[np.bool_]:
    """Return a column of 0/1, true/false or yes/no as booleans; any other value (OpenImages' -1) is False."""
    yes = pa.array(["1", "true", "t", "yes", "y"])
    return pc.is_in(pc.utf8_lower(texts(array)), value_set=yes).to_numpy(zero_copy_only=False)


def fours(array: pa.Array) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
    """Return the numbers of a column of four-element lists, or of text such as "[1, 2, 3, 4]".

    Returns:
        (n, 4) numbers; (n,) mask of cells that are not four numbers; (n,) mask of empty cells.
    """
    if not is_list(array.type):
        plain = pc.utf8_trim(array.cast(pa.string()), characters="[]() ")
        array = pc.split_pattern_regex(pc.if_else(pc.equal(plain, ""), pa.scalar(None, pa.string()), plain), r"[,\s]+")
    length = pc.list_value_length(array).fill_null(0).to_numpy(zero_copy_only=False)
    numbers = np.full((len(array), 4), np.nan)
    four = length == 4
    values, bad = floats(array.filter(pa.array(four)).flatten())
    numbers[four] = values.reshape(-1, 4)
    wrong = ~four & (length > 0)
    wrong[four] = bad.reshape(-1, 4).any(1)
    return numbers, wrong, length == 0

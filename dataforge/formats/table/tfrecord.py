"""TFRecord files of `tf.train.Example`, as Arrow rows, read without TensorFlow.

The framing and the masked CRC-32C: https://www.tensorflow.org/tutorials/load_data/tfrecord. The message:
tensorflow/core/example/{example,feature}.proto. Its wire format: https://protobuf.dev/programming-guides/encoding. The
names of the features: object_detection/data_decoders/tf_example_decoder.py in tensorflow/models.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pyarrow as pa

from dataforge.errors import FormatError
from dataforge.files import mapped, read_text

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types
KINDS = {1: pa.binary(), 2: pa.float32(), 3: pa.int64()}  # bytes_list, float_list, int64_list
Features = dict[str, tuple[int, memoryview]]  # name -> field number of its list, and the list's message


class TfRecords:
    """The records of a file, and their features as Arrow columns.

    A feature is a list if its name contains "object" or "bbox", or if some record has not exactly one value of it.

    Raises:
        FormatError: the file is damaged or cut short, or a record is no `tf.train.Example`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._data = mapped(path) if path.stat().st_size else memoryview(b"")
        self._places = list(self._index())
        kinds: dict[str, int] = {}
        listed: dict[str, bool] = {}
        text: dict[str, bool] = {}
        for number in range(len(self._places)):
            for name, (kind, values) in self._features(number).items():
                listed.setdefault(name, bool(re.search("object|bbox", name)))
                if kind in KINDS and len(values):
                    if kinds.setdefault(name, kind) != kind:
                        raise self._error(number, f"{name}: has values of another type than before")
                    if not listed[name]:
                        count = sum(1 for _ in _fields(values, 1)) if kind == 1 else None  # an image is not copied
                        listed[name] = (count or len(self._values(number, kind, values))) != 1
                    if kind == 1 and name not in text:
                        text[name] = _is_text(self._values(number, kind, values)[0])
                else:
                    listed[name] = True
        bare = not any("object" in name for name in kinds)  # not one object in the file
        self.schema = pa.schema(
            [
                (name, pa.list_(kind) if listed[name] else kind)
                for name in sorted(listed)
                if name in kinds or bare
                for kind in (pa.string() if text.get(name) or name not in kinds else KINDS[kinds[name]],)
            ]
        )

    def batches(self, columns: list[str], size: int) -> Iterator[pa.RecordBatch]:
        """Yield the columns of the records, in batches of `size`."""
        fields = [self.schema.field(name) for name in columns]
        for start in range(0, len(self._places), size):
            cells: list[list[Any]] = [[] for _ in fields]
            for number in range(start, min(start + size, len(self._places))):
                features = self._features(number)
                for field, column in zip(fields, cells, strict=True):
                    values = self._values(number, *features.get(field.name, (0, memoryview(b""))))
                    column.append(values if pa.types.is_list(field.type) else values[0] if values else None)
            arrays = [pa.array(column, field.type) for field, column in zip(fields, cells, strict=True)]
            yield pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))

    def _index(self) -> Iterator[tuple[int, int]]:
        """Yield the start and the end of each record, with both of its checksums compared."""
        place, number = 0, 0
        while place < len(self._data):
            head = bytes(self._data[place : place + 12])
            if len(head) < 12 or _masked(head[:8]) != struct.unpack("<I", head[8:])[0]:
                if head[:2] == b"\x1f\x8b":
                    raise FormatError(f"{self._path}: is compressed with gzip; decompress it first")
                raise self._error(number, "its length does not match its CRC-32C, or is cut short")
            start = place + 12
            end = start + struct.unpack("<Q", head[:8])[0]
            if end + 4 > len(self._data):
                raise self._error(number, "is cut short")
            if _masked(self._data[start:end]) != struct.unpack("<I", self._data[end : end + 4])[0]:
                raise self._error(number, "its data does not match its CRC-32C")
            yield start, end
            place, number = end + 4, number + 1

    def _features(self, number: int) -> Features:
        start, end = self._places[number]
        features: Features = {}
        try:
            for _, entries in _fields(self._data[start:end], 1):
                for _, entry in _fields(entries, 1):
                    parts = dict(_fields(entry, 1, 2))
                    (last,) = [*_fields(parts.get(2, b""), 1, 2, 3)][-1:] or [(0, memoryview(b""))]
                    features[str(parts[1], "utf-8")] = last
        except (ValueError, KeyError, IndexError) as error:
            raise self._error(number, f"is not a tf.train.Example: {error}") from None
        return features

    def _values(self, number: int, kind: int, values: memoryview) -> list[Any]:
        try:
            if kind == 1:
                return [bytes(value) for _, value in _fields(values, 1)]
            if kind == 2:
                parts = b"".join(bytes(value) for _, value in _fields(values, 1))
                return np.frombuffer(parts, "<f4").tolist()
            return [whole for _, value in _fields(values, 1) for whole in _varints(value)] if kind == 3 else []
        except (ValueError, IndexError) as error:
            raise self._error(number, f"is not a tf.train.Example: {error}") from None

    def _error(self, number: int, reason: str) -> FormatError:
        return FormatError(f"{self._path}: record {number}: {reason}")


def label_map(path: Path) -> dict[int, str]:
    """Read a label map of the detection API: number -> name, or the display name where the name is a code."""
    names = {}
    for item in re.findall(r"item\s*\{(.*?)\}", read_text(path), re.DOTALL):
        pairs = re.findall(r"""(\w+)\s*:\s*(?:"([^"]*)"|'([^']*)'|(\w+))""", item)
        found = {key: "".join(values) for key, *values in pairs}
        name = found.get("name", "")
        if found.get("id", "").isdecimal():
            names[int(found["id"])] = found.get("display_name", name) if name.startswith("/") else name
    return names


def _masked(data: bytes | memoryview) -> int:
    crc = google_crc32c.value(bytes(data))
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _fields(data: memoryview | bytes, *numbers: int) -> Iterator[tuple[int, memoryview]]:
    """Yield the number and the bytes of each field of a message that has one of the numbers; varints as their bytes.

    Raises:
        ValueError, IndexError: the message is malformed.
    """
    data = memoryview(data)
    place = 0
    while place < len(data):
        tag, place = _varint(data, place)
        kind, start = tag & 7, place
        if kind == BYTES:
            length, start = _varint(data, place)
            place = start + length
        elif kind == VARINT:
            _, place = _varint(data, place)
        elif kind in (FIXED64, FIXED32):
            place += 8 if kind == FIXED64 else 4
        else:
            raise ValueError(f"wire type {kind}")
        if place > len(data):
            raise ValueError("a field is longer than its message")
        if tag >> 3 in numbers:
            yield tag >> 3, data[start:place]


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    """Return a variable-length integer, and the position after it."""
    if data[place] < 128:
        return data[place], place + 1
    number, shift = 0, 0
    while True:
        byte = data[place]
        number |= (byte & 127) << shift
        place += 1
        if byte < 128:
            return number, place
        shift += 7
        if shift > 63:
            raise ValueError("an integer of more than 64 bits")


def _varints(data: memoryview) -> Iterator[int]:
    place = 0
    while place < len(data):
        number, place = _varint(data, place)
        yield number - (1 << 64) if number >> 63 else number

"""TFRecord files of `tf.train.Example`, as Arrow rows, read without TensorFlow.

The framing and the masked CRC-32C: https://www.tensorflow.org/tutorials/load_data/tfrecord. The message:
tensorflow/core/example/{example,feature}.proto. Its wire format: https://protobuf.dev/programming-guides/encoding. The
names of the features: object_detection/data_decoders/tf_example_decoder.py in tensorflow/models.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import google_crc32c
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dataforge.errors import FormatError
from dataforge.files import mapped, read_text, release
from dataforge.formats.table.protobuf import Bytes, Ints, MalformedError, fields, rows, varints

KINDS = {1: pa.binary(), 2: pa.float32(), 3: pa.int64()}  # bytes_list, float_list, int64_list
PARSED = 4096  # records at a time


class TfRecords:
    """The records of a file, and their features as Arrow columns.

    A feature is a list if its name contains "object" or "bbox", or if some record has not exactly one value of it.

    Raises:
        FormatError: the file is damaged or cut short, or a record is no `tf.train.Example`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._data = mapped(path) if path.stat().st_size else memoryview(b"")
        self._bytes = np.frombuffer(self._data, np.uint8)
        self._places = np.fromiter(self._index(), np.dtype((np.int64, 2)))
        self._names: dict[str, int] = {}
        self._lists: list[_Lists] = []
        kinds: dict[str, int] = {}
        listed: dict[str, bool] = {}
        text: dict[str, bool] = {}
        for start in range(0, len(self._places), PARSED):
            self._lists.append(self._parsed(start))
            for name, feature in self._features(start).items():
                listed[name] = listed.get(name, bool(re.search("object|bbox", name))) or feature.uneven
                filled = feature.kinds > 0
                if not filled.any():
                    continue
                kind = kinds.setdefault(name, int(feature.kinds[filled.argmax()]))
                wrong = filled & (feature.kinds != kind)
                if wrong.any():
                    raise self._error(feature.record[wrong.argmax()], f"{name}: has values of another type than before")
                if kind == 1 and name not in text and len(feature.first):
                    text[name] = _is_text(bytes(self._bytes[feature.first[0] : feature.end[0]]))
            release(self._data)
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
        """Yield the columns of the records, in batches of at most `size`."""
        chosen = [self.schema.field(name) for name in columns]
        for start in range(0, len(self._places), PARSED):
            features = self._features(start, columns)
            end = min(start + PARSED, len(self._places))
            for a in range(start, end, size):
                b = min(a + size, end)
                arrays = [self._array(field.type, features.get(field.name), a, b) for field in chosen]
                yield pa.RecordBatch.from_arrays(arrays, schema=pa.schema(chosen))
            release(self._data)

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
            if number % PARSED == 0:
                release(self._data)

    def _parsed(self, start: int) -> _Lists:
        """Find the features of `PARSED` records at once; of those of the same name in a record, the last."""
        places = self._places[start : start + PARSED]
        record = np.arange(start, start + len(places))
        try:
            of, _, first, end = fields(self._bytes, record, *places.T, 1)
            record, (of, _, first, end) = record[of], fields(self._bytes, record[of], first, end, 1)
            record = record[of]
            of, number, *ends = fields(self._bytes, record, first, end, 1, 2)
            keys, key_ends = _last(len(record), of, number == 1, ends)
            if (keys < 0).any():
                raise MalformedError(record[keys.argmin()], "a feature without a name")
            list_ends = _last(len(record), of, number == 2, ends)[1]
            codes = _binary(self._bytes, *key_ends).dictionary_encode()
            code = codes.indices.to_numpy()
            names = [_name(text, record[code == n]) for n, text in enumerate(codes.dictionary.to_pylist())]
            newest = np.unique((record * len(names) + code)[::-1], return_index=True)[1]
            kept = np.sort(len(record) - 1 - newest)
            record, code, list_ends = record[kept], code[kept], (list_ends[0][kept], list_ends[1][kept])
            of, number, *ends = fields(self._bytes, record, *list_ends, 1, 2, 3)
        except MalformedError as error:
            raise self._malformed(error) from None
        lists, (first, end) = _last(len(record), of, number > 0, ends)
        filled = end > first
        first, size = np.where(filled, first - self._places[record, 0], 0), np.where(filled, end - first, 0)
        kind = np.where(filled, np.append(number, 0)[lists], 0)
        code = np.array([self._names.setdefault(name, len(self._names)) for name in names], np.int32)[code]
        return _Lists(
            record.astype(np.int32), code, kind.astype(np.int8), first.astype(np.uint32), size.astype(np.uint32)
        )

    def _features(self, start: int, wanted: Collection[str] | None = None) -> dict[str, _Feature]:
        """Return the features of `PARSED` records by name."""
        lists = self._lists[start // PARSED]
        names = [name for name in self._names if wanted is None or name in wanted]
        own = np.isin(lists.code, [self._names[name] for name in names])
        record, code, kind = lists.record[own].astype(np.int64), lists.code[own], lists.kind[own].astype(np.int64)
        begin = self._places[record, 0] + lists.first[own]
        try:
            of, _, first, end = fields(self._bytes, record, begin, begin + lists.size[own], 1)
        except MalformedError as error:
            raise self._malformed(error) from None
        sizes = np.bincount(of, end - first, len(record)).astype(np.int64)
        cut = (kind == 2) & (sizes % 4 > 0)
        cut[of[(kind[of] == 3) & (end > first) & (self._bytes[end - 1] > 127)]] = True
        if cut.any():
            raise self._error(record[cut.argmax()], "is not a tf.train.Example: a number is cut short")
        counts = np.where(kind == 2, sizes // 4, np.bincount(of, minlength=len(record)))
        whole = kind[of] == 3
        ends_in = self._bytes[rows(first[whole], end[whole])] < 128
        counts[kind == 3] = np.bincount(np.repeat(of[whole], (end - first)[whole]), ends_in, len(record))[kind == 3]
        features = {}
        for name in names:
            own, values = code == self._names[name], code[of] == self._names[name]
            if own.any():
                features[name] = _Feature(
                    record[own], kind[own], counts[own], record[of[values]], first[values], end[values]
                )
        return features

    def _array(self, type: pa.DataType, feature: _Feature | None, start: int, stop: int) -> pa.Array:
        """Return a column of a range of records, of a feature that they have or not."""
        counts = np.zeros(stop - start, np.int64)
        listed = pa.types.is_list(type)
        item = type.value_type if listed else type
        values = pa.array([], item)
        if feature is not None and feature.kinds.any():
            own = slice(*np.searchsorted(feature.record, [start, stop]))
            counts[feature.record[own] - start] = feature.counts[own]
            part = slice(*np.searchsorted(feature.owner, [start, stop]))
            first, end, kind = feature.first[part], feature.end[part], feature.kinds.max()
            if kind == 1:
                values = _binary(self._bytes, first, end).cast(item)
            else:
                plain = self._bytes[rows(first, end)]
                values = pa.array(plain.view("<f4") if kind == 2 else varints(plain), item)
        if listed:
            return pa.ListArray.from_arrays(pa.array(np.append(0, np.cumsum(counts)), pa.int32()), values)
        if (counts == 1).all():
            return values
        return values.take(pa.array(np.cumsum(counts) - 1, mask=counts == 0))

    def _malformed(self, error: MalformedError) -> FormatError:
        return self._error(error.record, f"is not a tf.train.Example: {error.reason}")

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


@dataclass(frozen=True)
class _Lists:
    """The lists of n features, small: they are kept for all records. `record`, `code`: (n,) its record and the number
    of its name; `kind`: as in `_Feature`; `first`, `size`: (n,) its bytes, from the start of its record."""

    record: NDArray[np.int32]
    code: NDArray[np.int32]
    kind: NDArray[np.int8]
    first: NDArray[np.uint32]
    size: NDArray[np.uint32]


@dataclass(frozen=True)
class _Feature:
    """One feature in n records. `kinds`: (n,) the field number of its list, 0 if that is empty; `counts`: (n,) values;
    `first`, `end`: (v,) the bytes of its values, or of several packed ones; `owner`: (v,) their records."""

    record: Ints
    kinds: Ints
    counts: Ints
    owner: Ints
    first: Ints
    end: Ints

    @property
    def uneven(self) -> bool:
        return bool((self.counts != 1).any())


def _last(count: int, of: Ints, chosen: NDArray[np.bool_], ends: list[Ints]) -> tuple[Ints, tuple[Ints, Ints]]:
    """Return (count,) the last chosen field of each message, -1 for none, and its bytes, (count,) first and end."""
    place = np.full(count, -1)
    place[of[chosen]] = np.flatnonzero(chosen)
    first, end = (np.append(one, 0)[place] for one in ends)
    return place, (first, end)


def _binary(data: Bytes, first: Ints, end: Ints) -> pa.Array:
    """Return values as an Arrow array of bytes."""
    size = end - first
    if size.sum() > 256 * len(size):  # images
        plain = np.concatenate([data[a:b] for a, b in zip(first.tolist(), end.tolist(), strict=True)])
    else:
        plain = data[rows(first, end)]
    offsets = np.append(0, np.cumsum(size)).astype(np.int32)
    return pa.BinaryArray.from_buffers(pa.binary(), len(size), [None, pa.py_buffer(offsets), pa.py_buffer(plain)])


def _name(text: bytes, record: Ints) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise MalformedError(record[0], str(error)) from None

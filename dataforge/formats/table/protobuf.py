"""Protobuf's wire format (https://protobuf.dev/programming-guides/encoding), read for many messages at a time."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types
_KNOWN = np.isin(np.arange(8), (VARINT, FIXED64, BYTES, FIXED32))
Ints = NDArray[np.int64]
Bytes = NDArray[np.uint8]


class MalformedError(Exception):
    def __init__(self, record: int, reason: str) -> None:
        self.record, self.reason = int(record), reason


def fields(data: Bytes, record: Ints, first: Ints, end: Ints, *numbers: int) -> tuple[Ints, Ints, Ints, Ints]:
    """Return the fields of m messages that have one of the numbers: (f,) message, number, first byte and end.

    All messages are read together, a field of each at a time. The bytes of a varint are its own.

    Args:
        record: (m,) of each message, for errors; first, end: (m,) its bytes.

    Raises:
        MalformedError: a message is malformed.
    """
    place, found = first.copy(), [np.zeros((4, 0), np.int64)]
    active = np.flatnonzero(place < end)
    while len(active):
        of, limit = record[active], end[active]
        tag, begin = varint(data, of, place[active], limit)
        wire, after = tag & 7, begin.copy()
        sized, whole = wire == BYTES, wire == VARINT
        length, begin[sized] = varint(data, of[sized], begin[sized], limit[sized])
        after[sized] = begin[sized] + np.clip(length, -1, len(data))
        after[whole] = varint(data, of[whole], begin[whole], limit[whole])[1]
        after += 8 * (wire == FIXED64) + 4 * (wire == FIXED32)
        for wrong, reason in (
            (~_KNOWN[wire], "wire type {}"),
            ((after > limit) | (after < begin), "a field is longer than its message"),
        ):
            if wrong.any():
                raise MalformedError(of[wrong.argmax()], reason.format(wire[wrong.argmax()]))
        found.append(np.stack([active, tag >> 3, begin, after])[:, ((tag >> 3)[:, None] == numbers).any(1)])
        place[active] = after
        active = active[after < limit]
    rows = np.concatenate(found, 1)
    message, number, first, end = rows[:, np.argsort(rows[0], kind="stable")]
    return message, number, first, end


def varint(data: Bytes, record: Ints, place: Ints, limit: Ints) -> tuple[Ints, Ints]:
    """Return (m,) variable-length integers, and the positions after them."""
    number, place = np.zeros(len(place), np.int64), place.copy()
    pending = np.arange(len(place))
    for shift in range(0, 64, 7):
        over = place[pending] >= limit[pending]
        if over.any():
            raise MalformedError(record[pending][over.argmax()], "a field is longer than its message")
        byte = data[place[pending]].astype(np.int64)
        number[pending] |= (byte & 127) << shift
        place[pending] += 1
        pending = pending[byte >= 128]
        if not len(pending):
            return number, place
    raise MalformedError(record[pending[0]], "an integer of more than 64 bits")


def varints(data: Bytes) -> Ints:
    """Return the integers in bytes that hold nothing else; the bytes of one that is cut short are left out."""
    ends = np.flatnonzero(data < 128) + 1
    starts = np.append(0, ends[:-1])[: len(ends)]
    size = ends - starts
    place = np.arange(size.sum()) - np.repeat(starts, size)
    if place.max(initial=0) > 9:
        raise pa.ArrowInvalid("an integer of more than 64 bits")
    parts = (data[: len(place)].astype(np.int64) & 127) << 7 * place
    return np.add.reduceat(parts, starts) if len(ends) else np.zeros(0, np.int64)


def rows(first: Ints, end: Ints) -> Ints:
    """Return the positions of all bytes from each `first` to its `end`."""
    size = end - first
    return np.arange(size.sum()) + np.repeat(first - np.cumsum(size) + size, size)

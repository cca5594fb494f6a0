"""Which shard of its split each record of a source lies in, known from the sizes of images alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from dataforge.record import Record


@dataclass(frozen=True, slots=True)
class Place:
    """Where a record lies: the number of its shard, whether this part writes it, and whether the record fills it."""

    shard: int
    own: bool
    full: bool


class Cuts:
    """The bounds of the shards of a source whose records come in order.

    A shard is full once the images that the source has for it, those that are refused as well, have `shard_bytes`
    bytes. So the bounds are known to a machine that reads no image. Shards are dealt to parts in turn, in the order of
    their first records.

    Args:
        part: (i, n) for part i of n, from 1; None for all shards.
    """

    def __init__(self, shard_bytes: int, part: tuple[int, int] | None) -> None:
        self._shard_bytes = shard_bytes
        self._number, self._parts = part or (1, 1)
        self._begun = 0  # shards of all splits
        self._own: dict[str, bool] = {}  # of each split's current shard
        self._shard: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()

    def place(self, split: str, size: int) -> Place:
        """Return where the next record of a split lies, whose image has `size` bytes."""
        if split not in self._own:
            self._own[split] = self._begun % self._parts == self._number - 1
            self._begun += 1
        self._bytes[split] += size
        full = self._bytes[split] >= self._shard_bytes
        place = Place(self._shard[split], self._own[split], full)
        if full:
            self._shard[split] += 1
            self._bytes[split] = 0
            del self._own[split]
        return place


def image_size(record: Record) -> int:
    """Return the bytes of a record's image; 0 if the file is not there."""
    if not isinstance(record.image, Path):
        return len(record.image)
    try:
        return record.image.stat().st_size
    except (OSError, ValueError):  # ValueError: a NUL in the path
        return 0

"""Several shard folders as one source, with a choice for images that have the same key."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from dataforge.errors import ConfigError, counted
from dataforge.polygons import Polygons
from dataforge.record import Finding, Record, Source, polygons_of, relabelled
from dataforge.shards.as_source import chosen_splits, source_of
from dataforge.shards.reader import Shards
from dataforge.shards.table import row
from dataforge.sources.join import join, unite_classes

OnSameKey = Literal["prefix", "unite", "refuse"]

ARRAYS = ("boxes", "labels", "flags", "areas")
_Row = tuple[int, int]  # the number of the folder, and of the record in it


def merge(parts: Sequence[Shards], on_same_key: OnSameKey = "prefix") -> Source:
    """Join shard folders as `join` does. Images of an earlier folder with the same bytes, under any key, are noted.

    Args:
        on_same_key: what to do with an image whose split and key an earlier folder has: "prefix" the key with its
            folder's name; "unite" the boxes of both in the earlier image if the images' bytes are the same, and prefix
            others; or "refuse" the merge.

    Raises:
        ConfigError: a split has a key twice ("refuse"). Others as for `join` and `source_of`.
    """
    united: dict[_Row, list[_Row]] = {}  # the first image -> later ones
    gone: set[_Row] = set()
    shared: list[list[str]] = [[] for _ in parts]  # by folder: images whose bytes an earlier folder has
    taken: list[str] = []
    by_key: dict[tuple[str, str], _Row] = {}
    by_sum: dict[tuple[int, int], _Row] = {}
    for n, part in enumerate(parts):
        own_keys: dict[tuple[str, str], _Row] = {}
        own_sums: dict[tuple[int, int], _Row] = {}
        for split in chosen_splits(part, None):
            for i in part.splits[split].tolist():
                key, place = (split, part.table.key[i]), (n, i)
                of_bytes = int(part.table.crc[i]), int(part.table.size[i])
                first = by_key.get(key)
                alike = by_sum.get(of_bytes)
                if first is not None:
                    taken.append(f"{split}: {key[1]}: in {parts[first[0]].path} and {part.path}")
                if on_same_key == "unite" and first is not None and _same(parts, first, place):
                    united.setdefault(first, []).append(place)
                    gone.add(place)
                    continue
                if alike is not None and _same(parts, alike, place):
                    shared[n].append(f"{split}: {key[1]}")
                own_keys[key] = place
                own_sums.setdefault(of_bytes, place)
        by_key = own_keys | by_key
        by_sum = own_sums | by_sum
    if taken and on_same_key == "refuse":
        raise ConfigError(
            f"{taken[0]}, and {len(taken) - 1} more; --on-same-key prefix keeps both images, unite joins their boxes"
        )

    classes, class_ids = unite_classes([(part.classes, part.class_ids) for part in parts])
    label_of = [np.array([classes.index(name) for name in part.classes], np.int32) for part in parts]

    federated = any(part.table.judged is not None for part in parts)

    def record(place: _Row, split: str = "") -> Record:
        n, i = place
        stored = row(parts[n].table, i, split, parts[n].stored_image(i), str(parts[n].path))
        judged = relabelled(stored.judged, label_of[n])
        if judged is None and federated and len(parts[n].classes) < len(classes):
            # the part's classes were looked for, no others
            absent = np.setdiff1d(label_of[n], label_of[n][stored.labels])
            judged = np.stack([absent, np.zeros_like(absent)], 1).astype(np.int32)
        return replace(stored, labels=label_of[n][stored.labels], judged=judged)

    def records(n: int, part: Shards) -> Iterator[Record | Finding]:
        for split in chosen_splits(part, None):
            for i in part.splits[split].tolist():
                if (n, i) not in gone:
                    yield _united([record((n, i), split), *map(record, united.get((n, i), ()))])
        count = sum(place[0] == n for place in gone)
        for code, value, reason in (
            (
                "copy-kept",
                shared[n],
                "the same bytes as images of earlier folders; both are kept, each without the other's boxes",
            ),
            (
                "copy-united",
                [""] * count,
                "the same keys and bytes as images of earlier folders, which got their boxes",
            ),
        ):
            if value:
                text = counted(len(value), "image") + (f", such as {value[0]}" if value[0] else "")
                yield Finding("noted", code, str(part.path), "", text, reason, "set")

    def source(n: int, part: Shards) -> Source:
        original = source_of(part)
        total = original.total - sum(place[0] == n for place in gone)
        return replace(original, classes=classes, class_ids=class_ids, records=records(n, part), total=total)

    return join([(part.path.resolve().name, source(n, part)) for n, part in enumerate(parts)])


def _united(records: list[Record]) -> Record:
    """Return the first record with the boxes of all. Every record has areas."""
    first = records[0]
    if len(records) == 1:
        return first
    arrays: dict[str, Any] = {name: np.concatenate([getattr(one, name) for one in records]) for name in ARRAYS}
    judged = [one.judged for one in records if one.judged is not None]
    looked_for = np.concatenate(judged) if len(judged) == len(records) else None  # all classes, by one of them
    polygons = Polygons.join(map(polygons_of, records)) or None
    return replace(first, **arrays, polygons=polygons, judged=looked_for)


def _same(parts: Sequence[Shards], one: _Row, other: _Row) -> bool:
    """Return True if two images have the same bytes; they are read only if their checksums are the same."""
    facts = [(parts[n].table.crc[i], parts[n].table.size[i]) for n, i in (one, other)]
    return facts[0] == facts[1] and parts[one[0]].blob(one[1]) == parts[other[0]].blob(other[1])

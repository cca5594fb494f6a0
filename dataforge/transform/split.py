"""Stratified splitting of a data set, with groups of images kept in one split."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataforge.command import columns
from dataforge.errors import ConfigError, counted
from dataforge.record import Source
from dataforge.rng import bits
from dataforge.shards.as_source import source_of
from dataforge.shards.reader import Shards
from dataforge.sources.join import join
from dataforge.transform.similar import components

Ints = NDArray[np.int64]


def deal(
    group: Ints, image: Ints, label: Ints, keys: Sequence[str], shares: Sequence[float], seed: int = 0
) -> NDArray[np.int64]:
    """Assign each group of images to a split, so that images and classes are divided in the wanted shares.

    Iterative stratification (Sechidis, Tsoumakas, Vlahavas, ECML PKDD 2011, algorithm 1) with groups for examples: the
    class with the fewest images left is assigned first, largest group first, each to the split that lacks most of the
    class. Unlike in the paper, a split takes no group of which more than half would exceed its share, while another
    split can take it: so it exceeds the wanted number of images by at most (1 - 1 / K) of the largest group.

    Args:
        group: (N,) the number of each image's group, 0..G-1.
        image, label: (P,) pairs: this image contains this class. Duplicate pairs count once.
        keys: N unique keys. Ties are resolved by keys and seed alone, so the order of the records does not matter.
        shares: K shares, which add up to 1.

    Returns:
        (N,) the split of each image, 0..K-1.
    """
    if not len(group):
        return np.zeros(0, np.int64)
    size = np.bincount(group)  # (G,) images
    drawn = bits(seed, 0, np.array([zlib.crc32(key.encode("utf-8", "surrogateescape")) for key in keys]), "split")
    rank = np.full(len(size), np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(rank, group, drawn[:, 0])

    classes = int(label.max(initial=0)) + 1
    row, column = np.divmod(np.unique(image * classes + label), classes)  # each pair once
    pairs, counts = np.unique(group[row] * classes + column, return_counts=True)
    pair_group, pair_class = np.divmod(pairs, classes)
    # group g contains the classes of its pairs start[g]:start[g + 1]
    start = np.searchsorted(pair_group, np.arange(len(size) + 1))

    left = np.bincount(pair_class, counts, classes)  # images of each class that are not assigned yet
    lacking = np.outer(shares, left)  # (K, C) number that each split still needs of each class
    room = [share * len(group) for share in shares]
    part = np.full(len(size), -1, np.int64)

    def give(one: int, lack: Sequence[float]) -> None:
        def fitness(k: int) -> tuple[bool, float, float]:
            fits = room[k] >= size[one] / 2
            return fits, lack[k] if fits else room[k], room[k]

        k = part[one] = max(range(len(room)), key=fitness)
        held = slice(start[one], start[one + 1])
        lacking[k, pair_class[held]] -= counts[held]
        left[pair_class[held]] -= counts[held]
        room[k] -= size[one]

    while len(waiting := np.nonzero(left > 0)[0]):
        rarest = waiting[np.argmin(left[waiting])]
        members = np.nonzero((pair_class == rarest) & (part[pair_group] < 0))[0]
        order = np.lexsort((rank[pair_group[members]], -size[pair_group[members]], -counts[members]))
        for one in pair_group[members[order]].tolist():
            give(one, lacking[:, rarest].tolist())
    rest = np.nonzero(part < 0)[0]  # without a class
    for one in rest[np.lexsort((rank[rest], -size[rest]))].tolist():
        give(one, room)
    return part[group]


def groups_of(keys: Sequence[str], by: str) -> Ints:
    """Return (N,) group numbers, equal for images whose keys agree.

    Args:
        by: "folder", or a regular expression: images agree if its first group (or the whole expression, if it has
            none) matches the same text. An image whose key does not match is a group of its own.

    Raises:
        ConfigError: it is not a valid regular expression, or matches no key.
    """
    if by == "folder":
        names: list[tuple[int, str]] = [(0, key.rpartition("/")[0]) for key in keys]
    else:
        try:
            pattern = re.compile(by)
        except re.error as error:
            raise ConfigError(f"--group-by {by}: expected folder or a regular expression: {error}") from None
        matched = [pattern.search(key) for key in keys]
        if not any(matched):
            raise ConfigError(f"--group-by {by}: matches no image's name, such as {next(iter(keys), '')!r}")
        group = 1 if pattern.groups else 0
        names = [(0, match[group] or "") if match else (1, key) for match, key in zip(matched, keys, strict=True)]
    numbers: dict[tuple[int, str], int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], np.int64)


def together(one: Ints, other: Ints) -> Ints:
    """Merge two groupings: return (N,) groups 0..G-1 that keep together the members of each group of either."""
    edges = []
    for grouping in (one, other):
        order = np.argsort(grouping, kind="stable")
        same = np.flatnonzero(np.diff(grouping[order]) == 0)
        edges.append(np.stack([order[same], order[same + 1]], 1))
    return components(len(one), np.concatenate(edges))


@dataclass(frozen=True)
class Dealt:
    """Assignment of records to splits.

    Attributes:
        names, shares: of the K splits, as wanted.
        part: (N,) the split of each record, 0..K-1; group: (N,) equal for records that stay together.
        images, boxes: (K,) counts per split; per_class: (C, K) images that contain the class.
        warnings: messages on requirements that could not be met.
    """

    names: tuple[str, ...]
    shares: tuple[float, ...]
    classes: tuple[str, ...]
    part: Ints
    group: Ints
    images: Ints
    boxes: Ints
    per_class: Ints
    warnings: tuple[str, ...]

    def facts(self) -> dict[str, Any]:
        """Return the contents as one JSON object."""
        return {
            "wanted": dict(zip(self.names, self.shares, strict=True)),
            "groups": int(self.group.max(initial=-1)) + 1,
            "dealt": {
                name: {
                    "images": int(self.images[k]),
                    "boxes": int(self.boxes[k]),
                    "images_per_class": dict(zip(self.classes, self.per_class[:, k].tolist(), strict=True)),
                }
                for k, name in enumerate(self.names)
            },
            "warnings": list(self.warnings),
        }

    def text(self) -> str:
        """Return a table of the number and share per split of images, boxes and images of each class."""
        groups = int(self.group.max(initial=-1)) + 1
        rows = [("images", self.images), ("boxes", self.boxes)]
        rows += [(f"with {name}", counts) for name, counts in zip(self.classes, self.per_class, strict=True)]
        cells = [(name, *(f"{n} {n / max(counts.sum(), 1):>7.1%}" for n in counts.tolist())) for name, counts in rows]
        table = columns([("", *self.names), ("wanted", *(f"{share:.1%}" for share in self.shares)), *cells])
        head = f"{counted(len(self.part), 'image')} in {groups} groups that stay together"
        return "\n".join([head, table, *(f"warning: {warning}" for warning in self.warnings)])


def split(shards: Shards, wanted: Mapping[str, float], group: Ints, seed: int = 0) -> Dealt:
    """Divide all records of some shards among new splits.

    Args:
        wanted: the new splits' shares, which add up to 1.
        group: (N,) equal for records that stay together.

    Raises:
        ConfigError: a split would get no image.
    """
    table = shards.table
    names, shares = tuple(wanted), tuple(wanted.values())
    keys = _keys(shards)
    group = np.unique(group, return_inverse=True)[1].astype(np.int64)
    part = deal(group, table.image, table.labels.astype(np.int64), keys, shares, seed)
    images = np.bincount(part, minlength=len(names))
    boxes = np.bincount(part[table.image], minlength=len(names))
    held = np.unique(table.image * len(shards.classes) + table.labels)
    row, label = np.divmod(held, max(len(shards.classes), 1))
    per_class = np.zeros((len(shards.classes), len(names)), np.int64)
    np.add.at(per_class, (label, part[row]), 1)

    size = np.bincount(group, minlength=1)
    first = keys[int(np.argmax(size[group]))] if keys else ""
    largest = f"the largest group has {counted(size.max(), 'image')}, such as {first}" if keys else ""
    for name, count in zip(names, images.tolist(), strict=True):
        if not count:
            what = largest or "there are none"
            raise ConfigError(f"{name} would get no image of {len(part)}, with {wanted[name]:.1%} wanted; {what}")
    warnings = [
        f"{name} got {count / len(part):.1%} of the images, {share:.1%} were wanted; {largest}"
        for name, share, count in zip(names, shares, images.tolist(), strict=True)
        if abs(count - share * len(part)) > max(1, 0.1 * share * len(part))
    ]
    groups_with = [len(np.unique(group[row[label == c]])) for c in range(len(shards.classes))]
    for name, counts in zip(names, per_class.T, strict=True):
        lacks = [c for c, n in enumerate(counts.tolist()) if not n and groups_with[c]]
        if lacks:
            listed = ", ".join(f"{shards.classes[c]} ({groups_with[c]})" for c in lacks)
            warnings.append(f"{name} got no image of these classes (and so many groups hold them): {listed}")
    return Dealt(names, shares, shards.classes, part, group, images, boxes, per_class, tuple(warnings))


def source_of_dealt(shards: Shards, dealt: Dealt) -> Source:
    """Return the records in their new splits. A key in two old splits is prefixed with the name of its old split."""
    stored = [name for name in shards.splits if name in shards.index["splits"]]

    def moved(name: str) -> Source:
        old = source_of(shards, (name,))
        parts = dealt.part[shards.splits[name]].tolist()
        records = (replace(record, split=dealt.names[k]) for record, k in zip(old.records, parts, strict=True))  # type: ignore[type-var]
        return replace(old, records=records, unions={})

    return join([(name, moved(name)) for name in stored])


def _keys(shards: Shards) -> list[str]:
    """Return the record keys with their split names, which makes them unique."""
    keys = shards.table.key
    return [f"{name}/{keys[i]}" for name in shards.index["splits"] for i in shards.splits.get(name, ())]

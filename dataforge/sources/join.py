"""Joining sources, renaming classes and splits: functions from `Source` to `Source`."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from dataforge.errors import ConfigError, FormatError, counted
from dataforge.files import reading
from dataforge.record import Finding, Record, Source, among, merged, relabelled

CLASS_MAP = 'lines of old = "new", the names in quotes'


def join(sources: Sequence[tuple[str, Source]]) -> Source:
    """Concatenate sources. Classes are merged by name, in the order of their first occurrence.

    Splits with the same name are merged. A key that an earlier source has in the same split is prefixed by its source's
    name, and by a number if that key also exists, in an earlier source or in this one. An image number that an earlier
    source has is dropped (-1). Both are noted.

    Args:
        sources: (name, source); the name is the prefix of keys, such as the source's folder.

    Raises:
        FormatError: a split is a union in one source, and not the same union in another.
    """
    classes, ids = unite_classes([(source.classes, source.class_ids) for _, source in sources])
    unions: dict[str, tuple[str, ...]] = {}
    for name, source in sources:
        for union, parts in source.unions.items():
            if set(unions.setdefault(union, parts)) != set(parts):
                both = f"{' + '.join(unions[union])} before, {' + '.join(parts)} in {name}"
                raise FormatError(f"split {union!r}: is {both}; take its parts with --split")

    def records() -> Iterator[Record | Finding]:
        keys: set[tuple[str, str]] = set()
        known: set[int] = set()
        for name, source in sources:
            label_of = np.array([classes.index(one) for one in source.classes], np.int32)
            own: set[tuple[str, str]] = set()  # (split, key) as yielded
            moved: dict[tuple[str, str], str] = {}  # original (split, key) -> the new key
            made: set[tuple[str, str]] = set()
            numbered: set[int] = set()
            prefixed = given_up = 0
            for item in source.records:
                if isinstance(item, Finding):
                    yield item
                    continue
                if item.split in unions:
                    parts = " + ".join(unions[item.split])
                    raise FormatError(f"split {item.split!r}: is {parts}, but has images of its own in {name}")
                key, number, before = item.key, item.id, (item.split, item.key)
                if before in moved or before in keys or before in made:
                    # a duplicate key within a source is kept: ingest refuses it
                    key = moved.setdefault(before, _apart(item.split, f"{name}/{key}", keys, own))
                    made.add((item.split, key))
                    prefixed += 1
                if number in known:
                    number, given_up = -1, given_up + 1
                own.add((item.split, key))
                numbered |= {number} - {-1}
                labels, judged = label_of[item.labels], relabelled(item.judged, label_of)
                yield replace(item, key=key, id=number, labels=labels, judged=judged)
            keys |= own
            known |= numbered
            for code, count, what in (
                ("keys-prefixed", prefixed, f"have the key of an image of an earlier source; prefixed by {name}/"),
                ("ids-given-up", given_up, "have the number of an image of an earlier source; number dropped"),
            ):
                if count:
                    yield Finding("noted", code, name, "", counted(count, "image"), what, "set")

    whole = all(source.total for _, source in sources)
    total = sum(source.total for _, source in sources) if whole else 0
    depths = {source.depth: name for name, source in sources}
    if len(depths) > 1:
        stated = ", ".join(f"{name}: {depth}" for depth, name in depths.items())
        raise ConfigError(f"the sets turn images of more than 8 bits into 8 in different ways ({stated}); ingest again")
    frequencies = {name: one for _, source in reversed(sources) for name, one in source.frequencies.items()}
    ancestors = _unite_ancestors([source for _, source in sources])
    depth = next(iter(depths), "scale")
    return Source(classes, records(), ids, unions, total, depth=depth, frequencies=frequencies, ancestors=ancestors)


def unite_classes(lists: Iterable[tuple[Sequence[str], Sequence[int]]]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Merge lists of classes by name, in the order of their first occurrence.

    Args:
        lists: names and their ids, or () if there are none.

    Returns:
        The names and their first ids; () unless each name has an id of its own.
    """
    classes: dict[str, None] = {}
    numbers: dict[str, int] = {}
    for names, ids in lists:
        classes.update(dict.fromkeys(names))
        for name, number in zip(names, ids, strict=bool(ids)):
            numbers.setdefault(name, number)
    own = tuple(numbers[name] for name in classes if name in numbers)
    return tuple(classes), own if len(set(own)) == len(classes) else ()


def _unite_ancestors(sources: Sequence[Source]) -> dict[str, list[str]]:
    """Unite what each source states, except where the boxes of another with both classes do not count for both."""
    united: dict[str, list[str]] = {}
    for source in sources:
        for name, above in source.ancestors.items():
            known = united.setdefault(name, [])
            known += [
                one
                for one in above
                if one not in known
                and all(one in s.ancestors.get(name, ()) for s in sources if {name, one} <= {*s.classes})
            ]
    return {name: above for name, above in united.items() if above}


def _apart(split: str, key: str, *taken: set[tuple[str, str]]) -> str:
    """Return the key, prefixed by a number if it is taken."""
    number, free = 1, key
    while any((split, free) in keys for keys in taken):
        number += 1
        free = f"{number}/{key}"
    return free


def rename(source: Source, names: Mapping[str, str]) -> Source:
    """Rename classes: two classes that get the same name are merged, and a class that is renamed to "" is dropped.

    Args:
        names: old -> new; other classes keep their names.

    Raises:
        ConfigError: the source has no such class, or none is left.
    """
    unknown = [name for name in names if name not in source.classes]
    if unknown:
        known = ", ".join(source.classes)
        raise ConfigError(f"--class-map: no such class: {', '.join(map(repr, unknown))}; known: {known}")
    new = [names.get(name, name) for name in source.classes]
    classes = tuple(dict.fromkeys(name for name in new if name))
    if not classes:
        raise ConfigError("--class-map: drops every class")
    ids = tuple(source.class_ids[new.index(name)] for name in classes) if source.class_ids else ()
    label_of = np.array([classes.index(name) if name else -1 for name in new], np.int32)

    def records() -> Iterator[Record | Finding]:
        dropped: Counter[str] = Counter()
        for item in source.records:
            if isinstance(item, Finding):
                yield item
                continue
            labels = label_of[item.labels]
            kept = labels >= 0
            dropped.update(source.classes[label] for label in item.labels[~kept])
            yield replace(item, labels=labels, judged=merged(item.judged, label_of)).pick(kept)
        for name, count in sorted(dropped.items()):
            yield Finding(
                "refused", "class-dropped", "--class-map", name, counted(count, "box"), "dropped by --class-map", "set"
            )

    frequencies = {names.get(name, name): one for name, one in source.frequencies.items() if names.get(name, name)}
    ancestors = among(source.ancestors, {old: name for old, name in zip(source.classes, new, strict=True) if name})
    changed = replace(source, classes=classes, class_ids=ids, records=records())
    return replace(changed, frequencies=frequencies, ancestors=ancestors)


def rename_splits(source: Source, names: Mapping[str, str]) -> Source:
    """Rename splits: splits that get the same name are merged. Note names at the end that nearly agree.

    Args:
        names: old -> new; other splits keep their names.

    Raises:
        ConfigError: a union gets the name of another split; or, at the end of the records, no split has an old name.
    """
    unions = {
        names.get(name, name): tuple(names.get(part, part) for part in parts) for name, parts in source.unions.items()
    }
    if wrong := [name for name, parts in unions.items() if name in parts or len({*parts}) < len(parts)]:
        raise ConfigError(f"--split-map: the parts of split {wrong[0]!r} would be {' + '.join(unions[wrong[0]])}")

    def records() -> Iterator[Record | Finding]:
        counts: Counter[str] = Counter()
        for item in source.records:
            if isinstance(item, Record):
                counts[item.split] += 1
                item = replace(item, split=names[item.split]) if item.split in names else item
            yield item
        if unknown := [name for name in names if name not in {*counts, *source.unions}]:
            known = ", ".join(sorted(counts))
            raise ConfigError(f"--split-map: no such split: {', '.join(map(repr, unknown))}; known: {known}")
        alike: dict[str, Counter[str]] = {}
        for name, count in counts.items():
            alike.setdefault(_plain(name), Counter())[names.get(name, name)] += count
        for splits in alike.values():
            if len(splits) > 1:
                value = ", ".join(f"{name} ({counted(count, 'image')})" for name, count in splits.items())
                reason = "are kept apart, and training uses one of them; merge them with --split-map OLD=NEW"
                yield Finding("noted", "splits-alike", "", "", value, reason, "set")

    return replace(source, records=records(), unions=unions)


def _plain(split: str) -> str:
    """Return what a split is commonly called: train for "Train2017", val for "validation"."""
    letters = re.sub(r"[^a-z]", "", split.lower())
    return {"training": "train", "valid": "val", "validation": "val", "testing": "test"}.get(letters, letters) or split


def read_class_map(path: Path) -> dict[str, str]:
    """Read a TOML file of `old = "new"` lines.

    Raises:
        ConfigError: it cannot be read, is not TOML, or contains something else.
    """
    try:
        with reading(f"--class-map {path}", ConfigError):
            names = tomllib.loads(path.read_text("utf-8-sig"))
    except ValueError as error:
        raise ConfigError(f"--class-map {path}: not TOML: {error}; expected {CLASS_MAP}") from None
    for old, new in names.items():
        if not isinstance(new, str):
            raise ConfigError(f"--class-map {path}: {old} is {new!r}; expected {CLASS_MAP}")
    return names

"""Several sources as one, and classes under other names: functions from `Source` to `Source`."""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from dataforge.errors import ConfigError, FormatError
from dataforge.record import Finding, Record, Source


def join(sources: Sequence[tuple[str, Source]]) -> Source:
    """Sources one after the other. Classes are united by name, in the order in which they come first.

    Splits of one name become one. A key that an earlier source has in the same split gets its source's name before it,
    and an image's number that an earlier source has is given up (-1); both are noted.

    Args:
        sources: (name, source); the name is what goes before keys, such as the source's folder.

    Raises:
        FormatError: a split is a union in one source, and something else in another.
    """
    classes = tuple(dict.fromkeys(name for _, source in sources for name in source.classes))
    numbers: dict[str, int] = {}
    for _, source in sources:
        for name, number in zip(source.classes, source.class_ids, strict=bool(source.class_ids)):
            numbers.setdefault(name, number)
    ids = tuple(numbers[name] for name in classes if name in numbers)
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
            mine: set[tuple[str, str]] = set()
            numbered: set[int] = set()
            prefixed = given_up = 0
            for item in source.records:
                if isinstance(item, Finding):
                    yield item
                    continue
                if item.split in unions:
                    parts = " + ".join(unions[item.split])
                    raise FormatError(f"split {item.split!r}: is {parts}, but has images of its own in {name}")
                key, number = item.key, item.id
                if (item.split, key) in keys:
                    key, prefixed = _apart(item.split, f"{name}/{key}", keys), prefixed + 1
                if number in known:
                    number, given_up = -1, given_up + 1
                mine.add((item.split, key))
                numbered |= {number} - {-1}
                yield replace(item, key=key, id=number, labels=label_of[item.labels])
            keys |= mine
            known |= numbered
            for code, count, what in (
                ("keys-prefixed", prefixed, f"have a name that an earlier source has; {name}/ was put before it"),
                ("ids-given-up", given_up, "have a number that an earlier source has; it was given up"),
            ):
                if count:
                    yield Finding("noted", code, name, "", f"{count} images", what, "set")

    whole = all(source.total for _, source in sources)
    total = sum(source.total for _, source in sources) if whole else 0
    return Source(classes, records(), ids if len(set(ids)) == len(classes) else (), unions, total)


def _apart(split: str, key: str, taken: set[tuple[str, str]]) -> str:
    """The key, with a number before it if it is taken too."""
    number, free = 1, key
    while (split, free) in taken:
        number += 1
        free = f"{number}/{key}"
    return free


def rename(source: Source, names: Mapping[str, str]) -> Source:
    """A source with other class names: two that get one name are merged, and a class with the name "" is dropped.

    Args:
        names: old -> new; classes that are not in it keep theirs.

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
            areas = None if item.areas is None else item.areas[kept]
            yield replace(item, boxes=item.boxes[kept], labels=labels[kept], flags=item.flags[kept], areas=areas)
        for name, count in sorted(dropped.items()):
            yield Finding(
                "refused", "class-dropped", "--class-map", name, f"{count} boxes", "left out, as asked", "set"
            )

    return replace(source, classes=classes, class_ids=ids, records=records())


def read_class_map(path: Path) -> dict[str, str]:
    """A TOML file of `old = "new"` lines.

    Raises:
        ConfigError: it cannot be read, is not TOML, or holds something else.
    """
    try:
        names = tomllib.loads(path.read_text("utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"{path}: not TOML: {error}") from None
    for old, new in names.items():
        if not isinstance(new, str):
            raise ConfigError(f'{path}: {old} is {new!r}; expected lines of old = "new", the names in quotes')
    return names

"""Class lists: reading one by number, and merging those of several files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from dataforge.errors import FormatError
from dataforge.record import Finding

K = TypeVar("K")


def by_number(pairs: Iterable[tuple[K, str]], what: str) -> dict[K, str]:
    """Map class numbers to names, in the given order.

    Args:
        what: the prefix of the error message, such as "FILE: category id".

    Raises:
        FormatError: two names have the same number.
    """
    names: dict[K, str] = {}
    for number, name in pairs:
        if names.setdefault(number, name) != name:
            raise FormatError(f"{what} {number} is given twice, to {names[number]!r} and {name!r}")
    return names


def unite(lists: Mapping[Path, Mapping[int, str]]) -> tuple[dict[str, int], list[Finding]]:
    """Merge class lists by name.

    Args:
        lists: for each file, number -> name.

    Returns:
        Each name's number in the first list that contains it, in the order of the lists; and findings on differences.
    """
    numbers: dict[str, int] = {}
    noted: list[Finding] = []
    by_file: dict[Path, dict[str, int]] = {}
    for path, names in lists.items():
        own = by_file[path] = {}
        for number, name in names.items():
            if own.setdefault(name, number) != number:
                value = f"{name!r}: {own[name]} and {number}"
                reason = "one name has two numbers; taken for one class"
                noted.append(Finding("noted", "class-twice", str(path), "", value, reason, "set"))
            numbers.setdefault(name, number)
    for path, own in by_file.items():
        lacking = [name for name in numbers if name not in own]
        others = [f"{name} ({number})" for name, number in own.items() if numbers[name] != number]
        parts = (("lacks", lacking), ("other numbers", others))
        value = "; ".join(f"{what}: {', '.join(names)}" for what, names in parts if names)
        if value:
            reason = "the class lists of the files differ; united by name"
            noted.append(Finding("noted", "classes-differ", str(path), "", value, reason, "set"))
    return numbers, noted


def unique_ids(numbers: Mapping[str, int]) -> tuple[int, ...]:
    """Return the numbers of all classes, or an empty tuple if two classes share a number."""
    return tuple(numbers.values()) if len(set(numbers.values())) == len(numbers) else ()

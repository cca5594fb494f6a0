"""A report of `dataforge diff` laid over one of its two sets: which images and boxes changed, and what they were."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dataforge.errors import ConfigError, counted
from dataforge.shards.reader import Shards
from dataforge.web.reports import ANY, BoxChange, DiffReport, Place, ReportedBox


class OtherBox(NamedTuple):
    """A box of the other set: xyxy, its label here (-1 if the class is not), and what it is to this set."""

    x1: float
    y1: float
    x2: float
    y2: float
    label: int
    text: str


class Changes:
    """The changes of the images and boxes of one set.

    Args:
        numbers: (split, key) -> record.

    Attributes:
        kinds: the changes that there are.
        count: (N,) changed boxes of each record, with those of the other set alone.
        notes: record -> changes of the image, and where it is in the other set.
        words: row of a box -> its changes.
        others: record -> boxes of the other set that are not the same here.

    Raises:
        ConfigError: the report is of other sets.
    """

    def __init__(self, report: DiffReport, shards: Shards, numbers: Mapping[tuple[str, str], int]) -> None:
        self._report, self._shards, self._numbers = report, shards, numbers
        self._label = {name: label for label, name in enumerate(shards.classes)}
        self._old = self._is(report.a) and not self._is(report.b)  # else the set is the newer one, wherever it lies now
        self.count = np.zeros(len(shards), np.int64)
        self.notes: dict[int, list[tuple[str, str]]] = defaultdict(list)
        self.words: dict[int, list[str]] = defaultdict(list)
        self.others: dict[int, list[OtherBox]] = defaultdict(list)
        self._records: dict[str, set[int]] = defaultdict(set)
        self._rows: dict[str, set[int]] = defaultdict(set)
        kind, lone = ("removed", report.removed) if self._old else ("added", report.added)
        for image in lone:
            if (n := self._number(image)) is not None:
                self._note(n, f"image {kind}", "")
                for row in range(*shards.table.offsets[n : n + 2].tolist()):
                    self._change(n, row, [kind])
        for change in report.changed:
            here, there = (change.old, change.new) if self._old else (change.new, change.old)
            if (n := self._number(here)) is not None:
                moved = f"{'now' if self._old else 'was'} {there.split}: {there.key}"
                for kind in change.changes:
                    self._note(n, kind, moved if kind in ("renamed", "moved split") else "")
                self._pair(n, change.boxes)
        self.kinds = list(self._records)

    def records(self, kind: str) -> NDArray[np.int64]:
        """Return the records with a change, or with any."""
        kinds = self.kinds if kind == ANY else [kind]
        return np.array(sorted(set().union(*(self._records.get(name, set()) for name in kinds))), np.int64)

    def boxes(self, kind: str) -> NDArray[np.bool_]:
        """Return (S,) mask of the boxes with a change, or with any; all if it is one of images."""
        rows = set().union(*self._rows.values()) if kind == ANY else self._rows.get(kind)
        mask = np.full(len(self._shards.table.boxes), rows is None)
        mask[list(rows or ())] = True
        return mask

    def _is(self, folder: str) -> bool:
        return Path(folder).resolve() == self._shards.path.resolve()

    def _note(self, n: int, kind: str, text: str) -> None:
        self._records[kind].add(n)
        self.notes[n].append((kind, text))

    def _change(self, n: int, row: int | None, kinds: list[str]) -> None:
        """Note changes of a box; one of the other set alone has no row."""
        self.count[n] += 1
        for kind in kinds:
            self._records[kind].add(n)
            self._rows[kind].update([] if row is None else [row])
        if row is not None:
            self.words[row] += kinds

    def _number(self, image: Place) -> int | None:
        """Return the record of an image; None if its split is not viewed."""
        n = self._numbers.get((image.split, image.key))
        if n is None and self._shards.split and image.split not in self._shards.splits:
            return None
        if n is None or int(np.diff(self._shards.table.offsets[n : n + 2])[0]) != image.boxes:
            raise self._refusal(f"no image {image.split}: {image.key} with {counted(image.boxes, 'box')}")
        return n

    def _pair(self, n: int, changes: list[BoxChange]) -> None:
        table = self._shards.table
        rows: dict[tuple[object, ...], list[int]] = defaultdict(list)
        for i in range(*table.offsets[n : n + 2].tolist()):
            rows[(*table.boxes[i].tolist(), int(table.labels[i]), int(table.flags[i]))].append(i)
        for change in changes:
            here, there = (change.old, change.new) if self._old else (change.new, change.old)
            if there is not None:
                self.others[n].append(self._other(there, here))
            row: int | None = None
            if here is not None:
                equal = rows[(*here.box, self._label.get(here.name, -1), here.flags)]
                if not equal:
                    raise self._refusal(f"no box {list(here.box)} of {here.name}, flags {here.flags}, in record {n}")
                row = equal.pop(0)
            self._change(n, row, change.changes)

    def _other(self, there: ReportedBox, here: ReportedBox | None) -> OtherBox:
        word = ("added" if self._old else "removed") if here is None else ("becomes" if self._old else "was")
        return OtherBox(*there.box, self._label.get(there.name, -1), f"{word} {there.name}")

    def _refusal(self, reason: str) -> ConfigError:
        report = self._report
        return ConfigError(f"--report: compares {report.a} and {report.b}; {self._shards.path} has {reason}")

"""Differences between two shard folders: images by split and key, boxes by position, classes by name."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataforge.analysis.pairing import Objects, Pairs, Rows, pair_boxes, pair_images
from dataforge.errors import counted
from dataforge.shards.reader import Shards


@dataclass(frozen=True, eq=False)
class Diff:
    """Two shard folders, and the pairs of their images and boxes.

    Attributes:
        images: (P, 2) records that are the same image; each record is in at most one pair.
        boxes: (Q, 2) rows of the tables that are the same box; both belong to one of those pairs of images.
        label: (A's boxes,), (B's boxes,) labels as indices into `names`; names: classes of both sets, sorted.
        split: (A's records,), (B's records,) the split's name.
    """

    a: Shards
    b: Shards
    names: tuple[str, ...]
    label: tuple[Rows, Rows]
    split: tuple[NDArray[np.object_], NDArray[np.object_]]
    images: Pairs
    boxes: Pairs

    @cached_property
    def lone_images(self) -> tuple[Rows, Rows]:
        """Records of A that are not in B (removed), and of B that are not in A (added)."""
        return _others(len(self.a), self.images[:, 0]), _others(len(self.b), self.images[:, 1])

    @cached_property
    def lone_boxes(self) -> tuple[Rows, Rows]:
        """Boxes of A that are not in B (removed), and of B that are not in A (added), with those of lone images."""
        tables = self.a.table, self.b.table
        return _others(len(tables[0].boxes), self.boxes[:, 0]), _others(len(tables[1].boxes), self.boxes[:, 1])

    @cached_property
    def box_changes(self) -> dict[str, NDArray[np.bool_]]:
        """(Q,) mask of the pairs of boxes for each kind of change.

        A relabelled box does not count as moved, and a box that is neither counts as the same; flags and areas may
        differ in all three cases.
        """
        (i, j), a, b = self.boxes.T, self.a.table, self.b.table
        relabelled = self.label[0][i] != self.label[1][j]
        stated = (_area(a.boxes[i]) != a.areas[i]) | (_area(b.boxes[j]) != b.areas[j])
        return {
            "moved": (a.boxes[i] != b.boxes[j]).any(1) & ~relabelled,
            "relabelled": relabelled,
            "other flags": a.flags[i] != b.flags[j],
            "other polygon": a.polygons.take(i).differ(b.polygons.take(j)),
            "other area": (a.areas[i] != b.areas[j]) & stated,  # not only as a consequence of the box
        }

    @cached_property
    def image_changes(self) -> dict[str, NDArray[np.bool_]]:
        """(P,) mask of the pairs of images for each kind of change."""
        (i, j), a, b = self.images.T, self.a.table, self.b.table
        changed = self.boxes[np.any(list(self.box_changes.values()), axis=0)]
        touched = np.zeros(len(a), bool), np.zeros(len(b), bool)
        touched[0][a.image[np.concatenate([changed[:, 0], self.lone_boxes[0]])]] = True
        touched[1][b.image[np.concatenate([changed[:, 1], self.lone_boxes[1]])]] = True
        return {
            "other boxes": touched[0][i] | touched[1][j],
            "other bytes": (a.crc[i] != b.crc[j]) | (a.size[i] != b.size[j]),
            "renamed": a.key[i] != b.key[j],
            "moved split": self.split[0][i] != self.split[1][j],
            "renumbered": (a.id[i] != b.id[j]) & (a.id[i] >= 0),  # -1: had no number
        }

    @cached_property
    def classes(self) -> dict[str, Any]:
        """Classes "removed", "added", and "renamed": [old, new], where all their paired boxes match."""
        removed = [name for name in self.a.classes if name not in self.b.classes]
        added = [name for name in self.b.classes if name not in self.a.classes]
        old, new = self.label[0][self.boxes[:, 0]], self.label[1][self.boxes[:, 1]]
        renamed = []
        for name in list(removed):
            number = self.names.index(name)
            became = np.unique(new[old == number])
            if len(became) == 1 and self.names[became[0]] in added and (old[new == became[0]] == number).all():
                renamed.append([name, self.names[became[0]]])
        for one, other in renamed:
            removed.remove(one)
            added.remove(other)
        return {"removed": removed, "added": added, "renamed": renamed}

    @cached_property
    def counts(self) -> dict[str, dict[str, int]]:
        """Number of images and boxes for each kind of change.

        Every box of A is one of same, moved, relabelled and removed, every box of B one of same, moved, relabelled and
        added; boxes with other flags or another area are included in these. An image is the same if it has no change.
        """
        counts = {}
        for what, changes, lone in (
            ("images", self.image_changes, self.lone_images),
            ("boxes", self.box_changes, self.lone_boxes),
        ):
            kept = [shown for kind, shown in changes.items() if what == "images" or kind in ("moved", "relabelled")]
            same = int((~np.any(kept, axis=0)).sum())
            kinds = {kind: int(shown.sum()) for kind, shown in changes.items()}
            counts[what] = {"same": same, "removed": len(lone[0]), "added": len(lone[1]), **kinds}
        return counts

    @property
    def equal(self) -> bool:
        changed = sum(n for kinds in self.counts.values() for kind, n in kinds.items() if kind != "same")
        return not changed and not any(self.classes.values())

    def facts(self) -> dict[str, Any]:
        """Return all differences, ready for JSON.

        Returns:
            a, b: the folders; equal; classes; images, boxes: counts; removed, added: the images that only A or
            only B has; changed: "old", "new", "changes" and "boxes" of each image that differs, with "changes",
            "old" and "new" of each box.
        """
        lone = [[self._image(side, i) for i in rows.tolist()] for side, rows in enumerate(self.lone_images)]
        return {
            "a": str(self.a.path),
            "b": str(self.b.path),
            "equal": self.equal,
            "classes": self.classes,
            **self.counts,
            "removed": lone[0],
            "added": lone[1],
            "changed": list(self._changed()),
        }

    def _changed(self) -> Iterator[dict[str, Any]]:
        boxes: dict[int, list[dict[str, Any]]] = {}
        pair_of = [dict(zip(side.tolist(), range(len(side)), strict=True)) for side in self.images.T]

        def note(changes: list[str], old: int | None, new: int | None) -> None:
            side, row = (0, old) if old is not None else (1, new)
            pair = pair_of[side].get(int((self.a, self.b)[side].table.image[row]))
            if pair is not None:  # otherwise the whole image was added or removed
                entry: dict[str, Any] = {"changes": changes}
                entry |= {"old": self._box(0, old)} if old is not None else {}
                entry |= {"new": self._box(1, new)} if new is not None else {}
                boxes.setdefault(pair, []).append(entry)

        for k in np.flatnonzero(np.any(list(self.box_changes.values()), axis=0)).tolist():
            kinds = [kind for kind, shown in self.box_changes.items() if shown[k]]
            note(kinds, int(self.boxes[k, 0]), int(self.boxes[k, 1]))
        for row in self.lone_boxes[0].tolist():
            note(["removed"], row, None)
        for row in self.lone_boxes[1].tolist():
            note(["added"], None, row)
        for k in np.flatnonzero(np.any(list(self.image_changes.values()), axis=0)).tolist():
            i, j = self.images[k].tolist()
            kinds = [kind for kind, shown in self.image_changes.items() if shown[k]]
            old, new = self._image(0, i), self._image(1, j)
            yield {"changes": kinds, "old": old, "new": new, "boxes": boxes.get(k, [])}

    def _image(self, side: int, i: int) -> dict[str, Any]:
        table = (self.a, self.b)[side].table
        facts = {"split": self.split[side][i], "key": table.key[i], "record": i, "id": int(table.id[i])}
        return facts | {"boxes": int(table.offsets[i + 1] - table.offsets[i])}

    def _box(self, side: int, row: int) -> dict[str, Any]:
        table, name = (self.a, self.b)[side].table, self.names[self.label[side][row]]
        box, flags, area = table.boxes[row].tolist(), int(table.flags[row]), float(table.areas[row])
        return {"box": box, "class": name, "flags": flags, "area": area}


def text(facts: dict[str, Any], most: int = 10) -> str:
    """Format `Diff.facts()` for a terminal: the counts, then up to `most` examples per kind."""
    lines = []
    for what in ("images", "boxes"):
        shown = [f"{n} {kind}" for kind, n in facts[what].items() if n or kind == "same"]
        lines.append(f"{what}: {', '.join(shown)}")
    for kind in ("removed", "added"):
        if facts["classes"][kind]:
            lines.append(f"classes {kind}: {', '.join(facts['classes'][kind])}")
    lines += [f"class renamed: {old} -> {new}" for old, new in facts["classes"]["renamed"]]
    examples: list[tuple[str, list[str]]] = []
    for kind, sign in (("removed", "-"), ("added", "+")):
        examples.append((kind, [f"{sign} {place(one)}, {counted(one['boxes'], 'box')}" for one in facts[kind]]))
    changed = []
    for one in facts["changed"]:
        was = f" (was {place(one['old'])})" if place(one["old"]) != place(one["new"]) else ""
        changed.append("\n".join([f"~ {place(one['new'])}{was}: {', '.join(one['changes'])}", *_box_lines(one, most)]))
    for kind, listed in (*examples, ("changed", changed)):
        if listed:
            rest = [f"... {len(listed) - most} more {kind}; --json lists all"] if len(listed) > most else []
            lines += ["", *listed[:most], *rest]
    return "\n".join(lines)


def place(image: dict[str, Any]) -> str:
    """Format the split and key of an image."""
    return f"{image['split']}: {image['key']}"


def _box_lines(image: dict[str, Any], most: int) -> list[str]:
    lines = []
    for one in image["boxes"][:most]:
        sides = [one[side] for side in ("old", "new") if side in one]
        shown = [f"{side['class']} [{', '.join(f'{v:g}' for v in side['box'])}]" for side in sides]
        lines.append(f"    {', '.join(one['changes'])}: {' -> '.join(dict.fromkeys(shown))}")
    return [*lines, f"    ... {len(image['boxes']) - most} more"] if len(image["boxes"]) > most else lines


def diff(a: Shards, b: Shards, iou: float = 0.5) -> Diff:
    """Compare two shard folders, of which `a` is the older.

    Images are paired by split and key, the remaining ones by their bytes (size and CRC-32). Boxes of a pair of images
    are paired one to one: first identical boxes, then those that differ only in flags, then only in flags and label,
    then by the greatest overlap. The pairs do not depend on the order of the two folders.

    Args:
        iou: boxes with a smaller overlap are not the same box.
    """
    names = tuple(sorted({*a.classes, *b.classes}))
    labels = [np.array([names.index(n) for n in s.classes], np.int64)[s.table.labels] for s in (a, b)]
    splits = _splits(a), _splits(b)
    images = pair_images(*(_facts(shards, split) for shards, split in zip((a, b), splits, strict=True)))
    one, other = (
        Objects(s.table.offsets, s.table.boxes, label, s.table.flags) for s, label in zip((a, b), labels, strict=True)
    )
    boxes = pair_boxes(one, other, images, iou)
    return Diff(a, b, names, (labels[0], labels[1]), splits, images, boxes)


def _splits(shards: Shards) -> NDArray[np.object_]:
    split = np.empty(len(shards), object)
    for name, rows in shards.splits.items():
        if name not in shards.index["unions"]:
            split[rows] = name
    return split


def _facts(shards: Shards, split: NDArray[np.object_]) -> list[tuple[str, str, int, int]]:
    """Return the split, key, CRC-32 and size of each record."""
    table = shards.table
    return list(zip(split.tolist(), table.key.tolist(), table.crc.tolist(), table.size.tolist(), strict=True))


def _area(boxes: NDArray[Any]) -> NDArray[Any]:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _others(n: int, taken: Rows) -> Rows:
    left = np.ones(n, bool)
    left[taken] = False
    return np.flatnonzero(left)

"""The state that a journal describes: which boxes of which images are changed, and the classes."""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import numpy as np
from msgspec import UNSET, Meta, Struct, UnsetType

from dataforge.overlay.journal import OverlayError
from dataforge.record import Record

State = Literal["new", "edited", "done"]
Id = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Numbers = Annotated[list[float], Meta(min_length=4, max_length=4)]
Label = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Flags = Annotated[int, Meta(ge=0, le=7)]
ClassName = Annotated[str, Meta(min_length=1, max_length=200)]
_BASE_ID = re.compile(r"b\d+")


class Add(Struct, tag_field="op", tag="add", forbid_unknown_fields=True):
    """A new box, or one that was deleted and comes back."""

    id: Id
    box: Numbers
    label: Label
    flags: Flags


class Set(Struct, tag_field="op", tag="set", forbid_unknown_fields=True):
    """New values of a box; what is absent stays."""

    id: Id
    box: Numbers | UnsetType = UNSET
    label: Label | UnsetType = UNSET
    flags: Flags | UnsetType = UNSET


class Delete(Struct, tag_field="op", tag="delete", forbid_unknown_fields=True):
    id: Id


class Mark(Struct, tag_field="op", tag="state", forbid_unknown_fields=True):
    """A new state of the image."""

    state: State


Edit = Add | Set | Delete | Mark


class RefusedError(OverlayError):
    """An edit has a value that cannot be; nothing is changed."""


class Box(NamedTuple):
    """A box: x1, y1, x2, y2 in pixels of the upright image, each a float32; its label; its flags."""

    box: tuple[float, float, float, float]
    label: int
    flags: int


@dataclass
class Edited:
    """An edited image.

    Attributes:
        changes: id -> the box, or None if it is deleted. Other boxes of the base are as they were.
        base: `checksum` of the record when it was first edited.
        seconds: id -> seconds spent on the box, and its label then.
    """

    base: int
    revision: int = 0
    state: State = "new"
    changes: dict[str, Box | None] = field(default_factory=dict)
    seconds: dict[str, tuple[float, int]] = field(default_factory=dict)

    def is_base(self, id: str) -> bool:
        """Return True if a changed box was there before any edit."""
        return _BASE_ID.fullmatch(id) is not None


class Answer(NamedTuple):
    """The result of a request: the image's revision after it; `stale` if it was refused for its revision."""

    revision: int
    stale: bool = False


def checksum(record: Record) -> int:
    """Return the CRC-32 of a record's boxes, labels and flags, before any edit."""
    return zlib.crc32(b"".join(array.tobytes() for array in (record.boxes, record.labels, record.flags)))


class Edits:
    """The edits of the lines of a journal.

    Args:
        lines: those of the journal; the header first.
        until: the version: leave out later edits. None takes all.

    Attributes:
        path: of the base, where it was last.
        version: the number of edits of images and classes; those since the header are numbered 1, 2, ...
        names: name by label; labels are never used again. merged: label -> the label that its boxes have now.
        images: (split, key) -> the edited image.
        requests: request -> what was answered.

    Raises:
        OverlayError: a line is no edit.
    """

    def __init__(self, lines: Sequence[Mapping[str, Any]], until: int | None = None) -> None:
        self.version = 0
        self.path: str = lines[0]["path"]
        self.names: list[str] = list(lines[0]["classes"])
        self.merged: dict[int, int] = {}
        self.images: dict[tuple[str, str], Edited] = {}
        self.requests: dict[str, Answer] = {}
        self.seconds = 0.0
        self.timed: set[tuple[str, str]] = set()
        self.conflicts = 0
        for n, line in enumerate(lines[1:], 2):
            if until is not None and line.get("version", 0) > until:
                break
            try:
                self.replay(line)
            except (KeyError, TypeError, ValueError, msgspec.ValidationError) as error:
                raise OverlayError(f"journal: line {n} is no edit that this dataforge knows: {error!r}") from None
        if until is not None and until > self.version:
            raise OverlayError(f"holds no version {until}; the newest is {self.version}")

    # classes

    def classes(self) -> dict[int, str]:
        """Return label -> name of the classes that are not merged into others."""
        return {label: name for label, name in enumerate(self.names) if label not in self.merged}

    def label(self, label: int) -> int:
        """Return the label that boxes of a label have now: another one after a merge."""
        while label in self.merged:
            label = self.merged[label]
        return label

    def numbers(self, class_ids: Sequence[int]) -> list[int]:
        """Return the source's number of each label: those of the base's classes, then unused ones for new classes.

        Args:
            class_ids: of the base; empty for 0, 1, 2, ...
        """
        first = max(class_ids, default=len(self.names) - 1) + 1
        known = list(class_ids) or list(range(len(self.names)))
        return known + list(range(first, first + len(self.names) - len(known)))

    def class_line(self, op: str, name: str, to: str | None) -> dict[str, Any]:
        """Return the journal's line for a change of the classes.

        Args:
            op: "add" NAME; "rename" NAME to TO; "merge" the boxes of NAME into TO.

        Raises:
            RefusedError: a name is unknown, taken or no name.
        """
        labels = {name: label for label, name in self.classes().items()}
        new = name if op == "add" else to
        if new is None:
            raise RefusedError(f"{op} {name!r}: expected `to`, another name")
        if op != "add" and name not in labels:
            raise RefusedError(f"no class {name!r}; known: {', '.join(labels) or 'none'}")
        if op == "merge":
            if new == name or new not in labels:
                raise RefusedError(f"no other class {new!r} to merge {name!r} into")
            return {"kind": "classes", "op": op, "label": labels[name], "to": labels[new]}
        if new in labels:
            raise RefusedError(f"there is a class {new!r} already" + ("; merge them" if op == "rename" else ""))
        if not new.strip() or new != new.strip() or not new.isprintable():
            raise RefusedError(f"class {new!r}: expected printable text that neither begins nor ends with a space")
        return {"kind": "classes", "op": op, "label": labels.get(name, len(self.names)), "name": new}

    # images

    def boxes(self, record: Record) -> dict[str, Box]:
        """Return id -> box of an image, first those of the base in its order, then new ones in the order of adding.

        Args:
            record: of the base, with its boxes repaired.

        Raises:
            OverlayError: the image was edited, and is now annotated otherwise in the base.
        """
        known = _base_boxes(record)
        edited = self.images.get((record.split, record.key))
        if edited is not None:
            if edited.base != checksum(record):
                raise OverlayError(
                    f"{record.origin or record.file}: {record.key!r} was edited in the overlay, and has changed since: "
                    "its boxes are not those that were edited"
                )
            known |= edited.changes
        return {
            id: box if box.label not in self.merged else box._replace(label=self.label(box.label))
            for id, box in known.items()
            if box is not None
        }

    def image_line(self, record: Record, revision: int, edits: Sequence[Edit]) -> dict[str, Any]:
        """Return the journal's line for edits of an image: all values that they set, clipped to the image, as float32.

        Raises:
            RefusedError: an edit is impossible.
        """
        boxes: dict[str, Box] = self.boxes(record)
        done: list[dict[str, Any]] = []
        for n, edit in enumerate(edits):
            place = f"edit {n}"
            if isinstance(edit, Mark):
                done.append({"op": "state", "state": edit.state})
                continue
            known = edit.id in boxes
            if known == isinstance(edit, Add):
                raise RefusedError(f"{place}: {'there is' if known else 'no'} box {edit.id!r}" + " already" * known)
            if isinstance(edit, Delete):
                del boxes[edit.id]
                done.append({"op": "delete", "id": edit.id})
                continue
            if isinstance(edit, Add):
                if _BASE_ID.fullmatch(edit.id) and not _is_base(edit.id, len(record.boxes)):
                    raise RefusedError(f"{place}: id {edit.id!r} is of the form of boxes that were there before")
                box = Box(_clip(edit.box, record, place), self._known(edit.label, place), edit.flags)
            else:
                box = boxes[edit.id]
                if edit.box is not UNSET:
                    box = box._replace(box=_clip(edit.box, record, place))
                if edit.label is not UNSET:
                    box = box._replace(label=self._known(edit.label, place))
                if edit.flags is not UNSET:
                    box = box._replace(flags=edit.flags)
            boxes[edit.id] = box
            op = "add" if isinstance(edit, Add) else "set"
            done.append({"op": op, "id": edit.id, "box": box.box, "label": box.label, "flags": box.flags})
        return {
            "kind": "edit",
            "split": record.split,
            "key": record.key,
            "base": checksum(record),
            "revision": revision + 1,
            "edits": done,
        }

    def _known(self, label: int, place: str) -> int:
        if label >= len(self.names):
            raise RefusedError(f"{place}: label {label} is of no class")
        return self.label(label)

    def replay(self, line: Mapping[str, Any]) -> None:
        """Take in a line that is in the journal."""
        kind = line["kind"]
        if kind == "edit":
            self._replay_edit(line)
        elif kind == "classes":
            label = line["label"]
            if line["op"] == "merge":
                self.merged[label] = line["to"]
            elif label == len(self.names):
                self.names.append(line["name"])
            else:
                self.names[label] = line["name"]
            self.requests[line["request"]] = Answer(0)
        elif kind == "moved":
            self.path = line["path"]
        elif kind == "conflict":
            self.conflicts += 1
            self.requests[line["request"]] = Answer(line["revision"], stale=True)
        else:
            raise ValueError(kind)
        if "version" in line:
            if line["version"] != self.version + 1:
                raise ValueError(f"version {line['version']} after {self.version}")
            self.version += 1

    def _replay_edit(self, line: Mapping[str, Any]) -> None:
        place = line["split"], line["key"]
        edited = self.images.get(place) or self.images.setdefault(place, Edited(line["base"]))
        touched: dict[str, int] = {}
        for edit in line["edits"]:
            op = edit["op"]
            if op == "state":
                edited.state = edit["state"]
                continue
            if op == "delete":
                edited.changes[edit["id"]] = None
            else:
                x1, y1, x2, y2 = edit["box"]
                edited.changes[edit["id"]] = Box((x1, y1, x2, y2), edit["label"], edit["flags"])
                touched[edit["id"]] = edit["label"]
            if edited.state == "new":
                edited.state = "edited"
        edited.revision = line["revision"]
        self.requests[line["request"]] = Answer(edited.revision)
        seconds = line.get("seconds")
        if seconds is not None:
            self.seconds += seconds
            self.timed.add(place)
            for id, label in touched.items():
                edited.seconds[id] = edited.seconds.get(id, (0.0, 0))[0] + seconds / len(touched), label


def _base_boxes(record: Record) -> dict[str, Box | None]:
    columns = zip(record.boxes.tolist(), record.labels.tolist(), record.flags.tolist(), strict=True)
    return {f"b{n}": Box(tuple(box), label, flags) for n, (box, label, flags) in enumerate(columns)}


def _is_base(id: str, count: int) -> bool:
    return id == f"b{int(id[1:])}" and int(id[1:]) < count


def _clip(box: Iterable[float], record: Record, place: str) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = box
    size = f"the image of {record.width}x{record.height}"
    if not all(map(math.isfinite, (x1, y1, x2, y2))):
        raise RefusedError(f"{place}: box {[x1, y1, x2, y2]}: expected finite numbers")
    low = np.array([x1, y1], np.float64).clip(0, [record.width, record.height]).astype(np.float32)
    high = np.array([x2, y2], np.float64).clip(0, [record.width, record.height]).astype(np.float32)
    if not (low < high).all():
        raise RefusedError(f"{place}: box {[x1, y1, x2, y2]}: expected x1 < x2 and y1 < y2 in {size}")
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def edited_record(record: Record, boxes: Mapping[str, Box]) -> Record:
    """Return a record with the boxes that it has now.

    A box of the base whose corners did not move keeps its area and its polygon; one that was moved has none.
    """
    values = list(boxes.values())
    corners = np.array([box.box for box in values], np.float32).reshape(-1, 4)
    kept = np.full(len(values), -1)  # the numbers of the boxes that did not move
    for n, id in enumerate(boxes):
        if _BASE_ID.fullmatch(id) and np.array_equal(record.boxes[int(id[1:])], corners[n]):
            kept[n] = int(id[1:])
    areas = None
    if record.areas is not None:
        areas = np.prod(corners[:, 2:] - corners[:, :2], axis=1, dtype=np.float32)
        areas[kept >= 0] = record.areas[kept[kept >= 0]]
    return replace(
        record,
        boxes=corners,
        labels=np.array([box.label for box in values], np.int32),
        flags=np.array([box.flags for box in values], np.uint8),
        areas=areas,
        polygons=record.polygons and (record.polygons.take(kept) or None),
    )

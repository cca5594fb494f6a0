"""The state that a journal describes: which boxes of which images are changed, and the classes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec
from msgspec import UNSET

from dataforge.overlay.boxes import Box, base_boxes, checksum, clip, has_base_id, is_base
from dataforge.overlay.journal import OverlayError
from dataforge.overlay.requests import Add, Delete, Edit, Mark, RefusedError, State
from dataforge.record import Record


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


class Answer(NamedTuple):
    """The result of a request: the image's revision after it; `stale` if it was refused for its revision."""

    revision: int
    stale: bool = False


class _Header(msgspec.Struct):
    path: str
    classes: list[str]
    format: str


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
        try:
            header = msgspec.convert(lines[0], _Header)
        except msgspec.ValidationError as error:
            raise OverlayError(f"journal: line 1 is no header that this dataforge knows: {error}") from None
        self.path, self.names = header.path, header.classes
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
        known = base_boxes(record)
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
                if has_base_id(edit.id) and not is_base(edit.id, len(record.boxes)):
                    raise RefusedError(f"{place}: id {edit.id!r} is of the form of boxes that were there before")
                box = Box(clip(edit.box, record, place), self._known(edit.label, place), edit.flags)
            else:
                box = boxes[edit.id]
                if edit.box is not UNSET:
                    box = box._replace(box=clip(edit.box, record, place))
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
            label, to, known = line["label"], line.get("to"), self.classes()
            if line["op"] == "merge" and label in known and to in known and to != label:
                self.merged[label] = to
            elif line["op"] == "add" and label == len(self.names):
                self.names.append(str(line["name"]))
            elif line["op"] == "rename" and label in known:
                self.names[label] = str(line["name"])
            else:
                raise ValueError(f"{line['op']} of class {label}, to {to}")
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
                x1, y1, x2, y2 = map(float, edit["box"])
                label, flags = edit["label"], edit["flags"]
                if not (math.isfinite(x1 + y1 + x2 + y2) and label in range(len(self.names)) and flags in range(256)):
                    raise ValueError(f"box {x1}, {y1}, {x2}, {y2} of class {label} with flags {flags}")
                edited.changes[edit["id"]] = Box((x1, y1, x2, y2), label, flags)
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

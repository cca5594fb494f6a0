"""Edits: any sequence gives what a plain model gives, now, after reopening, and at every version."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataforge.overlay.boxes import Box, edited_record
from dataforge.overlay.edits import Edits
from dataforge.overlay.journal import OverlayError, read
from dataforge.overlay.requests import Add, Delete, Edit, Mark, RefusedError, Set
from dataforge.shards.reader import Shards
from dataforge.transform.edited import Stored
from dataforge.web.session import Session, StaleError

IMAGES = 3


@dataclass
class Model:
    """What a person would keep on paper: per image, boxes by id in order; names of classes; who became whom."""

    boxes: list[dict[str, Box]]
    order: list[list[str]]
    state: list[str] = field(default_factory=lambda: ["new"] * IMAGES)
    revision: list[int] = field(default_factory=lambda: [0] * IMAGES)
    names: dict[int, str] = field(default_factory=dict)
    count: int = 0

    def shown(self, n: int) -> list[tuple[str, Box]]:
        return [(id, self.boxes[n][id]) for id in self.order[n] if id in self.boxes[n]]


@st.composite
def operations(draw: st.DrawFn) -> tuple:
    kind = draw(st.sampled_from(["add", "add", "set", "set", "delete", "state", "stale", "class", "rename", "merge"]))
    corner = st.floats(-20, 60, width=64)
    box = sorted((draw(corner), draw(corner))), sorted((draw(corner), draw(corner)))
    numbers = [box[0][0], box[1][0], box[0][1], box[1][1]]
    id = draw(st.sampled_from(["x", "y", "z", "b0", "b1", "b9"]))
    return kind, draw(st.integers(0, IMAGES - 1)), id, numbers, draw(st.integers(0, 6)), draw(st.integers(0, 7))


def apply(model: Model, base: Stored, session: Session, operation: tuple, number: int) -> None:
    """Do one operation to the session, and to the model if the session took it; both must agree that it is possible."""
    kind, n, id, numbers, label, flags = operation
    record = base.record(n)
    request = f"r{number}"
    if kind in ("class", "rename", "merge"):
        names, other = model.names, label % max(len(model.names), 1)
        live = list(names.items())
        if kind == "class":
            session.change_classes(request, "add", f"class {number}", None)
            names[model.count] = f"class {number}"
            model.count += 1
        elif kind == "rename":
            session.change_classes(request, "rename", live[other][1], f"class {number}")
            names[live[other][0]] = f"class {number}"
        elif len(live) > 1:
            into = (other + 1) % len(live)
            session.change_classes(request, "merge", live[other][1], live[into][1])
            del names[live[other][0]]
            for boxes in model.boxes:
                for key, box in boxes.items():
                    if box.label == live[other][0]:
                        boxes[key] = box._replace(label=live[into][0])
        return
    if kind == "stale":
        with pytest.raises(StaleError):
            session.edit(n, request, model.revision[n] + 1, [Mark("done")])
        return
    width, height = record.width, record.height
    x1, y1, x2, y2 = (float(np.float32(min(max(v, 0), m))) for v, m in zip(numbers, (width, height) * 2, strict=True))
    fits = x1 < x2 and y1 < y2 and label in model.names
    known = id in model.boxes[n]
    edit: Edit
    if kind == "add":
        edit = Add(id, numbers, label, flags)
        free = not id.startswith("b") or int(id[1:]) < len(record.boxes)
        possible = fits and not known and free
    elif kind == "set":
        edit, possible = Set(id, numbers, label, flags), fits and known
    elif kind == "delete":
        edit, possible = Delete(id), known
    else:
        edit, possible = Mark("done"), True
    before = copy.deepcopy(session.image(n))
    if label not in model.names and label < model.count:
        return  # merged: taken as the other class, tested elsewhere
    if not possible:
        with pytest.raises(RefusedError):
            session.edit(n, request, model.revision[n], [Mark("done"), edit])
        assert session.image(n) == before
        return
    model.revision[n] += 1
    assert session.edit(n, request, model.revision[n] - 1, [edit]) == model.revision[n]
    if kind == "state":
        model.state[n] = "done"
        return
    model.state[n] = "edited" if model.state[n] == "new" else model.state[n]
    if kind == "delete":
        del model.boxes[n][id]
    else:
        model.boxes[n][id] = Box((x1, y1, x2, y2), label, flags)
        if id not in model.order[n]:
            model.order[n].append(id)


@settings(deadline=None, max_examples=40)
@given(st.lists(operations(), max_size=25))
def test_any_sequence_is_what_a_plain_model_gives(
    tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory, sequence: list[tuple]
) -> None:
    folder = tmp_path_factory.mktemp("edits") / "overlay"
    base = Stored(Shards(tiny_shards))
    records = [base.record(n) for n in range(IMAGES)]
    names = dict(enumerate(base.classes))
    model = Model([], [], names=names, count=len(names))
    for record in records:
        columns = zip(record.boxes.tolist(), record.labels.tolist(), record.flags.tolist(), strict=True)
        model.boxes.append({f"b{n}": Box(tuple(box), label, flags) for n, (box, label, flags) in enumerate(columns)})
        model.order.append(list(model.boxes[-1]))
    session = Session(base, folder)
    history = [copy.deepcopy(model)]

    def check(edits: Edits, expected: Model) -> None:
        assert edits.classes() == expected.names
        for n, record in enumerate(records):
            assert list(edits.boxes(record).items()) == expected.shown(n)
            edited = edits.images.get(base.places[n])
            state = (edited.state, edited.revision) if edited else ("new", 0)
            assert state == (expected.state[n], expected.revision[n])

    try:
        for number, operation in enumerate(sequence):
            apply(model, base, session, operation, number)
            check(session.edits, model)
            if session.edits.version == len(history):
                history.append(copy.deepcopy(model))
        assert session.edits.version == len(history) - 1
    finally:
        session.close()
    for _ in range(2):
        again = Session(base, folder)
        check(again.edits, model)
        again.close()
    lines, _ = read(folder)
    for version, expected in enumerate(history):
        check(Edits(lines, version), expected)
    with pytest.raises(OverlayError, match=f"holds no version {len(history)}; the newest is {len(history) - 1}"):
        Edits(lines, len(history))


def test_saving_ten_times_changes_nothing(tiny_shards: Path, tmp_path: Path) -> None:
    base = Stored(Shards(tiny_shards))
    n = max(range(len(base.places)), key=lambda n: len(base.record(n).boxes))
    session = Session(base, tmp_path / "overlay")
    try:
        before = session.image(n)["boxes"]
        for turn in range(10):
            edits: list[Edit] = [Set(box["id"], list(box["box"])) for box in session.image(n)["boxes"]]
            session.edit(n, f"r{turn}", turn, edits)
            assert session.image(n)["boxes"] == before
        record = edited_record(base.record(n), session.edits.boxes(base.record(n)))
        for name in ("boxes", "labels", "flags", "areas"):
            assert np.array_equal(getattr(record, name), getattr(base.record(n), name)), name
    finally:
        session.close()


def test_an_image_that_was_annotated_otherwise_since(tiny_shards: Path, tmp_path: Path) -> None:
    base = Stored(Shards(tiny_shards))
    session = Session(base, tmp_path / "overlay")
    session.edit(0, "r", 0, [Delete("b0")])
    record = base.record(0)
    session.close()
    other = edited_record(record, {})
    with pytest.raises(OverlayError, match=r"'a\.jpg' was edited in the overlay, and has changed since"):
        session.edits.boxes(other)


ADD = {"op": "add", "id": "x", "box": [1, 2, 3, 4], "label": 0, "flags": 0}
MERGE = {"kind": "classes", "op": "merge", "request": "r"}


@pytest.mark.parametrize(
    "lines",
    [
        [{**MERGE, "label": 0, "to": 1}, {**MERGE, "label": 1, "to": 0}],  # a circle
        [{**MERGE, "label": 0, "to": 0}],
        [{**MERGE, "label": 0, "to": 2}],
        [{**MERGE, "op": "rename", "label": 9, "name": "z"}],
        [{**MERGE, "op": "swap", "label": 0, "name": "z"}],
        *[[{"kind": "edit", "edits": [{**ADD, **wrong}]}] for wrong in ({"label": 2}, {"label": "0"}, {"flags": 256})],
        *[[{"kind": "edit", "edits": [{**ADD, "box": box}]}] for box in ([1, 2, 3, 1e999], [1, 2, 3], ["a"] * 4)],
    ],
)
def test_a_line_that_no_edit_writes_is_refused(lines: list[dict[str, Any]]) -> None:
    image = {"split": "train", "key": "a", "base": 7, "revision": 1, "request": "r"}
    header = {"kind": "overlay", "path": "p", "format": "coco", "classes": ["a", "b"]}
    whole = [header, *({**image, **line, "version": n} for n, line in enumerate(lines, 1))]
    with pytest.raises(OverlayError, match=f"line {len(whole)} is no edit"):
        Edits(whole)

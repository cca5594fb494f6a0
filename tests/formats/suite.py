"""What every format that can be written must keep: write -> read -> ingest gives the same set back.

A format's tests inherit it:

    class TestCocoRoundTrip(FormatSuite):
        name = "coco"

What is expected beyond pictures, boxes and labels is what the format's module says in `HOLDS`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataforge.analysis.lint.run import lint_shards
from dataforge.errors import FormatError
from dataforge.formats import holds, reader, writer
from dataforge.images.header import probe
from dataforge.ingest.run import ingest
from dataforge.polygons import Polygons
from dataforge.record import CROWD, DIFFICULT, TRUNCATED, Finding, Record, Source
from dataforge.shards.reader import Shards
from dataforge.shards.verify import verify
from tests import tiny

CLASSES = ("cat", "dog", "traffic light", "Ampel grün 红绿灯 <&>", "never used")
CLASS_IDS = (3, 17, 90, 91, 1000)
FLAGS = {"crowd": CROWD, "difficult": DIFFICULT, "truncated": TRUNCATED}
WIDE, HIGH = 4000, 3000
LARGE = tiny.encode(np.zeros((HIGH, WIDE), np.uint8), "PNG")


class FormatSuite:
    """Attributes: `name` in `FORMATS`; `boxes_within`, the precision in pixels, 0 where float32 comes back exactly;
    `one_way`, whether all boxes of an image are written as polygons if one is; `options`, what `read` needs beyond the
    folder."""

    name: ClassVar[str]
    boxes_within: ClassVar[float] = 0.0
    one_way: ClassVar[bool] = False
    options: ClassVar[dict[str, Any]] = {}

    @property
    def holds(self) -> frozenset[str]:
        return holds(self.name)

    @property
    def flags(self) -> int:
        return sum(bit for name, bit in FLAGS.items() if name in self.holds)

    def write(self, records: list[Record | Finding], root: Path, **more: Any) -> Path:
        writer(self.name)(Source(CLASSES, iter(records), CLASS_IDS, total=len(records), **more), root)
        return root

    def shards(self, root: Path, out: Path) -> Shards:
        """Read a written folder through ingest: nothing may be refused or repaired on the way."""
        summary = ingest(reader(self.name)(root, **self.options), out)
        wrong = [kind for kind in summary.findings if kind[0] != "noted"]
        assert not wrong, summary.text()
        shards = Shards(out)
        assert not list(verify(shards))
        return shards

    def compare(self, records: list[Record], shards: Shards) -> None:
        """The same records, found again by split and picture."""
        used = {CLASSES[label] for record in records for label in record.labels}
        if "classes" in self.holds:
            assert shards.classes == CLASSES
        else:
            assert used <= set(shards.classes) <= set(CLASSES)
        if "class_ids" in self.holds:
            assert (
                dict(zip(shards.classes, shards.class_ids, strict=True)).items()
                <= dict(zip(CLASSES, CLASS_IDS, strict=True)).items()
            )
        if "splits" in self.holds:
            stored = {name: len(rows) for name, rows in shards.splits.items() if name not in shards.index["unions"]}
            assert stored == {split: sum(r.split == split for r in records) for split in {r.split for r in records}}
        assert len(shards) == len(records)
        split_of = {int(i): name for name in shards.index["splits"] for i in shards.splits[name]}
        found = {(split_of[i], bytes(shards.blob(i))): i for i in range(len(shards))}
        only = next(iter(shards.index["splits"]))
        for record in records:
            i = found[record.split if "splits" in self.holds else only, picture(record)]
            key, table = shards.table.key[i], shards.table
            if "keys" in self.holds:
                assert key == record.key
            else:
                assert PurePosixPath(record.key).stem in key
            if "ids" in self.holds and record.id >= 0:
                assert table.id[i] == record.id, key
            rows = slice(table.offsets[i], table.offsets[i + 1])
            names = [shards.classes[label] for label in table.labels[rows]]
            assert names == [CLASSES[label] for label in record.labels], key
            if self.boxes_within:
                np.testing.assert_allclose(table.boxes[rows], record.boxes, rtol=0, atol=self.boxes_within)
            else:
                np.testing.assert_array_equal(table.boxes[rows], record.boxes, key)
            np.testing.assert_array_equal(table.flags[rows], record.flags & self.flags, key)
            if "areas" in self.holds and record.areas is not None:
                np.testing.assert_array_equal(table.areas[rows], record.areas, key)

    def test_round_trip(self, tmp_path: Path) -> None:
        records = awkward(("train", "val") if "splits" in self.holds else ("train",))
        root = self.write([*records, Finding("noted", "odd", "f", "k", "v", "is passed over")], tmp_path / "set")
        self.compare(records, self.shards(root, tmp_path / "shards"))

    def test_images_may_be_paths(self, tmp_path: Path) -> None:
        record = awkward(("train",))[0]
        path = tmp_path / "elsewhere.bin"
        path.write_bytes(picture(record))
        root = self.write([replace(record, image=path)], tmp_path / "set")
        self.compare([record], self.shards(root, tmp_path / "shards"))

    @settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
    @given(data=st.data())
    def test_boxes_of_any_numbers(self, data: st.DataObject) -> None:
        boxes = data.draw(st.lists(st.tuples(side(WIDE), side(HIGH)), min_size=1, max_size=20))
        whole = ((0.0, WIDE), (0.0, HIGH))  # a set whose boxes all lie within a pixel is refused
        array = np.array([[x[0], y[0], x[1], y[1]] for x, y in [*boxes, whole]], np.float32)
        record = Record(
            "large.png",
            "train",
            LARGE,
            HIGH,
            WIDE,
            array,
            np.arange(len(array), dtype=np.int32) % 4,
            np.zeros(len(array), np.uint8),
        )
        with tempfile.TemporaryDirectory() as folder:
            self.compare(
                [record], self.shards_unchecked(self.write([record], Path(folder, "set")), Path(folder, "out"))
            )

    @settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
    @given(data=st.data())
    def test_polygons_of_any_numbers(self, data: st.DataObject) -> None:
        if "polygons" not in self.holds:
            pytest.skip(f"{self.name} holds no polygons")
        rings = st.lists(ring(), min_size=1, max_size=3 if "multipolygons" in self.holds else 1)
        shapes = data.draw(st.lists(rings, min_size=1, max_size=5))
        shapes.append([[0, 0, WIDE, 0, WIDE, HIGH]])
        shapes += [] if self.one_way else [[]]
        polygons = Polygons.of(shapes)
        has = polygons.counts > 0
        boxes = np.where(has[:, None], polygons.hulls(), np.float32([0, 0, WIDE, HIGH]))
        labels, flags = np.arange(len(boxes), dtype=np.int32) % 4, np.zeros(len(boxes), np.uint8)
        record = Record("large.png", "train", LARGE, HIGH, WIDE, boxes, labels, flags, polygons=polygons)
        with tempfile.TemporaryDirectory() as folder:
            shards = self.shards_unchecked(self.write([record], Path(folder, "set")), Path(folder, "out"))
            self.compare([record], shards)
            assert not shards.table.polygons.differ(polygons).any()

    def shards_unchecked(self, root: Path, out: Path) -> Shards:
        """As `shards`, without decoding the large picture."""
        summary = ingest(reader(self.name)(root, **self.options), out)
        assert not [kind for kind in summary.findings if kind[0] != "noted"], summary.text()
        return Shards(out)

    def test_twice_gives_the_same_bytes(self, tmp_path: Path) -> None:
        records: list[Record | Finding] = [*awkward(("train",))]
        one, two = (files(self.write(records, tmp_path / name)) for name in ("one", "two"))
        assert one == two and one

    def test_a_folder_that_holds_something_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("mine")
        with pytest.raises(FormatError, match="is not empty"):
            self.write([awkward(("train",))[0]], tmp_path)
        assert files(tmp_path) == {"notes.txt": b"mine"}
        (tmp_path / "empty").mkdir()
        self.write([awkward(("train",))[0]], tmp_path / "empty")

    @pytest.mark.parametrize("key", ["../out.jpg", "/out.jpg", "a/../../out.jpg"])
    def test_keys_that_leave_the_folder_are_refused(self, tmp_path: Path, key: str) -> None:
        with pytest.raises(FormatError, match=r"out\.jpg"):
            self.write([replace(awkward(("train",))[0], key=key)], tmp_path / "deep/er/set")
        assert not [path for path in tmp_path.rglob("out.jpg") if tmp_path / "deep/er/set" not in path.parents]

    def test_a_set_without_classes_is_read_back_or_refused(self, tmp_path: Path) -> None:
        empty = [self.without_boxes(record) for record in awkward(("train",))[:3]]
        root = tmp_path / "set"
        try:
            writer(self.name)(Source((), iter(empty), total=3), root)
        except FormatError as error:
            assert "class" in str(error)
            return
        shards = self.shards(root, tmp_path / "shards")
        assert (shards.classes, shards.info()["boxes"]) == ((), 0)
        assert {bytes(shards.blob(i)) for i in range(len(shards))} == set(map(picture, empty))
        assert lint_shards(shards).images == 3

    @staticmethod
    def without_boxes(record: Record) -> Record:
        none = np.zeros(0, np.int32)
        boxes = np.zeros((0, 4), np.float32)
        return replace(record, boxes=boxes, labels=none, flags=none.astype(np.uint8), areas=None)

    def test_an_empty_source_is_fine_or_a_clear_error(self, tmp_path: Path) -> None:
        try:
            self.write([], tmp_path / "set")
            assert not [r for r in reader(self.name)(tmp_path / "set", **self.options).records if isinstance(r, Record)]
        except FormatError as error:
            assert "set" in str(error)


def side(length: int) -> st.SearchStrategy[list[float]]:
    """Low and high, apart, in 0..length; no annotation tells a thousandth of a pixel from the edge."""
    number = st.floats(0, length, width=32).map(lambda value: value if value >= 2**-10 else 0.0)
    return st.lists(number, min_size=2, max_size=2, unique=True).map(sorted)


def ring() -> st.SearchStrategy[list[float]]:
    """x, y, x, y, ... of at least three points that do not lie in a line along a side of the picture."""
    inner = st.lists(st.tuples(st.floats(0, 1, width=32), st.floats(0, 1, width=32)), max_size=4)
    frame = st.tuples(side(WIDE), side(HIGH))
    return st.tuples(frame, inner).map(lambda drawn: _ring(*drawn[0], drawn[1]))


def _ring(x: list[float], y: list[float], inner: list[tuple[float, float]]) -> list[float]:
    """Return two corners of a box, a third, and points of fractions of the box."""
    points = [(x[0] + (x[1] - x[0]) * a, y[0] + (y[1] - y[0]) * b) for a, b in inner]
    return [x[0], y[0], x[1], y[1], x[0], y[1], *(number for point in points for number in point)]


def picture(record: Record) -> bytes:
    assert isinstance(record.image, bytes)
    return record.image


def awkward(splits: tuple[str, ...]) -> list[Record]:
    """The tiny set and some names, in splits that share their keys but not their pictures."""
    return [record for n, split in enumerate(splits) for record in _split(split, n)]


def _split(split: str, turn: int) -> Iterator[Record]:
    names = ["sub dir/b.png", "same.stem.jpg", "same.stem.png", "sub dir/deep er/ä b.c.jpg", "images/x.jpg"]
    extra = [
        replace(
            tiny.records(split)[0],
            key=name,
            id=2000 + n,
            image=tiny.encode(tiny.pixels(48, 64, 50 + n), "PNG" if name.endswith("png") else "JPEG"),
        )
        for n, name in enumerate(names)
    ]
    for n, record in enumerate([*tiny.records(split), *extra]):
        count = len(record.boxes)
        data = picture(record)
        if turn:  # a PNG, whatever the key says
            data = tiny.encode(tiny.pixels(record.height, record.width, 100 + n), "PNG")
        areas = record.boxes[:, 2:] - record.boxes[:, :2]
        yield replace(
            record,
            id=record.id + 5000 * turn,
            image=data,
            height=probe(data).height,
            width=probe(data).width,
            labels=(np.arange(count) % 4).astype(np.int32),
            areas=(areas.prod(1) * np.float32(0.75)).astype(np.float32),
        )


def files(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}

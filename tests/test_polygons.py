"""Polygons: rows of rings of points, and what is done with them on the way from a source to a batch."""

from __future__ import annotations

import json
import shutil
import zlib
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataforge import Batch, Loader, Shards, formats
from dataforge.analysis.diff import diff
from dataforge.analysis.lint.run import lint_shards
from dataforge.analysis.show import show
from dataforge.errors import FormatError, ShardError
from dataforge.images.header import ImageInfo
from dataforge.ingest.prove import first_difference
from dataforge.ingest.run import ingest
from dataforge.overlay.boxes import Box, edited_record
from dataforge.overlay.requests import Delete
from dataforge.polygons import Polygons
from dataforge.record import Record, Source
from dataforge.shards.as_source import source_of
from dataforge.shards.index import checksum
from dataforge.shards.polygons_file import POLYGONS
from dataforge.shards.verify import verify
from dataforge.sources.repair import repair, turn, turn_points
from dataforge.sources.view import View
from dataforge.transform.bake import Form, bake
from dataforge.transform.edited import Stored
from dataforge.transform.export import export
from dataforge.transform.merge import merge
from dataforge.web.session import Session
from tests import tiny

NUMBER = st.floats(-1e6, 1e6, width=32)
SHAPES = st.lists(st.lists(st.lists(st.tuples(NUMBER, NUMBER), min_size=1, max_size=4), max_size=3), max_size=5)
HIGH, WIDE = 60, 100
QUAD = [20, 10, 70, 20, 60, 50, 10, 40]


def lists(polygons: Polygons) -> list[list[list[tuple[float, float]]]]:
    return [[list(map(tuple, ring.tolist())) for ring in rings] for rings in polygons.lists()]


@settings(max_examples=60, deadline=None)
@given(one=SHAPES, two=SHAPES, data=st.data())
def test_rows_are_those_of_lists(one: list, two: list, data: st.DataObject) -> None:
    a, b = Polygons.of(one), Polygons.of(two)
    assert lists(a) == one and lists(Polygons.join([a, Polygons.none(2), b])) == [*one, [], [], *two]
    assert bool(a) == any(one) and a.counts.tolist() == list(map(len, one))
    index = data.draw(st.lists(st.integers(-1, len(one) - 1), max_size=6))
    assert lists(a.take(np.array(index, np.int64))) == [one[i] if i >= 0 else [] for i in index]
    start = data.draw(st.integers(0, len(one)))
    assert lists(a.part(start, len(one))) == one[start:]
    kept = np.array(data.draw(st.lists(st.booleans(), min_size=len(a.rings) - 1, max_size=len(a.rings) - 1)), bool)
    flags = iter(kept.tolist())
    assert lists(a.only(kept)) == [[ring for ring in rings if next(flags)] for rings in one]
    n = min(len(one), len(two))
    assert a.part(0, n).differ(b.part(0, n)).tolist() == [x != y for x, y in zip(one, two, strict=False)]
    assert not a.differ(a).any()
    matrix = np.tile(np.array([[0, 2, 1], [-1, 0, 3], [0, 0, 1]], float), (len(one), 1, 1))
    expected = [[[(2 * y + 1, -x + 3) for x, y in ring] for ring in rings] for rings in one]
    assert not a.move(matrix).differ(Polygons.of(expected)).any()


def test_rings_that_are_no_polygons() -> None:
    polygons = Polygons.of([[QUAD, [1, 2, 3]], [[1, 2, 3, 4]], [[0, 0, 1, 1, np.nan, 2], [0, 0, 1, 1, 2, 1e39]], []])
    assert polygons.sound().tolist() == [True, False, False, False, False]
    record, (one, two, three) = repair(make(polygons=polygons, count=4), ImageInfo("", HIGH, WIDE, 1, ""))
    assert {finding.code for finding in (one, two, three)} == {"polygon-broken"} and three.box == 2
    assert record.polygons is not None and record.polygons.counts.tolist() == [1, 0, 0, 0] and len(record.boxes) == 4


@pytest.mark.parametrize("orientation", range(1, 9))
def test_points_turn_with_boxes(orientation: int) -> None:
    info, boxes = ImageInfo("", HIGH, WIDE, orientation, ""), np.array([[3, 4, 20, 9]], np.float32)
    ring = turn_points(boxes[0, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(4, 2), info)
    np.testing.assert_array_equal(Polygons.of([[ring]]).hulls(), turn(boxes, info))


def make(key: str = "a.png", polygons: Polygons | None = None, count: int = 3, split: str = "train") -> Record:
    boxes = np.tile(np.array([[10, 10, 70, 50]], np.float32), (count, 1))
    if polygons is None:
        polygons = Polygons.of([[QUAD], [], [[30, 10, 70, 10, 70, 50], QUAD]])
    labels, flags = np.arange(count, dtype=np.int32) % 2, np.zeros(count, np.uint8)
    pixels = np.full((HIGH, WIDE, 3), len(key), np.uint8)
    cv2.fillPoly(pixels, [np.reshape(QUAD, (-1, 2)).astype(np.int32)], (255, 255, 255))
    return Record(key, split, tiny.encode(pixels, "PNG"), HIGH, WIDE, boxes, labels, flags, polygons=polygons)


def of(*records: Record) -> Source:
    return Source(("cat", "dog"), iter(records), total=len(records))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three records: with polygons, without, with; the first two in one shard."""
    out = tmp_path_factory.mktemp("polygons") / "s"
    empty = replace(make("bb.png", count=1), polygons=None)
    ingest(of(make(), empty, make("ccc.png", split="val")), out)
    return out


def test_they_are_stored_beside_the_table_and_selected_with_the_boxes(folder: Path) -> None:
    shards = Shards(folder)
    assert shards.table.polygons.counts.tolist() == [1, 0, 2, 0, 1, 0, 2] and not list(verify(shards))
    assert Shards(folder, view=View(classes=("dog",))).table.polygons.counts.tolist() == [0, 0]
    view = View(classes=("cat",), limit=1)
    assert Shards(folder, view=view).table.polygons.counts.tolist() == [1, 2, 1, 2]
    assert Shards(folder, "val").table.polygons.counts.tolist() == [1, 0, 2]
    first, second, third = source_of(shards).records
    assert isinstance(first, Record) and isinstance(second, Record) and isinstance(third, Record)
    assert second.polygons is None and third.polygons is not None
    expected = make().polygons
    assert first.polygons is not None and expected is not None and not first.polygons.differ(expected).any()
    assert first_difference(shards, source_of(shards)) is None
    moved = replace(third, polygons=Polygons.of([[[0, *QUAD[1:]]], [], third.polygons.lists()[2]]))
    found = first_difference(shards, of(first, second, moved))
    assert found is not None and found.field == "polygon of box 0"
    assert {code: kind.count for code, kind in lint_shards(shards).kinds.items()}["box-polygon"] == 1


def test_a_set_without_them_has_the_files_it_had(tmp_path: Path) -> None:
    ingest(of(replace(make(), polygons=None), make("bb.png", Polygons.none(3))), tmp_path / "s")
    assert {file.name for file in (tmp_path / "s/train/00000").iterdir()} == {"table.arrow", "blobs.mdb"}
    assert "polygons" not in (tmp_path / "s/index.json").read_text()


def test_resuming_compares_them(tmp_path: Path) -> None:
    def records(last: bool, ring: list[int] = QUAD) -> Source:
        source = [make("a.png", Polygons.of([[ring], [], []])), make("bb.png")]
        return of(*source, *[make("ccc.png")] * last) if last else replace(of(), records=_interrupted(source))

    with pytest.raises(FormatError):
        ingest(records(False), tmp_path / "s", shard_bytes=1, jobs=1)
    with pytest.raises(ShardError, match="its annotation"):
        ingest(records(True, [0, *QUAD[1:]]), tmp_path / "s", shard_bytes=1, resume=True)
    ingest(records(True), tmp_path / "s", shard_bytes=1, resume=True)
    assert Shards(tmp_path / "s").table.polygons.counts.sum() == 1 + 3 + 3


def _interrupted(records: list[Record]):
    yield from records
    raise FormatError("stop")


@pytest.mark.parametrize(
    ("rings", "message"),
    [
        ([[[1, 2, 3, 4, 5, 6]]], "polygons of 1 boxes; the table has 4"),
        ([[[1, 2, 3, 4, 5]], [], [], []], "numbers 0 to 5"),
        ([[[1, 2, 3, 4]], [], [], []], "three or more finite points"),
        ([[[1, 2, 3, 4, 5, np.nan]], [], [], []], "three or more finite points"),
        ([[[1, 2, 3, 4, 5, None]], [], [], []], "holds nulls"),
        ([None, [], [], []], "holds nulls"),
        (None, "is missing|cannot be read|No such file"),
        (b"ARROW1", "cannot be read"),
    ],
)
def test_a_strangers_file_is_checked(folder: Path, tmp_path: Path, rings: object, message: str) -> None:
    root = Path(shutil.copytree(folder, tmp_path / "s"))
    file = root / "train/00000/polygons.arrow"
    if isinstance(rings, bytes):
        file.write_bytes(rings)
    elif rings is None:
        file.unlink()
    else:
        batch = pa.RecordBatch.from_arrays([pa.array(rings, POLYGONS.field(0).type)], schema=POLYGONS)
        with pa.OSFile(str(file), "wb") as out, pa.ipc.new_file(out, POLYGONS) as writer:
            writer.write_batch(batch)
    index = json.loads((root / "index.json").read_text())
    index["splits"]["train"][0]["polygons_crc"] = zlib.crc32(file.read_bytes()) if file.exists() else 1
    (root / "index.json").write_text(json.dumps(index | {"index_crc": checksum(index)}))
    shards = Shards(root, trust=False)
    assert len(shards.table.boxes) == 7  # the boxes do not depend on it
    with pytest.raises(ShardError, match=message):
        _ = shards.table.polygons
    assert any("polygons.arrow" in f"{fault.place} {fault.reason}" for fault in verify(shards))


def test_another_checksum_is_damage(folder: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(folder, tmp_path / "s"))
    data = bytearray((root / "val/00000/polygons.arrow").read_bytes())
    data[-200] ^= 1
    (root / "val/00000/polygons.arrow").write_bytes(data)
    with pytest.raises(ShardError, match=r"val/00000/polygons.arrow: is damaged: its checksum"):
        _ = Shards(root).table.polygons


def test_a_box_that_was_moved_has_none() -> None:
    record = make()
    boxes = {f"b{n}": Box((10, 10, 70, 50), 0, 0) for n in range(3)}
    moved = edited_record(record, {"b2": boxes["b2"], "b0": Box((10, 10, 70, 51), 0, 0), "x": boxes["b1"]})
    assert moved.polygons is not None and moved.polygons.counts.tolist() == [2, 0, 0]
    assert edited_record(record, {"b1": boxes["b1"]}).polygons is None


def test_an_overlays_version_keeps_those_of_boxes_that_stay(folder: Path, tmp_path: Path) -> None:
    session = Session(Stored(Shards(folder)), tmp_path / "o")
    session.edit(0, "r", 0, [Delete("b0")])
    session.close()
    table = Shards(tmp_path / "o").table
    assert len(table.boxes) == 6 and table.polygons.counts.tolist() == [0, 2, 0, 1, 0, 2]


def test_merge_unites_them_and_diff_finds_a_change(folder: Path, tmp_path: Path) -> None:
    ingest(of(make(polygons=Polygons.of([[[0, *QUAD[1:]]], [], make().polygons.lists()[2]]))), tmp_path / "b")  # type: ignore[union-attr]
    ingest(merge([Shards(folder), Shards(tmp_path / "b")], "unite"), tmp_path / "c")
    assert Shards(tmp_path / "c", "train").table.polygons.counts.tolist() == [1, 0, 2, 1, 0, 2, 0]
    changes = diff(Shards(folder, "train", View(limit=1)), Shards(tmp_path / "b", "train"))
    assert changes.counts["boxes"]["other polygon"] == 1 and not changes.equal


def test_a_cache_holds_them_in_its_pixels(folder: Path, tmp_path: Path) -> None:
    shards = Shards(folder, "train")
    bake(shards, tmp_path / "c", Form(shapes=((32, 64),), raw=True))
    cache = Shards(tmp_path / "c")
    matrix = cache.to_stored(np.arange(2))[cache.table.image]
    assert matrix[0, 0, 0] < 0.6 and not cache.table.polygons.differ(shards.table.polygons.move(matrix)).any()
    np.testing.assert_allclose(cache.source.polygons.points, shards.table.polygons.points, atol=1e-4)


def test_an_export_says_which_are_lost(folder: Path, tmp_path: Path) -> None:
    lost = {name: export(Shards(folder), name, tmp_path / name).lost for name in ("coco", "cvat", "voc", "yolo")}
    kinds = ("polygons", "multipolygons")
    assert {name: [kind for kind in kinds if kind in lost[name]] for name in lost} == {
        "coco": [],
        "cvat": ["multipolygons"],
        "voc": ["polygons", "multipolygons"],
        "yolo": ["multipolygons"],
    }
    assert lost["voc"]["polygons"] == lost["voc"]["multipolygons"] == 2


def test_a_polygon_around_another_box_does_not_replace_the_box(tmp_path: Path) -> None:
    box, polygons = np.array([[1, 2, 10, 12]], np.float32), Polygons.of([[[3, 3, 5, 3, 5, 5]]])
    record = replace(make(count=1, polygons=polygons), boxes=box)
    ingest(of(record), tmp_path / "shards")
    for name in ("cvat", "datumaro", "labelme", "via", "yolo", "coco"):
        report = export(Shards(tmp_path / "shards"), name, tmp_path / name)
        (again,) = (record for record in formats.reader(name)(tmp_path / name).records if isinstance(record, Record))
        np.testing.assert_allclose(again.boxes, [[1, 2, 10, 12]], atol=1e-3)
        assert report.lost.get("loose_polygons", 0) == (name != "coco")


def test_a_contact_sheet_shows_them(folder: Path, tmp_path: Path) -> None:
    ingest(of(replace(make(), polygons=None)), tmp_path / "plain")
    sheets = [show(Shards(path, "train", View(limit=1)), n=1) for path in (folder, tmp_path / "plain")]
    differs = (sheets[0] != sheets[1]).any(2)
    y, x = np.nonzero(differs)
    assert 0 < differs.mean() < 0.1 and np.ptp(x) > np.ptp(y) > differs.shape[0] / 4


RECIPE = [
    {"op": "rotate", "p": 1.0, "degrees": 30.0},
    {"op": "flip", "p": 0.5},
]


@pytest.mark.parametrize("cached", [False, True])
def test_a_painted_polygon_lies_where_the_pixels_went(folder: Path, tmp_path: Path, cached: bool) -> None:
    if cached:
        bake(Shards(folder), tmp_path / "c", Form(shapes=((48, 80),), raw=True))
    path = tmp_path / "c" if cached else folder
    seen = 0
    for seed in range(5):
        loader = Loader(path, "train", batch_size=2, size=(120, 160), augment=RECIPE, seed=seed)
        for batch in loader:
            polygons = batch.polygons(loader.shards)
            assert polygons.counts.reshape(batch.labels.shape)[batch.labels.numpy() < 0].sum() == 0
            places = batch.labels.shape[1]
            for b in range(len(batch)):
                rings = polygons.part(b * places, b * places + 1).lists()[0]
                if rings and batch.labels[b, 0] >= 0:
                    seen += 1
                    compare(batch, b, rings[0])
    assert seen >= 4, seen


def compare(batch: Batch, b: int, ring: np.ndarray) -> None:
    """The painted quadrilateral is bright; the one of the moved points covers the same pixels, but for its border."""
    painted = batch.images[b].float().mean(0).numpy()
    painted = painted > painted.max() / 2
    canvas = np.zeros(painted.shape, np.uint8)
    cv2.fillPoly(canvas, [np.round((ring - 0.5) * 16).astype(np.int32)], 1, shift=4)
    both, either = (painted & (canvas > 0)).sum(), (painted | (canvas > 0)).sum()
    assert both / either > 0.93, both / either

"""`dataforge bake --tile`: parts of the images, with every pixel and every box accounted for."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from dataforge.augment.move import MIN_VISIBLE
from dataforge.images.header import probe
from dataforge.images.tiles import windows
from dataforge.polygons import Polygons
from dataforge.record import CROWD, TRUNCATED, Record
from dataforge.shards.reader import Shards
from dataforge.shards.table import row
from dataforge.shards.verify import verify
from dataforge.shards.writer import ShardWriter
from dataforge.transform.tile import Cutting, tiles
from tests import tiny
from tests.shards.test_writer import files
from tests.transform.test_bake import painted, refused, run

SIDE, OVERLAP = 40, 0.25


@pytest.fixture(scope="module")
def tiled(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tile") / "tiles"
    result = run("bake", tiny_shards, "--out", out, "--tile", SIDE, "--overlap", OVERLAP, "--jobs", 2)
    assert result.exit_code == 0, result.output
    return out


def place_of(key: str) -> tuple[str, int, int] | None:
    """The stem of the source image and the corner that a tile's name states."""
    stem, _, corner = key.rpartition("_x")
    x, _, y = corner.rpartition(".")[0].partition("_y")
    return (stem, int(x), int(y)) if stem else None


def test_each_tile_has_the_pixels_and_boxes_of_its_place(tiny_shards: Path, tiled: Path) -> None:
    source, cut = Shards(tiny_shards, "train"), Shards(tiled, "train")
    assert not list(verify(Shards(tiled))) and set(cut.splits) == {"train"}
    assert (cut.classes, cut.class_ids, cut.codec) == (source.classes, source.class_ids, "keep")
    where = {key: i for i, key in enumerate(cut.table.key.tolist())}
    number = 0
    for i, key in enumerate(source.table.key.tolist()):
        record = row(source.table, i, "train")
        for x1, y1, x2, y2 in windows(record.height, record.width, SIDE, OVERLAP).tolist():
            jpeg = probe(source.blob(i)).format == "JPEG"
            stem = key[:-4] if jpeg or key.endswith(".png") else key
            n = where[f"{stem}_x{x1}_y{y1}{'.jpg' if jpeg else '.png'}"]
            number += 1
            part = row(cut.table, n, "train")
            assert (part.height, part.width, part.id) == (y2 - y1, x2 - x1, -1)
            difference = np.abs(cut.pixels(n).astype(int) - source.pixels(i)[y1:y2, x1:x2])
            assert difference.max() <= (12 if jpeg else 0), key
            clipped = record.boxes.astype(float).clip([x1, y1] * 2, [x2, y2] * 2)
            side, full = clipped[:, 2:] - clipped[:, :2], record.boxes[:, 2:] - record.boxes[:, :2]
            kept = side.prod(1) >= MIN_VISIBLE * full.astype(float).prod(1)
            np.testing.assert_allclose(part.boxes + [x1, y1] * 2, clipped[kept], atol=1e-5)
            inside = kept & (record.boxes == clipped).all(1)
            np.testing.assert_array_equal(part.boxes[inside[kept]] + np.float32([x1, y1] * 2), record.boxes[inside])
            np.testing.assert_array_equal(part.labels, record.labels[kept])
            flags = record.flags | np.where(inside, 0, TRUNCATED)
            np.testing.assert_array_equal(part.flags, flags[kept])
    assert number == len(cut)


def test_painted_rectangles_are_under_their_boxes(tmp_path: Path) -> None:
    painted(tmp_path / "s", [(97, 151), (240, 320), (64, 200), (30, 30)])
    result = run("bake", tmp_path / "s", "--out", tmp_path / "t", "--tile", 64, "--empty-tiles", 0.3)
    assert result.exit_code == 0, result.output
    cut = Shards(tmp_path / "t")
    assert "3.png" in cut.table.key.tolist()
    boxes = 0
    for i in range(len(cut)):
        record, white = row(cut.table, i, "train"), cut.pixels(i)[..., 0] > 0
        if len(record.boxes):
            rows, columns = np.nonzero(white)
            hull = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert record.boxes.tolist() == [hull] and record.areas[0] == white.sum()  # type: ignore[index]
            boxes += 1
    assert boxes > 8


def shaped(out: Path) -> Path:
    """One picture with: a box on the seam, with a polygon and a mask's area; a crowd; one over all."""
    data = tiny.encode(tiny.pixels(100, 200))
    boxes = np.array([[60, 10, 140, 50], [10, 60, 30, 80], [0, 0, 200, 100]], np.float32)
    polygons = Polygons.of([[[60, 10, 140, 10, 140, 50]], [], []])
    areas = np.array([1600, 400, 20000], np.float32)
    record = Record("a.jpg", "train", data, 100, 200, boxes, np.array([0, 1, 2], np.int32), np.uint8([0, CROWD, 0]))
    judged = np.array([[3, 0], [1, 1]], np.int32)
    record = Record(**{**vars(record), "polygons": polygons, "areas": areas, "judged": judged})
    with ShardWriter(out, ("a", "b", "c", "d", "e")) as writer:
        writer.add(record, data, probe(data))
        writer.publish()
    return out


def test_polygons_areas_and_what_was_looked_for_follow(tmp_path: Path) -> None:
    result = run("bake", shaped(tmp_path / "s"), "--out", tmp_path / "t", "--tile", 100, "--overlap", 0)
    assert result.exit_code == 0, result.output
    left, right = (row(Shards(tmp_path / "t").table, i, "train") for i in range(2))
    assert left.boxes.tolist() == [[60, 10, 100, 50], [10, 60, 30, 80], [0, 0, 100, 100]]
    assert right.boxes.tolist() == [[0, 10, 40, 50], [0, 0, 100, 100]] and right.labels.tolist() == [0, 2]
    assert left.flags.tolist() == [TRUNCATED, CROWD, TRUNCATED] and left.areas.tolist() == [800, 400, 10000]  # type: ignore[union-attr]
    assert right.polygons.lists()[0][0].tolist() == [[-40, 10], [40, 10], [40, 50]]  # type: ignore[union-attr]
    assert left.judged.tolist() == [[3, 0], [1, 1]]  # type: ignore[union-attr]
    assert right.judged.tolist() == [[3, 0], [1, 1]], "of class 1 boxes may be missing anywhere"  # type: ignore[union-attr]


def test_a_box_in_no_tile_and_tiles_without_boxes_are_reported(tmp_path: Path) -> None:
    shards = shaped(tmp_path / "s")
    result = run("bake", shards, "--out", tmp_path / "t", "--tile", 30, "--empty-tiles", 0, "--json")
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert facts["findings"]["refused"] == {"box-tiled": 1} and facts["refused_boxes"] == 1
    lines = [json.loads(line) for line in (tmp_path / "t/ingest.jsonl").read_text().splitlines()]
    assert [line["xyxy"] for line in lines if line.get("code") == "box-tiled"] == [[0, 0, 200, 100]]
    [summary] = [line["value"] for line in lines if line.get("code") == "tiles-cut"]
    every = tiles(Shards(shards), Cutting(30)).total
    assert summary.startswith(f"{every} tiles of 1 image, side 30, overlap 0.2; 0 images are no larger")
    cut = Shards(tmp_path / "t")
    assert (np.diff(cut.table.offsets) > 0).all() and 0 < len(cut) < every
    assert f"{every - len(cut)} tiles have no box, {every - len(cut)} of them were left out" in summary
    assert "1 are in no tile" in summary and f"3 boxes of these images became {len(cut.table.boxes)}" in summary


def test_a_share_of_the_tiles_without_boxes(tiny_shards: Path, tmp_path: Path) -> None:
    kept = {}
    for share in (0.0, 0.3, 0.6, 1.0):
        source = tiles(Shards(tiny_shards, "train"), Cutting(16, empty=share), jobs=2)
        records = [item for item in source.records if isinstance(item, Record)]
        kept[share] = {record.key for record in records if not len(record.boxes)}
    assert not kept[0.0] and kept[0.3] < kept[0.6] < kept[1.0]
    assert 0.15 < len(kept[0.3]) / len(kept[1.0]) < 0.45


def test_any_number_of_jobs_writes_the_same_bytes(tiny_shards: Path, tmp_path: Path) -> None:
    made = defaultdict(dict)  # type: ignore[var-annotated]
    for jobs in (1, 3):
        out = tmp_path / str(jobs)
        assert run("bake", tiny_shards, "--out", out, "--tile", 40, "--jobs", jobs, "--store", "memmap").exit_code == 0
        made[jobs] = {name: data for name, data in files(out).items() if "ingest.jsonl" not in str(name)}
    assert made[1] == made[3]


def test_other_commands_take_tiles(tiny_shards: Path, tiled: Path, tmp_path: Path) -> None:
    for words in (
        ("lint", tiled),
        ("diff", tiled, tiled),
        ("export", tiled, "--format", "coco", "--out", tmp_path / "coco"),
        ("split", tiled, "--out", tmp_path / "split", "--val", 0.3, "--group-by", r"(.+)_x\d+_y\d+"),
    ):
        result = run(*words)
        assert result.exit_code == (1 if words[0] == "lint" and "error" in result.stdout else 0), result.output
    again = tmp_path / "again"
    assert run("ingest", "coco", tmp_path / "coco", "--out", again).exit_code == 0
    table, other = Shards(tiled).table, Shards(again).table
    assert len(other) == len(table) and len(other.boxes) == len(table.boxes)
    line = run("log", tiled).stdout.splitlines()[0]
    assert f"bake {tiny_shards} --tile {SIDE} --overlap {OVERLAP}" in line
    parts = Shards(tmp_path / "split")
    stems = [
        {place[0] for key in parts.table.key[rows].tolist() if (place := place_of(key.rpartition("/")[2]))}
        for rows in parts.splits.values()
    ]
    assert not stems[0] & stems[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--tile", 0), "at least 1"),
        (("--tile", 40, "--overlap", 0.95), "at most 0.9"),
        (("--tile", 40, "--side", 20), "omit --side"),
        (("--tile", 40, "--raw"), "omit --raw"),
        (("--tile", 40, "--yuv420"), "omit --yuv420"),
        (("--tile", 40, "--lossless"), "omit --lossless"),
        (("--max-bad", 1, "--side", 9), "expected --tile"),
        (("--tile", 40, "--fit", "stretch"), "omit --fit"),
        (("--overlap", 0.5), "expected --tile"),
        (("--empty-tiles", 0.5, "--side", 9), "expected --tile"),
    ],
)
def test_wrong_options(tiny_shards: Path, tmp_path: Path, words: tuple[object, ...], message: str) -> None:
    assert message in refused("bake", tiny_shards, "--out", tmp_path / "t", *words)
    assert not (tmp_path / "t").exists()


def test_what_cannot_be_cut(tiny_shards: Path, tmp_path: Path) -> None:
    assert run("bake", tiny_shards, "--out", tmp_path / "cache", "--side", 40).exit_code == 0
    assert "is a cache" in refused("bake", tmp_path / "cache", "--out", tmp_path / "t", "--tile", 20)
    shards = tiny.shards(tmp_path / "s", splits=("train",))
    tiny.damage(shards / "train/00000", 3)
    assert "record 3" in refused("bake", shards, "--out", tmp_path / "t", "--tile", 20)
    assert "is inside the shards" in refused("bake", tiny_shards, "--out", tiny_shards / "train" / "t", "--tile", 20)


def test_a_picture_that_cannot_be_decoded_may_be_left_out(tmp_path: Path) -> None:
    data = bytearray(tiny.encode(tiny.pixels(50, 50), "PNG"))
    data[data.index(b"IDAT") + 6] ^= 0xFF
    written(tmp_path / "s", {"a.png": (50, 50)}, {"bad.png": bytes(data)})
    assert "refused images: 1" in refused("bake", tmp_path / "s", "--out", tmp_path / "t", "--tile", 30)
    result = run("bake", tmp_path / "s", "--out", tmp_path / "t", "--tile", 30, "--max-bad", 1)
    assert result.exit_code == 0 and "bad.png" in result.output and len(Shards(tmp_path / "t")) == 4


def test_no_tile_has_the_name_of_an_image(tmp_path: Path) -> None:
    written(tmp_path / "s", {"a.png": (50, 50), "a_x0_y0.png": (20, 20)})
    assert run("bake", tmp_path / "s", "--out", tmp_path / "t", "--tile", 30).exit_code == 0
    keys = Shards(tmp_path / "t").table.key.tolist()
    assert len(set(keys)) == 5 and {"a_x0_y0.png", "a_tile_x0_y0.png", "a_x20_y20.png"} <= set(keys)


def written(out: Path, sizes: dict[str, tuple[int, int]], more: dict[str, bytes] | None = None) -> None:
    """Write shards of images without boxes, of some sizes or bytes."""
    images = {key: tiny.encode(tiny.pixels(*size), "PNG") for key, size in sizes.items()} | (more or {})
    nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.int32), np.zeros(0, np.uint8)
    with ShardWriter(out, tiny.CLASSES) as writer:
        for key, data in images.items():
            info = probe(data)
            writer.add(Record(key, "train", data, info.height, info.width, *nothing), data, info)
        writer.publish()

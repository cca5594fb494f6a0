from __future__ import annotations

import json
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dataforge.cli import main
from dataforge.decode import decode
from dataforge.errors import FormatError, ShardError
from dataforge.formats import reader
from dataforge.image import ImageInfo, probe
from dataforge.ingest import IngestError, ingest
from dataforge.mend import clean, turn
from dataforge.record import Finding, Record, Source
from dataforge.shards.reader import Shards, verify
from tests import tiny
from tests.formats.sets import drain

ORIENTATIONS = range(1, 9)


def source(*records: Record | Finding) -> Source:
    return Source(tiny.CLASSES, iter(records), tiny.CLASS_IDS)


def record(boxes: object, *, image: bytes = b"", size: tuple[int, int] = (48, 64), areas: object = None) -> Record:
    array = np.array(boxes, np.float32).reshape(-1, 4)
    return Record(
        key="a.jpg",
        split="train",
        image=image,
        height=size[0],
        width=size[1],
        boxes=array,
        labels=np.zeros(len(array), np.int32),
        flags=np.zeros(len(array), np.uint8),
        areas=None if areas is None else np.array(areas, np.float32),
        origin="truth.json",
    )


def lines(out: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (out / "ingest.jsonl").read_text().splitlines()]


def test_everything_awkward_arrives_untouched(tmp_path: Path) -> None:
    truth = tiny.records()
    summary = ingest(source(*truth), tmp_path / "out", source_name="tiny")
    shards = Shards(tmp_path / "out")
    assert not list(verify(shards)) and not summary.findings
    assert (summary.images, summary.boxes) == (len(truth), sum(len(r.boxes) for r in truth))
    assert lines(tmp_path / "out") == [summary.facts()]
    for i, one in enumerate(truth):
        rows = slice(shards.table.offsets[i], shards.table.offsets[i + 1])
        assert bytes(shards.blob(i)) == one.image and shards.table.key[i] == one.key
        np.testing.assert_array_equal(shards.table.boxes[rows], one.boxes)
        np.testing.assert_array_equal(shards.table.flags[rows], one.flags)


@pytest.mark.parametrize(
    ("name", "folder", "images", "boxes"),
    [("voc", "bccd", 364, 4888), ("voc", "fod_a_2k", 2000, 2040), ("yolo", "coco128_yolo", 256, 1827),
     ("coco", "coco_mini", 159, 1363)],
)  # fmt: skip
def test_real_sets_through_the_command(
    shared_data: Path, tmp_path: Path, name: str, folder: str, images: int, boxes: int
) -> None:
    out = tmp_path / "out"
    result = CliRunner().invoke(main, ["ingest", name, str(shared_data / folder), "--out", str(out), "--json"])
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert (facts["images"], facts["boxes"]) == (images, boxes)
    shards = Shards(out)
    truth, findings = drain(reader(name)(shared_data / folder))
    assert [r.key for r in truth] == shards.table.key.tolist()
    inner = [clean(r)[0].boxes for r in truth]
    np.testing.assert_array_equal(np.concatenate(inner), shards.table.boxes)
    np.testing.assert_array_equal(np.concatenate([r.labels for r in truth]), shards.table.labels)
    np.testing.assert_array_equal(np.concatenate([r.flags for r in truth]), shards.table.flags)
    for i, one in enumerate(truth):
        assert isinstance(one.image, Path) and one.image.read_bytes() == bytes(shards.blob(i))
    counted = Counter(f.code for f in findings)
    for codes in facts["findings"].values():
        assert all(counted.get(code, n) == n for code, n in codes.items())
    assert len(lines(out)) == 1 + sum(sum(codes.values()) for codes in facts["findings"].values())


def painted(orientation: int) -> tuple[bytes, np.ndarray]:
    """A JPEG with a white rectangle on black, and the rectangle as (1, 4) in the pixels as stored."""
    pixels = np.zeros((80, 128, 3), np.uint8)
    pixels[16:40, 24:80] = 255
    return tiny.encode(pixels, orientation=orientation), np.array([[24, 16, 80, 40]], np.float32)


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("declared", ["upright", "stored", "unknown"])
def test_exif_the_box_lies_on_the_painted_rectangle(tmp_path: Path, orientation: int, declared: str) -> None:
    blob, stored = painted(orientation)
    info = probe(blob)
    size = {"upright": (info.height, info.width), "stored": (80, 128), "unknown": (0, 0)}[declared]
    drawn_on_stored = declared == "stored" and orientation >= 5  # 1..4 keep the size: taken for upright
    boxes = stored if drawn_on_stored else turn(stored, info)
    summary = ingest(source(record(boxes, image=blob, size=size)), tmp_path / "out")
    shards = Shards(tmp_path / "out")
    x1, y1, x2, y2 = shards.table.boxes[0].astype(int)
    upright = decode(shards.blob(0), int(shards.table.orientation[0]))[..., 0]
    mask = np.zeros_like(upright, bool)
    mask[y1:y2, x1:x2] = True
    assert upright[mask].mean() > 250 and upright[~mask].mean() < 5 and mask.sum() == 24 * 56
    assert summary.findings == ({("repaired", "size-unrotated"): 1} if drawn_on_stored else {})


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_turn_agrees_with_decoding(orientation: int) -> None:
    blob, stored = painted(orientation)
    x1, y1, x2, y2 = turn(stored, probe(blob))[0].astype(int)
    upright = decode(blob, orientation)[..., 0]
    assert upright[y1:y2, x1:x2].mean() > 250 and x2 > x1 and y2 > y1


def test_a_declared_size_that_is_wrong(tmp_path: Path) -> None:
    blob = tiny.encode(tiny.pixels(48, 64))
    summary = ingest(source(record([[1, 2, 30, 40]], image=blob, size=(480, 640))), tmp_path / "out")
    shards = Shards(tmp_path / "out")
    assert (shards.table.height[0], shards.table.width[0]) == (48, 64)
    assert shards.table.boxes.tolist() == [[1, 2, 30, 40]] and summary.findings == {("repaired", "size-wrong"): 1}


@pytest.mark.parametrize(
    ("box", "code", "kept"),
    [
        ([1, 2, 3, 4], None, [1, 2, 3, 4]),
        ([0, 0, 64, 48], None, [0, 0, 64, 48]),
        ([-0.01, 0, 64.01, 48.01], None, [0, 0, 64, 48]),
        ([-1, 0, 10, 10], "box-clipped", [0, 0, 10, 10]),
        ([60, 40, 70, 50], "box-clipped", [60, 40, 64, 48]),
        ([10, 2, 3, 4], "box-inverted", [3, 2, 10, 4]),
        ([64, 0, 70, 10], "box-outside", None),
        ([-5, -5, -1, -1], "box-outside", None),
        ([5, 5, 5, 9], "box-empty", None),
        ([float("nan"), 0, 1, 1], "box-nan", None),
        ([0, 0, float("inf"), 1], "box-nan", None),
    ],
)
def test_cleaning(box: list[float], code: str | None, kept: list[float] | None) -> None:
    mended, found = clean(record([box, [1, 1, 2, 2]]))
    assert mended.boxes.tolist() == ([kept] if kept else []) + [[1, 1, 2, 2]]
    assert [f.code for f in found] == ([code] if code else [])
    assert len(mended.labels) == len(mended.flags) == len(mended.boxes)
    assert all(f.action == ("repaired" if kept else "refused") and f.key == "a.jpg box 0" for f in found)


@given(arrays(np.float32, st.tuples(st.integers(0, 20), st.just(4)), elements=st.floats(width=32)))
def test_cleaned_boxes_are_always_right_and_every_other_one_is_listed(boxes: np.ndarray) -> None:
    mended, found = clean(record(boxes, areas=boxes[:, 0]))
    assert mended.areas is not None and np.isfinite(mended.areas).all() and (mended.areas >= 0).all()
    assert (mended.boxes >= 0).all() and (mended.boxes <= [64, 48, 64, 48]).all()
    assert (mended.boxes[:, 2:] > mended.boxes[:, :2]).all()
    refused = [f.key for f in found if f.action == "refused"]
    assert len(refused) == len(set(refused)) == len(boxes) - len(mended.boxes)
    again, nothing = clean(mended)
    assert not nothing and (again.boxes == mended.boxes).all()


@given(st.sampled_from(ORIENTATIONS), st.integers(1, 99), st.integers(1, 99))
def test_a_full_box_stays_full_when_turned(orientation: int, height: int, width: int) -> None:
    info = ImageInfo("JPEG", height, width, orientation, "RGB")
    stored = (width, height) if orientation < 5 else (height, width)
    assert turn(np.array([[0, 0, *stored]], np.float32), info).tolist() == [[0, 0, width, height]]


def test_areas_follow_repaired_boxes_only() -> None:
    boxes = [[-10, 0, 10, 10], [-10, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10]]
    mended, _ = clean(record(boxes, areas=[200, 50, 500, -1]))
    assert mended.areas is not None and mended.areas.tolist() == [100, 50, 500, 100]


def test_refused_images_are_counted_and_nothing_is_published(tmp_path: Path) -> None:
    out = tmp_path / "out"
    good = [r for r in tiny.records() if r.key == "a.jpg"]
    bad = [replace(good[0], key=f"{n}.jpg", image=tmp_path / f"{n}.jpg") for n in range(5)]
    with pytest.raises(IngestError, match="refused images: 5, --max-bad allows 4") as caught:
        ingest(source(*good, *bad), out, max_bad=4)
    assert "0.jpg" in str(caught.value) and "and 2 more" in str(caught.value)
    assert [p.name for p in out.iterdir()] == ["ingest.jsonl"]
    written = lines(out)
    assert [line["key"] for line in written[:-1]] == [r.key for r in bad]
    assert written[-1] == caught.value.summary.facts()
    summary = ingest(source(*good, *bad), out, max_bad=5)
    assert (summary.images, len(Shards(out))) == (1, 1)


def test_a_set_without_images_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(IngestError, match="no image is left"):
        ingest(source(), tmp_path / "out")
    assert not (tmp_path / "out/index.json").exists()


def test_the_same_key_in_two_splits_is_fine_and_twice_in_one_is_not(tmp_path: Path) -> None:
    one = tiny.records()[0]
    ingest(source(one, replace(one, split="val")), tmp_path / "fine")
    summary = ingest(source(one, one), tmp_path / "twice", max_bad=1)
    assert summary.findings == {("refused", "image-twice"): 1} and summary.images == 1


@pytest.mark.parametrize("split", ["", "..", ".", "a/b", "../a", "a\\b", "a\0b", "index.json"])
def test_a_split_that_is_no_folder_name(tmp_path: Path, split: str) -> None:
    with pytest.raises(FormatError, match=r"split .*cannot be a folder's name"):
        ingest(source(replace(tiny.records()[0], split=split)), tmp_path / "sub/out")
    assert [p.name for p in (tmp_path / "sub/out").iterdir()] == ["ingest.jsonl"]


def test_names_that_are_not_unicode(tmp_path: Path) -> None:
    odd = replace(tiny.records()[0], key="a\udcff.jpg")
    summary = ingest(source(tiny.records()[1], odd), tmp_path / "out", max_bad=1)
    assert summary.findings == {("refused", "image-path"): 1}
    summary.text().encode()
    with pytest.raises(FormatError, match="is not Unicode"):
        ingest(Source(("a\ud800",), iter(())), tmp_path / "other")


def test_decode_check_finds_what_the_header_hides(tmp_path: Path) -> None:
    whole = tiny.encode(tiny.pixels(96, 128))
    hurt = record([[1, 1, 5, 5]], image=whole[: len(whole) // 2] + b"\xff\xd9", size=(96, 128))  # cut, but with an end
    assert ingest(source(hurt), tmp_path / "loose").images == 1
    with pytest.raises(IngestError, match="cannot be decoded"):
        ingest(source(hurt), tmp_path / "strict", decode_check=True)


def test_an_error_and_an_interruption_leave_the_report_alone(tmp_path: Path) -> None:
    def stream(error: BaseException) -> Iterator[Record | Finding]:
        yield from tiny.records()
        raise error

    for error in (KeyboardInterrupt(), FormatError("x"), RuntimeError("ours")):
        with pytest.raises(type(error)):
            ingest(Source(tiny.CLASSES, stream(error)), tmp_path / "out")
        assert [p.name for p in (tmp_path / "out").iterdir()] == ["ingest.jsonl"]
    assert ingest(source(*tiny.records()), tmp_path / "out").images == 10
    with pytest.raises(ShardError, match="already holds shards"):
        ingest(source(*tiny.records()), tmp_path / "out")


def test_progress_counts_all_images(tmp_path: Path) -> None:
    one = tiny.records()[0]
    refused = Finding("refused", "annotation-broken", "x.xml", "x", "", "", "image")
    said: list[int] = []
    gone = replace(one, key="gone", image=tmp_path / "gone")
    ingest(source(one, refused, gone), tmp_path / "out", max_bad=2, progress=said.append)
    assert said == [1, 2, 3]


def test_memory_does_not_grow_with_the_images(tmp_path: Path) -> None:
    megabyte = tmp_path / "a.bmp"
    megabyte.write_bytes(tiny.encode(np.zeros((512, 683, 3), np.uint8), "BMP"))
    many = (replace(record([]), key=f"{n}.bmp", image=megabyte, height=0, width=0) for n in range(150))
    tracemalloc.start()
    try:
        ingest(Source((), many), tmp_path / "out")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert Shards(tmp_path / "out").table.size.sum() > 150e6 and peak < 80e6

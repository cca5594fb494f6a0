from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dataforge import __version__
from dataforge.cli.main import main
from dataforge.errors import FormatError, ImageError, ShardError
from dataforge.formats import reader
from dataforge.images import header
from dataforge.images.decode import decode
from dataforge.images.header import ImageInfo, probe
from dataforge.ingest.journal import _checksum_before
from dataforge.ingest.run import IngestError, ingest
from dataforge.record import Finding, Record, Source
from dataforge.shards.reader import Shards
from dataforge.shards.verify import verify
from dataforge.sources.repair import repair_boxes, turn
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
    assert not list(verify(shards))
    noted = ("image-mode", "image-deep", "image-rotated")
    assert summary.findings == {("noted", code): 1 for code in noted}
    assert (summary.images, summary.boxes) == (len(truth), sum(len(r.boxes) for r in truth))
    (last,) = lines(tmp_path / "out")[len(noted) :]
    assert last.pop("made")["dataforge"] == __version__ and last == summary.facts()
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
    inner = [repair_boxes(r)[0].boxes for r in truth]
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
    expected = {("repaired", "size-unrotated"): 1} if drawn_on_stored else {}
    assert summary.findings == expected | ({("noted", "image-rotated"): 1} if orientation != 1 else {})


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
    mended, found = repair_boxes(record([box, [1, 1, 2, 2]]))
    assert mended.boxes.tolist() == ([kept] if kept else []) + [[1, 1, 2, 2]]
    assert [f.code for f in found] == ([code] if code else [])
    assert len(mended.labels) == len(mended.flags) == len(mended.boxes)
    assert all(f.action == ("repaired" if kept else "refused") and (f.key, f.box) == ("a.jpg", 0) for f in found)


@given(arrays(np.float32, st.tuples(st.integers(0, 20), st.just(4)), elements=st.floats(width=32)))
def test_cleaned_boxes_are_always_right_and_every_other_one_is_listed(boxes: np.ndarray) -> None:
    mended, found = repair_boxes(record(boxes, areas=boxes[:, 0]))
    assert mended.areas is not None and np.isfinite(mended.areas).all() and (mended.areas >= 0).all()
    assert (mended.boxes >= 0).all() and (mended.boxes <= [64, 48, 64, 48]).all()
    assert (mended.boxes[:, 2:] > mended.boxes[:, :2]).all()
    refused = [f.box for f in found if f.action == "refused"]
    assert len(refused) == len(set(refused)) == len(boxes) - len(mended.boxes)
    again, nothing = repair_boxes(mended)
    assert not nothing and (again.boxes == mended.boxes).all()


@given(st.sampled_from(ORIENTATIONS), st.integers(1, 99), st.integers(1, 99))
def test_a_full_box_stays_full_when_turned(orientation: int, height: int, width: int) -> None:
    info = ImageInfo("JPEG", height, width, orientation, "RGB")
    stored = (width, height) if orientation < 5 else (height, width)
    assert turn(np.array([[0, 0, *stored]], np.float32), info).tolist() == [[0, 0, width, height]]


def test_areas_follow_repaired_boxes_only() -> None:
    boxes = [[-10, 0, 10, 10], [-10, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10]]
    mended, _ = repair_boxes(record(boxes, areas=[200, 50, 500, -1]))
    assert mended.areas is not None and mended.areas.tolist() == [100, 50, 500, 100]


@pytest.mark.parametrize("left", [-10, 0])  # clipped, and as it is
def test_areas_that_none_can_have_are_listed(left: int) -> None:
    boxes = [[left, 0, 10, 10]] * 4
    mended, findings = repair_boxes(record(boxes, areas=[-1, float("inf"), float("nan"), 7]))
    assert mended.areas is not None and mended.areas.tolist() == [100, 100, 100, 7]
    listed = [(finding.box, finding.value) for finding in findings if finding.code == "box-area"]
    assert listed == [(0, "area -1"), (1, "area inf")]


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
    assert written[-1] == caught.value.summary.facts() | {"made": written[-1]["made"]}
    summary = ingest(source(*good, *bad), out, max_bad=5)
    assert (summary.images, len(Shards(out))) == (1, 1)


def test_a_set_without_images_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(IngestError, match="no image is left"):
        ingest(source(), tmp_path / "out")
    assert not (tmp_path / "out/index.json").exists()
    noted = Finding("noted", "not-annotated", "set.json", "", "1 task", "no annotation; left out", "set")
    with pytest.raises(
        IngestError, match=r"no image is left; nothing was published\n  set.json: 1 task: no annotation"
    ):
        ingest(source(noted), tmp_path / "out")


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


@pytest.fixture
def few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dataforge.ingest.run.BATCH", 2)  # else all 60 are on their way at once


def stock(folder: Path, *, broken: int = 0) -> list[Record | Finding]:
    """Files in two splits in turn, some twice, missing, mended or with findings between them."""
    folder.mkdir(exist_ok=True)
    items: list[Record | Finding] = []
    for n in range(60):
        split = "val" if n % 3 else "train"
        key = f"{n - 9 if n % 20 == 19 else n}.jpg"
        path = folder / (key if n % 17 != 16 else "gone.jpg")
        if path.name != "gone.jpg" and not path.exists():
            path.write_bytes(b"nothing" if n < broken else tiny.encode(tiny.pixels(40 + n, 64, n)))
        boxes = np.array([[1, 2, 30 + 20 * (n % 3), 35]] * (n % 4), np.float32).reshape(-1, 4)
        items.append(replace(record(boxes), key=key, split=split, image=path, height=40 + n, width=64, id=n))
        if n % 7 == 0:
            items.append(Finding("noted", "odd", "truth.json", key, "", "between two records", "set"))
    return items


def files(out: Path) -> dict[str, bytes]:
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


HOW: dict[str, Any] = {"max_bad": 20, "shard_bytes": 6000, "jobs": 2}


@pytest.mark.usefixtures("few_at_a_time")
@pytest.mark.parametrize("jobs", [2, 5])
def test_any_number_of_jobs_gives_the_same_files(tmp_path: Path, jobs: int) -> None:
    items, out = stock(tmp_path / "in"), tmp_path / "out"
    found = []
    for n in (1, jobs):
        summary = ingest(Source(tiny.CLASSES, iter(items)), out, **{**HOW, "jobs": n})
        found.append((files(out), summary))
        shutil.rmtree(out)
    assert found[0] == found[1] and found[0][1].refused_images > 2 and found[0][1].findings["repaired", "box-clipped"]
    assert len([name for name in found[0][0] if name.endswith("table.arrow")]) > 4


@pytest.mark.usefixtures("few_at_a_time")
@pytest.mark.parametrize("stop", [7, 33, 50, 60])
@pytest.mark.parametrize("error", [KeyboardInterrupt, FormatError])
def test_an_interrupted_ingest_goes_on_to_the_same_files(tmp_path: Path, stop: int, error: type[BaseException]) -> None:
    items, out = stock(tmp_path / "in"), tmp_path / "out"

    def broken_off() -> Iterator[Record | Finding]:
        yield from items[:stop]
        raise error("here")

    whole = ingest(Source(tiny.CLASSES, iter(items)), out, **HOW)
    expected = files(out)
    shutil.rmtree(out)
    for _ in range(2):  # twice: a journal can be gone on with more than once
        with pytest.raises(error):
            ingest(Source(tiny.CLASSES, broken_off()), out, resume=True, **HOW)
    kept = {name: (out / name).stat().st_mtime_ns for name in files(out) if name.endswith("table.arrow")}
    assert bool(kept) == (stop > 7) == (out / "resume.jsonl").exists() and not (out / "index.json").exists()
    again = ingest(Source(tiny.CLASSES, iter(items)), out, resume=True, **HOW)
    assert files(out) == expected and again == whole
    assert kept == {name: (out / name).stat().st_mtime_ns for name in kept}


@pytest.mark.usefixtures("few_at_a_time")
def test_a_journal_that_was_cut_counts_up_to_the_cut(tmp_path: Path) -> None:
    items, out = stock(tmp_path / "in"), tmp_path / "out"
    ingest(Source(tiny.CLASSES, iter(items)), out, **HOW)
    expected = files(out)
    shutil.rmtree(out)
    with pytest.raises(IngestError):
        ingest(Source(tiny.CLASSES, iter([*items, *items])), out, **HOW)  # everything twice: more bad than allowed
    journal = (out / "resume.jsonl").read_bytes()
    before = files(out)
    for end in (0, 40, journal.index(b"\n") + 1, journal.index(b"\n") + 90, len(journal) - 1, len(journal)):
        shutil.rmtree(out)
        for name, data in before.items():
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (out / name).write_bytes(data)
        (out / "resume.jsonl").write_bytes(journal[:end])
        ingest(Source(tiny.CLASSES, iter(items)), out, resume=True, **HOW)
        assert files(out) == expected


def interrupted(tmp_path: Path) -> tuple[list[Record | Finding], Path]:
    items, out = stock(tmp_path / "in"), tmp_path / "out"

    def broken_off() -> Iterator[Record | Finding]:
        yield from items
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ingest(Source(tiny.CLASSES, broken_off()), out, **HOW)
    return items, out


@pytest.mark.usefixtures("few_at_a_time")
@pytest.mark.parametrize("change", ["box", "label", "key", "image", "fewer", "classes", "options", "table", "blobs"])
def test_resume_refuses_what_is_not_what_it_was(tmp_path: Path, change: str) -> None:
    items, out = interrupted(tmp_path)
    before = files(out)
    at = next(n for n, item in enumerate(items) if isinstance(item, Record) and len(item.boxes) > 1)
    first, how = items[at], dict(HOW)
    classes: tuple[str, ...] = tiny.CLASSES
    assert isinstance(first, Record) and isinstance(first.image, Path)
    if change == "box":
        items[at] = replace(first, boxes=first.boxes + np.float32(0.5))
    elif change == "label":
        items[at] = replace(first, labels=first.labels + 1)
    elif change == "key":
        items[at] = replace(first, key="other.jpg")
    elif change == "image":
        first.image.write_bytes(first.image.read_bytes() + b"\0")
    elif change == "fewer":
        items = items[:5]
    elif change == "classes":
        classes = (*classes, "bird")
    elif change == "options":
        how["decode_check"] = True
    else:
        path = next(out.rglob("table.arrow" if change == "table" else "blobs.mdb"))
        path.write_bytes(path.read_bytes()[:-9000] if change == "blobs" else path.read_bytes()[:-1] + b"x")
        before = files(out)
    with pytest.raises(ShardError, match="run it without --resume to start again"):
        ingest(Source(classes, iter(items)), out, resume=True, **how)
    after = files(out)
    assert {name for name in before if name != "ingest.jsonl"} == {name for name in after if name != "ingest.jsonl"}
    assert ingest(Source(classes, iter(items)), out, **how).images and not (out / "resume.jsonl").exists()


@pytest.mark.usefixtures("few_at_a_time")
@pytest.mark.parametrize("how", ["absolute", "relative", "from another folder", "journal of 0.1.0"])
def test_resume_takes_the_same_root_under_another_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    items, out = stock(tmp_path / "in"), tmp_path / "out"
    monkeypatch.chdir(tmp_path)

    def named(root: Path) -> list[Record | Finding]:
        return [
            replace(item, image=root / item.image.relative_to(tmp_path / "in"), origin=str(root / "labels.json"))
            if isinstance(item, Record) and isinstance(item.image, Path)
            else item
            for item in items
        ]

    def broken_off(root: Path) -> Iterator[Record | Finding]:
        yield from named(root)
        raise KeyboardInterrupt

    before, after = (tmp_path / "in", Path("in")) if how == "relative" else (Path("in"), tmp_path / "in")
    if how == "journal of 0.1.0":
        before = after
        monkeypatch.setattr("dataforge.ingest.run.checksum", _checksum_before)
    with pytest.raises(KeyboardInterrupt):
        ingest(Source(tiny.CLASSES, broken_off(before)), out, **HOW)
    monkeypatch.undo()
    monkeypatch.setattr("dataforge.ingest.run.BATCH", 2)
    monkeypatch.chdir(tmp_path)
    if how == "from another folder":
        monkeypatch.chdir(tmp_path / "in")
        after = Path("../in")
    kept = {path: path.stat().st_mtime_ns for path in out.rglob("table.arrow")}
    assert kept
    ingest(Source(tiny.CLASSES, iter(named(after))), out, resume=True, **HOW)
    assert kept == {path: path.stat().st_mtime_ns for path in kept}


@pytest.mark.usefixtures("few_at_a_time")
def test_without_resume_the_next_ingest_clears_what_was_left(tmp_path: Path) -> None:
    _, out = interrupted(tmp_path)
    assert (out / "resume.jsonl").exists() and list(out.rglob("table.arrow"))
    with pytest.raises(FormatError):
        ingest(Source(tiny.CLASSES, stopped()), out, **HOW)
    assert list(files(out)) == ["ingest.jsonl"]


def stopped() -> Iterator[Record | Finding]:
    raise FormatError("at once")
    yield


def test_a_killed_ingest_goes_on(tmp_path: Path) -> None:
    """SIGKILL in the middle, through the function in a process of its own."""
    code = (
        "import sys, os\\nfrom pathlib import Path\\nfrom tests.ingest.test_ingest import HOW, stock, tiny\\n"
        "import dataforge.ingest.run\\ndataforge.ingest.run.BATCH = 2\\n"
        "from dataforge.ingest.run import ingest\\nfrom dataforge.record import Source\\n"
        "def items():\\n    yield from stock(Path(sys.argv[1]))[:45]\\n    os.kill(os.getpid(), 9)\\n"
        "ingest(Source(tiny.CLASSES, items()), Path(sys.argv[2]), **HOW)\\n"
    ).replace("\\n", "\n")
    out = tmp_path / "out"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "in"), str(out)], cwd=root, check=False)
    assert done.returncode == -9 and (out / "resume.jsonl").exists() and not (out / "index.json").exists()
    items = stock(tmp_path / "in")
    ingest(Source(tiny.CLASSES, iter(items)), out, resume=True, **HOW)
    ingest(Source(tiny.CLASSES, iter(items)), tmp_path / "whole", **HOW)
    one, other = files(out), files(tmp_path / "whole")
    assert one.pop("ingest.jsonl").replace(b"/out", b"/whole") == other.pop("ingest.jsonl") and one == other


@given(st.data())
def test_plain_jpegs_are_read_as_pillow_reads_them(data: st.DataObject) -> None:
    """Whatever bytes of a header change, the fast way gives Pillow's answer, or none."""
    changed = bytearray(data.draw(st.sampled_from(JPEGS)))
    for _ in range(data.draw(st.integers(0, 4))):
        changed[data.draw(st.integers(2, min(700, len(changed) - 3)))] = data.draw(st.integers(0, 255))
    blob = bytes(changed)
    quick = header._plain_jpeg(blob)
    if quick is not None:
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(header, "_plain_jpeg", lambda _: None)
                assert probe(blob) == quick
        except ImageError as error:
            assert "truncated" in str(error).lower(), error  # the pixels' damage; --decode-check is for that


JPEGS = [blob for key, blob in tiny.images().items() if key.endswith("jpg")]
JPEGS += [tiny.encode(tiny.pixels(90, 50), mode="L"), tiny.encode(tiny.pixels(16, 900, 3))]


def test_which_jpegs_are_plain() -> None:
    plain = {key: header._plain_jpeg(blob) is not None for key, blob in tiny.images().items()}
    assert plain["a.jpg"] and plain["grey.jpg"] and not plain["cmyk.jpg"] and not plain["rotated.jpg"]
    assert not plain["c.png"]

"""A view at ingest, and the same view at load: the same images, boxes and labels; and what is left out is said."""

from __future__ import annotations

import json
import math
import pickle
import threading
import zlib
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataforge.errors import ConfigError
from dataforge.images.header import ImageInfo, probe_file
from dataforge.ingest.run import IngestError, ingest
from dataforge.record import CROWD, DIFFICULT, Finding, Record, Source
from dataforge.shards.reader import Shards
from dataforge.shards.verify import verify
from dataforge.sources.view import View
from tests import tiny
from tests.cli.test_bad_input import run
from tests.formats.sets import box, coco, drain, picture
from tests.shards.test_reader import run as command

UNIONS = {"both": ("train", "val")}


def ranges(most: float) -> st.SearchStrategy[tuple[float, float] | None]:
    number = st.one_of(st.floats(0, most), st.just(math.inf))
    return st.none() | st.tuples(number, number).map(lambda pair: (min(pair), max(pair)))


POLICY = st.sampled_from(["keep", "drop"])
VIEWS = st.builds(
    View,
    classes=st.lists(st.sampled_from(tiny.CLASSES), unique=True).map(tuple),
    area=ranges(1000),
    side=ranges(40),
    crowd=POLICY,
    difficult=POLICY,
    empty=POLICY,
    limit=st.none() | st.integers(1, 12),
    sample=st.floats(0.05, 1) | st.integers(1, 12),
    sample_seed=st.integers(-9, 9),
)


def awkward() -> Iterator[Record]:
    """Two splits that alternate; boxes that ingest mends, sizes that are unknown or wrong, areas."""
    for one, other in zip(tiny.records("train"), tiny.records("val"), strict=True):
        boxes = one.boxes.copy()
        boxes[::3] += (15, -9, 15, -9)  # some now stand over the edge
        boxes[::7] = boxes[::7, [2, 1, 0, 3]]
        boxes[5::11, 2] = boxes[5::11, 0]
        sizes = ((0, 0), (one.height, one.width), (one.height + 5, one.width - 9))
        height, width = sizes[len(boxes) % 3]
        yield replace(one, boxes=boxes, height=height, width=width)
        areas = np.linspace(0, 900, len(other.boxes), dtype=np.float32)
        yield replace(other, areas=areas, key="other/" + other.key, id=-1)


def source() -> Source:
    return Source(tiny.CLASSES, awkward(), tiny.CLASS_IDS, UNIONS, 20)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "shards"
    ingest(source(), out)
    return out


def facts(shards: Shards) -> list[Any]:
    table = shards.table
    objects = (table.offsets, table.boxes, table.labels, table.flags, table.areas)
    columns = (table.key, table.id, table.height, table.width, table.orientation, table.size, table.crc, *objects)
    return [shards.classes, shards.class_ids, *(column.tolist() for column in columns)]


@settings(max_examples=40, deadline=None)
@given(view=VIEWS)
def test_filtered_at_ingest_or_at_load_is_the_same(
    view: View, whole: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    viewed = Shards(whole, view=view)
    out = tmp_path_factory.mktemp("view") / "out"
    try:
        ingest(view.filter(source()), out)
    except IngestError as error:
        assert "no image is left" in str(error) and len(viewed) == 0
        return
    stored = Shards(out, "both")
    viewed = Shards(whole, "both", view)
    assert len(stored) == len(viewed) and facts(stored) == facts(viewed)
    assert [bytes(stored.blob(i)) for i in range(len(stored))] == [bytes(viewed.blob(i)) for i in range(len(viewed))]
    for split in Shards(out).index["splits"]:
        assert stored.splits[split].tolist() == viewed.splits[split].tolist()
        assert facts(Shards(out, split)) == facts(Shards(whole, split, view))
    assert sum(map(len, stored.splits.values())) in (len(stored), 2 * len(stored))  # both its parts, and their union


@settings(max_examples=40, deadline=None)
@given(view=VIEWS)
def test_a_view_keeps_what_it_says_and_no_more(view: View, whole: Path) -> None:
    everything, viewed = Shards(whole), Shards(whole, view=view)
    table = everything.table
    flags, names = table.flags, np.array(everything.classes)[table.labels]
    sides = table.boxes[:, 2:] - table.boxes[:, :2]
    kept = []
    for n in range(len(flags)):  # one box after another, in the words of the options
        kept.append(
            (not view.classes or names[n] in view.classes)
            and not (view.crowd == "drop" and flags[n] & CROWD)
            and not (view.difficult == "drop" and flags[n] & DIFFICULT)
            and (view.area is None or np.float32(view.area[0]) <= table.areas[n] <= np.float32(view.area[1]))
            and (view.side is None or np.float32(view.side[0]) <= min(sides[n]) <= np.float32(view.side[1]))
        )
    rows: list[int] = []
    drawn = {}
    for split in ("train", "val"):
        keys = table.key[everything.splits[split]].tolist()
        drawn[split] = dict(zip(keys, view.drawn(keys).tolist(), strict=True))
        assert isinstance(view.sample, float) or sum(drawn[split].values()) == min(view.sample, len(keys))
        fitting = [
            i
            for i in everything.splits[split].tolist()
            if drawn[split][table.key[i]]
            and (view.empty == "keep" or any(kept[table.offsets[i] : table.offsets[i + 1]]))
        ]
        rows += fitting[: view.limit]
    assert viewed.table.key.tolist() == table.key[rows].tolist() and len(viewed) == len(rows)
    wanted = np.array(kept)[np.concatenate([np.arange(table.offsets[i], table.offsets[i + 1]) for i in [*rows, 0]])]
    wanted = wanted[: len(wanted) - int(table.offsets[1])]
    expected = table.take(np.array(rows, np.int64))
    assert viewed.table.boxes.tolist() == expected.boxes[wanted].tolist()
    labels = viewed.table.labels
    assert np.array(viewed.classes)[labels].tolist() == np.array(everything.classes)[expected.labels[wanted]].tolist()
    assert viewed.classes == (view.classes or everything.classes) and labels.dtype == np.int32
    numbers = dict(zip(everything.classes, everything.class_ids, strict=True))
    assert viewed.class_ids == tuple(numbers[name] for name in viewed.classes)
    for i, row in enumerate(rows):
        assert viewed.blob(i) == everything.blob(row) and viewed.place(i) == everything.place(row)
    assert not list(verify(viewed)) if view.limit == 1 else True
    again = pickle.loads(pickle.dumps(viewed))
    assert again.fingerprint == viewed.fingerprint and facts(again) == facts(viewed)


@given(st.lists(st.text(), unique=True), st.floats(0.01, 1), st.floats(0.01, 1), st.integers())
def test_a_smaller_sample_is_part_of_a_larger_one(keys: list[str], one: float, other: float, seed: int) -> None:
    seed %= 1 << 60
    small, large = (View(sample=share, sample_seed=seed).drawn(keys) for share in sorted((one, other)))
    assert not (small & ~large).any() and View(sample=1.0).drawn(keys).all()
    assert small.tolist() == [bool(View(sample=min(one, other), sample_seed=seed).drawn([key])[0]) for key in keys]
    counts = [View(sample=count, sample_seed=seed).drawn(keys) for count in range(1, len(keys) + 2)]
    for count, kept in enumerate(counts, 1):
        assert kept.sum() == min(count, len(keys))
    assert not any((few & ~more).any() for few, more in pairwise(counts))
    for kept in (few for few in counts if few.sum() == small.sum()):
        assert kept.tolist() == small.tolist() or len({zlib.crc32(key.encode()) for key in keys}) < len(keys)


def test_a_sample_has_the_share_that_was_asked_for_and_other_seeds_draw_others() -> None:
    keys = [f"{n:012d}.jpg" for n in range(20_000)]
    drawn = [View(sample=0.3, sample_seed=seed).drawn(keys) for seed in (0, 1)]
    assert all(abs(one.mean() - 0.3) < 0.012 for one in drawn)  # 4 standard deviations
    assert abs((drawn[0] & drawn[1]).mean() - 0.09) < 0.009


def test_nothing_is_copied_where_nothing_is_left_out(whole: Path) -> None:
    plain = Shards(whole)
    for view in (View(), View(classes=tiny.CLASSES, limit=100, area=(0, math.inf), sample=1.0)):
        shards = Shards(whole, "train", view)
        assert shards.table.boxes.base is not None and not shards.table.boxes.flags.writeable
        assert shards.table.height.base is not None and not shards.table.height.flags.writeable
    assert Shards(whole, view=View()).fingerprint == plain.fingerprint
    prints = {Shards(whole, view=View(limit=n)).fingerprint for n in range(1, 9)} | {plain.fingerprint}
    assert len(prints) == 9


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"classes": ("cat", "dog", "cat")}, "classes: 'cat' more than once"),
        ({"area": (5.0, 4.0)}, "area is 5 4; expected a minimum and a maximum"),
        ({"side": (-1, 4)}, "side is"),
        ({"side": (math.nan, 4)}, "side is"),
        ({"empty": "maybe"}, "empty is 'maybe'; expected keep or drop"),
        ({"limit": 0}, "limit is 0; expected at least 1 image"),
        ({"sample": 0.0}, "sample is 0.0; expected a fraction"),
        ({"sample": 0}, "sample is 0; expected a fraction"),
        ({"sample": 500.0}, "sample is 500.0; .* or a whole number of images"),
        ({"sample": 1.5}, "sample is 1.5; .* or a whole number of images"),
        ({"sample": math.inf}, "sample is inf"),
        ({"sample": math.nan}, "sample is nan"),
    ],
)
def test_views_that_cannot_be(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        View(**values)


def test_a_sample_of_one_image_is_not_the_sample_of_all(whole: Path, tmp_path: Path) -> None:
    assert View(sample=1) != View() == View(sample=1.0)
    one = Shards(whole, view=View(sample=1))
    assert one.fingerprint != Shards(whole).fingerprint and len(one) == 2  # train, val
    assert command("synth", tmp_path / "drawn", "--images", 5).exit_code == 0
    assert command("ingest", "coco", tmp_path / "drawn", "--out", tmp_path / "out", "--sample", 1).exit_code == 0
    assert len(Shards(tmp_path / "out")) == len(Shards(tmp_path / "out").splits)


def test_an_unknown_class_is_answered_with_the_known_ones(whole: Path) -> None:
    for use in (lambda view: view.filter(source()), lambda view: Shards(whole, view=view)):
        with pytest.raises(ConfigError, match="unknown class 'cow'; known: cat, dog, traffic light"):
            use(View(classes=("cat", "cow")))


def test_what_is_left_out_is_counted() -> None:
    kept, found = drain(View(classes=("dog",), crowd="drop", side=(2, 6), empty="drop", limit=1).filter(source()))
    everything, _ = drain(source())
    assert {f.code for f in found} >= {"view-class", "view-crowd", "view-side", "view-empty", "view-limit"}
    assert all(f.scope == "set" for f in found if f.code.startswith("view-"))
    images = sum(int(f.value.split()[0]) for f in found if f.value.endswith(" images"))
    boxes = sum(int(f.value.split()[0]) for f in found if f.value.endswith(" boxes") and f.code.startswith("view-"))
    assert images == len(everything) - len(kept) and boxes > 0
    counted = {f.key: f.value for f in found if f.code == "view-class"}
    assert counted.keys() == {"cat", "traffic light"}


def test_images_that_cannot_be_read_are_still_refused(tmp_path: Path) -> None:
    torn = replace(tiny.records()[0], image=b"no image", key="torn.jpg")
    lost = replace(torn, image=tmp_path / "nowhere.jpg", key="nowhere.jpg")
    items: list[Record | Finding] = [torn, lost, *tiny.records()]
    view = View(area=(10, math.inf), limit=2, empty="drop")
    summary = ingest(view.filter(Source(tiny.CLASSES, iter(items))), tmp_path / "out", max_bad=2)
    assert (summary.images, summary.refused_images) == (2, 2)
    with pytest.raises(IngestError, match="nowhere"):
        ingest(view.filter(Source(tiny.CLASSES, iter(items))), tmp_path / "again")


def test_the_loader_keeps_the_view(whole: Path) -> None:
    from dataforge.loading.loader import Loader

    view = View(classes=("dog",), empty="drop", side=(4, math.inf))
    shards = Shards(whole, view=view)
    loader = Loader(shards, "train", batch_size=4, size=(32, 48), threads=1)
    labels = np.concatenate([batch.labels.numpy().ravel() for batch in loader])
    assert loader.classes == ("dog",) and set(labels.tolist()) == {-1, 0}
    assert (labels == 0).sum() == len(Shards(whole, "train", view).table.labels)
    plain = Loader(whole, "train", batch_size=4, size=(32, 48), threads=1)
    with pytest.raises(ConfigError, match="saved with other shards"):
        loader.load_state_dict(plain.state_dict())


def test_the_commands(tmp_path: Path) -> None:
    """What was ingested through a view is proved with the same options, and is what they show of the whole."""
    boxes = [
        box(10, [1, 1, 9, 9]),
        box(10, [2, 2, 3, 3], 17),
        box(11, [3, 1, 20, 9], 17, iscrowd=1),
        box(11, [0, 0, 5, 5]),
    ]
    one = coco(tmp_path / "one", {f"{stem}.jpg": picture(n) for n, stem in enumerate("abcd")}, boxes)
    view = ["--classes", "dog,cat", "--area", 10, "inf", "--crowd", "drop", "--empty", "drop", "--limit", 5]
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert run("coco", one, "--out", whole).exit_code == 0
    done = run("coco", one, "--out", out, *view, "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["findings"]["refused"] == {"view-area": 1, "view-crowd": 1, "view-empty": 1}
    seen = json.loads(command("info", whole, *view, "--json").stdout)
    assert seen["classes"] == told["classes"] == ["dog", "cat"] and told["images"] == 2
    for name in ("images", "boxes", "splits", "bytes"):
        assert seen[name] == told[name]
    assert command("verify", out, "--source", f"coco:{one}", *view).exit_code == 0
    differs = command("verify", out, "--source", f"coco:{one}", *view[:-2], "--area", 30, "inf")
    assert differs.exit_code == 1 and "the shards have 2" in differs.stderr
    assert "needs --source" in command("verify", out, *view).stderr
    assert command("show", whole, *view, "--out", tmp_path / "sheet.png").exit_code == 0
    back = tmp_path / "back"
    assert command("export", whole, *view, "--format", "coco", "--out", back).exit_code == 0
    assert command("verify", out, "--source", f"coco:{back}", "--classes", "dog,cat").exit_code == 0
    wrong = command("info", whole, "--classes", "cow")
    assert wrong.exit_code == 2 and "unknown class 'cow'" in wrong.stderr


def test_verify_takes_what_ingest_takes(tmp_path: Path) -> None:
    one = coco(tmp_path / "one", {"a.jpg": picture(0)}, [box(10, [1, 1, 5, 5]), box(10, [2, 2, 5, 5], 17)])
    other = coco(tmp_path / "two", {"a.jpg": picture(1)}, [box(10, [1, 1, 5, 5])])
    names = tmp_path / "map.toml"
    names.write_text('dog = "cat"\n')
    options = ["--add", f"coco:{other}", "--class-map", names]
    assert run("coco", one, "--out", tmp_path / "out", *options).exit_code == 0
    assert command("verify", tmp_path / "out", "--source", f"coco:{one}", *options).exit_code == 0
    differs = command("verify", tmp_path / "out", "--source", f"coco:{one}", *options[:2])
    assert differs.exit_code == 1 and "classes" in differs.stderr


def test_a_view_that_measures_reads_headers_in_threads_and_each_image_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = []
    for number, record in enumerate(tiny.records()):
        path = tmp_path / f"{number}-{Path(record.key).name}"
        assert isinstance(record.image, bytes)
        path.write_bytes(record.image)
        records.append(replace(record, image=path))
    whole: list[Path] = []
    headers: list[tuple[Path, bool]] = []
    read_bytes = Path.read_bytes

    def counted(path: Path) -> bytes:
        if path.parent == tmp_path:
            whole.append(path)
        return read_bytes(path)

    def noted(path: Path) -> ImageInfo:
        headers.append((path, threading.current_thread() is threading.main_thread()))
        return probe_file(path)

    monkeypatch.setattr(Path, "read_bytes", counted)
    monkeypatch.setattr("dataforge.sources.view.probe_file", noted)
    viewed = View(side=(1, math.inf), empty="drop").filter(Source(tiny.CLASSES, iter(records)))
    ingest(viewed, tmp_path / "out", jobs=3)
    kept = [record.image for record in records if len(record.boxes)]
    assert sorted(map(str, whole)) == sorted(map(str, kept))
    assert {path for path, _ in headers} == {record.image for record in records}
    assert not any(in_main for _, in_main in headers)


@pytest.mark.parametrize("limit", [1, 3])
def test_a_limit_and_boxes_that_are_measured(limit: int, tmp_path: Path) -> None:
    view = View(side=(1, math.inf), limit=limit)
    items = list(view.filter(Source(tiny.CLASSES, iter(tiny.records() + tiny.records("val")))).records)
    for split in ("train", "val"):
        kept = [item.key for item in items if isinstance(item, Record) and item.split == split]
        assert kept == [record.key for record in tiny.records()][:limit]
    left_out = [item.value for item in items if isinstance(item, Finding) and item.code == "view-limit"]
    assert left_out == [f"{2 * (len(tiny.images()) - limit)} images"]

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from dataforge.analysis.diff import Diff, diff, text
from dataforge.cli.main import main
from dataforge.images.header import probe
from dataforge.record import CROWD, DIFFICULT, Record
from dataforge.shards.reader import Shards
from dataforge.shards.writer import ShardWriter
from tests import tiny

H, W = 48, 64
IMAGES = [tiny.encode(tiny.pixels(H, W, seed)) for seed in range(4)]


def record(key: str, image: bytes, boxes: Sequence[Sequence[float]], labels: Sequence[int], **other: object) -> Record:
    n = len(boxes)
    facts = {"split": "train", "flags": np.zeros(n, np.uint8), "id": -1} | other
    array = np.array(boxes, np.float32).reshape(-1, 4)
    return Record(key, image=image, height=H, width=W, boxes=array, labels=np.array(labels, np.int32), **facts)  # type: ignore[arg-type]


def write(out: Path, records: Sequence[Record], classes: Sequence[str] = tiny.CLASSES) -> Shards:
    with ShardWriter(out, classes) as writer:
        for one in records:
            assert isinstance(one.image, bytes)
            writer.add(one, one.image, probe(one.image))
        writer.publish()
    return Shards(out)


def changes(found: Diff) -> dict[str, dict[str, int]]:
    """The counts that are not 0, but for "same"."""
    return {what: {k: n for k, n in found.counts[what].items() if n and k != "same"} for what in ("images", "boxes")}


# few places, so that boxes meet, come twice, and overlap as much as others do
side = st.tuples(st.integers(0, 3), st.integers(1, 3))
box = st.tuples(side, side).map(
    lambda xy: [10 * xy[0][0], 10 * xy[1][0], 10 * sum(xy[0]) + 1, 7 * sum(xy[1]) + 9]  # inside 64x48, with an area
)
objects = st.lists(st.tuples(box, st.integers(0, 2), st.sampled_from([0, CROWD, DIFFICULT])), max_size=7)
images = st.lists(
    st.tuples(st.sampled_from(["train", "val"]), st.integers(0, 5), st.integers(0, 3), objects),
    max_size=5,
    unique_by=lambda one: one[:2],
)


def drawn(out: Path, found: list[tuple[str, int, int, list]], classes: Sequence[str]) -> Shards:
    records = []
    for split, key, image, rows in found:
        boxes, labels, flags = ([row[i] for row in rows] for i in range(3))
        one = record(f"{key}.jpg", IMAGES[image], boxes, labels, split=split, flags=np.array(flags, np.uint8))
        records.append(one)
    return write(out, records, classes)


@given(images, images, st.permutations(["cat", "dog", "cow"]), st.sampled_from([0.1, 0.5, 1.0]))
@settings(max_examples=120, deadline=None)
def test_it_accounts_for_everything_and_mirrors(one: list, other: list, classes: list[str], iou: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        a, b = drawn(Path(folder) / "a", one, tiny.CLASSES), drawn(Path(folder) / "b", other, classes)
        there, back, self = diff(a, b, iou), diff(b, a, iou), diff(a, a, iou)
        facts = there.facts()

    assert self.equal and changes(self) == {"images": {}, "boxes": {}}
    assert self.counts["boxes"]["same"] == len(a.table.boxes) and self.counts["images"]["same"] == len(a)

    for what in ("images", "boxes"):
        mirrored = dict(back.counts[what])
        mirrored["removed"], mirrored["added"] = mirrored["added"], mirrored["removed"]
        assert there.counts[what] == mirrored
    assert there.equal == back.equal
    assert there.classes["removed"] == back.classes["added"]
    assert there.classes["renamed"] == [pair[::-1] for pair in back.classes["renamed"]]

    for pairs, n, m in ((there.images, len(a), len(b)), (there.boxes, len(a.table.boxes), len(b.table.boxes))):
        assert len(set(pairs[:, 0].tolist())) == len(set(pairs[:, 1].tolist())) == len(pairs)
        assert len(pairs) + len(there.lone_images[0] if pairs is there.images else there.lone_boxes[0]) == n
        assert len(pairs) + len(there.lone_images[1] if pairs is there.images else there.lone_boxes[1]) == m
    paired = {tuple(pair) for pair in there.images.tolist()}
    assert {(a.table.image[i], b.table.image[j]) for i, j in there.boxes.tolist()} <= paired
    counts = there.counts["boxes"]
    kept = counts["same"] + counts["moved"] + counts["relabelled"]
    assert kept + counts["removed"] == len(a.table.boxes) and kept + counts["added"] == len(b.table.boxes)

    # the list has what the counts say
    listed = [kind for image in facts["changed"] for box in image["boxes"] for kind in box["changes"]]
    inside = {kind: listed.count(kind) for kind in ("moved", "relabelled", "other flags")}
    assert inside == {kind: counts[kind] for kind in inside}
    for kind in ("removed", "added"):
        assert listed.count(kind) + sum(image["boxes"] for image in facts[kind]) == counts[kind]
    assert len(facts["changed"]) + there.counts["images"]["same"] == len(there.images)
    json.dumps(facts)


@given(objects, objects, st.randoms(use_true_random=False))
@settings(max_examples=80, deadline=None)
def test_the_order_of_boxes_means_nothing(one: list, other: list, random: Random) -> None:
    with tempfile.TemporaryDirectory() as folder:
        rows, mixed = [one, other], [random.sample(some, len(some)) for some in (one, other)]
        places = [(Path(folder) / str(i), [("train", 0, 0, some)]) for i, some in enumerate(rows + mixed)]
        sets = [drawn(place, found, tiny.CLASSES) for place, found in places]
        assert diff(sets[0], sets[1], 0.1).counts == diff(sets[2], sets[3], 0.1).counts
        assert diff(sets[0], sets[2]).equal


def test_equal_overlaps_are_decided_by_place_not_by_order(tmp_path: Path) -> None:
    old, new = [[0, 0, 20, 20], [8, 0, 28, 20]], [[4, 0, 24, 20], [12, 0, 32, 20]]  # a chain of equal overlaps
    found = []
    for i in range(4):
        a = write(tmp_path / f"a{i}", [record("a.jpg", IMAGES[0], old[:: 1 if i % 2 else -1], [0, 0])])
        b = write(tmp_path / f"b{i}", [record("a.jpg", IMAGES[0], new[:: 1 if i // 2 else -1], [0, 0])])
        found += [changes(diff(a, b)), changes(diff(b, a))]
    assert found == [{"images": {"other boxes": 1}, "boxes": {"moved": 2}}] * 8


BOXES = [[0, 0, 20, 20], [30, 5, 50, 40], [5, 25, 25, 45]]


def base() -> list[Record]:
    first = [record(f"{i}.jpg", IMAGES[i], BOXES[:i], [0, 1, 2][:i], split="train" if i else "val") for i in range(4)]
    return [replace(one, id=i) for i, one in enumerate(first)]


def edit(**what: object) -> list[Record]:
    """The base with something else in its last record."""
    records = base()
    return [*records[:-1], replace(records[-1], **what)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("edited", "expected"),
    [
        (base()[::-1], {"images": {}, "boxes": {}}),  # the order is not content
        (base()[:-1], {"images": {"removed": 1}, "boxes": {"removed": 3}}),
        (base()[1:], {"images": {"removed": 1}, "boxes": {}}),  # an empty image
        (
            edit(boxes=np.array([[0, 0, 20, 20], [31, 5, 50, 40], [5, 25, 25, 45]], np.float32)),
            {"images": {"other boxes": 1}, "boxes": {"moved": 1}},
        ),
        (edit(labels=np.array([0, 0, 2], np.int32)), {"images": {"other boxes": 1}, "boxes": {"relabelled": 1}}),
        (edit(flags=np.array([0, 0, CROWD], np.uint8)), {"images": {"other boxes": 1}, "boxes": {"other flags": 1}}),
        (
            edit(areas=np.array([400, 700, 300], np.float32)),
            {"images": {"other boxes": 1}, "boxes": {"other area": 1}},
        ),
        (
            edit(boxes=np.array([[0, 0, 20, 20], [55, 41, 64, 48], [5, 25, 25, 45]], np.float32)),
            {"images": {"other boxes": 1}, "boxes": {"removed": 1, "added": 1}},  # too far to be the same box
        ),
        (
            edit(boxes=np.zeros((0, 4), np.float32), labels=np.zeros(0, np.int32), flags=np.zeros(0, np.uint8)),
            {"images": {"other boxes": 1}, "boxes": {"removed": 3}},
        ),
        (edit(key="new/name.jpg"), {"images": {"renamed": 1}, "boxes": {}}),
        (edit(split="val"), {"images": {"moved split": 1}, "boxes": {}}),
        (edit(split="test", key="x.jpg"), {"images": {"renamed": 1, "moved split": 1}, "boxes": {}}),
        (edit(image=IMAGES[0]), {"images": {"other bytes": 1}, "boxes": {}}),
        (edit(id=77), {"images": {"renumbered": 1}, "boxes": {}}),
        (
            edit(image=IMAGES[0], key="x.jpg"),
            {"images": {"removed": 1, "added": 1}, "boxes": {"removed": 3, "added": 3}},
        ),
    ],
)
def test_an_edit_is_found_as_what_it_is(edited: list[Record], expected: dict, tmp_path: Path) -> None:
    found = diff(write(tmp_path / "a", base()), write(tmp_path / "b", edited))
    assert changes(found) == expected
    assert found.equal == (expected == {"images": {}, "boxes": {}})
    shown = text(found.facts())
    for kind in {**expected["images"], **expected["boxes"]}:
        assert kind in shown


def test_an_image_that_had_no_number_is_not_renumbered(tmp_path: Path) -> None:
    """Such as VOC's images in COCO; one that loses its number is."""
    without = write(tmp_path / "a", edit(id=-1))
    assert diff(without, write(tmp_path / "b", base())).equal
    assert changes(diff(Shards(tmp_path / "b"), without)) == {"images": {"renumbered": 1}, "boxes": {}}


def test_the_greatest_overlap_goes_first_and_nearer_boxes_of_another_class_are_relabelled(tmp_path: Path) -> None:
    old = [[0, 0, 20, 20], [4, 0, 24, 20]]
    new = [[3, 0, 23, 20], [40, 0, 60, 20]]  # overlaps the second more
    a = write(tmp_path / "a", [record("a.jpg", IMAGES[0], old, [0, 0])])
    found = diff(a, write(tmp_path / "b", [record("a.jpg", IMAGES[0], new, [0, 0])]))
    assert found.boxes.tolist() == [[1, 0]]
    found = diff(a, write(tmp_path / "c", [record("a.jpg", IMAGES[0], [new[0], [0, 9, 20, 29]], [2, 0])]), 0.3)
    assert found.boxes.tolist() == [[0, 1], [1, 0]] and changes(found)["boxes"] == {"moved": 1, "relabelled": 1}


@pytest.mark.parametrize("dog_first", [True, False])
def test_of_equal_overlaps_that_of_the_same_class_goes_first(dog_first: bool, tmp_path: Path) -> None:
    a = write(tmp_path / "a", [record("a.jpg", IMAGES[0], [[14, 0, 34, 20]], [0])])
    new, labels = [[10, 0, 30, 20], [18, 0, 38, 20]], [1, 0] if dog_first else [0, 1]
    found = diff(a, write(tmp_path / "b", [record("a.jpg", IMAGES[0], new, labels)]))
    assert changes(found)["boxes"] == {"moved": 1, "added": 1}


def test_classes_are_joined_by_name(tmp_path: Path) -> None:
    a = write(tmp_path / "a", base())
    order = [2, 0, 1]
    shuffled = [replace(one, labels=np.argsort(order).astype(np.int32)[one.labels]) for one in base()]
    assert diff(a, write(tmp_path / "b", shuffled, [tiny.CLASSES[i] for i in order])).equal

    renamed = diff(a, write(tmp_path / "c", base(), ("cat", "hound", "traffic light", "cow")))
    assert renamed.classes == {"removed": [], "added": ["cow"], "renamed": [["dog", "hound"]]}
    assert changes(renamed)["boxes"] == {"relabelled": 2} and not renamed.equal
    assert "class renamed: dog -> hound" in text(renamed.facts())

    more = diff(a, write(tmp_path / "d", base(), (*tiny.CLASSES, "cow")))
    assert more.classes["added"] == ["cow"] and not more.equal and not any(changes(more).values())


def test_copies_of_an_image_keep_their_names_where_they_can(tmp_path: Path) -> None:
    a = write(tmp_path / "a", [record(f"{k}.jpg", IMAGES[0], [], []) for k in "abc"])
    b = write(tmp_path / "b", [record(f"{k}.jpg", IMAGES[0], [], [], split="val") for k in "cxb"])
    found = diff(a, b)
    assert changes(found)["images"] == {"renamed": 1, "moved split": 3}
    pairs = {(a.table.key[i], b.table.key[j]) for i, j in found.images.tolist()}
    assert pairs == {("a.jpg", "x.jpg"), ("b.jpg", "b.jpg"), ("c.jpg", "c.jpg")}


def test_the_command(tiny_shards: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke
    done = run(main, ["diff", str(tiny_shards), str(tiny_shards)])
    assert done.exit_code == 0 and "images: 20 same" in done.output

    awkward = tiny.records()
    for one in awkward:  # every image of the tiny set has a box the less, and one that moved
        one.boxes[1:2, 2] -= 1
    edited = [replace(one, boxes=one.boxes[1:], labels=one.labels[1:], flags=one.flags[1:]) for one in awkward]
    write(tmp_path / "b", edited)
    report = tmp_path / "<script>.html"
    done = run(main, ["diff", str(tiny_shards), str(tmp_path / "b"), "--report", str(report), "--json"])
    assert done.exit_code == 1
    facts = json.loads(done.stdout)
    assert facts["images"]["removed"] == 10 and facts["boxes"]["moved"] == 9 and not facts["equal"]
    html = report.read_text("utf-8")
    assert html.count("data:image/jpeg") == 18 and "cmyk.jpg" in html

    done = run(main, ["diff", str(tiny_shards), str(tmp_path / "b"), "--report", str(tmp_path / "no/r.html")])
    assert done.exit_code == 2 and "--report" in done.stderr and not done.stdout
    for flags, words in (([str(tmp_path)], "holds no index.json"), ([str(tiny_shards), "--iou", "0"], "--iou")):
        done = run(main, ["diff", str(tiny_shards), *flags])
        assert done.exit_code != 0 and words in done.stderr and "Traceback" not in done.output


def test_merging_the_splits_gives_the_set_again(tiny_shards: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke
    for split in ("train", "val"):
        tiny.shards(tmp_path / split, splits=(split,))
    done = run(main, ["merge", str(tmp_path / "train"), str(tmp_path / "val"), "--out", str(tmp_path / "all")])
    assert done.exit_code == 0, done.output
    found = diff(Shards(tiny_shards), Shards(tmp_path / "all"))
    assert changes(found) == {"images": {"renumbered": 10}, "boxes": {}}  # both splits number their images alike

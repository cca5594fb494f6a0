"""Dealing records to splits: each to one, groups whole, classes alike; the command, with keys that collide."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataforge.errors import ConfigError
from dataforge.images.header import probe
from dataforge.shards.reader import Shards
from dataforge.shards.verify import verify
from dataforge.shards.writer import ShardWriter
from dataforge.transform.split import deal, groups_of, split, together
from tests import tiny
from tests.shards.test_reader import run

EXPECTED = ["10021000102000010202", "00001010222011000200"]
SHARES = st.sampled_from([(0.5, 0.5), (0.8, 0.1, 0.1), (0.9, 0.1), (0.7, 0.1, 0.2), (1.0,)])
IMAGES = st.lists(st.tuples(st.integers(0, 12), st.sets(st.integers(0, 6), max_size=4)), max_size=60)


def pairs(labels: list[set[int]]) -> tuple[np.ndarray, np.ndarray]:
    held = [(i, label) for i, one in enumerate(labels) for label in one]
    image, label = zip(*held, strict=True) if held else ((), ())
    return np.array(image, np.int64), np.array(label, np.int64)


def numbered(values: list[int]) -> np.ndarray:
    return np.unique(np.array(values, np.int64), return_inverse=True)[1]


@given(IMAGES, SHARES, st.integers(0, 99))
def test_groups_stay_whole_and_shares_are_kept_within_the_bound(
    images: list[tuple[int, set[int]]], shares: tuple[float, ...], seed: int
) -> None:
    group = numbered([number for number, _ in images])
    keys = [f"{i}.jpg" for i in range(len(images))]
    part = deal(group, *pairs([labels for _, labels in images]), keys, shares, seed)
    assert part.shape == (len(images),) and set(part.tolist()) <= set(range(len(shares)))
    for number in np.unique(group):
        assert len(set(part[group == number].tolist())) == 1
    largest = np.bincount(group, minlength=1).max()
    got = np.bincount(part, minlength=len(shares))
    more = (1 - 1 / len(shares)) * largest + 1e-9
    wanted = np.array(shares) * len(images)
    assert (got - wanted <= more).all() and (wanted - got <= (len(shares) - 1) * more).all()


@given(IMAGES, SHARES, st.integers(0, 99), st.randoms())
def test_the_records_order_does_not_matter(
    images: list[tuple[int, set[int]]], shares: tuple[float, ...], seed: int, random: object
) -> None:
    keys = [f"{i}.jpg" for i in range(len(images))]
    order = list(range(len(images)))
    random.shuffle(order)  # type: ignore[attr-defined]

    def dealt(rows: list[int]) -> dict[str, int]:
        group = numbered([images[i][0] for i in rows])
        part = deal(group, *pairs([images[i][1] for i in rows]), [keys[i] for i in rows], shares, seed)
        return {keys[i]: k for i, k in zip(rows, part.tolist(), strict=True)}

    assert dealt(order) == dealt(list(range(len(images))))


def test_the_same_on_every_machine() -> None:
    """Seeds 0 and 1 as they were first dealt; to change them changes everybody's splits."""
    labels = [{i % 3, i % 5} for i in range(20)]
    dealt = [
        deal(np.arange(20), *pairs(labels), [f"{i}.jpg" for i in range(20)], (0.6, 0.2, 0.2), seed) for seed in (0, 1)
    ]
    assert ["".join(map(str, part.tolist())) for part in dealt] == EXPECTED


def deviation(part: np.ndarray, image: np.ndarray, label: np.ndarray, shares: tuple[float, ...]) -> float:
    """The mean over classes and splits of |share of the class's images - wanted share|."""
    total = np.bincount(label).clip(1)
    found = [np.bincount(label[part[image] == k], minlength=len(total)) / total for k in range(len(shares))]
    return float(
        np.mean([np.abs(one - share)[np.bincount(label) > 0] for one, share in zip(found, shares, strict=True)])
    )


@pytest.mark.parametrize("grouped", [False, True])
def test_classes_are_shared_out_better_than_at_random(grouped: bool) -> None:
    shares, ours, random = (0.8, 0.1, 0.1), [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        frequency = rng.pareto(1, 12).clip(0.02, 3) / 6  # few common classes, many rare ones
        held = rng.random((300, 12)) < frequency
        image, label = np.nonzero(held)
        group = numbered(rng.integers(0, 120, 300).tolist()) if grouped else np.arange(300)
        part = deal(group, image, label, [f"{i}" for i in range(300)], shares, seed)
        ours.append(deviation(part, image, label, shares))
        blind = rng.permutation(rng.choice(3, group.max() + 1, p=shares))[group]
        random.append(deviation(blind, image, label, shares))
    assert np.mean(ours) < 0.6 * np.mean(random) and np.mean(np.array(ours) < random) >= 0.9


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=30))
def test_groupings_unite(both: list[tuple[int, int]]) -> None:
    one, other = (np.array([pair[k] for pair in both], np.int64) for k in (0, 1))
    united = together(one, other)
    reach = (one[:, None] == one) | (other[:, None] == other)
    for _ in range(len(both)):
        reach = reach @ reach
    assert ((united[:, None] == united) == reach).all()
    assert sorted(set(united.tolist())) == list(range(len(set(united.tolist()))))


def test_groups_by_name() -> None:
    keys = ["a/1.jpg", "a/2.jpg", "b/1.jpg", "1.jpg", "2.jpg", "b/c/1.jpg"]
    assert groups_of(keys, "folder").tolist() == [0, 0, 1, 2, 2, 3]
    assert groups_of(keys, r"(\d)\.jpg").tolist() == [0, 1, 0, 0, 1, 0]
    assert groups_of(keys, r"[ab]/").tolist() == [0, 0, 1, 2, 3, 1]
    with pytest.raises(ConfigError, match=r"--group-by \(: expected folder or a regular expression"):
        groups_of(keys, "(")
    with pytest.raises(ConfigError, match=r"--group-by x\+: matches no image's name, such as 'a/1.jpg'"):
        groups_of(keys, "x+")


def many(out: Path) -> Path:
    """Splits old1 and old2 of 40 images each under the same keys, in 8 folders; each image in it is another."""
    with ShardWriter(out, tiny.CLASSES, tiny.CLASS_IDS, {"all": ("old1", "old2")}, source="tiny") as writer:
        for part, name in enumerate(("old1", "old2")):
            for i in range(40):
                data = tiny.encode(tiny.pixels(20 + i, 30 + part, i + 40 * part))
                one = replace(
                    tiny.records()[2 + i % 4],
                    key=f"{i // 5}/{i}.jpg",
                    split=name,
                    height=20 + i,
                    width=30 + part,
                    id=i + 100 * part,
                )
                one = replace(one, boxes=tiny.boxes(len(one.labels), 20 + i, 30 + part, i))
                writer.add(one, data, probe(data))
        writer.publish()
    return out


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    return Shards(many(tmp_path_factory.mktemp("split") / "old"))


def test_the_command_keeps_every_record(old: Shards, tmp_path: Path) -> None:
    options = ["--similar", -1, "--val", 0.2, "--test", 0.1, "--seed", 3, "--group-by", "folder"]
    done = run("split", old.path, "--out", tmp_path / "new", *options, "--json")
    assert done.exit_code == 0, done.output
    new, told = Shards(tmp_path / "new"), json.loads(done.stdout)
    assert not list(verify(new)) and new.classes == old.classes and new.class_ids == old.class_ids
    assert set(new.splits) == {"train", "val", "test"} and new.index["unions"] == {} and told["groups"] == 8

    def content(shards: Shards) -> list[tuple[object, ...]]:
        found = []
        for i in range(len(shards)):
            mine = shards.table.take(np.array([i]))
            objects = (mine.boxes.tolist(), mine.labels.tolist(), mine.flags.tolist(), mine.areas.tolist())
            found.append((int(shards.table.id[i]), bytes(shards.blob(i)), *objects))
        return sorted(found)

    assert content(new) == content(old)
    folder_of = {}
    for name, rows in new.splits.items():
        assert told["dealt"][name]["images"] == len(rows)
        assert told["dealt"][name]["boxes"] == len(new.table.take(rows).labels)
        for key in new.table.key[rows]:
            assert folder_of.setdefault(key.split("/")[-2], name) == name
    prefixed = [key for key in new.table.key if key.startswith("old2/")]
    assert len(prefixed) == 40 and len(set(new.table.key)) == 80  # both splits' folders of a name are one group

    again = run("split", old.path, "--out", tmp_path / "again", *options)
    assert [Shards(tmp_path / "again").table.key.tolist()] == [new.table.key.tolist()]
    assert "80 images in 8 groups that stay together" in again.stdout
    other = run("split", old.path, "--out", tmp_path / "other", "--similar", -1, "--seed", 4, "--val", 0.2)
    assert other.exit_code == 0 and set(Shards(tmp_path / "other").splits) == {"train", "val"}
    assert sorted(Shards(tmp_path / "other", "val").table.id.tolist()) != sorted(
        new.table.id[new.splits["val"]].tolist()
    )


def test_only_of_one_split(old: Shards, tmp_path: Path) -> None:
    assert (
        run("split", old.path, "--from", "old2", "--val", 0.25, "--similar", -1, "--out", tmp_path / "new").exit_code
        == 0
    )
    new = Shards(tmp_path / "new")
    assert sorted(new.table.id.tolist()) == list(range(100, 140)) and len(new.splits["val"]) == 10
    assert set(new.table.key) == set(Shards(old.path, "old2").table.key)
    assert run("split", old.path, "--from", "all", "--similar", -1, "--out", tmp_path / "both").exit_code == 0
    assert len(Shards(tmp_path / "both")) == 80


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--val", 0.6, "--test", 0.5], "expected fractions of at least 0 whose sum is below 1"),
        (["--val", -0.1], "is not a number of at least 0 and below 1"),
        (["--val", "nan"], "is not a number of at least 0 and below 1"),
        (["--from", "new"], "unknown split 'new'; known: all, old1, old2"),
        (["--group-by", "("], "expected folder or a regular expression"),
        (["--group-by", "jpg"], "val would get no image of 80, with 10.0% wanted; the largest group has 80 images"),
        (["--val", 0.001], "val would get no image of 80"),
    ],
)
def test_what_cannot_be(old: Shards, tmp_path: Path, options: list[object], said: str) -> None:
    done = run("split", old.path, "--out", tmp_path / "new", "--similar", -1, *options)
    assert done.exit_code == 2 and said in done.stderr and not (tmp_path / "new" / "index.json").exists()


def test_what_could_not_be_as_wanted_is_said(old: Shards) -> None:
    group = np.where(np.arange(80) < 60, 0, np.arange(80))
    dealt = split(old, {"train": 0.5, "val": 0.5}, group)
    assert sorted(dealt.images.tolist()) == [20, 60]
    assert dealt.warnings[0].startswith("train got ")
    assert dealt.warnings[0].endswith("50.0% were wanted; the largest group has 60 images, such as old1/0/0.jpg")
    assert "warning: train got" in dealt.text()
    rare = split(old, {"train": 0.4, "val": 0.3, "test": 0.3}, np.arange(80))
    assert not rare.warnings and rare.per_class.sum() > 0


def test_images_that_look_alike_stay_together(tmp_path: Path) -> None:
    """Each picture is there three times, in two splits and under other names, sizes and qualities."""
    rng = np.random.default_rng(0)
    with ShardWriter(tmp_path / "old", tiny.CLASSES) as writer:
        for i in range(16):
            coarse = PIL.Image.fromarray(rng.integers(0, 256, (6, 7, 3), np.uint8))
            for n, (size, quality) in enumerate((((90, 70), 95), ((90, 70), 60), ((180, 140), 90))):
                buffer = io.BytesIO()
                coarse.resize(size, PIL.Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=quality)
                one = replace(tiny.records()[0], key=f"{rng.integers(1 << 60)}.jpg", split="ab"[n % 2], id=100 * i + n)
                info = probe(buffer.getvalue())
                writer.add(replace(one, height=info.height, width=info.width), buffer.getvalue(), info)
        writer.publish()
    done = run("split", tmp_path / "old", "--val", 0.25, "--test", 0.25, "--out", tmp_path / "new")
    assert done.exit_code == 0 and "48 images in 16 groups" in done.stdout, done.output
    new = Shards(tmp_path / "new")
    assert {name: len(rows) for name, rows in new.splits.items()} == {"train": 24, "val": 12, "test": 12}
    for rows in new.splits.values():
        pictures = (new.table.id[rows] // 100).tolist()
        assert all(pictures.count(one) == 3 for one in pictures)

"""Shard folders merged: images with one key, and images with the same bytes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dataforge.analysis.lint.run import lint_shards
from dataforge.shards.reader import Shards
from dataforge.shards.verify import verify
from tests.formats.named import run
from tests.formats.sets import box, coco, picture


def shards(root: Path, pictures: dict[str, bytes], category: int, split: str = "train") -> Path:
    """One box per picture: of the class "cat" (3) or "dog" (17)."""
    boxes = [box(10 + n, [1 + n, 1, 5, 5], category, area=7.0) for n in range(len(pictures))]
    coco(root / "set", pictures, boxes, split)
    categories = [c for c in ({"id": 17, "name": "dog"}, {"id": 3, "name": "cat"}) if c["id"] == category]
    path = root / f"set/annotations/instances_{split}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"categories": categories}))
    assert run("ingest", "coco", root / "set", "--out", root / root.name).exit_code == 0
    return root / root.name


@pytest.fixture
def two(tmp_path: Path) -> list[Path]:
    """a.jpg is one picture in both, b.jpg two; cats have c.jpg, which is dogs' d.jpg."""
    cats = {"a.jpg": picture(0), "b.jpg": picture(1), "c.jpg": picture(2)}
    dogs = {"a.jpg": picture(0), "b.jpg": picture(3), "d.jpg": picture(2)}
    return [shards(tmp_path / "cats", cats, 3), shards(tmp_path / "dogs", dogs, 17)]


def contents(folder: Path) -> dict[str, list[str]]:
    merged = Shards(folder)
    assert not list(verify(merged)) and lint_shards(merged).images == len(merged)
    offsets = merged.table.offsets
    return {
        key: [merged.classes[label] for label in merged.table.labels[offsets[i] : offsets[i + 1]]]
        for i, key in enumerate(merged.table.key)
    }


def test_prefix_keeps_both_and_tells_of_copies(two: list[Path], tmp_path: Path) -> None:
    result = run("merge", *two, "--out", tmp_path / "out")
    assert result.exit_code == 0 and "noted copy-kept: 1 (the same bytes as images of earlier" in result.stdout
    assert "2 images, such as train: a.jpg" in result.stdout
    expected = {"a.jpg": ["cat"], "b.jpg": ["cat"], "c.jpg": ["cat"]}
    assert contents(tmp_path / "out") == expected | {"dogs/a.jpg": ["dog"], "dogs/b.jpg": ["dog"], "d.jpg": ["dog"]}


def test_unite_joins_the_boxes_of_identical_pictures_alone(two: list[Path], tmp_path: Path) -> None:
    result = run("merge", *two, "--out", tmp_path / "out", "--on-same-key", "unite")
    assert result.exit_code == 0 and "noted copy-united: 1" in result.stdout and "d.jpg" in result.stdout
    expected = {"a.jpg": ["cat", "dog"], "b.jpg": ["cat"], "c.jpg": ["cat"], "dogs/b.jpg": ["dog"], "d.jpg": ["dog"]}
    assert contents(tmp_path / "out") == expected
    merged = Shards(tmp_path / "out")
    np.testing.assert_array_equal(merged.table.boxes[:2], [[1, 1, 6, 6]] * 2)
    assert merged.table.areas[:2].tolist() == [7, 7] and merged.class_ids == (3, 17)
    assert run("merge", *reversed(two), "--out", tmp_path / "back", "--on-same-key", "unite").exit_code == 0
    assert contents(tmp_path / "back")["a.jpg"] == ["dog", "cat"]


def test_three_annotators(two: list[Path], tmp_path: Path) -> None:
    third = shards(tmp_path / "more", {"a.jpg": picture(0)}, 3)
    assert run("merge", *two, third, "--out", tmp_path / "out", "--on-same-key", "unite").exit_code == 0
    assert contents(tmp_path / "out")["a.jpg"] == ["cat", "dog", "cat"]


def test_refuse_names_the_first(two: list[Path], tmp_path: Path) -> None:
    result = run("merge", *two, "--out", tmp_path / "out", "--on-same-key", "refuse")
    assert result.exit_code == 2 and not (tmp_path / "out/index.json").exists()
    assert f"train: a.jpg: in {two[0]} and {two[1]}, and 1 more; --on-same-key prefix" in result.stderr
    other = shards(tmp_path / "other", {"z.jpg": picture(9)}, 3)
    assert run("merge", two[0], other, "--out", tmp_path / "out", "--on-same-key", "refuse").exit_code == 0


def test_a_picture_in_another_split_is_noted(two: list[Path], tmp_path: Path) -> None:
    val = shards(tmp_path / "val", {"a.jpg": picture(0)}, 3, "val")
    for choice in ("prefix", "unite", "refuse"):
        result = run("merge", two[0], val, "--out", tmp_path / choice, "--on-same-key", choice)
        assert result.exit_code == 0 and "1 image, such as val: a.jpg" in result.stdout
        assert len(Shards(tmp_path / choice)) == 4

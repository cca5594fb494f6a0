"""What folders and names of JSON files say about splits is taken."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataforge.formats.json_files import json_splits
from tests.formats.sets import put


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a.json", "b.json", "deep/c.json"], {"train": ["a", "b", "c"]}),
        (["train/a.json", "val/b.json"], {"train": ["a"], "val": ["b"]}),
        (["labels/train/a.json", "labels/val/b.json"], {"train": ["a"], "val": ["b"]}),
        (["annotations/train.json", "annotations/val.json"], {"train": ["train"], "val": ["val"]}),
        (["labels/a.json", "labels/scene/b.json"], {"train": ["a", "b"]}),
        (["train.json", "val.json", "test2017.json"], {"test2017": ["test2017"], "train": ["train"], "val": ["val"]}),
        (["val.json"], {"val": ["val"]}),
        (["train_001.json", "train_002.json", "test_1.json"], {"train": ["test_1", "train_001", "train_002"]}),
        (["info.json", "train/a.json", "val/b.json"], {"train": ["a"], "val": ["b"]}),  # info.json is named as unread
        (["info.json", "kitchen/a.json"], {"train": ["a", "info"]}),
        (["kitchen/a.json", "garden/b.json"], {"garden": ["b"], "kitchen": ["a"]}),
    ],
)
def test_splits(tmp_path: Path, names: list[str], expected: dict[str, list[str]]) -> None:
    for name in names:
        put(tmp_path / name, "{}")
    splits = json_splits(tmp_path)
    assert {split: sorted(path.stem for path in paths) for split, paths in splits.items()} == expected


def test_a_file(tmp_path: Path) -> None:
    assert [*json_splits(put(tmp_path / "val.json", ""))] == ["val"]
    assert [*json_splits(put(tmp_path / "a.json", ""))] == ["train"]

"""What folders and names of JSON files say about splits is taken; and the garbage collector while they are read."""

from __future__ import annotations

import gc
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from dataforge.formats.json_files import json_splits, uncollected
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


def test_garbage_is_collected_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """After an exception; once all blocks have ended, also where one ends while another begins; if it was before."""
    with suppress(ValueError), uncollected():
        assert not gc.isenabled()
        raise ValueError
    first, enabled = uncollected(), gc.isenabled
    assert enabled()
    first.__enter__()
    ending = threading.Thread(target=first.__exit__, args=(None, None, None))

    def overtaken() -> bool:
        before = enabled()
        ending.start()
        ending.join(0.1)
        return before

    monkeypatch.setattr(gc, "isenabled", overtaken)
    with uncollected():
        ending.join()
        assert not enabled()
    monkeypatch.undo()
    assert enabled()
    gc.disable()
    try:
        with uncollected():
            pass
        assert not enabled()
    finally:
        gc.enable()

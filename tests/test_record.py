"""Splits by name."""

from __future__ import annotations

import pytest

from dataforge.errors import ConfigError
from dataforge.record import pick_splits, resolve_split


@pytest.mark.parametrize(
    ("name", "splits", "found"),
    [
        ("train", ["train", "train2017"], "train"),
        ("train", ["val2017", "train2017"], "train2017"),
        ("train", ["train_a", "trainval"], "train_a"),
        ("2007", ["2007-train", "2012-train"], "2007-train"),
        ("train2017", ["train2017"], "train2017"),
    ],
)
def test_a_split_by_its_name_or_the_start_of_it(name: str, splits: list[str], found: str) -> None:
    assert resolve_split(name, splits) == found


@pytest.mark.parametrize(
    ("name", "splits", "message"),
    [
        ("train", ["trainval", "test"], "unknown split 'train'; known: test, trainval"),
        ("tra", ["train2017"], "unknown split 'tra'; known: train2017"),
        ("train", ["train2017", "train2014", "val"], "split 'train' is ambiguous: train2014, train2017"),
        ("", ["2017"], "unknown split ''; known: 2017"),
        ("x", [], "unknown split 'x'; known: none"),
    ],
)
def test_no_split_or_several(name: str, splits: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_split(name, splits)
    assert str(caught.value) == message


def test_picked_splits_keep_the_order_of_the_source() -> None:
    known = ["val2017", "train2017", "test"]
    assert pick_splits(None, known) == pick_splits((), known) == known
    assert pick_splits(("train", "val", "train2017"), known) == ["val2017", "train2017"]

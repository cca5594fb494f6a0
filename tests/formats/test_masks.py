"""Boxes of masks: those of the drawn mask, by both of COCO's run-length encodings, in every format that has them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pycocotools import mask as pycocotools_mask

from dataforge.formats.coco.reader import read
from dataforge.formats.datumaro.reader import read as read_datumaro
from dataforge.formats.masks import Rle, rle_hull
from tests.formats.sets import box, coco, drain, picture, put

HIGH, WIDE = 48, 64


def encodings(mask: np.ndarray) -> list[Rle]:
    """The mask as pycocotools' text, and as plain numbers."""
    height, width = mask.shape
    encoded = pycocotools_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    flat = np.append(0, mask.flatten("F").astype(int))
    lengths = np.diff(np.concatenate([[0], np.flatnonzero(np.diff(flat)), [mask.size]])).tolist()
    return [Rle(encoded["counts"].decode(), (height, width)), Rle(lengths, (height, width))]


def drawn(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    mask = np.zeros((HIGH, WIDE), bool)
    for x1, y1, x2, y2 in boxes:
        mask[y1:y2, x1:x2] = True
    return mask


@settings(max_examples=100, deadline=None)
@given(arrays.arrays(bool, arrays.array_shapes(min_dims=2, max_dims=2, max_side=40), elements=st.booleans()))
def test_the_box_is_that_of_the_drawn_mask(mask: np.ndarray) -> None:
    ys, xs = np.nonzero(mask)
    expected = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) if len(xs) else None
    for rle in encodings(mask):
        assert rle_hull(rle) == expected


@pytest.mark.parametrize("counts", ["", "o", "0\x7f", "~" * 20, "é", [5], [-1, HIGH * WIDE + 1], "?" * 14 + "0"])
def test_what_is_no_encoding(counts: Any) -> None:
    with pytest.raises(ValueError, match=r"counts|runs of|more than 60"):
        rle_hull(Rle(counts, (HIGH, WIDE)))


def segmented(segmentation: Any, **more: Any) -> dict[str, Any]:
    return {"image_id": 10, "category_id": 3, "segmentation": segmentation, **more}


def test_coco_without_boxes(tmp_path: Path) -> None:
    """Crowds too; a box that is given goes first; a mask of another size than the image's is no box."""
    text, numbers = encodings(drawn((3, 5, 20, 9), (30, 7, 31, 40)))
    other = encodings(np.ones((4, 4), bool))[0]
    as_json = [{"counts": rle.counts, "size": list(rle.size)} for rle in (text, numbers, other)]
    annotations = [
        segmented(as_json[0], iscrowd=1),
        segmented(as_json[1], bbox=None),
        segmented([[1, 2, 9, 2, 9, 7.5], [20, 3, 21, 3, 21, 4]], bbox=[]),
        box(10, [1, 1, 5, 5], segmentation=as_json[0]),
        segmented(as_json[2]),
        segmented([]),
        segmented("mask.png"),
        segmented({"counts": "abc"}),
    ]
    source = read(coco(tmp_path, {"a.png": picture()}, annotations))
    (record,), findings = drain(source)
    assert record.boxes.tolist() == [[3, 5, 31, 40], [3, 5, 31, 40], [1, 2, 21, 7.5], [1, 1, 6, 6]]
    assert record.flags.tolist() == [1, 0, 0, 0]
    assert [(one.code, one.value) for one in findings] == [
        ("box-of-mask", "3 annotations"),
        *(("box-missing", f"annotation {100 + n}: no bbox") for n in range(4, 8)),
    ]


def test_datumaro(tmp_path: Path) -> None:
    good, bad = encodings(drawn((3, 5, 20, 9)))[0], Rle("11", (HIGH, WIDE))
    masks = [{"type": "mask", "label_id": 0, "rle": {"counts": one.counts, "size": one.size}} for one in (good, bad)]
    item = {"id": "a", "annotations": masks, "image": {"path": "a.png", "size": [HIGH, WIDE]}}
    facts = {"info": {}, "categories": {"label": {"labels": [{"name": "cat"}]}}, "items": [item]}
    put(tmp_path / "annotations/train.json", json.dumps(facts))
    put(tmp_path / "images/train/a.png", picture())
    (record,), (finding,) = drain(read_datumaro(tmp_path))
    assert record.boxes.tolist() == [[3, 5, 20, 9]]
    assert finding.code == "box-missing" and "runs of 2 pixels" in finding.value

"""2,000 boxes in an image, 64 threads, one image, none: for each executor, and the adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from dataforge import Loader, Shards
from dataforge.adapters import Records, to_torchvision, to_ultralytics
from dataforge.errors import ConfigError
from dataforge.images.header import probe
from dataforge.record import Record
from dataforge.shards.writer import ShardWriter
from dataforge.sources.view import View
from dataforge.transform.bake import Form, bake
from tests import tiny
from tests.loading.test_loader import on_device, same

SIZE, BOXES = (64, 96), 2000
RECIPES = [None, "yolo", "lsj", "strong", [{"op": "mosaic", "p": 1.0}, {"op": "mixup", "p": 1.0}]]


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of one image with 2,000 boxes, and a raw cache of them."""
    root, data = tmp_path_factory.mktemp("extremes"), tiny.encode(tiny.pixels(90, 120))
    with ShardWriter(root / "shards", tiny.CLASSES, tiny.CLASS_IDS, source="one") as writer:
        labels = np.arange(BOXES, dtype=np.int32) % 3
        record = Record("a", "train", data, 90, 120, tiny.boxes(BOXES, 90, 120), labels, np.zeros(BOXES, np.uint8))
        writer.add(record, data, probe(data))
        writer.publish()
    bake(Shards(root / "shards"), root / "raw", Form(shapes=(SIZE,), raw=True))
    return root


@pytest.mark.parametrize("augment", RECIPES, ids=str)
@pytest.mark.parametrize("make", [Loader, on_device])
@pytest.mark.parametrize("name", ["shards", "raw"])
def test_one_image_of_2000_boxes_in_64_threads(one: Path, name: str, make: Any, augment: Any) -> None:
    how = {"batch_size": 3, "size": SIZE, "augment": augment, "min_visible": 0.0}
    (batch,), (alone,) = (list(make(one / name, threads=threads, **how)) for threads in (64, 1))
    assert same(batch, alone) and batch.index.tolist() == [0]
    used = batch.labels >= 0
    assert batch.images.shape == (1, 3, *SIZE) and batch.boxes[used].isfinite().all()
    if augment is None:
        assert used.sum() == BOXES and batch.labels.shape == (1, 2048)
    _, targets = to_torchvision(batch)
    assert len(targets[0]["boxes"]) == len(to_ultralytics(batch, Shards(one / name))["cls"]) == used.sum() > 0


@pytest.mark.parametrize("make", [Loader, on_device])
@pytest.mark.parametrize("name", ["shards", "raw"])
@pytest.mark.parametrize("augment", [None, "yolo"])
def test_no_images(one: Path, name: str, make: Any, augment: str | None) -> None:
    none = Shards(one / name, "train", view=View(side=(1e6, 1e7), empty="drop"))
    assert len(none) == 0 and len(none.table.boxes) == 0
    loader = make(none, batch_size=3, size=SIZE, augment=augment, threads=64)
    for use in (len, list):
        with pytest.raises(ConfigError, match="0 records cannot be dealt to 1 ranks"):
            use(loader)
    records = Records(Loader(none, size=SIZE, augment=augment))
    assert list(DataLoader(records, batch_size=3, collate_fn=Records.collate)) == []


def test_a_batch_of_one_image_in_a_data_loader(one: Path) -> None:
    records = Records(Loader(one / "shards", size=SIZE))
    (batch,) = DataLoader(records, batch_size=3, collate_fn=Records.collate)
    assert torch.equal(batch.boxes, next(iter(Loader(one / "shards", size=SIZE))).boxes)

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.rpn import AnchorGenerator

from dataforge import Loader, Shards
from dataforge.adapters import Records, to_torchvision, to_ultralytics
from dataforge.errors import ConfigError
from dataforge.record import CROWD
from tests import tiny

SIZE = (96, 128)


@pytest.mark.parametrize(("workers", "start"), [(0, None), (2, "fork"), (2, "spawn")])
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python 3.12 warns of it in a process with threads
def test_a_data_loader_gives_the_loaders_images(tiny_shards: Path, workers: int, start: str | None) -> None:
    loader = Loader(tiny_shards, batch_size=4, size=SIZE, augment="yolo", shuffle=False)
    loader.set_epoch(3)
    records = pickle.loads(pickle.dumps(Records(loader)))
    batches = DataLoader(
        records, batch_size=4, num_workers=workers, multiprocessing_context=start, collate_fn=Records.collate
    )
    assert len(batches) == 3
    for ours, theirs in zip(loader, batches, strict=True):
        for name in ("images", "boxes", "labels", "flags", "affine", "index"):
            assert torch.equal(getattr(ours, name), getattr(theirs, name))


def test_a_data_loader_shuffles_and_a_record_looks_the_same_in_any_company(tiny_shards: Path) -> None:
    records = Records(Loader(tiny_shards, size=SIZE, augment="yolo"))
    alone = [records[i].images[0] for i in range(len(records))]
    seen = []
    for batch in DataLoader(records, batch_size=3, shuffle=True, collate_fn=Records.collate):
        for image, i in zip(batch.images, batch.index.tolist(), strict=True):
            assert torch.equal(image, alone[i])
            seen.append(i)
    assert sorted(seen) == list(range(10))
    records.set_epoch(1)
    assert not torch.equal(records[0].images[0], alone[0])


@pytest.mark.parametrize(("workers", "start"), [(0, None), (2, "fork"), (2, "spawn")])
@pytest.mark.parametrize("augment", [None, [{"op": "mosaic", "p": 0.5}]])
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning", "ignore:skipped:UserWarning")
def test_what_workers_skip_is_listed(tmp_path: Path, workers: int, start: str | None, augment: Any) -> None:
    root = tiny.shards(tmp_path / "s", repeat=2, splits=("train",))
    tiny.damage(root / "train/00000", 3)
    ours = Loader(root, batch_size=4, size=SIZE, augment=augment, on_error="skip")
    ours.set_epoch(2)
    list(ours)
    assert 3 in ours.skipped and (augment is None) == (len(ours.skipped) == 1)  # a damaged partner spoils a mosaic
    records = Records(Loader(root, size=SIZE, augment=augment, on_error="skip"))
    records.set_epoch(2)
    batches = DataLoader(
        records, batch_size=4, num_workers=workers, multiprocessing_context=start, collate_fn=Records.collate
    )
    assert not records.skipped
    list(batches)
    records.set_epoch(3)  # what was skipped in the other epoch is still listed
    assert records.skipped == ours.skipped == records.loader.skipped


def test_buckets_do_not_fit_a_data_loader(tiny_shards: Path) -> None:
    with pytest.raises(ConfigError, match="expected one size"):
        Records(Loader(tiny_shards, buckets=[(64, 96), (96, 64)]))


def detector(classes: int) -> FasterRCNN:
    backbone = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, stride=8, padding=1), torch.nn.ReLU())
    backbone.out_channels = 8  # type: ignore[assignment]
    anchors = AnchorGenerator(((8, 32, 64),), ((0.5, 1.0, 2.0),))
    return FasterRCNN(backbone, classes + 1, rpn_anchor_generator=anchors, min_size=96, max_size=128)


@pytest.mark.parametrize("augment", [None, "yolo"])
def test_torchvisions_detector_takes_the_lists(tiny_shards: Path, augment: str | None) -> None:
    torch.manual_seed(0)
    (batch,) = Loader(tiny_shards, batch_size=10, size=SIZE, augment=augment)
    images, targets = to_torchvision(batch)
    assert len(images) == len(targets) == 10
    assert all(image.dtype == torch.float32 and image.shape == (3, *SIZE) and image.max() <= 1 for image in images)
    for i, target in enumerate(targets):
        there = batch.labels[i] >= 0
        assert target["boxes"].shape == (int(there.sum()), 4) and target["boxes"].dtype == torch.float32
        assert target["labels"].dtype == torch.int64 and (target["labels"] == batch.labels[i, there] + 1).all()
        assert target["image_id"].tolist() == [int(batch.index[i])]
        assert (target["iscrowd"] == (batch.flags[i, there] & CROWD > 0)).all()
        assert (target["area"] > 0).all()
    assert any(not len(target["boxes"]) for target in targets) and any(target["iscrowd"].any() for target in targets)
    model = detector(3).train()
    losses = model(images, targets)
    assert set(losses) >= {"loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"}
    total = sum(losses.values())
    assert torch.isfinite(total)
    total.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize("augment", [None, "flip"])
def test_ultralytics_dict_leads_back_to_the_batch(tiny_shards: Path, augment: str | None) -> None:
    shards = Shards(tiny_shards, "train")
    (batch,) = Loader(tiny_shards, batch_size=10, size=SIZE, augment=augment)
    target = to_ultralytics(batch, shards)
    assert target["img"].dtype == torch.uint8 and target["img"].shape == (10, 3, *SIZE)
    count = len(target["batch_idx"])
    assert target["cls"].shape == (count, 1) and target["bboxes"].shape == (count, 4)
    assert all(target[name].dtype == torch.float32 for name in ("cls", "bboxes", "batch_idx"))
    assert target["bboxes"].min() >= 0 and target["bboxes"].max() <= 1
    whole = target["bboxes"] * torch.tensor([128, 96, 128, 96])
    corners = torch.cat([whole[:, :2] - whole[:, 2:] / 2, whole[:, :2] + whole[:, 2:] / 2], 1)
    for i in range(10):
        used = (batch.labels[i] >= 0) & (batch.flags[i] & CROWD == 0)
        rows = target["batch_idx"] == i
        torch.testing.assert_close(corners[rows], batch.boxes[i, used], atol=1e-3, rtol=0)
        assert target["cls"][rows, 0].tolist() == batch.labels[i, used].tolist()
        record = int(batch.index[i])
        assert target["im_file"][i] == shards.table.key[record]
        assert target["ori_shape"][i] == (shards.table.height[record], shards.table.width[record])
        assert target["resized_shape"][i] == SIZE

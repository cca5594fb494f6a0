"""A detector that finds plainly coloured rectangles: what it should find is known, and nothing has to be trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from torch import Tensor, nn

from dataforge.images.header import probe
from dataforge.loading.batch import Batch
from dataforge.record import DIFFICULT, Record
from dataforge.shards.writer import ShardWriter
from tests import tiny
from trainers import checkpoint, registry
from trainers.models.detector import Detections, Detector

COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255))
CLASSES = ("red", "green", "blue")
CLASS_IDS = (4, 9, 70)


class Painted(Detector):
    """Finds the hull of all pixels of each class's colour; at most one box a class."""

    stride = 1

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.classes = classes
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, images: Tensor) -> Tensor:
        assert images.dtype == torch.uint8
        colours = torch.tensor(COLOURS[: self.classes])
        return ((images[:, None].int() - colours[:, :, None, None]).abs().amax(2) < 100).to(torch.uint8)  # B, C, H, W

    def loss(self, raw: Any, batch: Batch) -> dict[str, Tensor]:
        return {"none": self.weight.sum()}

    def decode(self, raw: Tensor, *, conf: float = 0.001, iou: float = 0.5, top: int = 300) -> Detections:
        columns, rows = raw.amax(2).bool(), raw.amax(3).bool()

        def ends(line: Tensor) -> tuple[Tensor, Tensor]:
            place = torch.arange(line.shape[-1])
            low = torch.where(line, place, line.shape[-1]).amin(-1)
            return low.float(), torch.where(line, place + 1, 0).amax(-1).float()

        (x1, x2), (y1, y2) = ends(columns), ends(rows)
        scores = torch.tensor([0.9, 0.6, 0.3])[: self.classes].expand(len(raw), -1)
        labels = torch.arange(self.classes).expand(len(raw), -1)
        labels = torch.where(columns.any(-1) & (scores >= conf), labels, -1)
        boxes = torch.stack([x1, y1, x2, y2], -1)
        return Detections(boxes, scores, labels)


def picture(height: int, width: int, boxes: dict[int, tuple[int, int, int, int]]) -> np.ndarray:
    pixels = np.full((height, width, 3), 114, np.uint8)
    for label, (x1, y1, x2, y2) in boxes.items():
        pixels[y1:y2, x1:x2] = COLOURS[label]
    return pixels


PICTURES: dict[str, tuple[int, int, dict[int, tuple[int, int, int, int]]]] = {
    "wide.png": (80, 160, {0: (0, 0, 60, 80), 1: (100, 10, 160, 60)}),
    "tall.jpg": (150, 70, {2: (10, 20, 50, 150)}),
    "empty.jpg": (90, 90, {}),
    "sub/dir/all.jpg": (128, 96, {0: (8, 8, 40, 40), 1: (50, 50, 90, 90), 2: (4, 90, 40, 120)}),
    "last.jpg": (100, 120, {1: (0, 30, 120, 100)}),
}


def encoded(name: str) -> bytes:
    height, width, boxes = PICTURES[name]
    return tiny.encode(picture(height, width, boxes), "PNG" if name.endswith("png") else "JPEG")


def shards(out: Path, first_id: int = 500) -> Path:
    """The pictures as shards: split "val" all, split "train" two of them; the last one's box is difficult."""
    with ShardWriter(out, CLASSES, CLASS_IDS) as writer:
        for split, names in (("train", list(PICTURES)[:2]), ("val", list(PICTURES))):
            for i, name in enumerate(names):
                height, width, boxes = PICTURES[name]
                data = encoded(name)
                record = Record(
                    key=name,
                    split=split,
                    image=data,
                    height=height,
                    width=width,
                    boxes=np.array(list(boxes.values()), np.float32).reshape(-1, 4),
                    labels=np.array(list(boxes), np.int32),
                    flags=np.full(len(boxes), DIFFICULT if name == "last.jpg" else 0, np.uint8),
                    id=first_id - i if first_id >= 0 else -1,
                )
                writer.add(record, data, probe(data))
        writer.publish()
    return out


def files(out: Path) -> Path:
    """The pictures as files."""
    for name in PICTURES:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(encoded(name))
    return out


def saved(file: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> Path:
    """A checkpoint of `Painted`."""
    monkeypatch.setitem(registry.DETECTORS, "painted", "tests.trainers.fake:Painted")
    detector = Painted()
    facts = {
        "detector": "painted",
        "config": {"classes": 3},
        "classes": list(CLASSES),
        "class_ids": list(CLASS_IDS),
        "size": [320, 320],
        "fit": "letterbox",
        "model": detector.state_dict(),
    }
    checkpoint.save(file, facts | changes)
    return file


def pixels_of(file: Path) -> np.ndarray:
    with PIL.Image.open(file) as image:
        return np.asarray(image.convert("RGB"))

"""A training step of our detectors beside torchvision's own: the same layers, images, boxes and optimizer, each with
random weights of its own.

    python bench/detectors.py --results bench/results/DATE.jsonl

"step" is forward, targets, losses, backward and the optimizer; "heads" is that without the backbone and the pyramid,
from fixed feature maps: what the two do differently. The two take turns; rows are medians, and the ratio is theirs to
ours.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import detection

from dataforge.adapters import to_torchvision
from dataforge.bench.measure import record_rows
from dataforge.loading.batch import Batch
from trainers.dense import Dense
from trainers.faster_rcnn import FasterRCNN
from trainers.models.detector import Detector
from trainers.ssd import SSD

CLASSES, BOXES = 20, 100


class Fixed(nn.Module):
    """Gives the same maps for any images."""

    def __init__(self, maps: Any) -> None:
        super().__init__()
        self.maps, self.name = maps, "fixed"

    def forward(self, images: Any) -> Any:
        return self.maps


def make(name: str, size: tuple[int, int]) -> tuple[Detector, nn.Module]:
    """Ours and theirs."""
    plain: dict[str, Any] = {"weights": None, "weights_backbone": None, "min_size": size[0], "max_size": size[1]}
    if name == "ssd300":
        del plain["min_size"], plain["max_size"]
        return SSD(CLASSES, style="torchvision"), detection.ssd300_vgg16(num_classes=CLASSES + 1, **plain)
    if name == "retinanet_r50_fpn":
        sizes = [[x, int(x * 2 ** (1 / 3)), int(x * 2 ** (2 / 3))] for x in (32, 64, 128, 256, 512)]
        ours: Detector = Dense(CLASSES, sizes=sizes, channels=3, backbone="resnet50", width=256, depth=4)
        return ours, detection.retinanet_resnet50_fpn(num_classes=CLASSES, **plain)
    theirs = detection.fasterrcnn_resnet50_fpn(num_classes=CLASSES + 1, **plain)
    return FasterRCNN(CLASSES, frozen_norm=False), theirs


def batch_of(count: int, size: tuple[int, int]) -> Batch:
    draw = torch.Generator().manual_seed(0)
    limit = torch.tensor([size[1], size[0]], dtype=torch.float32)
    corner = torch.rand(count, BOXES, 2, generator=draw) * 0.8 * limit
    side = (0.03 + 0.3 * torch.rand(count, BOXES, 2, generator=draw) ** 2) * limit
    boxes = torch.cat([corner, torch.minimum(corner + side, limit)], -1)
    padding = 128
    padded = torch.zeros(count, padding, 4)
    padded[:, :BOXES] = boxes
    labels = torch.full((count, padding), -1)
    labels[:, :BOXES] = torch.randint(0, CLASSES, (count, BOXES), generator=draw)
    images = torch.rand(count, 3, *size, generator=draw).contiguous(memory_format=torch.channels_last)
    affine = torch.eye(3).repeat(count, 1, 1)
    flags = torch.zeros(count, padding, dtype=torch.uint8)
    return Batch(images, padded, labels, flags, affine, torch.arange(count))


def step_of(model: nn.Module, losses: Callable[[], dict[str, Tensor]]) -> Callable[[], None]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9)

    def step() -> None:
        torch.stack(list(losses().values())).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def pairs(name: str, count: int, size: tuple[int, int]) -> Iterator[tuple[str, Callable[[], None], Callable[[], None]]]:
    """ "step" and "heads", each with our way and theirs, ready to be called again and again."""
    torch.manual_seed(0)
    ours, theirs = make(name, size)
    batch = batch_of(count, size)
    first = 0 if name == "retinanet_r50_fpn" else 1  # of their classes; 0 is the background elsewhere
    images, targets = to_torchvision(batch, first)
    images = [image.contiguous() for image in images]
    ours = ours.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    theirs = theirs.train()
    for layer in (*ours.modules(), *theirs.modules()):
        if isinstance(layer, nn.BatchNorm2d):
            layer.eval()
    our_step = step_of(ours, lambda: ours.loss(ours(batch.images), batch))
    their_step = step_of(theirs, lambda: theirs(images, targets))
    yield "step", our_step, their_step
    with torch.no_grad():
        features = theirs.backbone(torch.stack(images))  # type: ignore[operator]
    # each in the memory format of its own step: theirs as in the images, ours channels last
    theirs.backbone = Fixed({key: value.requires_grad_() for key, value in features.items()})
    maps = [
        value.detach().contiguous(memory_format=torch.channels_last).requires_grad_() for value in features.values()
    ]
    if name == "ssd300":
        ours.features = lambda images: maps  # type: ignore[assignment]
    else:
        ours.backbone, ours.pyramid = Fixed(maps), Fixed(maps)
    yield "heads", our_step, their_step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="ssd300,retinanet_r50_fpn,faster_rcnn_r50_fpn")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--size", type=int, nargs=2, default=(384, 512), help="of the two with a pyramid")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--results", type=Path, help="a file of rows to add to")
    given = parser.parse_args()
    for name in given.models.split(","):
        size = (300, 300) if name == "ssd300" else (given.size[0], given.size[1])
        for part, *both in pairs(name, given.batch_size, size):
            seconds: list[list[float]] = [[], []]
            for turn in range(given.repeats + 1):
                for way, kept in zip(both, seconds, strict=True):
                    started = time.perf_counter()
                    way()
                    if turn:  # the first warms up
                        kept.append(time.perf_counter() - started)
            ours, theirs = map(median, seconds)
            row = {
                "name": f"{name}, training {part}: torchvision's time over ours",
                "value": round(theirs / ours, 3),
                "unit": "x",
                "ours_s": [round(s, 3) for s in sorted(seconds[0])],
                "theirs_s": [round(s, 3) for s in sorted(seconds[1])],
                "setting": f"batch {given.batch_size}, {size[0]}x{size[1]}, {BOXES} boxes an image, CPU",
            }
            print(f"{row['name']}: {row['value']} ({theirs:.2f} s, {ours:.2f} s)", flush=True)
            record_rows([row], given.results)


if __name__ == "__main__":
    main()

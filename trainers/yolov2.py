"""Legend: B images, M padded boxes, A anchors, C classes, h x w cells, P = A*h*w predictors, K detections.

YOLOv2 (Redmon and Farhadi, "YOLO9000: Better, Faster, Stronger", arXiv 1612.08242): Darknet-19 or another backbone, a
passthrough from stride 16, and A anchor boxes per cell of 32 x 32 pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

from dataforge.command import natural, real
from trainers.command import command
from trainers.config import Config, default, value


@dataclass
class YOLOv2Config(Config):
    """Configuration with the paper's defaults for VOC; `configs/` contains recipes for smaller machines."""

    multiscale: list[float] = default(
        "multiscale", [0.75, 1.45], "low,high: every 10 steps draw a factor of the size (416: 320..608)"
    )
    backbone: str = value("darknet19", "darknet19, or a timm model with maps at strides 16 and 32")
    width: float = value(1.0, "factor of the channels of darknet19 and of the head", real(above=0))
    pretrained: str = value("", "backbone weights: a file, true for timm's own, or a timm tag; empty for none")
    freeze: int = value(0, "number of the backbone's first layers and blocks that stay frozen", natural(0))
    anchors: str = value("auto", "auto (k-means on the training boxes), voc, or w,h,w,h,... in units of 32 pixels")
    num_anchors: int = value(5, "number of anchors of auto", natural())


if __name__ == "__main__":  # before torch is imported: help and wrong options are answered at once
    command("yolov2", YOLOv2Config)(prog_name="python -m trainers.yolov2")

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dataforge.command import echo
from dataforge.loading.batch import Batch
from dataforge.record import CROWD
from dataforge.shards.reader import Shards
from trainers.distributed import world_size
from trainers.models import anchors as anchor_sets
from trainers.models import assign, backbones, pretrained
from trainers.models.boxes import iou as box_iou
from trainers.models.detector import Detections, Detector, select, unit

OBJECT, NO_OBJECT, CLASS, COORD, PRIOR = 5.0, 1.0, 1.0, 1.0, 0.01  # weights of the parts of the loss
IGNORE_IOU = 0.6
PRIOR_IMAGES = 12800
_MAX_LOG = 8.0  # larger values are clamped to avoid overflow of exp
_MIN_CELLS = 0.01  # lower bound of a box side in the logarithm (0.3 pixels), for boxes cropped by augmentation


def reorg(x: Tensor) -> Tensor:
    """Rearrange space to depth by 2 in Darknet's element order: (B, n, 2h, 2w) -> (B, 4n, h, w).

    Darknet's layer reads the map as if it were (n/4, 4h, 4w), takes every second row and column of that, and
    concatenates the four results. This does not keep neighbours together, but trained Darknet weights depend on it.
    """
    _, channels, height, width = x.shape
    x = x.reshape(-1, channels // 4, height, 2, width, 2).permute(0, 3, 5, 1, 2, 4)
    return x.reshape(-1, channels * 4, height // 2, width // 2)


class YOLOv2(Detector):
    """YOLOv2.

    Args:
        classes: C.
        anchors: A pairs (width, height) in units of 32 pixels.
        backbone: "darknet19" or a timm model's name.
        width: multiplies the channels of Darknet-19 and of the head.
        passthrough: join the stride-16 map to the head.
        freeze: number of the backbone's first units that are not trained.

    Attributes:
        seen: images trained on so far; `loss` advances it in training mode.
    """

    stride = 32
    anchors: Tensor
    seen: Tensor

    def __init__(
        self,
        classes: int,
        *,
        anchors: Sequence[Sequence[float]] = anchor_sets.VOC,
        backbone: str = "darknet19",
        width: float = 1.0,
        passthrough: bool = True,
        freeze: int = 0,
    ) -> None:
        super().__init__()
        self.classes, self.passthrough = classes, passthrough
        self.register_buffer("anchors", torch.tensor([list(pair) for pair in anchors], dtype=torch.float32))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.backbone = backbones.build(backbone, width)
        self.backbone.freeze(freeze)
        fine, coarse = self.backbone.channels
        inner, side = backbones.scaled(1024, width), backbones.scaled(64, width)
        self.head = nn.Sequential(backbones.conv(coarse, inner, 3), backbones.conv(inner, inner, 3))
        if passthrough:
            self.squeeze = backbones.conv(fine, side, 1)
        self.merge = backbones.conv(inner + 4 * side * passthrough, inner, 3)
        self.predict = nn.Conv2d(inner, len(self.anchors) * (5 + classes), 1)

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, A*(5+C), H/32, W/32); an anchor's channels are tx, ty, tw, th, object, classes."""
        fine, coarse = self.backbone(unit(images))
        x = self.head(coarse)
        if self.passthrough:
            x = torch.cat([reorg(self.squeeze(fine)), x], 1)
        return self.predict(self.merge(x))

    @classmethod
    def configure(cls, config: YOLOv2Config, shards: Shards) -> dict[str, Any]:
        if config.anchors == "auto":
            size = (config.size[0], config.size[1])
            anchors, mean_iou = anchor_sets.from_shards(shards, size, config.fit, config.num_anchors, config.seed)
            shown = ", ".join(f"{w:.2f}x{h:.2f}" for w, h in anchors)
            if not config.auto_batch and os.environ.get("RANK", "0") == "0":  # once: the batch is found before
                echo(f"anchors: {shown}; mean IoU with the boxes {mean_iou:.3f}")
        else:
            anchors = anchor_sets.parse(config.anchors)
        return {
            "classes": len(shards.classes),
            "anchors": [list(pair) for pair in anchors],
            "backbone": config.backbone,
            "width": config.width,
            "freeze": config.freeze,
        }

    def pretrain(self, config: YOLOv2Config) -> str:
        return pretrained.load(self.backbone, config.pretrained) if config.pretrained else ""

    def _rows(self, raw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return predictors in the order anchor, row, column.

        Returns:
            Values (B, P, 5+C) float32 for any dtype of `raw`; each predictor's cell (P, 2) as x, y; its anchor (P, 2).
        """
        rows, columns = raw.shape[2:]
        values = raw.float().unflatten(1, (len(self.anchors), -1)).permute(0, 1, 3, 4, 2).flatten(1, 3)
        y = torch.arange(rows, device=raw.device).view(1, -1, 1).expand(len(self.anchors), rows, columns)
        x = torch.arange(columns, device=raw.device).view(1, 1, -1).expand_as(y)
        anchor = self.anchors.view(-1, 1, 2).expand(-1, rows * columns, 2).flatten(0, 1)
        return values, torch.stack([x, y], -1).flatten(0, 2).float(), anchor

    def predictions(self, raw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Convert the predictors' outputs to boxes and probabilities.

        Returns:
            Boxes (B, P, 4) xyxy pixels of the network's input, objectness (B, P), class probabilities (B, P, C).
        """
        values, cell, anchor = self._rows(raw)
        boxes = _corners(cell + values[..., :2].sigmoid(), values[..., 2:4], anchor) * self.stride
        return boxes, values[..., 4].sigmoid(), values[..., 5:].softmax(-1)

    def loss(self, raw: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Compute sums over predictors, divided by B, with the gradients of Darknet's region layer.

        Squares therefore have a factor 1/2. The target of a predictor is the box assigned by `assign.in_cells`: centre
        and logarithmic size with weight 2 - its share of the image's area, objectness towards the IoU of prediction
        and box, class by cross-entropy. All other predictors have target objectness 0, unless they overlap some box by
        more than 0.6 IoU (a crowd: are inside it by more than 0.6 of their own area), and over the first 12,800 images
        are pulled to their anchor at the centre of their cell. Crowds are not assigned to predictors, difficult boxes
        are.

        Returns:
            Scalars "box", "obj", "noobj", "cls" and "prior", weighted.
        """
        values, cell, anchor = self._rows(raw)
        rows, columns = raw.shape[2:]
        places = batch.labels.shape[1]
        centre, log_size, confidence = values[..., :2].sigmoid(), values[..., 2:4], values[..., 4].sigmoid()
        with torch.no_grad():
            # an extra last box represents "no box", so that it can be gathered like the others
            labels = functional.pad(batch.labels, (0, 1), value=-1)
            truth = functional.pad(batch.boxes.float() / self.stride, (0, 0, 0, 1))
            truth = torch.where((labels >= 0).unsqueeze(-1), truth, 0.0)
            crowd = functional.pad(batch.flags, (0, 1)) & CROWD > 0
            owner = assign.in_cells(truth[:, :-1], ((labels >= 0) & ~crowd)[:, :-1], self.anchors, (rows, columns))
            positive = owner < places
            target = truth.gather(1, owner.unsqueeze(-1).expand(-1, -1, 4))
            predicted = _corners(cell + centre, log_size, anchor)
            overlap = box_iou(predicted.unsqueeze(2), target.unsqueeze(2))[..., 0, 0]
            negative = ~positive & (box_iou(predicted, truth, crowd).amax(-1) <= IGNORE_IOU)
            size = target[..., 2:] - target[..., :2]
            target_centre = (target[..., :2] + target[..., 2:]) / 2 - cell
            target_log = (size.clamp(min=_MIN_CELLS) / anchor).log()
            weight = positive * (2 - size.prod(-1) / (rows * columns))
            early = ~positive & (self.seen < PRIOR_IMAGES)
        offset = (centre - target_centre).square().sum(-1) + (log_size - target_log).square().sum(-1)
        drift = (centre - 0.5).square().sum(-1) + log_size.square().sum(-1)
        wrong = functional.cross_entropy(
            values[..., 5:].flatten(0, 1), labels.gather(1, owner).flatten(), ignore_index=-1, reduction="sum"
        )
        half = 0.5 / max(len(raw), 1)
        if self.training:
            self.seen += len(raw) * world_size()
        return {
            "box": COORD * half * (weight * offset).sum(),
            "obj": OBJECT * half * (positive * (confidence - overlap).square()).sum(),
            "noobj": NO_OBJECT * half * (negative * confidence.square()).sum(),
            "cls": CLASS * 2 * half * wrong,
            "prior": PRIOR * half * (early * drift).sum(),
        }

    def decode(
        self, raw: Tensor, *, conf: float | Tensor = 0.001, iou: float | Tensor = 0.5, top: int = 300
    ) -> Detections:
        """Decode to boxes clipped to the image, several classes per predictor. Scores are objectness times class."""
        boxes, objectness, classes = self.predictions(raw)
        height, width = (side * self.stride for side in raw.shape[2:])
        boxes = boxes.clamp(min=0).minimum(boxes.new_tensor([width, height, width, height]))
        return select(boxes.unsqueeze(2), objectness.unsqueeze(-1) * classes, conf=conf, iou=iou, top=top)


def _corners(centre: Tensor, log_size: Tensor, anchor: Tensor) -> Tensor:
    half = anchor * log_size.clamp(max=_MAX_LOG).exp() / 2
    return torch.cat([centre - half, centre + half], -1)

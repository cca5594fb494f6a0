"""Legend: B images, A anchors, C classes, K detections, H x W pixels.

A simple dense detector that can be configured as RetinaNet (Lin et al., "Focal Loss for Dense Object Detection", arXiv
1708.02002). In the order of the file: a network that computes feature maps; anchors, a few boxes around every cell of
each map; one head that classifies each anchor, and another that regresses the offset from the anchor to the object;
the assignment of objects to anchors, and two losses.
"""

from __future__ import annotations

from dataclasses import dataclass

from dataforge.command import natural
from trainers.command import command
from trainers.config import Config, default, value


@dataclass
class DenseConfig(Config):
    """Configuration whose defaults train on a laptop; `configs/retinanet.toml` contains RetinaNet's."""

    size: list[int] = default("size", [64, 128])
    fit: str = default("fit", "stretch")
    augment: str = default("augment", "flip")
    optimizer: str = default("optimizer", "adamw")
    schedule: str = default("schedule", "cosine")
    epochs: int = default("epochs", 40)
    ema: float = default("ema", 0.998)
    channels: int = value(1, "1 for grey images, 3 for RGB", natural())
    backbone: str = value("plain", "plain (a few residual blocks), or a timm model such as resnet50")
    levels: int = value(
        1, "feature maps, each half as large: plain's begin at stride 4, timm's at 8 (RetinaNet has 5)", natural()
    )
    width: int = value(32, "channels of the plain network, the pyramid and the heads (RetinaNet has 256)", natural())
    depth: int = value(2, "convolutions in each head before its last (RetinaNet has 4)", natural(0))
    pretrained: str = value("", "backbone weights: a file, true for timm's own, or a timm tag; empty for none")
    freeze: int = value(0, "number of the backbone's first layers and blocks that stay frozen", natural(0))
    frozen_norm: bool = value(False, "freeze the backbone's batch norms if pretrained (as RetinaNet does)")


if __name__ == "__main__":  # before torch is imported: help and wrong options are answered at once
    from trainers.training.database import with_database

    with_database(command("dense", DenseConfig))(prog_name="python -m trainers.dense")

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from dataforge.errors import ConfigError
from dataforge.images.draw import Pixels
from dataforge.loading.batch import Batch
from dataforge.shards.reader import Shards
from trainers.models import anchors, assign, backbones, losses, pretrained
from trainers.models.convolution import Conv3x3
from trainers.models.detector import Detections, Detector, limit, select, unit
from trainers.results import dense_pictures

POSITIVE, NEGATIVE = 0.5, 0.4  # an anchor is positive from the first overlap on, and background below the second
PRIOR = 0.01  # initial probability of a class at an anchor (arXiv 1708.02002, section 3.3)
_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


class Raw(NamedTuple):
    """The network's raw outputs.

    Attributes:
        maps: the input of both heads at each level, (B, width, h, w).
        logits: (B, A, C); offsets: (B, A, 4), as `anchors.to_offsets` makes them.
        anchors: (A, 4) xyxy pixels; limit: (4,) the input's width, height, width, height.
    """

    maps: list[Tensor]
    logits: Tensor
    offsets: Tensor
    anchors: Tensor
    limit: Tensor


class Residual(nn.Module):
    """Residual block: two 3x3 convolutions whose result is added to the input (arXiv 1512.03385, figure 2)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.one, self.two = (nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2))
        self.norm_one, self.norm_two = nn.BatchNorm2d(width), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        inner = functional.relu(self.norm_one(self.one(x)))
        return functional.relu(x + self.norm_two(self.two(inner)))


class Plain(backbones.Backbone):
    """Backbone with maps at strides 4, 8, ...: before each map, a 5x5 convolution with stride 2 (two before the first)
    and two residual blocks.
    """

    name = "plain"

    def __init__(self, inputs: int, width: int, levels: int) -> None:
        super().__init__()
        self.channels = (width,) * levels
        self.stages = nn.ModuleList()
        for channels in (inputs, *[width] * levels):
            down = nn.Conv2d(channels, width, 5, stride=2, padding=2, bias=False)
            norm = nn.BatchNorm2d(width)
            self.stages.append(nn.Sequential(down, norm, nn.ReLU(), Residual(width), Residual(width)))

    def units(self) -> list[nn.Module]:
        return list(self.stages)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        maps = [images]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return tuple(maps[2:])


class Head(nn.Module):
    """Convolutions shared by all maps, with `outputs` numbers for each anchor of a cell."""

    def __init__(self, inputs: int, depth: int, anchors_a_cell: int, outputs: int, bias: float = 0.0) -> None:
        super().__init__()
        self.outputs = outputs
        self.conv = nn.Sequential()
        for _ in range(depth):
            self.conv.append(nn.Sequential(Conv3x3(inputs, inputs), nn.ReLU()))
        self.last = Conv3x3(inputs, anchors_a_cell * outputs)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.01)
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        nn.init.constant_(self.last.bias, bias)  # type: ignore[arg-type]

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Map (B, width, h, w) each to (B, A, outputs), in the order map, row, column, anchor."""
        outputs = [self.last(self.conv(x)).permute(0, 2, 3, 1).reshape(x.shape[0], -1, self.outputs) for x in maps]
        return torch.cat(outputs, 1)


def match(fixed: Tensor, batch: Batch) -> Tensor:
    """Return (B, A) the index of the box assigned to each anchor, or `assign.NEGATIVE` or `assign.IGNORED`.

    Every box is assigned at least the anchor that overlaps it most.
    """
    eligible, shields = assign.targets(batch)
    return assign.match(fixed, batch.boxes, eligible, high=POSITIVE, low=NEGATIVE, force="ties", shields=shields)


class Dense(Detector):
    """Dense detector.

    Args:
        classes: C.
        sizes: for each level, the sides of its square anchors in pixels; its other anchors have the same areas and are
            half or twice as high as wide.
        channels, backbone, width, depth, freeze, frozen_norm: as in `DenseConfig`.
    """

    stride = 4

    def __init__(
        self,
        classes: int,
        *,
        sizes: Sequence[Sequence[float]],
        channels: int = 1,
        backbone: str = "plain",
        width: int = 32,
        depth: int = 2,
        freeze: int = 0,
        frozen_norm: bool = False,
    ) -> None:
        super().__init__()
        self.classes, self.channels, self.sizes = classes, channels, sizes
        levels = len(sizes)
        self.strides = [(4 if backbone == "plain" else 8) << level for level in range(levels)]
        if backbone == "plain":
            self.backbone: backbones.Backbone = Plain(channels, width, levels)
        else:
            self.backbone = backbones.build(backbone, strides=self.strides[:3])
        self.backbone.freeze(freeze, norms=frozen_norm)
        coarser = LastLevelP6P7(width, width) if levels > len(self.backbone.channels) else None
        self.pyramid = backbones.Pyramid(self.backbone.channels, width, coarser)
        count = 3 * len(sizes[0])
        self.classify = Head(width, depth, count, classes, bias=-math.log((1 - PRIOR) / PRIOR))
        self.regress = Head(width, depth, count, 4)

    @classmethod
    def configure(cls, config: DenseConfig, shards: Shards) -> dict[str, Any]:
        """Choose anchors: for one level, an eighth to all of the width; for several, 8 strides, as in RetinaNet."""
        plain, levels = config.backbone == "plain", config.levels
        known = range(1, 6) if plain else (1, 2, 3, 5)
        for key, given, expected in (("levels", levels, known), ("channels", config.channels, (1, 3))):
            if given not in expected:
                raise ConfigError(f"{key} is {given}; expected one of {', '.join(map(str, expected))}")
        if levels == 1:
            sizes = [[config.size[-1] / share for share in (8, 4, 2, 1)]]
        else:
            first = 16 if plain else 32
            sizes = [[int(first * 2 ** (level + k / 3)) for k in range(3)] for level in range(levels)]
        keys = ("channels", "backbone", "width", "depth", "freeze", "frozen_norm")
        values = {key: getattr(config, key) for key in keys} | {"frozen_norm": pretrained.frozen_norm(config)}
        return {"classes": len(shards.classes), "sizes": sizes} | values

    def pretrain(self, config: DenseConfig) -> str:
        return pretrained.load(self.backbone, config.pretrained) if config.pretrained else ""

    def forward(self, images: Tensor) -> Raw:
        """Map (B, 3, H, W) to logits, offsets and anchors in the order level, row, column, size, shape."""
        x = unit(images)
        if self.channels == 1:
            x = (x * x.new_tensor(_LUMA).view(-1, 1, 1)).sum(1, keepdim=True)
            x = x if self.backbone.name == "plain" else x.expand(-1, 3, -1, -1)
        maps = self.pyramid(self.backbone(x))
        fixed = torch.cat(anchors.over(maps, self.sizes, self.strides))
        return Raw(maps, self.classify(maps), self.regress(maps), fixed, limit(images))

    def loss(self, raw: Raw, batch: Batch) -> dict[str, Tensor]:
        """Compute the focal loss over all anchors that are not ignored and the L1 loss over positive ones, each divided
        by the number of an image's positive anchors and averaged over the images.
        """
        with torch.no_grad():
            owner = match(raw.anchors, batch)
            positive = owner >= 0
            wanted, labels = assign.goals(batch, owner)
            goal = anchors.to_offsets(raw.anchors, wanted)
            shown = functional.one_hot(labels + 1, self.classes + 1)[..., 1:].float()
            share = 1 / (positive.sum(1).clamp(min=1) * len(batch))
        wrong = losses.focal(raw.logits.float(), shown).sum(-1) * (owner != assign.IGNORED)
        off = (raw.offsets.float() - goal).abs().sum(-1) * positive
        return {"cls": (wrong.sum(1) * share).sum(), "box": (off.sum(1) * share).sum()}

    def decode(self, raw: Raw, *, conf: float | Tensor = 0.05, iou: float | Tensor = 0.5, top: int = 300) -> Detections:
        """Decode to boxes clipped to the image; one anchor may give several classes."""
        boxes = anchors.from_offsets(raw.offsets.float(), raw.anchors).clamp(min=0).minimum(raw.limit)
        return select(boxes.unsqueeze(2), raw.logits.float().sigmoid(), conf=conf, iou=iou, top=top)

    def pictures(self, raw: Raw, batch: Batch, names: Sequence[str]) -> dict[str, Pixels]:
        return {
            "positive anchors": dense_pictures.positives(batch, raw.anchors, match(raw.anchors, batch)),
            "heat maps": dense_pictures.heat(batch, raw.logits, [level.shape[2:] for level in raw.maps], names),
            "feature maps": dense_pictures.features(raw.maps[0][0]),
        }

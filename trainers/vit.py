"""Legend: B images, M padded boxes, A locations, C classes, K detections, H x W pixels.

A detector without anchors and without NMS: a plain vision transformer (or another backbone with a map of stride 16), a
simple feature pyramid (ViTDet, arXiv 2203.16527), a head that gives each location classes and distances to the four
sides of a box (FCOS, arXiv 1904.01355), and one location for each box (OneNet, arXiv 2012.05780).
"""

from __future__ import annotations

from dataclasses import dataclass

import click

from dataforge.command import natural, real
from dataforge.errors import ConfigError
from trainers.command import command
from trainers.config import Config, default, value


@dataclass
class ViTConfig(Config):
    """Configuration whose defaults fine-tune CLIP's ViT-B/16; `configs/vit_*.toml` are for smaller machines."""

    size: list[int] = default("size", [640, 640], "network input, height,width (or one number), multiples of 32")
    augment: str = default("augment", "lsj")
    epochs: int = default("epochs", 50)
    optimizer: str = default("optimizer", "adamw")
    lr: float = default("lr", 1e-4)
    momentum: float = default("momentum", 0.9)
    weight_decay: float = default("weight_decay", 0.05)
    schedule: str = default("schedule", "cosine")
    warmup_steps: int = default("warmup_steps", 250)
    clip: float = default("clip", 1.0)
    layer_decay: float = default(
        "layer_decay", 0.7, "with train all, factor of the learning rate per backbone unit, from the last to the first"
    )
    backbone: str = value("vit_base_patch16_clip_224", "a vision transformer of timm, or a model with a stride-16 map")
    ffn: str = value(
        "mlp",
        "mlp, or mix for convolutions in the MLPs in place of the position embedding",
        click.Choice(["mlp", "mix"]),
    )
    window: int = value(14, "side of the attention windows, in patches of 16 pixels", natural())
    global_blocks: int = value(4, "how many blocks attend to the whole image, evenly spaced", natural(0))
    drop_path: float = value(0.1, "how likely a branch of the last block is left out", real(least=0, below=1))
    recompute: bool = value(False, "compute blocks again in the backward pass instead of keeping their activations")
    strides: list[int] = value([4, 8, 16, 32], "of the pyramid's levels: some of 4, 8, 16, 32", natural())
    width: int = value(256, "channels of the pyramid and the heads, a multiple of 8", natural(8))
    depth: int = value(4, "convolutions in each head before its last", natural(0))
    cost: list[float] = value(
        [2.0, 5.0, 2.0], "weights of class, L1 and GIoU, in the assignment and the loss", real(least=0)
    )
    pretrained: str = value("true", "backbone weights: a file, true for timm's own, or a timm tag; empty for none")
    train: str = value(
        "neck",
        "what learns besides the heads: neck (the pyramid), lora (adapters too), all",
        click.Choice(["neck", "lora", "all"]),
    )
    lora: str = value("r=8,alpha=16", "rank and scale of the adapters of train lora")
    freeze: int = value(0, "with train all, how many of the backbone's first units keep their weights", natural(0))
    frozen_norm: bool = value(False, "with train all, keep the pretrained batch norms of a convolutional backbone")
    fsdp: bool = value(False, "under torchrun, divide weights, gradients and optimizer state (FSDP2)")
    teacher: str = value("", "checkpoint of a larger vit with the same classes and strides, to learn from as well")

    def check(self) -> None:
        super().check()
        if len(self.cost) != 3:
            raise ConfigError(f"cost is {self.cost}; expected three weights of at least 0, such as 2,5,2")
        if self.width % 8:
            raise ConfigError(f"width is {self.width}; expected a multiple of 8")
        if self.train != "all":
            if not self.pretrained:
                raise ConfigError(
                    f"train is {self.train!r} and pretrained empty: a backbone of random weights would stay as it is; "
                    "pass --pretrained, or --train all"
                )
            self.layer_decay = 1.0


if __name__ == "__main__":  # before torch is imported: help and wrong options are answered at once
    command("vit", ViTConfig)(prog_name="python -m trainers.vit")

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from dataforge.loading.batch import Batch
from dataforge.shards.reader import Shards
from trainers.checkpoint import load_detector
from trainers.distributed import shared
from trainers.models import assign, losses, one_to_one, pretrained, vit_backbone
from trainers.models.boxes import giou
from trainers.models.convolution import Conv3x3
from trainers.models.detector import Detections, Detector, limit, unit
from trainers.models.feature_pyramid import STRIDES, SimplePyramid
from trainers.models.lora import inject
from trainers.models.vit_backbone import PlainViT

PRIOR = 0.01  # initial probability of a class at a location (arXiv 1708.02002, section 3.3)
REACH = 4  # initial distance from a location to each side of its box, in strides
_MAX_LOG = 7.0  # of a distance in strides: keeps it finite in half precision
TRAIN = ("neck", "lora", "all")


class Raw(NamedTuple):
    """The network's raw outputs.

    Attributes:
        logits: (B, A, C); boxes: (B, A, 4) float32 xyxy pixels; shapes: rows, columns of each level, () if unknown.
        points: (A, 2) x, y of the locations, pixels; limit: (4,) the input's width, height, width, height.
    """

    logits: Tensor
    boxes: Tensor
    points: Tensor
    limit: Tensor
    shapes: tuple[Sequence[int], ...] = ()


class Head(nn.Module):
    """Convolutions shared by all levels, with `outputs` numbers per location."""

    def __init__(self, width: int, depth: int, outputs: int, bias: float) -> None:
        super().__init__()
        self.conv = nn.Sequential()
        for _ in range(depth):
            self.conv.extend([Conv3x3(width, width), nn.GroupNorm(width // 8, width), nn.ReLU()])
        self.last = Conv3x3(width, outputs)
        nn.init.normal_(self.last.weight, std=0.01)
        nn.init.constant_(self.last.bias, bias)  # type: ignore[arg-type]

    def forward(self, level: Tensor) -> Tensor:
        """Map (B, width, h, w) to (B, h * w, outputs)."""
        return self.last(self.conv(level)).flatten(2).mT


class ViT(Detector):
    """Anchor-free detector on a vision transformer.

    Args:
        classes: C.
        backbone, ffn, window, global_blocks, drop_path, recompute: as in `models.vit_backbone.build`.
        strides, width, depth, cost: as in `ViTConfig`.
        train: "all", or "neck" and "lora", which freeze the backbone.
        lora: rank and scale of adapters, "" for none.
        freeze, frozen_norm: as in `ViTConfig`.
    """

    stride = 32

    def __init__(
        self,
        classes: int,
        *,
        backbone: str = "vit_base_patch16_clip_224",
        ffn: str = "mlp",
        window: int = 14,
        global_blocks: int = 4,
        drop_path: float = 0.0,
        recompute: bool = False,
        strides: Sequence[int] = STRIDES,
        width: int = 256,
        depth: int = 4,
        cost: Sequence[float] = one_to_one.WEIGHTS,
        train: str = "all",
        lora: str = "",
        freeze: int = 0,
        frozen_norm: bool = False,
    ) -> None:
        super().__init__()
        self.classes, self.strides = classes, tuple(strides)
        # A class cost of 0 is for experiments: the assignment uses boxes alone, the class loss is unchanged.
        self.cost, self.weights = tuple(cost), (cost[0] or one_to_one.WEIGHTS[0], *cost[1:])
        self.teacher: list[ViT] = []  # in a list, so that it is not part of this module and its state dict
        options = {"window": window, "global_blocks": global_blocks, "drop_path": drop_path, "recompute": recompute}
        self.backbone = vit_backbone.build(backbone, ffn=ffn, **options)
        if lora:
            inject(self.backbone, lora)
        elif train == "all":
            self.backbone.freeze(freeze, norms=frozen_norm)
        else:
            self.backbone.freeze(len(self.backbone.units()), norms=True)
        self.pyramid = SimplePyramid(self.backbone.channels[0], width, strides)
        self.classify = Head(width, depth, classes, bias=-math.log((1 - PRIOR) / PRIOR))
        self.regress = Head(width, depth, 4, bias=0.0)
        self.scale = nn.Parameter(torch.ones(len(self.strides)))

    @classmethod
    def configure(cls, config: ViTConfig, shards: Shards) -> dict[str, Any]:
        keys = "backbone ffn window global_blocks drop_path recompute strides width depth cost train freeze frozen_norm"
        given = {"classes": len(shards.classes), "lora": config.lora if config.train == "lora" else ""}
        given |= {key: getattr(config, key) for key in keys.split()}
        return given | {"frozen_norm": pretrained.frozen_norm(config)}

    def pretrain(self, config: ViTConfig) -> str:
        if not config.pretrained:
            return ""
        if isinstance(self.backbone, PlainViT):
            return self.backbone.load(config.pretrained)
        return pretrained.load(self.backbone, config.pretrained)

    def prepare(self, config: ViTConfig, classes: Sequence[str]) -> None:
        """Load the teacher.

        Raises:
            ConfigError: it is not a `vit` with these classes and strides.
        """
        if not config.teacher:
            return
        teacher, facts = load_detector(config.teacher)
        if not isinstance(teacher, ViT) or list(facts["classes"]) != list(classes) or teacher.strides != self.strides:
            kind, found = facts["detector"], ", ".join(facts["classes"])
            raise ConfigError(
                f"teacher {config.teacher}: is a {kind} with strides {getattr(teacher, 'strides', ())} and classes "
                f"{found}; expected a vit with strides {self.strides} and classes {', '.join(classes)}"
            )
        self.teacher.append(teacher.requires_grad_(False).to(self.scale.device))

    def forward(self, images: Tensor) -> Raw:
        """Map (B, 3, H, W) to classes and boxes in the order level, row, column."""
        levels = self.pyramid(self.backbone(unit(images))[0])
        logits = torch.cat([self.classify(level) for level in levels], 1)
        points, boxes = [], []
        for stride, scale, level in zip(self.strides, self.scale, levels, strict=True):
            logs = self.regress(level).float() * scale
            distances = logs.clamp(max=_MAX_LOG).exp() * (REACH * stride)
            points.append(_points(level.shape[2], level.shape[3], stride, images.device))
            boxes.append(torch.cat([points[-1] - distances[..., :2], points[-1] + distances[..., 2:]], -1))
        return Raw(logits, torch.cat(boxes, 1), torch.cat(points), limit(images), tuple(x.shape[2:] for x in levels))

    def loss(self, raw: Raw, batch: Batch) -> dict[str, Tensor]:
        """Compute the focal loss over all locations, except unassigned ones inside a crowd, and the L1 loss relative to
        the image size and GIoU loss of assigned ones. All are sums divided by the number of boxes in the batch.
        """
        logits, boxes, labels = raw.logits.float(), batch.boxes, batch.labels
        with torch.no_grad():
            eligible, shields = assign.targets(batch)
            place = one_to_one.assign(logits, raw.boxes, boxes, labels, raw.limit, self.cost)
            shown = one_to_one.class_targets(place, labels, eligible, logits.shape[1], self.classes)
            counts = ~inside(raw.points, boxes, shields) | shown.any(2)
            total = shared(eligible.sum(), len(batch))
        chosen = raw.boxes.gather(1, place.unsqueeze(-1).expand(-1, -1, 4))
        l1 = ((chosen - boxes) / raw.limit).abs().sum(-1)
        sums = {
            "cls": (losses.focal(logits, shown).sum(-1) * counts).sum(),
            "l1": (l1 * eligible).sum(),
            "giou": ((1 - giou(chosen, boxes)) * eligible).sum(),
        }
        found = {name: weight * sums[name] / total for name, weight in zip(sums, self.weights, strict=True)}
        return found | (self._distil(raw, batch) if self.teacher and self.training else {})

    def _distil(self, raw: Raw, batch: Batch) -> dict[str, Tensor]:
        """Compute the distillation losses of each location: quality focal loss for classes (arXiv 2006.04388, equation
        4), GIoU for boxes, weighted by the teacher's confidence.
        """
        logits = raw.logits.float()
        with torch.no_grad(), torch.autocast(logits.device.type, raw.logits.dtype, raw.logits.dtype != torch.float32):
            taught = self.teacher[0](batch.images)
        scores = taught.logits.float().sigmoid()
        gap = (scores - logits.sigmoid()).abs() ** one_to_one.GAMMA
        wrong = gap * functional.binary_cross_entropy_with_logits(logits, scores, reduction="none")
        sure = scores.amax(2)
        total = shared(sure.sum(), len(batch))
        return {
            "teacher_cls": wrong.sum() / total,
            "teacher_giou": ((1 - giou(raw.boxes, taught.boxes)) * sure).sum() / total,
        }

    def decode(
        self, raw: Raw, *, conf: float | Tensor = 0.001, iou: float | Tensor = 0.5, top: int = 300
    ) -> Detections:
        """Return the `top` best (location, class) pairs; `iou` is ignored, since no NMS is needed."""
        scores = one_to_one.sharpened(raw.logits.float(), raw.shapes).sigmoid()
        scores, order = scores.flatten(1).topk(min(top, scores[0].numel()))
        labels = torch.where(scores >= conf, order % self.classes, -1)
        place = order.div(self.classes, rounding_mode="floor").unsqueeze(-1).expand(-1, -1, 4)
        boxes = raw.boxes.gather(1, place).clamp(min=0).minimum(raw.limit)
        kept = labels >= 0
        return Detections(boxes * kept.unsqueeze(-1), scores * kept, labels)


def inside(points: Tensor, boxes: Tensor, marked: Tensor) -> Tensor:
    """Return (B, A), whether a point lies in any of an image's marked boxes.

    Args:
        points: (A, 2); boxes: (B, M, 4); marked: (B, M) bool.
    """
    low, high = boxes[..., :2].unsqueeze(2), boxes[..., 2:].unsqueeze(2)
    return (((points > low) & (points < high)).all(-1) & marked.unsqueeze(-1)).any(1)


def _points(rows: int, columns: int, stride: int, device: torch.device) -> Tensor:
    """Return (rows * columns, 2), the centres x, y of a map's cells in pixels."""
    y, x = ((torch.arange(count, device=device) + 0.5) * stride for count in (rows, columns))
    return torch.stack([x.expand(rows, -1), y.unsqueeze(1).expand(-1, columns)], -1).flatten(0, 1)

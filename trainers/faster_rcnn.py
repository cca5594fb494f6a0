"""Legend: B images, M padded boxes, A anchors, P proposals, R sampled regions, C classes, K detections.

Faster R-CNN (Ren et al., arXiv 1506.01497) on a stride-16 map ("c4") or a feature pyramid ("fpn", Lin et al., arXiv
1612.03144). Proposals, their selection and the sampling work on whole batches of static shape.
"""

from __future__ import annotations

from dataclasses import dataclass

from dataforge.command import natural
from trainers.command import command
from trainers.config import Config, default, value


@dataclass
class FasterRCNNConfig(Config):
    """Configuration with defaults for ResNet-50 with a pyramid; `configs/` contains recipes."""

    size: list[int] = default("size", [608, 1024])
    augment: str = default("augment", "flip")
    batch_size: int = default("batch_size", 4)
    lr: float = default("lr", 5e-3)
    weight_decay: float = default("weight_decay", 1e-4)
    epochs: int = default("epochs", 12)
    milestones: list[int] = default("milestones", [8, 11])
    neck: str = value("fpn", "fpn (a pyramid), or c4 (one map at stride 16, for vgg16 and ResNets)")
    backbone: str = value("resnet50", "vgg16 (c4), or a timm model with maps at strides 4, 8, 16, 32 (fpn)")
    pretrained: str = value("", "backbone weights: a file, true for timm's own, or a timm tag; empty for none")
    freeze: int = value(0, "number of the backbone's first layers and blocks that stay frozen", natural(0))
    frozen_norm: bool = value(True, "freeze batch norms that have pretrained statistics")
    pooling: str = value("align", "pool, align, crop or deform: how regions are pooled to 7x7")
    class_agnostic: bool = value(False, "predict one box per region instead of one per class")
    regions: int = value(512, "number of regions per image that the second stage is trained on", natural())
    width: int = value(256, "channels of the pyramid (fpn); its two last layers have four times as many", natural())


if __name__ == "__main__":  # before torch is imported: help and wrong options are answered at once
    command("faster_rcnn", FasterRCNNConfig)(prog_name="python -m trainers.faster_rcnn")

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from dataforge.errors import ConfigError
from dataforge.loading.batch import Batch
from dataforge.shards.reader import Shards
from trainers.distributed import shared
from trainers.models import anchors, assign, backbones, pretrained
from trainers.models.boxes import LOWEST, nms
from trainers.models.convolution import Conv3x3, conv3x3_at
from trainers.models.detector import Detections, Detector, limit, select, unit
from trainers.models.pooling import POOLERS, Rows, by_cell, pool

RPN_HIGH, RPN_LOW, RPN_SAMPLES, RPN_NMS = 0.7, 0.3, 256, 0.7
POSITIVE, POSITIVE_SHARE = 0.5, 0.25
WEIGHTS = (10.0, 10.0, 5.0, 5.0)
BETA = 1 / 9  # where smooth L1 changes from quadratic to linear: sigma 3
MIN_PROPOSAL, MIN_BOX = 1e-3, 1e-2  # pixels; thinner boxes are discarded
# the number of proposals per level and per image: in training, and otherwise
KEEP = {"fpn": ((2000, 2000), (1000, 1000)), "c4": ((12000, 2000), (6000, 300))}
STRIDES = {"fpn": (4, 8, 16, 32, 64), "c4": (16,)}  # of the maps that have anchors; regions are cut from the first four
SIZES = {"fpn": [[32], [64], [128], [256], [512]], "c4": [[64, 128, 256, 512]]}


class Raw(NamedTuple):
    """The outputs of the first stage.

    Attributes:
        maps: the features of all levels, (B, width, h, w) each.
        logits: (B, A) objectness of each anchor; offsets: (B, A, 4). Both without gradients: the loss recomputes those
            that it samples.
        anchors: (A, 4) xyxy pixels; limit: (4,) the input's width, height, width, height.
        proposals: (B, P, 4) xyxy pixels, best first; real: (B, P) True where a proposal is not padding.
    """

    maps: Sequence[Tensor]
    logits: Tensor
    offsets: Tensor
    anchors: Tensor
    limit: Tensor
    proposals: Tensor
    real: Tensor


class FasterRCNN(Detector):
    """Faster R-CNN.

    Args:
        classes: C.
        neck, backbone, freeze, frozen_norm, pooling, class_agnostic, regions, width: as in `FasterRCNNConfig`.
        sizes: for each level, the sides of its square anchors in pixels.
    """

    stride = 16
    steps: Tensor

    def __init__(
        self,
        classes: int,
        *,
        neck: str = "fpn",
        backbone: str = "resnet50",
        freeze: int = 0,
        frozen_norm: bool = False,
        pooling: str = "align",
        class_agnostic: bool = False,
        regions: int = 512,
        width: int = 256,
        sizes: Sequence[Sequence[float]] = (),
    ) -> None:
        super().__init__()
        for key, given, known in (("neck", neck, KEEP), ("pooling", pooling, POOLERS)):
            if given not in known:
                raise ConfigError(f"{key} is {given!r}; expected one of {', '.join(known)}")
        self.classes, self.neck, self.regions = classes, neck, regions
        self.sizes = sizes or SIZES[neck]
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))  # training steps; the samples depend on it
        self.strides = STRIDES[neck][:4]
        self.backbone = backbones.build(backbone, strides=self.strides)
        if neck == "fpn":
            self.pyramid = backbones.Pyramid(self.backbone.channels, width, LastLevelMaxPool())
            last = 4 * width
            flat = nn.Linear(width * 49, last)
            self.tail: nn.Module = nn.Sequential(Rows(), flat, nn.ReLU(), nn.Linear(last, last), nn.ReLU())
        else:
            width = self.backbone.channels[0]
            self.tail, last = self._last_stage(backbone)
        self.backbone.freeze(freeze, norms=frozen_norm)
        self.pooler = POOLERS[pooling](width, 7)
        count = 3 * len(self.sizes[0])
        inner = width if neck == "fpn" else 512
        self.rpn_conv = Conv3x3(width, inner)
        self.rpn_logits, self.rpn_offsets = nn.Conv2d(inner, count, 1), nn.Conv2d(inner, 4 * count, 1)
        for layer in (self.rpn_conv, self.rpn_logits, self.rpn_offsets):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        self.classify = nn.Linear(last, 1 + classes)
        self.regress = nn.Linear(last, 4 if class_agnostic else 4 * (1 + classes))

    def _last_stage(self, name: str) -> tuple[nn.Module, int]:
        """Return the layers that map a region to a vector: VGG16's large layers, or a ResNet's last stage."""
        if name == "vgg16":
            one, two = nn.Linear(512 * 49, 4096), nn.Linear(4096, 4096)
            return nn.Sequential(Rows(), one, nn.ReLU(), nn.Dropout(), two, nn.ReLU(), nn.Dropout()), 4096
        net: Any = getattr(self.backbone, "net", {})
        if "layer4" not in dict(net.named_children() if net else ()):
            raise ConfigError(f"backbone {name!r} has no layer4; neck c4 takes vgg16 and ResNets")
        channels = net.feature_info.channels()[-1]
        return nn.Sequential(net.pop("layer4"), nn.AdaptiveAvgPool2d(1), nn.Flatten()), channels

    @classmethod
    def configure(cls, config: FasterRCNNConfig, shards: Shards) -> dict[str, Any]:
        keys = ("neck", "backbone", "freeze", "frozen_norm", "pooling", "class_agnostic", "regions", "width")
        given = {key: getattr(config, key) for key in keys} | {"frozen_norm": pretrained.frozen_norm(config)}
        return {"classes": len(shards.classes)} | given

    def pretrain(self, config: FasterRCNNConfig) -> str:
        if not config.pretrained:
            return ""
        if self.neck == "fpn":
            return pretrained.load(self.backbone, config.pretrained)
        if config.backbone == "vgg16":
            loaded = pretrained.load(self.backbone, config.pretrained)
            state = pretrained.read_state(Path(config.pretrained))
            large = {f"{ours}.{kind}": state.get(f"classifier.{theirs}.{kind}")
                     for ours, theirs in ((1, 0), (4, 3)) for kind in ("weight", "bias")}  # fmt: skip
            if None in large.values():
                return f"{loaded}; without the large layers, which it does not have"
            large["1.weight"] = by_cell(large["1.weight"])  # type: ignore[arg-type]
            self.tail.load_state_dict(large)
            return f"{loaded}, and the large layers"
        net: Any = self.backbone.net
        net["layer4"] = self.tail[0]  # type: ignore[index]
        try:
            return pretrained.load(self.backbone, config.pretrained)
        finally:
            net.pop("layer4")

    def forward(self, images: Tensor) -> Raw:
        """Map (B, 3, H, W) to features and proposals."""
        maps: Sequence[Tensor] = self.backbone(unit(images))
        maps = self.pyramid(maps) if self.neck == "fpn" else maps
        fixed, edge = anchors.over(maps, self.sizes, STRIDES[self.neck]), limit(images)
        with torch.no_grad():
            logits, offsets = [], []
            for level in maps:
                inner = functional.relu(self.rpn_conv(level))
                logits.append(self.rpn_logits(inner).permute(0, 2, 3, 1).flatten(1).float())
                offsets.append(self.rpn_offsets(inner).permute(0, 2, 3, 1).reshape(images.shape[0], -1, 4).float())
            proposals, real = propose(logits, offsets, fixed, edge, *KEEP[self.neck][not self.training])
        return Raw(maps, torch.cat(logits, 1), torch.cat(offsets, 1), torch.cat(fixed), edge, proposals, real)

    def _first_stage_at(self, maps: Sequence[Tensor], number: Tensor) -> tuple[Tensor, Tensor]:
        """Compute logits (B, S) and offsets (B, S, 4) of selected anchors (B, S), with gradients.

        A step samples 256 of tens of thousands of anchors per image; the others have no gradient.
        """
        count = len(self.rpn_logits.weight)  # anchors per cell
        cell, which = number.div(count, rounding_mode="floor"), (number % count).unsqueeze(-1)
        inner = functional.relu(conv3x3_at(cell, maps, self.rpn_conv.weight, self.rpn_conv.bias))  # type: ignore[arg-type]
        logits, offsets = (
            functional.linear(inner, layer.weight.flatten(1), layer.bias).float()
            for layer in (self.rpn_logits, self.rpn_offsets)
        )
        chosen = which.unsqueeze(-1).expand(-1, -1, 1, 4)
        return logits.gather(2, which).squeeze(2), offsets.unflatten(2, (count, 4)).gather(2, chosen).squeeze(2)

    def second_stage(self, maps: Sequence[Tensor], boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Map regions to class logits (B, R, 1+C), the background first, and offsets (B, R, 1 or 1+C, 4)."""
        pooled, row = pool(self.pooler, maps[: len(self.strides)], self.strides, boxes)
        dtype, own = maps[0].dtype, self.classify.weight.dtype
        # the large layers run in the maps' precision; the loss is outside of autocast
        with nullcontext() if dtype == own else torch.autocast(pooled.device.type, dtype):
            features = self.tail(pooled.to(own))
            logits, offsets = self.classify(features).float(), self.regress(features).float()
        return logits[row], offsets[row].unflatten(2, (-1, 4))

    def loss(self, raw: Raw, batch: Batch) -> dict[str, Tensor]:
        """Compute the loss of section 3.1.2 for the proposals; for the regions cross entropy, and smooth L1 over those
        with an object.
        """
        with torch.no_grad():
            eligible, shields = assign.targets(batch, difficult=False)
            owner = assign.match(
                raw.anchors, batch.boxes, eligible, high=RPN_HIGH, low=RPN_LOW, force="ties", shields=shields
            )
            keys = assign.keys(batch.index, owner.shape[1], self.steps)
            number, owner = assign.sample(owner, keys, count=RPN_SAMPLES, positive=0.5)
            taken, positive = owner != assign.IGNORED, owner >= 0
            goal = anchors.to_offsets(raw.anchors[number], assign.goals(batch, owner)[0])
            count = shared(taken.sum(), len(batch))
        logits, offsets = self._first_stage_at(raw.maps, number)
        wrong = functional.binary_cross_entropy_with_logits(logits, positive.float(), reduction="none")
        off = functional.smooth_l1_loss(offsets, goal, beta=BETA, reduction="none").sum(-1)
        parts = {"rpn_obj": (wrong * taken).sum() / count, "rpn_box": (off * positive).sum() / count}

        with torch.no_grad():
            regions, owner = self._regions(raw, batch, eligible, shields)
            taken, positive = owner != assign.IGNORED, owner >= 0
            wanted, labels = assign.goals(batch, owner)
            goal = anchors.to_offsets(regions, wanted, WEIGHTS)
            count = shared(taken.sum(), len(batch))
        logits, offsets = self.second_stage(raw.maps, regions)
        wrong = functional.cross_entropy(logits.flatten(0, 1), labels.flatten() + 1, reduction="none").view_as(labels)
        row = (labels + 1) * (offsets.shape[2] > 1)
        offsets = offsets.gather(2, row[..., None, None].expand(-1, -1, 1, 4)).squeeze(2)
        off = functional.smooth_l1_loss(offsets, goal, beta=BETA, reduction="none").sum(-1)
        if self.training:
            self.steps += 1
        return parts | {"cls": (wrong * taken).sum() / count, "box": (off * positive).sum() / count}

    def _regions(self, raw: Raw, batch: Batch, eligible: Tensor, shields: Tensor) -> tuple[Tensor, Tensor]:
        """Sample the regions that the second stage is trained on from the proposals and the true boxes.

        Returns:
            Regions (B, R, 4) xyxy pixels, and the box of each (B, R), as returned by `assign.match`.
        """
        candidates = torch.cat([raw.proposals, batch.boxes], 1)
        real = torch.cat([raw.real, eligible], 1)
        owner = assign.match(
            candidates, batch.boxes, eligible, high=POSITIVE, low=POSITIVE, shields=shields, shield_iou=POSITIVE
        )
        owner = torch.where(real, owner, assign.IGNORED)
        keys = assign.keys(batch.index, owner.shape[1], ~self.steps)
        number, owner = assign.sample(owner, keys, count=self.regions, positive=POSITIVE_SHARE)
        return candidates.gather(1, number.unsqueeze(-1).expand(-1, -1, 4)), owner

    def decode(self, raw: Raw, *, conf: float | Tensor = 0.05, iou: float | Tensor = 0.5, top: int = 100) -> Detections:
        """Decode to boxes clipped to the image; one region may give several classes."""
        logits, offsets = self.second_stage(raw.maps, raw.proposals)
        boxes = anchors.from_offsets(offsets[:, :, -self.classes :], raw.proposals.unsqueeze(2), WEIGHTS)
        boxes = boxes.clamp(min=0).minimum(raw.limit)
        wide = (boxes[..., 2:] - boxes[..., :2]).amin(-1) >= MIN_BOX
        scores = torch.where(wide & raw.real.unsqueeze(-1), logits.softmax(-1)[..., 1:], -1)
        return select(boxes, scores, conf=conf, iou=iou, top=top)


def propose(
    logits: Sequence[Tensor],
    offsets: Sequence[Tensor],
    fixed: Sequence[Tensor],
    limit: Tensor,
    per_level: int,
    an_image: int,
) -> tuple[Tensor, Tensor]:
    """Select the best boxes of the first stage: some of each level, after NMS within the level.

    Args:
        logits: (B, A) per level; offsets: (B, A, 4); fixed: its anchors (A, 4).

    Returns:
        Boxes (B, P, 4), best first, and a mask (B, P) that is False for padding.
    """
    boxes, scores, real = [], [], []
    for logit, offset, anchor in zip(logits, offsets, fixed, strict=True):
        best, number = logit.topk(min(per_level, logit.shape[1]))
        box = anchors.from_offsets(offset.gather(1, number.unsqueeze(-1).expand(-1, -1, 4)), anchor[number])
        box = box.clamp(min=0).minimum(limit)
        wide = (box[..., 2:] - box[..., :2]).amin(-1) >= MIN_PROPOSAL
        # by the logits: runtimes round a sigmoid differently, so that boxes with close scores would change their order
        box, score, label = nms(box, best, wide.long() - 1, threshold=RPN_NMS, top=an_image, classes=1)
        boxes.append(box)
        scores.append(score.where(label >= 0, LOWEST))
        real.append(label >= 0)
    score = torch.cat(scores, 1)
    number = score.topk(min(an_image, score.shape[1])).indices
    return torch.cat(boxes, 1).gather(1, number.unsqueeze(-1).expand(-1, -1, 4)), torch.cat(real, 1).gather(1, number)

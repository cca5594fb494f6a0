"""Legend: B images, M padded boxes, P priors, C classes, K detections.

SSD (Liu et al., "SSD: Single Shot MultiBox Detector", arXiv 1512.02325): VGG16 or another backbone, six maps (seven
from 512 pixels on), and priors of several shapes at each of their cells.
"""

from __future__ import annotations

from dataclasses import dataclass

import click

from dataforge.command import natural
from trainers.command import command
from trainers.config import Config, default, value


@dataclass
class SSDConfig(Config):
    """Configuration with the paper's values for SSD300 on VOC; `configs/` contains recipes for smaller machines."""

    size: list[int] = default(
        "size", [300, 300], "network input, height,width (or one number); from 512 on there are 7 maps"
    )
    fit: str = default("fit", "stretch")
    augment: str = default("augment", "ssd")
    batch_size: int = default("batch_size", 32)
    epochs: int = default("epochs", 232, "passes over the training split (120,000 steps on VOC 2007 + 2012)")
    milestones: list[int] = default("milestones", [155, 193])
    bias_lr: float = default("bias_lr", 2.0)
    backbone: str = value("vgg16", "vgg16, or a timm model with maps at strides 8, 16 and 32")
    pretrained: str = value("", "a file (VGG16's or SSD's state dict, or the backbone's), true or a tag for timm's own")
    freeze: int = value(0, "number of the backbone's first layers and blocks that stay frozen", natural(0))
    style: str = value("paper", "paper, or torchvision for the priors and pixels that its weights were trained with")
    priors: str = value(
        "fixed", "fixed: sides by style; auto: smaller if the training boxes are", click.Choice(["fixed", "auto"])
    )
    top_down: int = value(
        0, "channels of a top-down path over the backbone's maps, for small objects; 0 for none", natural(0)
    )


if __name__ == "__main__":  # before torch is imported: help and wrong options are answered at once
    command("ssd", SSDConfig)(prog_name="python -m trainers.ssd")

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from dataforge.errors import ConfigError
from dataforge.loading.batch import Batch
from dataforge.shards.reader import Shards
from trainers.distributed import shared
from trainers.models import anchors, assign, backbones, losses, pretrained
from trainers.models.convolution import conv3x3
from trainers.models.detector import Detections, Detector, limit, select, unit
from trainers.models.priors import RATIOS, SCALES, priors, scales_of

VARIANCES = (10.0, 10.0, 5.0, 5.0)  # 1/.1 on the centre, 1/.2 on the size
PIXELS = {  # mean and standard deviation for normalisation
    "paper": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "torchvision": ((0.48235, 0.45882, 0.40784), (1 / 255, 1 / 255, 1 / 255)),
}


class Raw(NamedTuple):
    """The network's raw outputs.

    Attributes:
        offsets: (B, P, 4), as `anchors.to_offsets` makes them; logits: (B, P, 1+C), the background first.
        priors: (P, 4) xyxy pixels; limit: (4,) the input's width, height, width, height.
    """

    offsets: Tensor
    logits: Tensor
    priors: Tensor
    limit: Tensor


# channels within and after, kernel, stride, padding of the convolutions 8 to 11, or 12
_EXTRA = {
    6: ((256, 512, 3, 2, 1), (128, 256, 3, 2, 1), (128, 256, 3, 1, 0), (128, 256, 3, 1, 0)),
    7: ((256, 512, 3, 2, 1), *[(128, 256, 3, 2, 1)] * 3, (128, 256, 4, 1, 1)),
}


class SSD(Detector):
    """SSD.

    Args:
        classes: C.
        maps: 6, for images of about 300 pixels (257 at least), or 7, for 512.
        backbone: "vgg16" or a timm model's name.
        freeze: number of the backbone's first units that are not trained.
        style: "paper" or "torchvision": priors and pixel scaling.
        scales: sides of the square priors, as in `SCALES`; those of the style if empty.
        top_down: channels of a feature pyramid (arXiv 1612.03144) between the backbone's maps and their heads, or 0.
    """

    stride = 1
    least = 257  # otherwise the last map would be empty

    def __init__(
        self,
        classes: int,
        *,
        maps: int = 6,
        backbone: str = "vgg16",
        freeze: int = 0,
        style: str = "paper",
        scales: Sequence[float] = (),
        top_down: int = 0,
    ) -> None:
        super().__init__()
        if (style, maps) not in SCALES:
            raise ConfigError(f"style is {style!r} with {maps} maps; expected paper, or torchvision with 6 maps")
        self.classes, self.style, self.sides = classes, style, scales
        extra = list(_EXTRA[maps])
        if backbone == "vgg16":
            self.backbone = backbones.build(backbone, strides=(8, 16))
            self.fc = nn.Sequential(
                nn.MaxPool2d(3, stride=1, padding=1),
                nn.Conv2d(512, 1024, 3, padding=6, dilation=6),
                nn.ReLU(inplace=True),
                nn.Conv2d(1024, 1024, 1),
                nn.ReLU(inplace=True),
            )
            channels = [512, 1024]
            for buffer, numbers in zip((self.backbone.mean, self.backbone.std), PIXELS[style], strict=True):
                buffer.copy_(torch.tensor(numbers).view(-1, 1, 1))  # type: ignore[operator]
        else:
            self.backbone = backbones.build(backbone, strides=(8, 16, 32))
            channels, extra = list(self.backbone.channels), extra[1:]
        self.backbone.freeze(freeze)
        # of VGG16 the fine map alone differs in scale (section 3.1), of other backbones any may; each of their values
        # becomes as large as one of VGG16's 512 channels, whose vector gets the length 20
        normed = channels[:1] if backbone == "vgg16" else channels[:]
        self.scales = nn.ParameterList(torch.full((count,), 20 * (count / 512) ** 0.5) for count in normed)
        self.extra = nn.ModuleList()
        for inner, outer, kernel, stride, padding in extra:
            narrow, wide = nn.Conv2d(channels[-1], inner, 1), nn.Conv2d(inner, outer, kernel, stride, padding)
            self.extra.append(nn.Sequential(narrow, nn.ReLU(inplace=True), wide, nn.ReLU(inplace=True)))
            channels.append(outer)
        fine = len(self.backbone.channels)
        self.pyramid = backbones.Pyramid(channels[:fine], top_down, None) if top_down else None
        if top_down:
            channels[:fine] = [top_down] * fine
        counts = [2 + 2 * len(ratios) for ratios in RATIOS[maps]]
        self.regress = nn.ModuleList(nn.Conv2d(c, 4 * n, 3, padding=1) for c, n in zip(channels, counts, strict=True))
        self.classify = nn.ModuleList(
            nn.Conv2d(c, (1 + classes) * n, 3, padding=1) for c, n in zip(channels, counts, strict=True)
        )
        for part in (self.extra, self.regress, self.classify, *([self.fc] if backbone == "vgg16" else [])):
            for layer in part.modules():
                if isinstance(layer, nn.Conv2d):
                    nn.init.xavier_uniform_(layer.weight)
                    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    @classmethod
    def configure(cls, config: SSDConfig, shards: Shards) -> dict[str, Any]:
        maps = 7 if min(config.size) >= 512 else 6
        keys = ("backbone", "freeze", "style", "top_down")
        scales: Sequence[float] = ()
        if config.priors == "auto":
            scales = scales_of(shards, (config.size[0], config.size[1]), config.fit, SCALES[config.style, maps])
        return {"classes": len(shards.classes), "maps": maps, "scales": scales, **{k: getattr(config, k) for k in keys}}

    def pretrain(self, config: SSDConfig) -> str:
        if not config.pretrained:
            return ""
        if config.backbone == "vgg16" and Path(config.pretrained).is_file():
            return self.load(pretrained.read_state(Path(config.pretrained)), config.pretrained)
        return pretrained.load(self.backbone, config.pretrained)

    def load(self, state: dict[str, Tensor], path: str) -> str:
        """Load the weights of torchvision's `ssd300_vgg16` or `vgg16`; return a description of what was loaded.

        VGG16's two large layers are subsampled to convolutions (arXiv 1512.02325, section 3; "a trous", every third
        position of 7 x 7 and every fourth channel). Class weights are skipped if their number differs, and all
        heads if `scales` or `top_down` is given: they were trained for other priors or maps.

        Raises:
            ConfigError: the state is neither.
        """
        if "backbone.scale_weight" in state:
            renamed = {_own_name(name): tensor for name, tensor in state.items()}
        elif "classifier.3.weight" in state:
            renamed = {f"backbone.{name}": tensor for name, tensor in state.items() if name.startswith("features.")}
            renamed["fc.1.weight"] = state["classifier.0.weight"].view(4096, 512, 7, 7)[::4, :, ::3, ::3]
            renamed["fc.3.weight"] = state["classifier.3.weight"].view(4096, 4096, 1, 1)[::4, ::4]
            for ours, theirs in (("fc.1.bias", "classifier.0.bias"), ("fc.3.bias", "classifier.3.bias")):
                renamed[ours] = state[theirs][::4]
        else:
            raise ConfigError(f"{path}: holds neither torchvision's ssd300_vgg16 nor its vgg16 with the classifier")
        own = self.state_dict()
        heads = [name for name in renamed if name.startswith(("classify", "regress"))]
        others = set(heads if self.sides or self.pyramid else ())
        fitting = {
            name: tensor
            for name, tensor in renamed.items()
            if name in own and own[name].shape == tensor.shape and name not in others
        }
        self.load_state_dict(fitting, strict=False)
        left = sorted(renamed.keys() - fitting.keys() - others)
        words = f"{path}: {len(fitting)} tensors" + (f"; left out, for their shape: {', '.join(left)}" if left else "")
        return words + ("; left out, for priors = auto or top_down: classify, regress" if others else "")

    def features(self, images: Tensor) -> list[Tensor]:
        """Return the input maps of the heads, finest first."""
        maps = list(self.backbone(unit(images)))
        for i, scale in enumerate(self.scales):
            maps[i] = scale.view(-1, 1, 1) * functional.normalize(maps[i].float(), eps=1e-10).to(maps[i].dtype)
        if self.backbone.name == "vgg16":
            maps[1] = self.fc(maps[1])
        for block in self.extra:
            narrow, wide = maps[-1], block[2]  # type: ignore[index]
            if min(narrow.shape[2:]) + 2 * wide.padding[0] < wide.kernel_size[0]:
                height, width = images.shape[2:]
                raise ConfigError(
                    f"images of {height}x{width} leave backbone {self.backbone.name!r} a map of {narrow.shape[2]}x"
                    f"{narrow.shape[3]} that is too small for the next; expected {32 * 9} pixels or more"
                )
            maps.append(block(narrow))
        if self.pyramid:
            fine = len(self.backbone.channels)
            maps[:fine] = [functional.relu(level) for level in self.pyramid(maps[:fine])]
        return maps

    def forward(self, images: Tensor) -> Raw:
        """Map (B, 3, H, W) to offsets, logits and priors in the order map, row, column, shape."""
        maps = self.features(images)
        offsets, logits = [], []
        for x, *heads in zip(maps, self.regress, self.classify, strict=True):  # two convolutions in one
            weight, bias = (torch.cat([getattr(head, name) for head in heads]) for name in ("weight", "bias"))
            outputs = conv3x3(x, weight, bias).permute(0, 2, 3, 1)
            offset, logit = outputs.split([len(head.weight) for head in heads], -1)  # type: ignore[arg-type]
            offsets.append(offset.reshape(x.shape[0], -1, 4))
            logits.append(logit.reshape(x.shape[0], -1, 1 + self.classes))
        sizes = [(x.shape[2], x.shape[3]) for x in maps]
        fixed = priors((images.shape[2], images.shape[3]), sizes, self.style, self.sides).to(images.device)
        return Raw(torch.cat(offsets, 1), torch.cat(logits, 1), fixed, limit(images))

    def loss(self, raw: Raw, batch: Batch) -> dict[str, Tensor]:
        """Compute cross entropy over positive priors and three times as many hard negatives, smooth L1 over positive
        ones, each divided by the number of positive priors in the batch (section 2.2, equations 1 to 3).
        """
        offsets, logits = raw.offsets.float(), raw.logits.float()
        with torch.no_grad():
            eligible, shields = assign.targets(batch)
            owner = assign.match(raw.priors, batch.boxes, eligible, high=0.5, low=0.5, force="best", shields=shields)
            positive = owner >= 0
            wanted, labels = assign.goals(batch, owner)
            goal = anchors.to_offsets(raw.priors, wanted, VARIANCES)
            count = shared(positive.sum(), len(batch))
        wrong = functional.cross_entropy(logits.flatten(0, 1), labels.flatten() + 1, reduction="none").view_as(owner)
        hard = losses.hard_negatives(wrong, positive, owner == assign.NEGATIVE)
        off = functional.smooth_l1_loss(offsets, goal, reduction="none").sum(-1)
        return {"box": (positive * off).sum() / count, "cls": ((positive | hard) * wrong).sum() / count}

    def decode(
        self, raw: Raw, *, conf: float | Tensor = 0.01, iou: float | Tensor = 0.45, top: int = 200
    ) -> Detections:
        """Decode to boxes clipped to the image; one prior may give several classes."""
        boxes = anchors.from_offsets(raw.offsets.float(), raw.priors, VARIANCES).clamp(min=0).minimum(raw.limit)
        return select(boxes.unsqueeze(2), raw.logits.float().softmax(-1)[..., 1:], conf=conf, iou=iou, top=top)


def _own_name(name: str) -> str:
    """Translate torchvision's name of an SSD tensor to the name used here."""
    for theirs, ours in (
        (r"backbone\.scale_weight", "scales.0"),
        (r"backbone\.extra\.0\.7\.", "fc."),
        (r"head\.classification_head\.module_list", "classify"),
        (r"head\.regression_head\.module_list", "regress"),
    ):
        name = re.sub(theirs, ours, name)
    name = re.sub(r"backbone\.extra\.0\.(\d)", lambda match: f"backbone.features.{23 + int(match[1])}", name)
    return re.sub(r"backbone\.extra\.(\d)", lambda match: f"extra.{int(match[1]) - 1}", name)

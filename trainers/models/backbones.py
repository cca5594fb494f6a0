"""Legend: B images, H x W pixels.

Feature extractors that return maps at selected strides: Darknet-19, VGG16, or any timm model that has them.
"""

from __future__ import annotations

import difflib
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any, Self

import timm
import torch
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock

from dataforge.errors import ConfigError, first_line
from trainers.models import darknet_files
from trainers.models.convolution import Conv3x3

# "channels,kernel" of convolutions, and M, a 2x2 max-pool (YOLO9000, arXiv 1612.08242, table 6, without classifier)
_TO_16 = "32,3 M 64,3 M 128,3 64,1 128,3 M 256,3 128,1 256,3 M 512,3 256,1 512,3 256,1 512,3"
_TO_32 = "M 1024,3 512,1 1024,3 512,1 1024,3"


def scaled(channels: int, width: float) -> int:
    """Return channels times a multiplier, as a multiple of 8."""
    return max(8, round(channels * width / 8) * 8)


def conv(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    """Return Darknet's block: convolution without bias, batch norm, LeakyReLU 0.1."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs, eps=darknet_files.EPSILON),
        nn.LeakyReLU(0.1, inplace=True),
    )


class Backbone(nn.Module):
    """Backbone: forward(images (B, 3, H, W) in 0..1) -> one map per stride s, (B, channels, ceil(H/s), ceil(W/s)).

    Attributes:
        name: as given to `build`.
        channels: of the maps.
    """

    name: str
    channels: tuple[int, ...]
    frozen = 0
    frozen_norms = False

    def units(self) -> list[nn.Module]:
        """Return the layers and blocks in the order of execution."""
        raise NotImplementedError

    def freeze(self, count: int, norms: bool = False) -> None:
        """Freeze the first `count` units: no gradients, and batch norm with its stored statistics.

        Args:
            norms: freeze all batch norms.

        Raises:
            ConfigError: there are fewer units.
        """
        units = self.units()
        if not 0 <= count <= len(units):
            raise ConfigError(f"freeze is {count}; expected 0 to {len(units)}, the units of backbone {self.name!r}")
        self.frozen, self.frozen_norms = count, norms
        for unit in [*units[:count], *self._norms()]:
            unit.requires_grad_(False)

    def _norms(self) -> list[nn.Module]:
        return [unit for unit in self.modules() if self.frozen_norms and isinstance(unit, nn.BatchNorm2d)]

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for unit in [*self.units()[: self.frozen], *self._norms()]:
            unit.eval()
        return self


class Darknet19(Backbone):
    """Darknet-19 up to its last 3x3 convolution, on plain 0..1 RGB.

    Args:
        width: multiplies the channels.
        strides: of the maps, increasing; of 2, 4, 8, 16, 32.
    """

    def __init__(self, width: float = 1.0, strides: Sequence[int] = (16, 32)) -> None:
        super().__init__()
        self.name, self.strides = "darknet19", tuple(strides)
        self.to_16, fine = _darknet_layers(_TO_16, 3, width)
        self.to_32, _ = _darknet_layers(_TO_32, fine, width)
        self.channels = tuple(scaled(32 * stride, width) for stride in strides)

    def units(self) -> list[nn.Module]:
        return [*self.to_16, *self.to_32]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return _maps(images, self.units(), self.strides)


def _darknet_layers(plan: str, channels: int, width: float) -> tuple[nn.Sequential, int]:
    layers: list[nn.Module] = []
    for word in plan.split():
        if word == "M":
            layers.append(nn.MaxPool2d(2))
            continue
        outputs, kernel = map(int, word.split(","))
        layers.append(conv(channels, scaled(outputs, width), kernel))
        channels = scaled(outputs, width)
    return nn.Sequential(*layers), channels


class VGG16(Backbone):
    """VGG16's convolutions up to conv5_3 (arXiv 1409.1556, table 1, D), named as torchvision names them.

    Its pooling layers round up, so that an image of 300 pixels gives SSD's maps of 38 and 19.

    Args:
        strides: of the maps, increasing; of 1, 2, 4, 8, 16. 8 is conv4_3, 16 is conv5_3.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, strides: Sequence[int] = (8, 16)) -> None:
        super().__init__()
        self.name, self.strides = "vgg16", tuple(strides)
        layers: list[nn.Module] = []
        channels = 3
        for stage, (depth, wide) in enumerate([(2, 64), (2, 128), (3, 256), (3, 512), (3, 512)]):
            layers += [nn.MaxPool2d(2, ceil_mode=True)] if stage else []
            for _ in range(depth):
                layers += [Conv3x3(channels, wide), nn.ReLU(inplace=True)]
                channels = wide
        self.features = nn.Sequential(*layers)
        self.channels = tuple(min(64 * stride, 512) for stride in strides)
        for layer in self.features:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(-1, 1, 1))

    def units(self) -> list[nn.Module]:
        return list(self.features)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return _maps((images - self.mean) / self.std, self.features, self.strides)


def _maps(x: Tensor, units: Iterable[nn.Module], strides: Sequence[int]) -> tuple[Tensor, ...]:
    """Return the output of each stage of a plain network, whose stages are separated by pooling layers."""
    maps, stride = [], 1
    for unit in units:
        if isinstance(unit, nn.MaxPool2d):
            maps += [x] if stride in strides else []
            stride *= 2
        x = unit(x)
    return (*maps, x) if stride in strides else tuple(maps)


class Timm(Backbone):
    """Backbone with a timm model's maps, on images normalised as its pretrained weights require.

    Args:
        strides: of the maps, increasing.
        whole: also build the layers after the last of these maps.

    Raises:
        ConfigError: the model has no maps at these strides.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, strides: Sequence[int] = (16, 32), *, whole: bool = True) -> None:
        super().__init__()
        self.name, self.strides = name, tuple(strides)
        self.net = timm_model(name, pretrained=False)
        reductions = list(self.net.feature_info.reduction())
        if not set(strides) <= set(reductions):
            wanted = ", ".join(map(str, strides))
            raise ConfigError(f"backbone {name!r}: its maps have strides {reductions}; expected {wanted} among them")
        self._last = [len(reductions) - 1 - reductions[::-1].index(stride) for stride in strides]
        if not whole:
            self.net = timm_model(name, pretrained=False, out_indices=tuple(range(self._last[-1] + 1)))
            stages, _, last = self.net.feature_info.module_name()[-1].rpartition(".")
            if last.isdigit() and hasattr(self.net, stages):  # some models keep the stages after the last map
                setattr(self.net, stages, getattr(self.net, stages)[: int(last) + 1])
        counts = self.net.feature_info.channels()
        self.channels = tuple(counts[i] for i in self._last)
        for key in ("mean", "std"):
            value = torch.tensor(self.net.pretrained_cfg[key]).view(-1, 1, 1)
            self.register_buffer(key, value)
        self._probe()

    def units(self) -> list[nn.Module]:
        parts: list[nn.Module] = []
        for child in self.net.children():
            parts += child.children() if isinstance(child, nn.Sequential | nn.ModuleList) else [child]
        return parts

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        maps = self.net((images - self.mean) / self.std)
        return tuple(maps[i] for i in self._last)

    @torch.no_grad()
    def _probe(self) -> None:
        """Test the model on an image: some models accept one size only, some return their maps channels last."""
        self.eval()
        try:
            shapes = [tuple(level.shape) for level in self(torch.zeros(1, 3, 64, 96))]
        except Exception as error:  # third-party models may raise anything
            raise ConfigError(f"backbone {self.name!r}: cannot take a 64x96 image: {first_line(error)}") from None
        self.train()
        expected = [(1, n, 64 // s, 96 // s) for n, s in zip(self.channels, self.strides, strict=True)]
        if shapes != expected:
            raise ConfigError(f"backbone {self.name!r}: gives maps {shapes} for a 64x96 image; expected {expected}")


class Pyramid(FeaturePyramidNetwork):
    """Torchvision's feature pyramid (arXiv 1612.03144), from maps to maps, finest first."""

    def __init__(self, channels: Sequence[int], width: int, coarser: ExtraFPNBlock | None) -> None:
        super().__init__(list(channels), width, coarser)
        for block in self.layer_blocks:
            layer = Conv3x3(width, width)
            layer.load_state_dict(block[0].state_dict())  # type: ignore[index]
            block[0] = layer  # type: ignore[index]

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:  # type: ignore[override]
        return list(super().forward(OrderedDict((str(i), level) for i, level in enumerate(maps))).values())


def timm_model(name: str, *, pretrained: bool, **options: Any) -> Any:
    """Return a timm model as a feature extractor.

    Raises:
        ConfigError: the model does not exist, has no feature maps, or its weights are not available.
    """
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, ["darknet19", "vgg16", *timm.list_models()], n=5, cutoff=0.5)
        hint = f"; close: {', '.join(close)}" if close else ""
        raise ConfigError(
            f"unknown backbone {name!r}; expected darknet19, vgg16 or a model of timm {timm.__version__}{hint}"
        )
    try:
        return timm.create_model(name, pretrained=pretrained, features_only=True, **options)
    except Exception as error:  # timm raises various exceptions: no such tag, no feature maps, no network
        what = "its pretrained weights cannot be had" if pretrained else "cannot be built"
        raise ConfigError(f"backbone {name!r}: {what}: {first_line(error)}") from None


def build(name: str = "darknet19", width: float = 1.0, strides: Sequence[int] = (16, 32)) -> Backbone:
    """Build a backbone with random weights.

    Args:
        name: "darknet19", "vgg16" or a timm model's name.
        width: multiplies Darknet-19's channels; has no effect on other backbones.
        strides: of the requested maps, increasing.

    Raises:
        ConfigError: the model does not exist or has no maps at these strides.
    """
    if name == "darknet19":
        return Darknet19(width, strides)
    return VGG16(strides) if name == "vgg16" else Timm(name, strides)

"""Legend: B images, C channels, h x w cells of a map of stride 16."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from dataforge.errors import ConfigError
from trainers.models.convolution import Conv3x3

STRIDES = (4, 8, 16, 32)


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of each cell; keeps the shape (B, C, h, w)."""

    def forward(self, input: Tensor) -> Tensor:
        x = input.permute(0, 2, 3, 1)
        return functional.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps).permute(0, 3, 1, 2)


class SimplePyramid(nn.Module):
    """ViTDet's feature pyramid (arXiv 2203.16527, section 3): each level is computed from one map of stride 16.

    Args:
        channels: C of that map; width: of the levels.
        strides: of the levels, increasing; of 4, 8, 16, 32.

    Raises:
        ConfigError: a stride is not one of these, or channels cannot be halved twice.
    """

    def __init__(self, channels: int, width: int = 256, strides: Sequence[int] = STRIDES) -> None:
        super().__init__()
        if not strides or sorted(set(strides) & set(STRIDES)) != list(strides):
            raise ConfigError(f"strides are {list(strides)}; expected some of 4, 8, 16, 32, rising")
        self.levels = nn.ModuleList(_level(channels, width, stride) for stride in strides)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map (B, C, h, w), sides even if 32 is among the strides, to (B, width, 16 h / stride, 16 w / stride) each."""
        return [level(x) for level in self.levels]


def _level(channels: int, width: int, stride: int) -> nn.Sequential:
    half, quarter = channels // 2, channels // 4
    layers: dict[int, list[nn.Module]] = {
        4: [
            nn.ConvTranspose2d(channels, half, 2, stride=2),
            ChannelNorm(half),
            nn.GELU(),
            nn.ConvTranspose2d(half, quarter, 2, stride=2),
        ],
        8: [nn.ConvTranspose2d(channels, half, 2, stride=2)],
        16: [],
        32: [nn.MaxPool2d(2)],
    }
    inputs = {4: quarter, 8: half}.get(stride, channels)
    smooth = [nn.Conv2d(inputs, width, 1, bias=False), ChannelNorm(width), Conv3x3(width, width), ChannelNorm(width)]
    return nn.Sequential(*layers[stride], *smooth)

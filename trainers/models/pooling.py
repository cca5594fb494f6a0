"""Legend: B images, N regions, C channels, S x S bins.

Region pooling from a feature map to maps of a fixed size: four methods with one signature, and the selection of a
pyramid's level. A pooler is constructed with (channels, S) and called with features (B, C, h, w), regions (N, 5) as
(image, x1, y1, x2, y2) in pixels of the network's input, and the features' scale (e.g. 1/16); it returns (N, C, S, S).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import roi_align, roi_pool

SAMPLES = 2  # points per bin along each side


class Pool(nn.Module):
    """Maximum of each bin, with borders rounded to cells (Fast R-CNN, arXiv 1504.08083, section 2.1)."""

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, features: Tensor, regions: Tensor, scale: float) -> Tensor:
        return roi_pool(features, regions, self.size, scale)


class Align(Pool):
    """Mean of bilinear samples in each bin (Mask R-CNN, arXiv 1703.06870, section 3)."""

    def forward(self, features: Tensor, regions: Tensor, scale: float) -> Tensor:
        if features.device.type == "cpu" and not torch.compiler.is_compiling():
            return _align(features, regions, scale, self.size)
        return roi_align(features, regions, self.size, scale, SAMPLES)


class Crop(Pool):
    """Crop and resize to twice the bins, then 2x2 max pooling (Huang et al., arXiv 1611.10012, 3.1)."""

    def forward(self, features: Tensor, regions: Tensor, scale: float) -> Tensor:
        points = _bins(self.size, regions).expand(regions.shape[0], -1, -1, -1)
        return functional.max_pool2d(_sample(features, regions, scale, points), SAMPLES)


class Deform(Pool):
    """Deformable bins, each with its own learnt offset relative to the region's size (Dai et al., "Deformable
    Convolutional Networks", arXiv 1703.06211, section 2.2, "Deformable RoI Pooling").
    """

    def __init__(self, channels: int, size: int, gamma: float = 0.1) -> None:
        super().__init__(channels, size)
        self.gamma = gamma
        self.offsets = nn.Linear(channels * size * size, 2 * size * size)
        nn.init.zeros_(self.offsets.weight)
        nn.init.zeros_(self.offsets.bias)

    def forward(self, features: Tensor, regions: Tensor, scale: float) -> Tensor:
        plain = _bins(self.size, regions).expand(regions.shape[0], -1, -1, -1)
        still = functional.avg_pool2d(_sample(features, regions, scale, plain), SAMPLES)
        moves = self.offsets(still.flatten(1)).view(-1, self.size, self.size, 2) * self.gamma
        moves = moves.repeat_interleave(SAMPLES, 1).repeat_interleave(SAMPLES, 2)
        return functional.avg_pool2d(_sample(features, regions, scale, plain + moves), SAMPLES)


POOLERS: dict[str, type[Pool]] = {"pool": Pool, "align": Align, "crop": Crop, "deform": Deform}


def _align(features: Tensor, regions: Tensor, scale: float, size: int) -> Tensor:
    """Compute `roi_align` as sums of a map's rows, (N, C, S, S), channels last in memory.

    Six times as fast on a CPU, with the same results: torchvision's gradient is single-threaded there and not
    vectorised.
    """
    count, channels, rows, columns = features.shape
    part = torch.arange(size * SAMPLES, device=features.device)
    places, weights = [], []
    for axis, cells in ((1, columns), (2, rows)):
        start, end = (regions[:, [axis, axis + 2]] * scale).unsqueeze(2).unbind(1)
        bin_size = (end - start).clamp(min=1) / size
        at = start + part // SAMPLES * bin_size + (part % SAMPLES + 0.5) * bin_size / SAMPLES
        inside = (at >= -1) & (at <= cells)
        at = at.clamp(0, cells - 1)
        low = at.floor()
        places.append(torch.stack([low, (low + 1).clamp(max=cells - 1)], -1).int().view(-1, size, 2 * SAMPLES))
        weight = torch.stack([1 - (at - low), at - low], -1) * inside.unsqueeze(-1) / SAMPLES
        weights.append(weight.view(-1, size, 2 * SAMPLES))
    (x, y), (across, down) = places, weights
    image = regions[:, 0].int().view(-1, 1, 1, 1, 1) * (rows * columns)
    cell = image + y[:, :, None, :, None] * columns + x[:, None, :, None, :]
    weight = down[:, :, None, :, None] * across[:, None, :, None, :]
    table = features.permute(0, 2, 3, 1).reshape(count * rows * columns, channels)
    pooled = functional.embedding_bag(
        cell.view(-1, 4 * SAMPLES**2), table, per_sample_weights=weight.view(-1, 4 * SAMPLES**2), mode="sum"
    )
    return pooled.view(-1, size, size, channels).permute(0, 3, 1, 2)


def _bins(size: int, like: Tensor) -> Tensor:
    """Return (1, S*2, S*2, 2), the centres of the samples' cells, as fractions of a region's width and height."""
    middle = (torch.arange(size * SAMPLES, device=like.device) + 0.5) / (size * SAMPLES)
    return torch.stack(torch.meshgrid(middle, middle, indexing="ij")[::-1], -1).unsqueeze(0)


def _sample(features: Tensor, regions: Tensor, scale: float, points: Tensor) -> Tensor:
    """Sample bilinearly at points of each region; the map is extended by its border values.

    The images are stacked vertically, so that one call processes regions of all of them. As in `roi_align`, a cell's
    value is located at its corner.

    Args:
        points: (N, h, w, 2) fractions of the regions' widths and heights.

    Returns:
        (N, C, h, w).
    """
    count, channels, rows, columns = features.shape
    corner, size = (
        regions[:, None, None, 1:3] * scale,
        (regions[:, None, None, 3:] - regions[:, None, None, 1:3]) * scale,
    )
    point = corner + points * size.clamp(min=1.0)
    x, y = point[..., 0].clamp(0, columns - 1), point[..., 1].clamp(0, rows - 1)
    if torch.compiler.is_compiling():
        # exported graphs have no GridSample: each point is a region of one bin and one sample, in the bin's middle
        image = regions[:, None, None, 0].expand_as(x)
        bins = torch.stack([image, x - 0.5, y - 0.5, x + 0.5, y + 0.5], -1).flatten(0, 2)
        return roi_align(features, bins, 1, 1.0, 1).view(*point.shape[:3], channels).permute(0, 3, 1, 2)
    column = features.permute(1, 0, 2, 3).reshape(1, channels, count * rows, columns)
    x, y = x + 0.5, y + 0.5 + regions[:, None, None, 0] * rows
    grid = torch.stack([x * (2 / columns) - 1, y * (2 / (count * rows)) - 1], -1)
    sampled = functional.grid_sample(column, grid.flatten(0, 1).unsqueeze(0).to(column.dtype), align_corners=False)
    return sampled.view(channels, regions.shape[0], *points.shape[1:3]).transpose(0, 1)


def pool(pooler: nn.Module, maps: Sequence[Tensor], strides: Sequence[int], boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Pool each box from the map that fits its size (FPN, arXiv 1612.03144, equation 1: 224 pixels belong to stride
    16).

    Args:
        maps: (B, C, h, w) each; boxes: (B, R, 4) xyxy pixels.

    Returns:
        (B * R, C, S, S) in the order of the maps, which avoids a copy; and (B, R) the index of each box among them.
    """
    count, regions_an_image = boxes.shape[:2]
    image = torch.arange(count, device=boxes.device).repeat_interleave(regions_an_image)
    regions = torch.cat([image.unsqueeze(1).to(boxes.dtype), boxes.flatten(0, 1)], 1)
    maps = [features.float() for features in maps]  # half precision would shift a region's corner by pixels
    if len(maps) == 1:
        return pooler(maps[0], regions, 1 / strides[0]), torch.arange(regions.shape[0], device=boxes.device).view(
            count, -1
        )
    side = (regions[:, 3:] - regions[:, 1:3]).prod(1).clamp(min=0).sqrt()
    wanted = (4 + (side / 224).log2() + 1e-6).floor()  # the logarithm of the stride
    first, last = (stride.bit_length() - 1 for stride in (strides[0], strides[-1]))
    level = wanted.clamp(first, last).long() - first
    rows = [(level == number).nonzero().squeeze(1) for number in range(len(maps))]
    pooled = [pooler(x, regions[row], 1 / stride) for x, row, stride in zip(maps, rows, strides, strict=True)]
    place = torch.arange(level.shape[0], device=level.device)
    return torch.cat(pooled), torch.empty_like(level).scatter_(0, torch.cat(rows), place).view(count, -1)


class Rows(nn.Module):
    """Flatten (N, C, S, S) to (N, S * S * C), cell by cell, the memory layout of `pool`."""

    def forward(self, maps: Tensor) -> Tensor:
        return maps.permute(0, 2, 3, 1).flatten(1)


def by_cell(weight: Tensor) -> Tensor:
    """Reorder a linear layer's weight (O, C * 49) over 7x7 maps from channel order to the cell order of `Rows`."""
    return weight.unflatten(1, (-1, 49)).transpose(1, 2).flatten(1)

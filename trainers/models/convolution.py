"""Legend: B images, C and O channels, H x W pixels, T tiles of 4 x 4 pixels.

Winograd 3x3 convolutions with a quarter of the multiplications, for training on CPUs, whose libraries have none (Lavin
and Gray, "Fast Algorithms for Convolutional Neural Networks", arXiv 1509.09308, section 4.3, F(4x4, 3x3)): tiles of
6 x 6 pixels and the filters are transformed so that a convolution becomes an element-wise product, computed as 36
matrix products over the channels. In float32, the results differ from direct convolution by about 1e-5 (relative).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

_PIXELS = torch.tensor([[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0],
      [0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1.0]])  # fmt: skip
_FILTERS = torch.tensor([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24.0]]) / 24
_BACK = torch.tensor([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1.0]])
_PART = 1 << 21  # numbers transformed at a time
_LEAST_TILES, _LEAST_CHANNELS = 48, 80  # below these the transforms cost more than they save


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Compute `functional.conv2d(x, weight, bias, padding=1)`.

    Args:
        x: (B, C, H, W); weight: (O, C, 3, 3); bias: (O,).
    """
    (outputs, inputs), (rows, columns) = weight.shape[:2], x.shape[2:]
    if (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and len(x) * -(-rows // 4) * -(-columns // 4) >= _LEAST_TILES
        and inputs * outputs >= _LEAST_CHANNELS * (inputs + outputs)
    ):
        return _Winograd.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return functional.conv2d(x, weight, bias, padding=1)


def conv3x3_at(cell: Tensor, maps: Sequence[Tensor], weight: Tensor, bias: Tensor) -> Tensor:
    """Compute `conv3x3` at selected cells of several maps only.

    Args:
        cell: (B, S) indices of cells in the order map, row, column; maps: (B, C, H, W) each.

    Returns:
        (B, S, O).
    """
    values = torch.cat([x.permute(0, 2, 3, 1).flatten(1, 2) for x in maps], 1)
    count, total = values.shape[:2]
    near: list[Tensor] = []  # the indices of each cell and its neighbours, `total` outside the map
    for x, first in zip(maps, itertools.accumulate((x[0, 0].numel() for x in maps), initial=0), strict=False):
        number = torch.arange(first, first + x[0, 0].numel(), device=x.device).view(x.shape[2:])
        near.append(functional.pad(number, (1, 1, 1, 1), value=total).unfold(0, 3, 1).unfold(1, 3, 1).reshape(-1, 9))
    neighbour = torch.cat(near)[cell]
    image = torch.arange(count, device=cell.device).view(-1, 1, 1) * total
    patches = functional.embedding(neighbour.clamp(max=total - 1) + image, values.flatten(0, 1))
    patches = patches.to(weight.dtype) * (neighbour < total).unsqueeze(-1)
    return functional.linear(patches.flatten(2), weight.permute(0, 2, 3, 1).flatten(1), bias)


class Conv3x3(nn.Conv2d):
    """Layer that computes `conv3x3`."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, padding=1)

    def forward(self, input: Tensor) -> Tensor:
        assert self.bias is not None
        return conv3x3(input, self.weight, self.bias)


class _Winograd(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _convolve(x, weight).add_(bias.view(-1, 1, 1))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        gradients: list[Tensor | None] = [None, None, None]
        if ctx.needs_input_grad[0]:
            gradients[0] = _convolve(gradient, weight.flip(2, 3).transpose(0, 1))
        if ctx.needs_input_grad[1]:
            step = _images(x)
            filters = x.new_zeros(36, x.shape[1], len(weight))
            for some, back in zip(x.split(step), gradient.split(step), strict=True):
                rows, columns = back.shape[2:]
                padded = functional.pad(back.permute(0, 2, 3, 1), (0, 0, 0, -columns % 4, 0, -rows % 4))
                parts = padded.unflatten(2, (-1, 4)).unflatten(1, (-1, 4)).permute(2, 4, 0, 1, 3, 5)
                moved = _both(_BACK.T, parts.reshape(4, 4, -1)).view(36, -1, len(weight))
                filters.baddbmm_(_tiles(some).transpose(1, 2), moved)
            both = _both(_FILTERS.T, filters.view(6, 6, -1)).view(3, 3, *filters.shape[1:])
            gradients[1] = both.permute(3, 2, 0, 1)
        if ctx.needs_input_grad[2]:
            gradients[2] = gradient.sum((0, 2, 3))
        return gradients[0], gradients[1], gradients[2]


def _images(x: Tensor) -> int:
    """Return the number of images transformed at a time, so that their tiles fit in a CPU's cache."""
    return max(1, _PART // x[0].numel())


def _convolve(x: Tensor, weight: Tensor) -> Tensor:
    """Convolve (B, C, H, W) to (B, O, H, W), channels last in memory."""
    height, width = x.shape[2:]
    rows, columns, outputs = -(-height // 4), -(-width // 4), len(weight)
    filters = _both(_FILTERS, weight.permute(2, 3, 1, 0).reshape(3, 3, -1)).view(36, -1, outputs)
    step = _images(x)
    out = torch.empty(len(x), outputs, height, width, memory_format=torch.channels_last)
    for some, part in zip(x.split(step), out.split(step), strict=True):
        moved = torch.bmm(_tiles(some), filters).view(6, 6, -1)
        parts = _both(_BACK, moved).view(4, 4, len(some), rows, columns, outputs).permute(2, 3, 0, 4, 1, 5)
        whole = parts.reshape(len(some), 4 * rows, 4 * columns, outputs).permute(0, 3, 1, 2)
        part.copy_(whole[..., :height, :width])
    return out


def _tiles(x: Tensor) -> Tensor:
    """Transform (B, C, H, W) to (36, T, C): tiles that overlap by two pixels."""
    rows, columns = x.shape[2:]
    padded = functional.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1 + -columns % 4, 1, 1 + -rows % 4))
    tiles = padded.unfold(1, 6, 4).unfold(2, 6, 4).permute(4, 5, 0, 1, 2, 3)
    return _both(_PIXELS, tiles.reshape(6, 6, -1)).view(36, -1, x.shape[1])


def _both(matrix: Tensor, x: Tensor) -> Tensor:
    """Multiply (n, n, N) by a matrix (m, n) along the first two dimensions, which are transposed: (m, m, N)."""
    return torch.matmul(matrix, torch.matmul(matrix, x).transpose(0, 1))

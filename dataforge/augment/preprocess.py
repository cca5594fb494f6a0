"""Legend: B images, h x w source pixels, H x W output pixels, m output pixels along one axis.

The loader's processing of an image without a recipe, as a module that can be exported together with a detector.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dataforge.augment.executors.antialias import LEAST, SHARP, taps
from dataforge.augment.executors.cpu import warp
from dataforge.augment.operations.geometry import FILL, fit_matrix

__all__ = ["Preprocess"]

FINE = 2048  # OpenCV's interpolation steps between two pixels


class Preprocess(nn.Module):
    """Fits images of any size to a detector's input, and returns their matrices: `cpu.warp` by `fit_matrix`.

    On a CPU it calls that function. In an exported graph and on other devices it uses plain torch operations with the
    same result for any size: means of blocks, the taps of `antialias.smooth`, and bilinear sampling, each rounded as
    OpenCV rounds.

    Args:
        size: (height, width) of the output.
        fit: "letterbox" or "stretch".
    """

    def __init__(self, size: tuple[int, int], fit: str = "letterbox") -> None:
        super().__init__()
        self.size, self.fit = size, fit

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the same as `Batch.images` and `Batch.affine`.

        Args:
            images: (B, 3, h, w) uint8 RGB, all of one size.

        Returns:
            (B, 3, H, W) uint8, and (B, 3, 3) float32, source pixels to output pixels.
        """
        if torch.compiler.is_compiling() or torch.onnx.is_in_onnx_export() or images.device.type != "cpu":
            return self._graph(images)
        matrix = fit_matrix(images.shape[2], images.shape[3], self.size, self.fit)
        fitted = torch.empty((len(images), *self.size, 3), dtype=torch.uint8)
        for pixels, out in zip(images.permute(0, 2, 3, 1).numpy(), fitted.numpy(), strict=True):
            warp(np.ascontiguousarray(pixels), matrix, self.size, dst=out)
        return fitted.permute(0, 3, 1, 2), torch.from_numpy(matrix).float().expand(len(images), 3, 3)

    def _graph(self, images: Tensor) -> tuple[Tensor, Tensor]:
        # scalars on the CPU, where the numbers of blocks are read without waiting for a device
        h, w = (torch.full((), side, dtype=torch.int64) for side in images.shape[2:])
        high, wide = (torch.full_like(h, side) for side in self.size)
        if self.fit == "letterbox":
            limited = high * w <= wide * h
            high, wide = (
                torch.where(limited, high, ((2 * h * wide + w) // (2 * w)).clamp(min=1)),
                torch.where(limited, ((2 * w * high + h) // (2 * h)).clamp(min=1), wide),
            )
        down, right = (self.size[0] - high) // 2, (self.size[1] - wide) // 2
        y, x = high.double() / h, wide.double() / w
        # blocks, as in `antialias.shrink_factors`
        halved = 2.0 ** (SHARP / torch.maximum(x, y)).log2().floor().clamp(0, 6)
        twice = torch.stack([x, y]) * halved * 2
        still = ((twice <= SHARP) | ((twice - 1).abs() < 1e-3)).all() & (halved < 64)
        halved = torch.where(still, 2 * halved, halved)
        ky, kx = (halved * torch.where(halved * s >= LEAST, 1.0, (SHARP / (halved * s)).floor()) for s in (y, x))
        whole = (kx == 1) & (ky == 1)

        rows = _Axis(h, y, down, ky, whole, self.size[0], x * kx, row=False)
        columns = _Axis(w, x, right, kx, whole, self.size[1], y * ky, row=True)
        blocks = columns.summed(rows.summed(images.int()).transpose(2, 3)).transpose(2, 3) / (ky * kx).float()
        # halves up in blocks of two, else to even
        blocks = (blocks + torch.where(torch.maximum(ky, kx) == 2, 1 / 8, 0.0).float()).round()
        smooth = columns.smoothed(rows.smoothed(blocks).transpose(2, 3)).round().clamp(0, 255).int()

        # bilinear sampling in whole numbers: as cv2.resize (see `cpu._whole_pixels`), else as cv2.warpAffine
        resize = (torch.maximum(x, y) <= 1) & (rows.blocks * rows.k == h) & (columns.blocks * columns.k == w)
        (before, after), share, seen_x = columns.between(smooth, resize)
        across = (before * (FINE - share) + after * share).transpose(2, 3)
        (above, below), share, seen_y = rows.between(across, resize)
        resized = above // 16 * (FINE - share) // 65536 + below // 16 * share // 65536 + 2
        warped = (above * (FINE - share) + below * share) / FINE**2
        seen = seen_y[:, None] * seen_x
        warped = (warped * seen + FILL * (1 - seen) + 0.5).floor()
        fitted = torch.where(resize & (seen == 1), resized // 4, warped.int()).byte()
        zero, one, down, right = torch.zeros_like(x), torch.ones_like(x), down.double(), right.double()
        affine = torch.stack([x, zero, right, zero, y, down, zero, zero, one]).view(1, 3, 3).float().to(images.device)
        return fitted, affine.expand(images.shape[0], -1, -1)


class _Axis:
    """Operations on (B, 3, n, ...) pixels along an axis of n.

    Args:
        n: as a tensor; scale, shift: source to output coordinates; k: pixels in a block.
        whole: whether neither axis has larger blocks than 1; out: m.
        other: blocks to output coordinates along the other axis; row: whether this one lies along a row.
    """

    def __init__(
        self, n: Tensor, scale: Tensor, shift: Tensor, k: Tensor, whole: Tensor, out: int, other: Tensor, row: bool
    ) -> None:
        self.n, self.k, self.blocks = n, k.long(), (n / k).ceil().long()
        self.count: Any = self.blocks.item()
        torch._check(self.count >= 1)
        u = scale * k
        even = ((u - 1 / 2).abs() < 1e-4) | (whole & ((u - 2 / 3).abs() < 1e-4))
        none = (u > SHARP) | (even & ((shift / u - (shift / u).round()).abs() < 1e-3))
        self.one, self.two = (torch.where(none, 0.0, value).float() for value in taps(u))
        pixel = torch.arange(out, device=scale.device, dtype=torch.float64)
        self.place = ((pixel + 0.5 - shift) * (1 / u) - 0.5).float()  # single precision, as cv2.resize counts
        # as cv2.warpAffine counts, from the first pixel that `cpu._reach` gives it: in 1/1024 pixel, rounded
        # separately along a row, but together with the row's own along a column; then in 1/32
        reach = (shift - (1 + u) / 2).floor().clamp(min=0)
        back = other * (1 / (u * other))
        begin, along = -(u / 2 + (shift - 0.5) - reach) * back, (pixel - reach) * back
        fine = (along * 1024).round() + (begin * 1024).round() if row else ((along + begin) * 1024).round()
        self.step = (((fine + 16) / 32).floor() / 32).float()

    def summed(self, pixels: Tensor) -> Tensor:
        """Return the sums of blocks of int32 pixels. A block that extends beyond the image continues with the last
        pixel.
        """
        first = torch.arange(self.count, device=pixels.device) * self.k
        last = first + self.k
        more = (last - self.n).clamp(min=0).int()[:, None] * pixels[:, :, -1:]
        upto = pixels.cumsum(2, dtype=torch.int32)
        sums = upto.index_select(2, torch.minimum(last, self.n) - 1) - upto.index_select(2, first)
        return sums + pixels.index_select(2, first) + more

    def smoothed(self, blocks: Tensor) -> Tensor:
        """Return the filtered blocks."""
        number = torch.arange(self.count, device=blocks.device)
        a, b, d, e = (
            blocks.index_select(2, (number + i).clamp(min=0).minimum(self.blocks - 1)) for i in (-2, -1, 1, 2)
        )
        return (1 - self.one - self.two) * blocks + self.one / 2 * (b + d) + self.two / 2 * (a + e)

    def between(self, blocks: Tensor, resize: Tensor) -> tuple[tuple[Tensor, Tensor], Tensor, Tensor]:
        """Return the blocks that each of m pixels is interpolated from, and the weights.

        Returns:
            the blocks before and after its centre; (m, 1) the weight of the second, of `FINE`; (m,) the share of the
            pixel that is not fill.
        """
        place = torch.where(resize, self.place, self.step).to(blocks.device)
        first = place.floor()
        one, two = (i.clamp(min=0).minimum(self.blocks - 1).long() for i in (first, first + 1))
        seen = torch.minimum(place + 1, self.blocks - place).clamp(0, 1)
        share = ((place - first) * FINE).round().int()
        return (blocks.index_select(2, one), blocks.index_select(2, two)), share[:, None], seen

"""Legend: B images, h x w source pixels, H x W output pixels, n x m source x output pixels along one axis.

What the loader does to an image without a recipe, as a module that can be exported together with a detector.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dataforge.augment.antialias import LEAST, SHARP, taps
from dataforge.augment.geometry import FILL


class Preprocess(nn.Module):
    """Images of any size to what a detector takes, and where they are in it: `cpu.warp` by `fit_matrix`, as a graph.

    All filters of `cpu.warp` (blocks, taps, bilinear sampling) are linear and go along one axis. So each axis gets one
    matrix of weights, which is computed from the image's size in the graph, and a resize is two products. On a CPU
    that is slower than `cpu.warp`; here it buys a graph of plain operations, for any size and without OpenCV.

    Args:
        size: (height, width) of the output.
        fit: "letterbox" or "stretch".
    """

    def __init__(self, size: tuple[int, int], fit: str = "letterbox") -> None:
        super().__init__()
        self.size, self.fit = size, fit

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """As `Batch.images` and `Batch.affine`.

        Args:
            images: (B, 3, h, w) uint8 RGB, all of one size.

        Returns:
            (B, 3, H, W) uint8, and (B, 3, 3) float32, source pixels to output pixels.
        """
        images_f = images.float()
        h, w = (torch.full((), side, dtype=torch.float32, device=images.device) for side in images.shape[-2:])
        y, x = self.size[0] / h, self.size[1] / w
        if self.fit == "letterbox":
            y = x = torch.minimum(y, x)
        down, right = (self.size[0] - y * h) / 2, (self.size[1] - x * w) / 2
        # blocks, as in `antialias.shrink_factors`
        halved = 2.0 ** (SHARP / torch.maximum(x, y)).log2().floor().clamp(0, 6)
        twice = torch.stack([x, y]) * halved * 2
        still = ((twice <= SHARP) | ((twice - 1).abs() < 1e-3)).all() & (halved < 64)
        halved = torch.where(still, 2 * halved, halved)
        ky, kx = (halved * torch.where(halved * s >= LEAST, 1.0, (SHARP / (halved * s)).floor()) for s in (y, x))
        whole = (kx == 1) & (ky == 1)
        rows, seen_rows = _weights(h, y, down, ky, whole, images.shape[-2], self.size[0])
        columns, seen_columns = _weights(w, x, right, kx, whole, images.shape[-1], self.size[1])
        fitted = rows @ (images_f @ columns.T) + FILL * (1 - seen_rows[:, None] * seen_columns)
        zero, one = torch.zeros_like(x), torch.ones_like(x)
        affine = torch.stack([x, zero, right, zero, y, down, zero, zero, one]).view(1, 3, 3)
        return fitted.round().clamp(0, 255).byte(), affine.expand(images.shape[0], -1, -1)


def _weights(
    n: Tensor, scale: Tensor, shift: Tensor, k: Tensor, whole: Tensor, source: int, out: int
) -> tuple[Tensor, Tensor]:
    """How much each of n = `source` pixels counts in each of m = `out`.

    Args:
        n: `source` as a tensor; scale, shift: source to output coordinates.
        k: pixels in a block; whole: whether neither axis has larger ones than 1.

    Returns:
        (m, n), and (m,) in 0..1 how much of an output pixel is not fill: the sums of the rows.
    """
    # the taps of `antialias.smooth`
    u = scale * k
    even = ((u - 1 / 2).abs() < 1e-4) | (whole & ((u - 2 / 3).abs() < 1e-4))
    none = (u > SHARP) | (even & ((shift / u - (shift / u).round()).abs() < 1e-3))
    one, two = (torch.where(none, 0.0, value) for value in taps(u))

    pixel = torch.arange(source, device=scale.device)
    centre = (torch.arange(out, device=scale.device) + 0.5 - shift) / u  # in blocks
    blocks = (n / k).ceil()
    apart = centre[:, None] - ((pixel / k).floor() + 0.5)
    weight = torch.zeros_like(apart)
    for i, tap in ((0, 1 - one - two), (-1, one / 2), (1, one / 2), (-2, two / 2), (2, two / 2)):
        weight = weight + tap * (1 - (apart + i).abs()).clamp(min=0)
    # the last pixel fills its block up
    weight = weight * torch.where(pixel == n - 1, 1 + blocks * k - n, 1.0)
    seen = (torch.minimum(centre, blocks - centre) + 0.5).clamp(0, 1)
    return weight * (seen / weight.sum(1).clamp(min=1e-6))[:, None], seen

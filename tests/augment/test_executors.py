"""The CPU's executor against plain torch, and both against antialiased resizing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from torchvision.transforms import v2

from dataforge import augment as aug
from dataforge.augment import cpu, device
from dataforge.augment.geometry import fit_matrix
from dataforge.decode import decode
from tests import tiny


class Table:
    """What `lay_out` asks of the shards' table, with drawn pictures."""

    def __init__(self, n: int = 12) -> None:
        rng = np.random.default_rng(7)
        self.height, self.width = rng.integers(60, 240, n).astype(np.int32), rng.integers(60, 240, n).astype(np.int32)
        self.counts = rng.integers(0, 4, n)
        self.boxes = [
            tiny.boxes(c, h, w, i) for i, (c, h, w) in enumerate(zip(self.counts, self.height, self.width, strict=True))
        ]

    def pixels(self, record: int) -> np.ndarray:
        return tiny.pixels(int(self.height[record]), int(self.width[record]), record)

    def take(self, index: np.ndarray) -> Any:
        boxes = [self.boxes[i] for i in index]
        counts = np.array([len(b) for b in boxes], np.int64)
        total = int(counts.sum())

        class Objects:
            offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
            labels = np.zeros(total, np.int64)
            flags = np.zeros(total, np.uint8)

        Objects.boxes = np.concatenate([*boxes, np.zeros((0, 4), np.float32)])  # type: ignore[attr-defined]
        return Objects


def picture(layout: aug.Layout, i: int, pixels_of: Callable[[int], np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) float, picture i as a decode thread paints it."""
    out = np.empty((*shape, 3), np.float32)
    cpu.picture(layout, i, pixels_of, out)
    return out


def on_cpu(layout: aug.Layout, table: Table, shape: tuple[int, int]) -> np.ndarray:
    """(n, H, W, 3)."""
    return np.stack([picture(layout, i, table.pixels, shape) for i in range(len(layout.first) - 1)])


def in_torch(layout: aug.Layout, table: Table, shape: tuple[int, int]) -> np.ndarray:
    """(n, H, W, 3) as a device paints it from what the host has damaged, shrunken and smoothed."""
    p, sources, matrices = layout.parameters, [], []
    for k, record in enumerate(layout.parts.record.tolist()):
        factors = cpu.shrink_factors(p.matrix[k])
        small = cpu.damage(cpu.shrink(table.pixels(record), factors), p, k)
        sources.append(cpu.smooth(small, p.matrix[k], factors))
        matrices.append(p.matrix[k] @ np.diag([factors[1], factors[0], 1.0]))
    sides = np.array([s.shape[:2] for s in sources]).max(0)
    canvas = np.empty((len(sources), *sides, 3), np.uint8)
    canvas[...] = p.fill
    for k, source in enumerate(sources):
        canvas[k, : source.shape[0], : source.shape[1]] = source
    images = device.paint(torch.from_numpy(canvas).permute(0, 3, 1, 2), np.stack(matrices), layout, shape)
    return images.permute(0, 2, 3, 1).numpy()


EVERYTHING = [
    [{"op": name, "p": 1.0}] for name in (*aug.GEOMETRY, *aug.PHOTO, "mosaic", "cutmix", "copy_paste", "mixup")
]


@pytest.mark.parametrize("fit", aug.FITS)
@pytest.mark.parametrize(
    "steps", [*EVERYTHING, *sorted(aug.RECIPES)], ids=lambda s: s if isinstance(s, str) else s[0]["op"]
)
def test_cpu_and_torch_executors_agree(steps: Any, fit: str) -> None:
    """Both interpolate the same pictures by the same matrices; OpenCV rounds its coordinates to 1/32 pixel."""
    table, shape = Table(), (64, 48)
    layout = aug.lay_out(aug.recipe(steps), np.arange(12), table, shape, fit=fit, seed=3)
    ours, theirs = on_cpu(layout, table, shape), in_torch(layout, table, shape)
    error = np.abs(ours - theirs)
    if layout.parameters.curve is not None:  # a table's steps turn a rounding into a jump
        assert (error > 0.06).mean() < 0.05
        return
    assert error.mean() < 0.006
    assert np.quantile(error, 0.999) < 0.06


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b.astype(float)) ** 2)))


@pytest.mark.parametrize("factor", [0.9, 0.7, 0.51, 0.5, 0.45, 0.35, 0.26, 0.15])
def test_shrinking_photographs_is_as_good_as_antialiased_resizing(shared_data, factor: float) -> None:
    """Two bounds, on 12 photographs. Ours and torchvision's antialiased resize differ by a PSNR of at least 37 dB
    (plain bilinear sampling: 25 to 33 where it shrinks by 2 or more); and against Pillow's Lanczos filter, ours is at
    most 2 dB worse than torchvision's."""
    near, sharp = [], []
    for file in sorted((shared_data / "coco_mini/train2017").rglob("*.jpg"))[:12]:
        pixels = decode(file.read_bytes())
        height, width = pixels.shape[:2]
        out = (round(height * factor), round(width * factor))
        ours = aug.warp(pixels, fit_matrix(height, width, out, "stretch"), out)
        image = torch.from_numpy(pixels).permute(2, 0, 1)
        theirs = v2.functional.resize(image, list(out), antialias=True).permute(1, 2, 0).numpy()
        best = np.asarray(PIL.Image.fromarray(pixels).resize((out[1], out[0]), PIL.Image.Resampling.LANCZOS))
        inner = (slice(2, -2), slice(2, -2))  # our border fades into the fill colour
        near.append(psnr(ours[inner], theirs[inner]))
        sharp.append(psnr(ours[inner], best[inner]) - psnr(theirs[inner], best[inner]))
    assert np.mean(near) > 37
    assert np.mean(sharp) > -2


def test_shrinking_averages() -> None:
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[::2] = 255  # single lines, which plain bilinear sampling would turn black or white
    for side in (16, 21, 30):
        small = aug.warp(pixels, fit_matrix(64, 64, (side, side)), (side, side))
        assert np.abs(small[2:-2].astype(int) - 127).max() <= 26


def test_only_what_is_seen_is_worked_on_and_it_is_the_same() -> None:
    """A part of a large picture: the same pixels as of the picture without the rest."""
    pixels, out = tiny.pixels(500, 700), (60, 90)
    matrix = np.array([[0.6, 0.05, -120], [-0.04, 0.55, -100], [0, 0, 1.0]])
    whole = aug.warp(pixels, matrix, out)
    cut = np.array([[1, 0, 100], [0, 1, 120], [0, 0, 1.0]])
    np.testing.assert_array_equal(whole, aug.warp(pixels[120:420, 100:500], matrix @ cut, out))


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_render_writes_where_it_is_told_and_nowhere_else(kind: Any) -> None:
    pixels = tiny.pixels(50, 70)
    batch = np.full((3, 40, 40, 3), 7, kind)
    cpu.render(pixels, fit_matrix(50, 70, (40, 40)), None, batch[1])
    assert (batch[[0, 2]] == 7).all()
    expected = aug.warp(pixels, fit_matrix(50, 70, (40, 40)), (40, 40))
    np.testing.assert_allclose(batch[1], expected / 255 if kind == np.float32 else expected, atol=1e-6)


@pytest.mark.parametrize("turn", [(1, 1), (-1, 1), (1, -1), (-1, -1)])
def test_a_crop_of_whole_pixels_is_the_same_by_resizing(turn: tuple[int, int]) -> None:
    """A shift by 1/100 of a pixel takes the general way."""
    pixels = tiny.pixels(200, 300)
    size, ends = (90, 120), ((40, 240) if turn[0] > 0 else (240, 40), (20, 160) if turn[1] > 0 else (160, 20))
    matrix = np.eye(3)
    for axis, (first, last) in enumerate(ends):
        matrix[axis, axis] = size[1 - axis] / (last - first)
        matrix[axis, 2] = -first * matrix[axis, axis]
    shifted = matrix + np.array([[0, 0, 0.01], [0, 0, 0.01], [0, 0, 0]])
    resized, warped = (aug.warp(pixels, m, size).astype(int) for m in (matrix, shifted))
    assert np.abs(resized - warped).max() <= 3 and np.abs(resized - warped).mean() < 0.7
    assert cpu._whole_pixels(pixels, matrix, size) is not None and cpu._whole_pixels(pixels, shifted, size) is None


def test_a_fill_colour() -> None:
    layout = aug.lay_out(
        aug.recipe([{"op": "expand", "p": 1.0}, {"op": "fill", "red": 10, "green": 20, "blue": 30}]),
        np.arange(12),
        (table := Table()),
        (50, 50),
    )
    pictures = on_cpu(layout, table, (50, 50))
    corners = pictures[:, [0, 0, -1, -1], [0, -1, 0, -1]] * 255
    assert (np.abs(corners - [10, 20, 30]).max(-1) < 0.6).mean() > 0.7

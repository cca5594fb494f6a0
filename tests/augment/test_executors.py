"""The CPU's executor against plain torch."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from dataforge.augment.executors import antialias, cpu, device
from dataforge.augment.executors.cpu import warp
from dataforge.augment.layout import Layout, lay_out
from dataforge.augment.operations.geometry import FITS, fit_matrix
from dataforge.augment.operations.registry import GEOMETRY, PHOTO
from dataforge.augment.recipes import RECIPES, recipe
from tests import tiny
from tests.single import NoDouble


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


def picture(layout: Layout, i: int, pixels_of: Callable[[int], np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) float, picture i as a decode thread paints it."""
    out = np.empty((*shape, 3), np.float32)
    cpu.picture(layout, i, pixels_of, out)
    return out


def on_cpu(layout: Layout, table: Table, shape: tuple[int, int]) -> np.ndarray:
    """(n, H, W, 3)."""
    return np.stack([picture(layout, i, table.pixels, shape) for i in range(len(layout.first) - 1)])


def sources(layout: Layout, table: Table) -> tuple[torch.Tensor, np.ndarray]:
    """A canvas (P, 3, h, w) of what the host has damaged, shrunken and smoothed, and its matrices (P, 3, 3)."""
    p, small, matrices = layout.parameters, [], []
    for k, record in enumerate(layout.parts.record.tolist()):
        pixels = table.pixels(record % len(table.height))
        factors = antialias.shrink_factors(p.matrix[k], pixels.shape[:2])
        damaged = cpu.damage(cpu.shrink(pixels, factors), p, k)
        small.append(antialias.smooth(damaged, p.matrix[k], factors))
        matrices.append(p.matrix[k] @ np.diag([factors[1], factors[0], 1.0]))
    sides = np.array([s.shape[:2] for s in small]).max(0)
    canvas = np.empty((len(small), *sides, 3), np.uint8)
    canvas[...] = p.fill
    for k, source in enumerate(small):
        canvas[k, : source.shape[0], : source.shape[1]] = source
    return torch.from_numpy(canvas).permute(0, 3, 1, 2), np.stack(matrices)


def in_torch(layout: Layout, table: Table, shape: tuple[int, int], double: bool = False) -> np.ndarray:
    """(n, H, W, 3) as a device paints it; `double`: it may need float64, which MPS does not have."""
    canvas, matrix = sources(layout, table)
    with nullcontext() if double else NoDouble():
        return device.paint(canvas, matrix, layout, shape).permute(0, 2, 3, 1).numpy()


EVERYTHING = [[{"op": name, "p": 1.0}] for name in (*GEOMETRY, *PHOTO, "mosaic", "cutmix", "copy_paste", "mixup")]


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize(
    "steps", [*EVERYTHING, *sorted(RECIPES)], ids=lambda s: s if isinstance(s, str) else s[0]["op"]
)
def test_cpu_and_torch_executors_agree(steps: Any, fit: str) -> None:
    """Both interpolate the same pictures by the same matrices; OpenCV rounds its coordinates to 1/32 pixel."""
    table, shape = Table(), (64, 48)
    layout = lay_out(recipe(steps), np.arange(12), table, shape, fit=fit, seed=3)
    ours, theirs = on_cpu(layout, table, shape), in_torch(layout, table, shape)
    error = np.abs(ours - theirs)
    if layout.parameters.curve is not None:  # a table's steps turn a rounding into a jump
        assert (error > 0.06).mean() < 0.05
        return
    assert error.mean() < 0.006
    assert np.quantile(error, 0.999) < 0.06


def test_shrinking_averages() -> None:
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[::2] = 255  # single lines, which plain bilinear sampling would turn black or white
    for side in (16, 21, 30):
        small = warp(pixels, fit_matrix(64, 64, (side, side)), (side, side))
        assert np.abs(small[2:-2].astype(int) - 127).max() <= 26


def test_only_what_is_seen_is_worked_on_and_it_is_the_same() -> None:
    """A part of a large picture: the same pixels as of the picture without the rest."""
    pixels, out = tiny.pixels(500, 700), (60, 90)
    matrix = np.array([[0.6, 0.05, -120], [-0.04, 0.55, -100], [0, 0, 1.0]])
    whole = warp(pixels, matrix, out)
    cut = np.array([[1, 0, 100], [0, 1, 120], [0, 0, 1.0]])
    np.testing.assert_array_equal(whole, warp(pixels[120:420, 100:500], matrix @ cut, out))


def test_where_no_pixel_reaches_is_the_fill_colour_and_the_rest_is_one_warp() -> None:
    rng = np.random.default_rng(0)
    half, filled = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]]), 0
    for i in range(500):
        pixels, out = rng.integers(0, 256, (*rng.integers(1, 60, 2), 3), np.uint8), rng.integers(1, 70, 2).tolist()
        matrix = np.diag([*rng.uniform(1, 2, 2) * rng.choice([-1, 1], 2), 1.0])  # nothing shrinks
        matrix[:2, :2] = matrix[:2, :2] @ ([[0.8, 0.6], [-0.6, 0.8]] if i % 2 else np.eye(2))
        matrix[:2, 2] = rng.uniform(-80, 100, 2)
        centred = (np.linalg.inv(half) @ matrix @ half)[:2]
        whole = cv2.warpAffine(pixels, centred, out[::-1], flags=cv2.INTER_LINEAR, borderValue=(100, 101, 102))
        ours = warp(pixels, matrix, (out[0], out[1]), (100, 101, 102), np.zeros_like(whole))
        assert np.abs(ours.astype(int) - whole).max() <= 16  # OpenCV rounds to 1/32 pixel, from another corner on
        filled += bool((ours == [100, 101, 102]).all(2).any())
    assert filled > 200


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_render_writes_where_it_is_told_and_nowhere_else(kind: Any) -> None:
    pixels = tiny.pixels(50, 70)
    batch = np.full((3, 40, 40, 3), 7, kind)
    cpu.render(pixels, fit_matrix(50, 70, (40, 40)), None, batch[1])
    assert (batch[[0, 2]] == 7).all()
    expected = warp(pixels, fit_matrix(50, 70, (40, 40)), (40, 40))
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
    check_resized(pixels, matrix, size)


@pytest.mark.parametrize("turn", [(1, 1), (-1, 1), (1, -1), (-1, -1)])
@pytest.mark.parametrize("out", [(150, 150), (100, 220), (90, 120)])
def test_a_letterboxed_image_is_the_same_by_resizing(out: tuple[int, int], turn: tuple[int, int]) -> None:
    mirror = np.array([[turn[0], 0, (turn[0] < 0) * out[1]], [0, turn[1], (turn[1] < 0) * out[0]], [0, 0, 1.0]])
    check_resized(tiny.pixels(200, 300), mirror @ fit_matrix(200, 300, out), out)


def check_resized(pixels: np.ndarray, matrix: np.ndarray, size: tuple[int, int]) -> None:
    shifted = matrix + np.array([[0, 0, 0.01], [0, 0, 0.01], [0, 0, 0]])
    resized, warped = (warp(pixels, m, size).astype(int) for m in (matrix, shifted))
    assert np.abs(resized - warped).max() <= 3 and np.abs(resized - warped).mean() < 0.7
    assert cpu._whole_pixels(pixels, matrix, size) is not None and cpu._whole_pixels(pixels, shifted, size) is None


def test_a_fill_colour() -> None:
    layout = lay_out(
        recipe([{"op": "expand", "p": 1.0}, {"op": "fill", "red": 10, "green": 20, "blue": 30}]),
        np.arange(12),
        (table := Table()),
        (50, 50),
    )
    pictures = on_cpu(layout, table, (50, 50))
    corners = pictures[:, [0, 0, -1, -1], [0, -1, 0, -1]] * 255
    assert (np.abs(corners - [10, 20, 30]).max(-1) < 0.6).mean() > 0.7

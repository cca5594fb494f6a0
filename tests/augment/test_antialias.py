"""Shrinking photographs: Pillow's Lanczos filter is the reference, its antialiased bilinear resize the measure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from dataforge.augment.executors.cpu import warp
from dataforge.augment.operations.geometry import fit_matrix, scaled
from dataforge.images.decode import decode

LANCZOS, BILINEAR = PIL.Image.Resampling.LANCZOS, PIL.Image.Resampling.BILINEAR
INNER = (slice(2, -2), slice(2, -2))  # a warp's border fades into the fill colour


@pytest.fixture(scope="module")
def photographs(shared_data: Path) -> list[np.ndarray]:
    files = sorted((shared_data / "coco_mini/train2017").rglob("*.jpg"))[:20]
    assert len(files) == 20
    return [decode(file.read_bytes()) for file in files]


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a[INNER].astype(float) - b[INNER].astype(float)) ** 2)))


@pytest.mark.parametrize(
    ("down", "right"),
    [(1.1, 1.1), (1.3, 1.3), (1.5, 1.5), (1.7, 1.7), (2, 2), (1.2, 2.6), (3, 3), (2.9, 6), (4.6, 4.6)],
)
def test_it_is_as_good_as_an_antialiased_resize(photographs: list[np.ndarray], down: float, right: float) -> None:
    """Of whole pictures, which is a resize, and of parts whose edges lie within pixels, which is a warp."""
    better: list[list[float]] = [[], []]
    for pixels in photographs:
        height, width = pixels.shape[:2]
        out, image = (round(height / down), round(width / right)), PIL.Image.fromarray(pixels)
        for found, box in zip(better, ((0, 0, width, height), (3.3, 5.7, width - 7.4, height - 2.2)), strict=True):
            best, theirs = (np.asarray(image.resize(out[::-1], how, box)) for how in (LANCZOS, BILINEAR))
            matrix = fit_matrix(box[3] - box[1], box[2] - box[0], out, "stretch") @ scaled(1, 1, -box[0], -box[1])
            found.append(psnr(warp(pixels, matrix, out), best) - psnr(theirs, best))
    assert np.mean(better[0]) > 0.5 and np.mean(better[1]) > 0.5
    assert np.min(better) > -1  # on each photograph

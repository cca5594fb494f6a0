"""Shrinking photographs: Pillow's Lanczos filter is the reference, its antialiased bilinear resize the measure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataforge.augment.executors.antialias import filters, shrink_factors
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


@settings(max_examples=300, deadline=None)
@given(
    size=st.tuples(st.integers(40, 900), st.integers(40, 900)),
    out=st.tuples(st.integers(30, 300), st.integers(30, 300)),
    horizon=st.tuples(st.floats(-0.4, 0.4), st.floats(-0.4, 0.4)),
    mirrored=st.tuples(st.booleans(), st.booleans()),
)
def test_a_mirrored_source_is_filtered_alike_in_perspective_too(size, out, horizon, mirrored) -> None:
    """The scale is that in the middle of the source, which a mirrored one has in common with it."""
    matrix = fit_matrix(*size, out)
    matrix[2, :2] = horizon[0] / size[1], horizon[1] / size[0]
    turn = scaled(*(-1 if m else 1 for m in mirrored), mirrored[0] * size[1], mirrored[1] * size[0])
    ours, theirs = (shrink_factors(m, size) for m in (matrix, matrix @ turn))
    middle = np.array([size[1] / 2, size[0] / 2, 1])
    w = matrix[2] @ middle
    steps = [matrix @ (middle + step) for step in ([1e-4, 0, 0], [0, 1e-4, 0])]
    scales = [float(np.hypot(*(s[:2] / s[2] - (matrix @ middle)[:2] / w))) / 1e-4 for s in steps]
    if any(abs(np.log2(s / 0.7142857) % 1) < 1e-3 or abs(np.log2(s) % 1) < 0.01 for s in scales):
        return  # on the edge between two factors rounding decides
    assert ours == theirs
    assert all(f == 1 or s * f < 1.01 for s, f in zip(scales, ours[::-1], strict=True))
    for a, b in zip(filters(matrix, size, ours), filters(matrix @ turn, size, theirs), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)

"""Detection in tiles, with a detector that sees everything: what crosses a seam is found once."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.results.exported import Boxes
from trainers.results.tiled import detect_tiled, merge, overview
from trainers.results.tiling import Tiling

SIDE, HALF = 96, 48


def scene(seed: int, height: int, width: int, cell: int, most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A picture with a rectangle of its own colour in each of some cells: pixels, boxes (n, 4), labels (n,)."""
    rng = np.random.default_rng(seed)
    pixels, boxes = np.zeros((height, width, 3), np.uint8), []
    for y in range(0, height - cell, cell):
        for x in range(0, width - cell, cell):
            if rng.random() < 0.7:
                w, h = rng.integers(3, most + 1, 2)
                x1, y1 = x + rng.integers(0, cell - w), y + rng.integers(0, cell - h)
                boxes.append([x1, y1, x1 + w, y1 + h])
                pixels[y1 : y1 + h, x1 : x1 + w] = (len(boxes) % 250 + 1, len(boxes) // 250 + 1, len(boxes) % 3 + 1)
    array = np.array(boxes, float).reshape(-1, 4)
    return pixels, array, (np.arange(1, len(array) + 1) % 3).astype(np.int64)


class Seeing:
    """Finds the visible part of each rectangle, moved by up to `jitter` pixels; scores differ from tile to tile."""

    def __init__(self, jitter: float = 0.0) -> None:
        self.rng, self.jitter, self.shapes = np.random.default_rng(0), jitter, set[tuple[int, ...]]()

    def __call__(self, pictures: list[np.ndarray]) -> list[Boxes]:  # type: ignore[override]
        return [self.one(pixels) for pixels in pictures]

    def one(self, pixels: np.ndarray) -> Boxes:
        self.shapes.add(pixels.shape)
        boxes, labels = [], []
        for colour in np.unique(pixels.reshape(-1, 3), axis=0)[1:]:
            rows, columns = np.nonzero((pixels == colour).all(2))
            boxes.append([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            labels.append(int(colour[2]) - 1)
        array = np.array(boxes, float).reshape(-1, 4)
        array = array + self.rng.uniform(-self.jitter, self.jitter, array.shape)
        array = array.clip(0, [pixels.shape[1], pixels.shape[0]] * 2)
        return array, self.rng.uniform(0.3, 1, len(array)), np.array(labels, np.int64)


def in_order(boxes: np.ndarray, labels: np.ndarray) -> np.ndarray:
    rows = np.column_stack([labels, boxes])
    return rows[np.lexsort(rows.T[::-1])]


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 1000),
    size=st.tuples(st.integers(40, 330), st.integers(40, 330)),
    merging=st.sampled_from(["nms", "wbf"]),
    whole=st.booleans(),
    batch=st.integers(1, 5),
)
def test_objects_up_to_the_overlap_are_found_once(
    seed: int, size: tuple[int, int], merging: str, whole: bool, batch: int
) -> None:
    pixels, boxes, labels = scene(seed, *size, cell=51, most=HALF)
    detect = Seeing()
    found, scores, classes = detect_tiled(detect, pixels, Tiling(SIDE, 0.5, merging, whole, batch), 0.5)
    np.testing.assert_allclose(in_order(found, classes), in_order(boxes, labels), atol=1e-9)
    assert (np.diff(scores) <= 0).all()
    assert whole or all(max(shape[:2]) <= SIDE for shape in detect.shapes)


@pytest.mark.parametrize("merging", ["nms", "wbf"])
@pytest.mark.parametrize("seed", range(4))
def test_a_detector_that_is_a_little_off(seed: int, merging: str) -> None:
    pixels, boxes, labels = scene(seed, 300, 420, cell=60, most=44)
    found, _, classes = detect_tiled(Seeing(1.0), pixels, Tiling(SIDE, 0.5, merging), 0.3)
    expected, rows = in_order(boxes, labels), in_order(found, classes)
    assert len(rows) == len(expected)
    for row in expected:
        assert np.abs(rows - row).max(1).min() < 1.5, row


@pytest.mark.parametrize("merging", ["nms", "wbf"])
@pytest.mark.parametrize("overlap", [0.2, 0.4])
@pytest.mark.parametrize("box", [(5, 60, 290, 130), (100, 10, 140, 390), (20, 30, 280, 380), (90, 90, 100, 100)])
def test_objects_larger_than_a_tile_are_joined(box: tuple[int, int, int, int], overlap: float, merging: str) -> None:
    pixels = np.zeros((400, 300, 3), np.uint8)
    x1, y1, x2, y2 = box
    pixels[y1:y2, x1:x2] = (9, 9, 2)
    found, _, labels = detect_tiled(Seeing(), pixels, Tiling(SIDE, overlap, merging), 0.5)
    assert found.tolist() == [list(box)] and labels.tolist() == [1]


def test_neighbours_of_one_class_stay_two() -> None:
    """Two long objects side by side across a seam, and two in a row with a gap on the seam."""
    pixels = np.zeros((90, 300, 3), np.uint8)
    truth = [(10, 10, 280, 30), (12, 34, 290, 60), (20, 70, 84, 80), (90, 70, 160, 80)]
    for n, (x1, y1, x2, y2) in enumerate(truth):
        pixels[y1:y2, x1:x2] = (n + 1, 5, 1)
    found, _, labels = detect_tiled(Seeing(), pixels, Tiling(SIDE, 0.2), 0.5)
    assert sorted(map(tuple, found.tolist())) == sorted(truth) and not labels.any()


def test_the_whole_image_finds_what_tiles_do_not() -> None:
    """A detector of complete objects alone: what is cut in each tile is found in the whole image."""
    pixels, detect = np.zeros((200, 250, 3), np.uint8), Seeing()
    pixels[20:190, 30:240] = (7, 7, 1)

    def complete(pictures: list[np.ndarray]) -> list[Boxes]:
        every = []
        for picture, (boxes, scores, labels) in zip(pictures, detect(pictures), strict=True):
            inside = (boxes[:, :2] > 0).all(1) & (boxes[:, 2:] < picture.shape[1::-1]).all(1)
            every.append((boxes[inside], scores[inside], labels[inside]))
        return every

    assert not len(detect_tiled(complete, pixels, Tiling(SIDE), 0.5)[0])  # type: ignore[arg-type]
    found, _, _ = detect_tiled(complete, pixels, Tiling(SIDE, whole=True), 0.5)  # type: ignore[arg-type]
    assert found.tolist() == [[30, 20, 240, 190]]


def test_nothing_and_an_image_no_larger_than_a_tile() -> None:
    for size in ((300, 200), (SIDE, SIDE), (1, 1)):
        boxes, scores, labels = detect_tiled(Seeing(), np.zeros((*size, 3), np.uint8), Tiling(SIDE), 0.5)
        assert boxes.shape == (0, 4) and len(scores) == len(labels) == 0


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(0, 60), iou=st.sampled_from([0.0, 0.3, 0.5, 0.9]))
def test_merging_by_nms_is_that_of_torchvision(seed: int, count: int, iou: float) -> None:
    import torch
    from torchvision.ops import batched_nms

    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 50, (count, 2))
    boxes = np.concatenate([low, low + rng.uniform(1, 40, (count, 2))], 1)
    scores, labels = rng.permutation(count) / max(count, 1), rng.integers(0, 3, count)
    kept = batched_nms(*map(torch.from_numpy, (boxes, scores, labels)), iou).numpy()
    merged = merge(boxes, scores, labels, iou, fuse=False)
    for ours, theirs in zip(merged, (boxes[kept], scores[kept], labels[kept]), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_fusion_is_the_mean_by_scores() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [2, 0, 12, 10], [50, 50, 60, 60.0]])
    scores, labels = np.array([0.6, 0.3, 0.1, 0.5]), np.zeros(4, np.int64)
    merged, best, _ = merge(boxes, scores, labels, 0.5, fuse=True)
    np.testing.assert_allclose(merged, [[0.5, 0, 10.5, 10], [50, 50, 60, 60]])
    assert best.tolist() == [0.6, 0.5]


def test_an_overview_is_no_larger_than_a_detector_needs() -> None:
    pixels = np.zeros((50, 9000, 3), np.uint8)
    view, scale = overview(pixels)
    assert view.shape == (23, 4096, 3)
    np.testing.assert_allclose(scale, [4096 / 9000, 23 / 50])
    assert overview(pixels[:, :4096])[0].shape == (50, 4096, 3)
    noise = np.random.default_rng(0).integers(0, 256, (8192, 1000, 3), np.uint8)
    expected = cv2.resize(noise, (500, 4096), interpolation=cv2.INTER_AREA)
    for image in (noise, np.asfortranarray(noise)):
        np.testing.assert_array_equal(overview(image)[0], expected)

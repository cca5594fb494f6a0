from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dataforge import augment as aug
from dataforge.augment import cpu, device
from dataforge.augment.geometry import GEOMETRY, fit_matrix
from dataforge.augment.photo import PHOTO
from dataforge.errors import ConfigError
from tests import tiny

OUT = (96, 128)
STEPS = {name: ({"op": name},) for name in GEOMETRY} | aug.RECIPES


def painted(height: int, width: int, box: np.ndarray) -> np.ndarray:
    """A black picture with a white rectangle."""
    pixels = np.zeros((height, width, 3), np.uint8)
    x1, y1, x2, y2 = box.astype(int)
    pixels[y1:y2, x1:x2] = 255
    return pixels


def found(pixels: np.ndarray) -> np.ndarray:
    """The box around what is white, with its edges placed between pixels by their brightness."""
    bright = pixels[..., 0].astype(float) / 255
    columns, rows = bright.max(0), bright.max(1)
    x, y = np.flatnonzero(columns > 0.5), np.flatnonzero(rows > 0.5)
    return np.array([x[0], y[0], x[-1] + 1, y[-1] + 1], float)


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(sorted(STEPS)),
    record=st.integers(0, 10_000),
    fit=st.sampled_from(aug.FITS),
    height=st.integers(40, 300),
    width=st.integers(40, 300),
    data=st.data(),
)
def test_painted_rectangles_and_moved_boxes_agree(name, record, fit, height, width, data):
    x1 = data.draw(st.integers(0, width - 25))
    y1 = data.draw(st.integers(0, height - 25))
    box = np.array(
        [[x1, y1, data.draw(st.integers(x1 + 20, width)), data.draw(st.integers(y1 + 20, height))]], np.float32
    )
    geometry = [step for step in STEPS[name] if step["op"] in GEOMETRY]
    index = np.array([record])
    p = aug.parameters(geometry, index, np.array([height]), np.array([width]), OUT, fit=fit, seed=1, epoch=2)
    moved, keep = aug.move_boxes(box, np.zeros(1, int), p.matrix, OUT, aug.MIN_VISIBLE)
    pixels = aug.warp(painted(height, width, box[0]), p.matrix[0], OUT, fill=0)
    if keep[0] and (moved[0, 2:] - moved[0, :2]).min() >= 4:
        np.testing.assert_allclose(found(pixels), moved[0], atol=1.01)


@pytest.mark.parametrize("name", sorted(STEPS))
def test_boxes_stay_inside_and_a_full_image_box_fills_the_image(name):
    n = 500
    height, width = np.full(n, 70), np.full(n, 51)
    p = aug.parameters(STEPS[name], np.arange(n), height, width, OUT)
    full = np.tile(np.array([0, 0, 51, 70], np.float32), (n, 1))
    moved, keep = aug.move_boxes(full, np.arange(n), p.matrix, OUT, 0.0)
    assert keep.all()
    assert (moved >= 0).all() and (moved <= [128, 96, 128, 96]).all()
    pixels = np.full((70, 51, 3), 255, np.uint8)
    for i in range(0, n, 50):
        np.testing.assert_allclose(found(aug.warp(pixels, p.matrix[i], OUT, fill=0)), moved[i], atol=1.01)


def test_flip_twice_is_the_identity():
    flip = GEOMETRY["flip"][0](np.zeros((1, 1)), OUT)[0]
    np.testing.assert_allclose(flip @ flip, np.eye(3), atol=1e-12)
    pixels = tiny.pixels(*OUT)
    np.testing.assert_array_equal(aug.warp(pixels, flip, OUT), pixels[:, ::-1])
    np.testing.assert_array_equal(aug.warp(pixels, np.eye(3), OUT), pixels)


def test_a_box_that_is_mostly_outside_is_dropped_and_one_at_the_edge_is_clipped():
    matrix = fit_matrix(96, 128, OUT)[None].copy()
    matrix[0, 0, 2] = -50.0
    boxes = np.array([[0, 10, 60, 20], [45, 10, 65, 20], [0, 0, 10, 10]], np.float32)
    moved, keep = aug.move_boxes(boxes, np.zeros(3, int), matrix, OUT, 0.25)
    assert keep.tolist() == [False, True, False]
    assert moved[1].tolist() == [0, 10, 15, 20]


@pytest.mark.parametrize("fit", aug.FITS)
def test_fit(fit):
    matrix = fit_matrix(np.array([50]), np.array([200]), (100, 100), fit)[0]
    corners = matrix @ np.array([[0, 0, 1], [200, 50, 1]]).T
    expected = [[0, 37.5], [100, 62.5]] if fit == "letterbox" else [[0, 0], [100, 100]]
    np.testing.assert_allclose(corners[:2].T, expected)


@given(st.integers(1, 60), st.integers(0, 9))
def test_parameters_do_not_depend_on_the_batch(n, seed):
    index = np.random.default_rng(seed).permutation(1000)[:n]
    h, w = 40 + index % 50, 60 + index % 70
    whole = aug.parameters(aug.RECIPES["yolo"], index, h, w, OUT, seed=seed, epoch=1)
    half = aug.parameters(aug.RECIPES["yolo"], index[n // 2 :], h[n // 2 :], w[n // 2 :], OUT, seed=seed, epoch=1)
    np.testing.assert_array_equal(whole.matrix[n // 2 :], half.matrix)
    assert whole.colour is not None and half.colour is not None
    np.testing.assert_array_equal(whole.colour[n // 2 :], half.colour)


def test_parameters_differ_between_records_epochs_and_seeds():
    def draw(index: int, epoch: int, seed: int) -> tuple[float, ...]:
        one = np.array([index])
        p = aug.parameters(aug.RECIPES["yolo"], one, one * 0 + 50, one * 0 + 70, OUT, seed=seed, epoch=epoch)
        return tuple(p.matrix.ravel())

    assert len({draw(i, e, s) for i in range(5) for e in range(5) for s in range(5)}) == 125


@pytest.mark.parametrize("fit", aug.FITS)
def test_cpu_and_torch_executors_agree(fit):
    """Both interpolate the same picture by the same matrix; OpenCV rounds its coordinates to 1/32 pixel."""
    pixels = tiny.pixels(150, 210)
    p = aug.parameters(
        aug.RECIPES["yolo"], np.arange(12), np.full(12, 150), np.full(12, 210), (64, 48), fit=fit, seed=3
    )
    assert p.colour is not None
    for i in range(12):
        ours = np.empty((64, 48, 3), np.float32)
        cpu.render(pixels, p.matrix[i], p.colour[i], ours)
        rows, columns = cpu.shrink_factors(p.matrix[i])
        canvas = torch.from_numpy(cpu.shrink(pixels, (rows, columns))).permute(2, 0, 1)[None]
        matrix = torch.from_numpy(p.matrix[i] @ np.diag([columns, rows, 1.0])).float()[None]
        theirs = device.tint(device.render(canvas, matrix, (64, 48)), torch.from_numpy(p.colour[i]).float()[None])
        error = np.abs(ours - theirs[0].permute(1, 2, 0).numpy())
        assert error.mean() < 0.004
        assert error.max() < 0.06


def test_shrinking_averages():
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[::2] = 255  # single lines, which plain bilinear sampling would turn black or white
    small = aug.warp(pixels, fit_matrix(64, 64, (16, 16)), (16, 16))
    assert np.abs(small.astype(int) - 127).max() <= 1


def test_colour_operations_against_their_definitions():
    rgb = np.random.default_rng(0).uniform(0, 1, (3, 50))
    one = np.concatenate([rgb, np.ones((1, 50))])

    def apply(name: str, u: float, strength: float) -> np.ndarray:
        return (PHOTO[name][0](np.array([[u]]), strength=strength)[0] @ one)[:3]

    grey = np.array([0.299, 0.587, 0.114]) @ rgb
    np.testing.assert_allclose(apply("brightness", 1.0, 0.4), rgb * 1.4)
    np.testing.assert_allclose(apply("contrast", 0.0, 0.5), rgb * 0.5 + 0.25)
    np.testing.assert_allclose(apply("saturation", 0.0, 1.0), np.tile(grey, (3, 1)), atol=1e-12)
    turned = apply("hue", 0.9, 0.2)
    np.testing.assert_allclose(np.array([0.299, 0.587, 0.114]) @ turned, grey, atol=1e-12)
    np.testing.assert_allclose(apply("hue", 1.0, 1.0), rgb, atol=1e-9)
    for name in PHOTO:
        np.testing.assert_allclose(apply(name, 0.5, 0.3), rgb, atol=1e-9)


@pytest.mark.parametrize(
    ("augment", "words"),
    [
        ("flop", "unknown augmentation recipe 'flop'; known: flip, none, yolo"),
        ([{"op": "spin"}], "unknown augmentation 'spin'"),
        ([{"op": "flip", "q": 1}], "unknown value 'q'; known: p"),
        ([{"op": "flip", "p": "high"}], "p is 'high'; expected a number"),
    ],
)
def test_a_wrong_recipe_is_refused(augment, words):
    with pytest.raises(ConfigError, match=words):
        aug.recipe(augment)

"""Colour and quality: against their definitions, and in the order that is promised."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest

from dataforge.augment.executors import cpu
from dataforge.augment.operations.photo import COLOUR, CURVES, DAMAGE
from dataforge.augment.operations.registry import PHOTO
from dataforge.augment.parameters import parameters
from dataforge.augment.recipes import recipe
from tests import tiny

GREY = np.array([0.299, 0.587, 0.114])
SIZE = (64, 80)


def always(name: str, **values: Any) -> dict[str, Any]:
    return {"op": name, "p": 1.0, **values}


def look(steps: list[dict[str, Any]], pixels: np.ndarray, record: int = 0, kind: Any = np.uint8) -> np.ndarray:
    """The picture that a recipe makes of pixels, without a change of size."""
    shape = pixels.shape[:2]
    p = parameters(recipe(steps), np.array([record]), np.array(shape[:1]), np.array(shape[1:]), shape)
    out = np.empty((*shape, 3), kind)
    canvas = out if kind == np.uint8 else np.empty((*shape, 3), np.uint8)
    cpu.paint(pixels, p.matrix[0], p, 0, canvas)
    cpu.finish(canvas, p, 0, out)
    return out


def test_colour_operations_against_their_definitions() -> None:
    rgb = np.random.default_rng(0).uniform(0, 1, (3, 50))
    one = np.concatenate([rgb, np.ones((1, 50))])

    def apply(name: str, *u: float, **values: float) -> np.ndarray:
        return np.asarray((COLOUR[name](lambda n: np.array([u[:n]]), **values)[0] @ one)[:3])

    grey = GREY @ rgb
    np.testing.assert_allclose(apply("brightness", 1.0, strength=0.4), rgb * 1.4)
    np.testing.assert_allclose(apply("contrast", 0.0, strength=0.5), rgb * 0.5 + 0.25)
    np.testing.assert_allclose(apply("saturation", 0.0, strength=1.0), np.tile(grey, (3, 1)), atol=1e-12)
    np.testing.assert_allclose(apply("grey", 0.0), np.tile(grey, (3, 1)), atol=1e-12)
    np.testing.assert_allclose(apply("gain", 0.0, 0.5, 1.0, strength=0.2), rgb * [[0.8], [1.0], [1.2]])
    np.testing.assert_allclose(GREY @ apply("hue", 0.9, strength=0.2), grey, atol=1e-12)
    np.testing.assert_allclose(apply("hue", 1.0, strength=1.0), rgb, atol=1e-9)
    for name in ("brightness", "contrast", "saturation", "hue", "gain"):
        np.testing.assert_allclose(apply(name, 0.5, 0.5, 0.5, strength=0.3), rgb, atol=1e-9)


def test_curves_against_their_definitions() -> None:
    values = np.arange(256)

    def table(name: str, u: float = 0.0, **given: float) -> np.ndarray:
        return np.asarray(CURVES[name](lambda n: np.full((1, n), u), **given)[0])

    np.testing.assert_array_equal(table("posterize", bits=3.0), values & 0b11100000)
    np.testing.assert_array_equal(table("posterize", bits=8.0), values)
    np.testing.assert_allclose(table("solarize", threshold=0.5), np.where(values >= 128, 255 - values, values))
    np.testing.assert_allclose(table("gamma", low=2.0, high=2.0), 255 * (values / 255) ** 2)
    np.testing.assert_allclose(table("gamma", 0.5, low=0.5, high=2.0), values)


def test_several_curves_and_colours_become_one() -> None:
    pixels = tiny.pixels(*SIZE)
    both = look([always("gamma", low=2.0, high=2.0), always("posterize", bits=4)], pixels)
    one_by_one = look([always("posterize", bits=4)], look([always("gamma", low=2.0, high=2.0)], pixels))
    np.testing.assert_array_equal(both, one_by_one)
    steps = [always("brightness", strength=0.2), always("saturation")]
    p = parameters(steps, np.arange(3), *np.full((2, 3), 50), SIZE)
    skipped = {"op": "flip", "p": 0.0}  # draws go by the place in the list
    parts = [
        parameters([skipped] * i + [step], np.arange(3), *np.full((2, 3), 50), SIZE).colour
        for i, step in enumerate(steps)
    ]
    assert p.colour is not None and parts[0] is not None and parts[1] is not None
    np.testing.assert_allclose(p.colour[:, :, :3], parts[1][:, :, :3] @ parts[0][:, :, :3])


def test_colours_stay_without_chance_and_clip_at_the_ends() -> None:
    pixels = tiny.pixels(*SIZE)
    for name in PHOTO:
        np.testing.assert_array_equal(look([{"op": name, "p": 0.0}], pixels), pixels)
    bright = look([always("gain", strength=1.0)], np.full((8, 8, 3), 200, np.uint8), record=4)
    assert bright.dtype == np.uint8
    expected = parameters([always("gain", strength=1.0)], np.array([4]), *np.full((2, 1), 8), (8, 8)).colour
    assert expected is not None
    np.testing.assert_allclose(bright[0, 0], (200 * np.diag(expected[0])).clip(0, 255), atol=0.51)


@pytest.mark.parametrize("name", sorted(DAMAGE))
def test_damage_changes_pixels_by_record_and_leaves_the_source(name: str) -> None:
    pixels = tiny.pixels(*SIZE)
    before = pixels.copy()
    first, again, other = (look([always(name)], pixels, record) for record in (1, 1, 2))
    np.testing.assert_array_equal(pixels, before)
    np.testing.assert_array_equal(first, again)
    assert np.abs(first.astype(int) - pixels).mean() > 0.1
    if name != "equalise":
        assert (first != other).any()


def test_damage_does_what_it_says() -> None:
    pixels = tiny.pixels(*SIZE)
    flat = np.full((200, 200, 3), 128, np.uint8)
    grain = look([always("noise", low=0.1, high=0.1)], flat).astype(float) - 128
    assert grain.std() == pytest.approx(25.5, rel=0.03) and abs(grain.mean()) < 0.5
    np.testing.assert_array_equal(
        look([always("blur", low=1.2, high=1.2)], pixels), cv2.GaussianBlur(pixels, (0, 0), 1.2)
    )
    steep = np.tile(np.arange(100, 120, dtype=np.uint8).repeat(4)[None, :, None], (80, 1, 3))
    spread = look([always("equalise")], steep)
    assert spread.min() <= 2 and spread.max() >= 253
    coarse, fine = (
        np.abs(look([always("jpeg", low=q, high=q)], pixels).astype(int) - pixels).mean() for q in (5.0, 95.0)
    )
    assert coarse > 3 * fine


def test_erasing_paints_a_rectangle_of_its_size() -> None:
    pixels = np.zeros((100, 100, 3), np.uint8)
    areas = []
    for record in range(40):
        out = look(
            [always("erase", low=0.1, high=0.3), {"op": "fill", "red": 9, "green": 8, "blue": 7}], pixels, record
        )
        y, x = np.nonzero(out[..., 0])
        assert (out[y.min() : y.max() + 1, x.min() : x.max() + 1] == [9, 8, 7]).all()
        areas.append(len(y) / 10000)
    assert 0.09 < min(areas) < 0.15 and 0.25 < max(areas) < 0.31


def test_normalisation() -> None:
    pixels = tiny.pixels(*SIZE)
    out = look([{"op": "normalise", "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7]}], pixels, kind=np.float32)
    np.testing.assert_allclose(out, (pixels / 255 - [0.1, 0.2, 0.3]) / [0.5, 0.6, 0.7], atol=1e-5)
    np.testing.assert_allclose(look([], pixels, kind=np.float32), pixels / 255, atol=1e-6)

"""What every operation that moves pixels must keep: the boxes lie where the pixels went."""

from __future__ import annotations

import inspect
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torchvision import tv_tensors
from torchvision.transforms import v2

from bench.boxes import found, painted
from dataforge.augment.executors.cpu import warp
from dataforge.augment.move import move_boxes
from dataforge.augment.operations.geometry import FITS, fit_matrix
from dataforge.augment.operations.registry import GEOMETRY, values_of
from dataforge.augment.parameters import Parameters, parameters
from dataforge.augment.recipes import recipe
from tests import tiny

OUT = (96, 128)
FINE = 4  # pictures are checked at four times the size, so that corners of turned boxes are sharp


def always(name: str, **values: Any) -> dict[str, Any]:
    return {"op": name, "p": 1.0, **values}


def lay(steps: Any, index: np.ndarray, size: np.ndarray, fit: str = "letterbox", boxes: Any = None) -> Parameters:
    rows = np.arange(len(index)) if boxes is not None else None
    return parameters(steps, index, size[:, 0], size[:, 1], OUT, fit=fit, seed=1, epoch=2, boxes=boxes, image=rows)


def check(size: np.ndarray, box: np.ndarray, matrix: np.ndarray, within: float = 1.0) -> bool:
    """One painted rectangle against its moved box; whether enough of it is in the picture to tell."""
    half = 0.5 / FINE  # the outermost pixels' centres: what a picture can show of a side that runs along its edge
    seen = np.array([[half, half, OUT[1] - half, OUT[0] - half]])
    moved, keep = move_boxes(box[None], np.zeros(1, int), matrix[None], OUT, 0.0, region=seen)
    fine = np.diag([FINE, FINE, 1.0]) @ matrix
    truth = found(warp(painted(*size, box), fine, (FINE * OUT[0], FINE * OUT[1]), fill=0))
    if truth is None or (truth[2:] - truth[:2]).min() < FINE:
        assert not keep[0] or (moved[0, 2:] - moved[0, :2]).min() < 2.5
        return False
    assert keep[0]
    if (truth[2:] - truth[:2]).min() < 4 * FINE:  # of a thin slip, pixels do not tell where the sharp end is
        return False
    np.testing.assert_allclose(truth / FINE, moved[0], atol=within)
    return True


def some_boxes(rng: np.random.Generator, sizes: np.ndarray) -> np.ndarray:
    low = rng.integers(0, sizes - 24)
    high = rng.integers(low + 20, sizes + 1)
    return np.concatenate([low[:, ::-1], high[:, ::-1]], 1).astype(np.float32)


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("name", sorted(GEOMETRY))
def test_painted_rectangles_and_moved_boxes_agree(name: str, fit: str) -> None:
    rng = np.random.default_rng(3)
    sizes = rng.integers(40, 300, (60, 2))
    boxes = some_boxes(rng, sizes)
    p = lay([always(name)], np.arange(60), sizes, fit, boxes)
    assert sum(check(*each) for each in zip(sizes, boxes, p.matrix, strict=True)) > 25


@pytest.mark.parametrize(
    "part", [pytest.param(i, marks=[pytest.mark.slow] if i else []) for i in range(10)]
)  # 10,000 compositions in all
def test_random_compositions(part: int) -> None:
    rng = np.random.default_rng(part)
    seen = 0
    for _ in range(50):
        steps = []
        for name in rng.choice(sorted(GEOMETRY), rng.integers(2, 7)):
            values = {}
            if name in ("rotate", "shear"):
                values["degrees"] = rng.uniform(0, 40)
            elif name in ("scale", "jitter"):
                values = {"low": 0.5, "high": 2.0}
            elif name == "perspective":
                values["strength"] = rng.uniform(0, 0.3)
            elif name == "expand":
                values["high"] = 2.0
            steps.append(always(str(name), **values))
        sizes = rng.integers(60, 300, (20, 2))
        boxes = some_boxes(rng, sizes)
        p = lay(recipe(steps), rng.integers(0, 10**6, 20), sizes, str(rng.choice(FITS)), boxes)
        seen += sum(check(*each) for each in zip(sizes, boxes, p.matrix, strict=True))
    assert seen > 200


@settings(max_examples=200, deadline=None)
@example(["aspect_limit", "perspective", "aspect_limit"], 0, "letterbox")  # sources behind the horizon
@example(["vflip", "crop"], 3093, "letterbox")  # a box that ends 1e-7 pixels inside the edge
@given(st.lists(st.sampled_from(sorted(GEOMETRY)), max_size=6), st.integers(0, 10**6), st.sampled_from(FITS))
def test_boxes_never_leave_the_picture_and_are_never_nan(names: list[str], record: int, fit: str) -> None:
    sizes = np.array([[1, 1], [3, 4000], [4000, 3], [70, 51], [640, 480]])
    whole = np.concatenate([np.zeros((5, 2)), sizes[:, ::-1]], 1)
    point = whole.copy()
    point[:, 2:] = 1  # one pixel in the corner
    boxes = np.concatenate([whole, point]).astype(np.float32).reshape(2, 5, 4).transpose(1, 0, 2).reshape(10, 4)
    image = np.repeat(np.arange(5), 2)
    p = parameters([always(n) for n in names], np.arange(5) + record, *sizes.T, OUT, fit=fit, boxes=boxes, image=image)
    assert np.isfinite(p.matrix).all()
    for least in (0.0, 0.25):
        moved, keep = move_boxes(boxes, image, p.matrix, OUT, least)
        assert np.isfinite(moved).all()
        assert (moved >= 0).all() and (moved <= [128, 96, 128, 96]).all()
        assert (moved[:, 2:] >= moved[:, :2]).all()
        assert (moved[keep, 2:] > moved[keep, :2]).all()


@pytest.mark.parametrize("name", sorted(GEOMETRY))
def test_nothing_happens_with_no_boxes_no_images_or_no_chance(name: str) -> None:
    none = np.zeros((0, 4), np.float32)
    sizes = np.array([[70, 51], [300, 40]])
    p = lay([always(name)], np.arange(2), sizes)
    moved, keep = move_boxes(none, np.zeros(0, int), p.matrix, OUT)
    assert moved.shape == (0, 4) and keep.shape == (0,)
    assert lay([always(name)], np.arange(0), np.zeros((0, 2), int)).matrix.shape == (0, 3, 3)
    never = lay([{"op": name, "p": 0.0}], np.arange(2), sizes)
    np.testing.assert_array_equal(never.matrix, fit_matrix(sizes[:, 0], sizes[:, 1], OUT))


@pytest.mark.parametrize("name", sorted(GEOMETRY))
def test_the_look_of_a_record_does_not_depend_on_its_batch(name: str) -> None:
    rng = np.random.default_rng(0)
    index = rng.permutation(1000)[:40]
    sizes = 60 + index[:, None] % [50, 170]
    boxes = some_boxes(rng, sizes)
    whole, half = lay([always(name)], index, sizes, boxes=boxes), slice(17, 40)
    np.testing.assert_array_equal(
        whole.matrix[half], lay([always(name)], index[half], sizes[half], boxes=boxes[half]).matrix
    )


def test_flip_twice_is_the_identity() -> None:
    one = np.array([OUT])
    for name in ("flip", "vflip"):
        twice = lay([always(name), always(name)], np.zeros(1, int), one).matrix[0]
        np.testing.assert_array_equal(twice, np.eye(3))
    flip = lay([always("flip")], np.zeros(1, int), one).matrix[0]
    pixels = tiny.pixels(*OUT)
    np.testing.assert_array_equal(warp(pixels, flip, OUT), pixels[:, ::-1])
    np.testing.assert_array_equal(warp(pixels, np.eye(3), OUT), pixels)


def test_quarter_turns_only_move_pixels_and_come_back() -> None:
    pixels, square = tiny.pixels(96, 96), (96, 96)
    seen = set()
    for record in range(12):
        matrix = parameters([always("rotate90")], np.array([record]), np.array([96]), np.array([96]), square).matrix[0]
        turned = warp(pixels, matrix, square)
        k = [np.array_equal(turned, np.rot90(pixels, k)) for k in range(4)]
        assert sum(k) == 1
        seen.add(k.index(True))
        np.testing.assert_array_equal(np.linalg.matrix_power(matrix, 4), np.eye(3))
    assert seen == {0, 1, 2, 3}


@pytest.mark.parametrize("fit", FITS)
def test_fit(fit: str) -> None:
    matrix = fit_matrix(np.array([50]), np.array([200]), (100, 100), fit)[0]
    corners = matrix @ np.array([[0, 0, 1], [200, 50, 1]]).T
    expected = [[0, 37], [100, 62]] if fit == "letterbox" else [[0, 0], [100, 100]]
    np.testing.assert_allclose(corners[:2].T, expected)


SIDE = st.integers(1, 5000)


@given(st.tuples(SIDE, SIDE), st.tuples(SIDE, SIDE))
def test_a_letterboxed_image_fills_whole_pixels_within_half_a_pixel_of_its_aspect(
    source: tuple[int, int], out: tuple[int, int]
) -> None:
    (height, width), (y, x) = source, (Fraction(out[0], source[0]), Fraction(out[1], source[1]))
    (x1, x2), (y1, y2) = ((fit_matrix(*source, out) @ np.array([[0, 0, 1], [width, height, 1]]).T)[:2]).tolist()
    for low, high, length, side in ((x1, x2, width * min(x, y), out[1]), (y1, y2, height * min(x, y), out[0])):
        assert abs(low - round(low)) < 1e-9 and abs(high - round(high)) < 1e-9
        assert abs(round(high - low) - length) <= Fraction(1, 2) or round(high - low) == 1 > length
        assert round(low) >= 0 and 0 <= side - round(high) - round(low) <= 1


def test_against_torchvision() -> None:
    """The same affine map, given to torchvision: the same pixels, and the same boxes where they stay inside."""
    pixels, box = tiny.pixels(*OUT), np.array([[50, 40, 80, 60]], np.float32)
    image = tv_tensors.Image(torch.from_numpy(pixels).permute(2, 0, 1))
    held = tv_tensors.BoundingBoxes(torch.from_numpy(box), format="XYXY", canvas_size=OUT)  # type: ignore[call-overload]
    linear = v2.InterpolationMode.BILINEAR
    for angle, shift, factor, slant in [
        (0, (3, -5), 1.0, (0, 0)),
        (20, (0, 0), 1.1, (0, 0)),
        (-9, (4, 2), 1.2, (7, 0)),
    ]:
        theirs = v2.functional.affine(image, angle, list(shift), factor, list(slant), interpolation=linear)
        their_box = v2.functional.affine(held, angle, list(shift), factor, list(slant))
        a, s = np.radians(angle), np.tan(np.radians(slant[0]))
        linear_part = factor * np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]) @ np.array([[1, -s], [0, 1]])
        centre = np.array([64, 48])
        matrix = np.eye(3)
        matrix[:2, :2], matrix[:2, 2] = linear_part, centre + shift - linear_part @ centre
        ours = warp(pixels, matrix, OUT, fill=0)
        inner = (slice(25, -25), slice(35, -35))
        error = ours[inner].astype(int) - theirs.permute(1, 2, 0).numpy()[inner]
        assert np.abs(error).max() <= 6 and np.abs(error).mean() < 1.0
        moved, _ = move_boxes(box, np.zeros(1, int), matrix[None], OUT, 0.0)
        np.testing.assert_allclose(moved, their_box.numpy(), atol=0.01)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    shared = (np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])).clip(0).prod()
    return float(shared / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - shared))


def test_the_iou_crop_keeps_ssd_s_rule() -> None:
    rng = np.random.default_rng(0)
    n = 400
    sizes = rng.integers(100, 400, (n, 2))
    boxes, image = [], []
    for i, (height, width) in enumerate(sizes):
        for _ in range(rng.integers(1, 6)):
            low = rng.uniform(0, 0.8, 2) * (width, height)
            boxes.append([*low, *np.minimum(low + rng.uniform(5, 200, 2), [width, height])])
            image.append(i)
    where = {"boxes": np.array(boxes, np.float32), "image": np.array(image)}
    p = parameters([always("iou_crop")], np.arange(n), *sizes.T, (300, 300), fit="stretch", **where)
    best, whole = [], 0
    for i, (height, width) in enumerate(sizes):
        back = np.linalg.inv(p.matrix[i]) @ np.array([[0, 0, 1], [300, 300, 1]]).T
        part = back[:2].T.ravel()
        wide, high = part[2:] - part[:2]
        assert (part >= -1e-6).all() and (part <= np.array([width, height] * 2) + 1e-6).all()
        if wide > width - 1e-6 and high > height - 1e-6:
            whole += 1
            continue
        assert 0.3 - 1e-9 <= wide / width <= 1 and 0.3 - 1e-9 <= high / height <= 1
        assert 0.5 < wide / high < 2
        mine = where["boxes"][where["image"] == i]
        best.append(max(iou(part, box) for box in mine))
        centre = (mine[:, :2] + mine[:, 2:]) / 2
        assert ((centre > part[:2]) & (centre < part[2:])).all(1).any()
    assert 0.14 < whole / n < 0.5  # one in seven is left whole at the first draw
    assert sum(b >= 0.5 for b in best) > 0.15 * n and sum(b < 0.3 for b in best) > 0.1 * n


@given(st.integers(0, 10**6), st.booleans(), st.sampled_from([0.2, 0.6, 3.0, 8.0]))
@settings(max_examples=60, deadline=None)
def test_the_aspect_limit_keeps_boxes_that_fit(record: int, empty: bool, ratio: float) -> None:
    height, width = (100, int(100 * ratio)) if ratio > 1 else (int(100 / ratio), 100)
    rng = np.random.default_rng(record)
    low = rng.uniform(0, 0.8, 2) * (width, height)
    box = np.array([[*low, *np.minimum(low + 60, [width, height])]], np.float32)
    boxes, image = (np.zeros((0, 4), np.float32), np.zeros(0, int)) if empty else (box, np.zeros(1, int))
    size = np.array([height]), np.array([width])
    p = parameters(
        [always("aspect_limit")], np.array([record]), *size, (120, 120), fit="stretch", boxes=boxes, image=image
    )
    back = np.linalg.inv(p.matrix[0]) @ np.array([[0, 0, 1], [120, 120, 1]]).T
    x1, y1, x2, y2 = back[:2].T.ravel()
    assert (x2 - x1) / (y2 - y1) == pytest.approx(np.clip(width / height, 0.5, 2.0))
    assert x1 >= -1e-6 and y1 >= -1e-6 and x2 <= width + 1e-6 and y2 <= height + 1e-6
    if not empty:
        assert x1 <= box[0, 0] + 1e-4 and y1 <= box[0, 1] + 1e-4 and x2 >= box[0, 2] - 1e-4 and y2 >= box[0, 3] - 1e-4


def test_ranges() -> None:
    """What the values promise, on 2,000 draws each."""
    n = 2000
    sizes = np.tile([80, 120], (n, 1))
    fitted = fit_matrix(80, 120, OUT)

    def added(name: str, fit: str = "letterbox", **values: Any) -> np.ndarray:
        return np.asarray(lay([always(name, **values)], np.arange(n), sizes, fit).matrix @ np.linalg.inv(fitted))

    factor = added("scale", low=0.5, high=2.0)[:, 0, 0]
    assert factor.min() >= 0.5 and factor.max() <= 2 and abs(np.median(factor) - 1) < 0.1
    factor = added("jitter")[:, 0, 0]
    assert factor.min() >= 0.1 and factor.max() <= 2 and abs(factor.mean() - 1.05) < 0.05
    factor = added("expand")[:, 0, 0]
    assert factor.min() >= 0.25 and factor.max() <= 1
    angle = np.degrees(np.arctan2(*added("rotate", degrees=30)[:, [1, 0], 0].T))
    assert np.abs(angle).max() <= 30 and np.abs(angle).max() > 29
    shift = added("translate", fraction=0.2)[:, :2, 2]
    assert np.abs(shift).max(0) == pytest.approx([0.2 * 128, 0.2 * 96], rel=0.01)
    part = added("crop", area=0.3, aspect=1.5)  # to whole pixels of the source, of which there are few
    kept, ratio = 1 / (part[:, 0, 0] * part[:, 1, 1]), part[:, 0, 0] / part[:, 1, 1]
    assert kept.min() >= 0.29 and kept.max() <= 1.02 and kept.min() < 0.31
    assert ratio.min() >= 0.98 / 1.5 and ratio.max() <= 1.5 * 1.02 and ratio.max() > 1.4


def test_the_large_scale_jitter_shows_as_much_of_the_image_as_it_can() -> None:
    n = 300
    sizes = np.tile([60, 120], (n, 1))
    p = lay([always("jitter")], np.arange(n), sizes)
    whole = np.tile(np.array([0, 0, 120, 60], np.float32), (n, 1))
    moved, _ = move_boxes(whole, np.arange(n), p.matrix, OUT, 0.0)
    zoom = p.matrix[:, 0, 0]
    np.testing.assert_allclose(moved[:, 2] - moved[:, 0], np.minimum(120 * zoom, 128), atol=1e-3)
    np.testing.assert_allclose(moved[:, 3] - moved[:, 1], np.minimum(60 * zoom, 96), atol=1e-3)


def test_every_value_has_a_default_within_its_bounds() -> None:
    for name, function in GEOMETRY.items():
        assert inspect.getdoc(function), name
        for key, (default, bounds) in values_of(name).items():
            assert bounds is not None and bounds[0] <= default <= bounds[1], (name, key)

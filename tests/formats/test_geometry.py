"""One geometry for all formats: what a box can be is decided by all boxes of a set, and never ignored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataforge.errors import FormatError
from dataforge.formats import writable, writer
from dataforge.formats.boxes import FORMS, UNITS, check_reading, edges, include_last, rotated
from dataforge.record import Record, Source
from tests.formats.named import run
from tests.formats.sets import picture

UNIT = np.array([[0.125, 0.25, 0.5, 0.75], [0.5, 0.5, 0.75, 1]], np.float32)


@pytest.mark.parametrize("name", writable())
def test_fractions_taken_for_pixels_are_never_published(tmp_path: Path, name: str) -> None:
    labels = np.zeros(2, np.int32)
    records = [Record("a.png", "train", picture(), 48, 64, UNIT, labels, labels.astype(np.uint8))]
    writer(name)(Source(("cat",), iter(records)), tmp_path / "set")
    result = run("ingest", name, tmp_path / "set", "--out", tmp_path / "out")
    assert result.exit_code == 2 and not (tmp_path / "out/index.json").exists()
    assert "8, 12, 32, 36" in result.stderr  # the other reading


@given(
    st.lists(st.tuples(*[st.integers(0, 60)] * 4), min_size=1),
    st.sampled_from([(0, 1), (-1, 0), (0, 0)]),
)
def test_corners_in_any_order_become_the_same_edges(numbers: list[tuple[int, ...]], offset: tuple[int, int]) -> None:
    corners = np.array(numbers, np.float64)
    corners[:, 2:] += (corners[:, :2] == corners[:, 2:]) * 2
    low, high = np.minimum(corners[:, :2], corners[:, 2:]), np.maximum(corners[:, :2], corners[:, 2:])
    expected = np.concatenate([low + offset[0], high + offset[1]], 1)
    for order in ([0, 1, 2, 3], [2, 1, 0, 3], [0, 3, 2, 1], [2, 3, 0, 1]):
        made = include_last(np.concatenate([low, high], 1)[:, order], *offset)
        gap = (high - low == 1) & (sum(offset, 1) == 2)
        same = np.sort(made.reshape(-1, 2, 2), 1).reshape(-1, 4) == expected
        assert (same | np.tile(gap, 2)).all()


@pytest.mark.parametrize("degrees", [None, 0, 0.0, "0.0", "", 180, "-180", 360])
def test_no_rotation(degrees: object) -> None:
    assert rotated((1, 2, 5, 4), degrees) is None


@pytest.mark.parametrize("degrees", [30, "30.0", 90, -0.5])
def test_a_rotation_is_clockwise_around_the_center_or_a_point(degrees: object) -> None:
    x, y = np.cos(np.radians(float(degrees))), np.sin(np.radians(float(degrees)))  # type: ignore[arg-type]
    ring = np.reshape(rotated((1, 2, 5, 4), degrees), (4, 2))
    np.testing.assert_allclose(ring.mean(0), [3, 3], atol=1e-9)
    np.testing.assert_allclose(ring[1] - ring[0], [4 * x, 4 * y], atol=1e-9)
    np.testing.assert_allclose(ring[3] - ring[0], [-2 * y, 2 * x], atol=1e-9)
    np.testing.assert_allclose(np.reshape(rotated((1, 2, 5, 4), degrees, (1, 2)), (4, 2))[0], [1, 2], atol=1e-9)


@pytest.mark.parametrize("degrees", ["much", "nan", float("inf"), [3]])
def test_a_rotation_that_is_no_number(degrees: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        rotated((1, 2, 5, 4), degrees)


def real(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Boxes of all sizes in images of several, as xyxy pixels, and the sizes."""
    sizes = rng.choice([[640, 480], [480, 640], [300, 200]], count).astype(float)
    side = sizes * rng.uniform(0.02, 0.6, (count, 2))
    first = rng.uniform(0, 1, (count, 2)) * (sizes - side)
    return np.concatenate([first, first + side], 1), sizes


def stated(xyxy: np.ndarray, sizes: np.ndarray, form: str, unit: str) -> np.ndarray:
    first, second = xyxy[:, :2], xyxy[:, 2:]
    second = second if form == "xyxy" else second - first
    first = first + second / 2 if form == "cxcywh" else first
    return np.concatenate([first, second], 1) / (np.tile(sizes, 2) if unit == "unit" else 1)


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("areas", ["none", "boxes", "masks"])
@pytest.mark.parametrize("seed", range(5))
def test_a_true_reading_passes_and_most_others_are_seen(form: str, unit: str, areas: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    xyxy, sizes = real(rng, 60)
    area = (xyxy[:, 2:] - xyxy[:, :2]).prod(1) * {"none": np.nan, "boxes": 1, "masks": rng.uniform(0.2, 0.95, 60)}[
        areas
    ]
    numbers = stated(xyxy, sizes, form, unit)
    np.testing.assert_allclose(edges(numbers, form) * (np.tile(sizes, 2) if unit == "unit" else 1), xyxy, atol=1e-9)
    check_reading("set", numbers, sizes, area, form, unit)
    for other in ("xyxy", "xywh"):
        if {form, other} == {"xyxy", "xywh"}:
            with pytest.raises(FormatError, match=f"--boxes {other} --unit {unit} or --boxes {form} --unit {unit}"):
                check_reading("set", numbers, sizes, area, other, unit)
            check_reading("set", numbers, sizes, area, other, unit, forms=(other,), units=(unit,))
    (wrong,) = {*UNITS} - {unit}
    with pytest.raises(FormatError, match=f"--unit {wrong} or --boxes {form} --unit {unit}"):
        check_reading("set", numbers, sizes, area, form, wrong)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_few_boxes_over_the_edge_are_no_other_convention(count: int) -> None:
    xywh = np.array([[30.0, 10, 40, 30]] * count).reshape(-1, 4)
    check_reading("set", xywh, np.full((count, 2), 64.0), np.full(count, np.nan), "xywh", "pixel")

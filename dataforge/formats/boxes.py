"""Boxes as files state them: their convention, and whether the numbers agree with it; their form in findings."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from dataforge.errors import ConfigError, FormatError

Numbers = NDArray[np.float64]

FORMS = {
    "xyxy": "x1, y1, x2, y2",
    "xywh": "x, y, width, height",
    "cxcywh": "center x, center y, width, height",
}
UNITS = {"pixel": "pixels", "unit": "fractions of the image"}
SAMPLE = 10_000  # boxes that are looked at, evenly spaced
FAIL, FIT = 0.2, 0.98  # fractions of boxes: so many contradict a reading; so many make another one fit
USUAL = 0.35, 0.5  # a median object covers less of its box than the first: doubtful; more than the second: usual
CERTAIN = 0.9  # fraction of boxes whose stated areas confirm a reading


def ranks(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return (n,) the number of preceding elements of the same group, such as the earlier boxes of the same image.

    Args:
        groups: (n,) the group of each element.
    """
    order = np.argsort(groups, kind="stable")
    grouped = groups[order]
    counted = np.empty(len(groups), np.int64)
    counted[order] = np.arange(len(groups)) - np.searchsorted(grouped, grouped)
    return counted


def as_xyxy(box: Iterable[float]) -> tuple[float, float, float, float]:
    """Convert one box (4,) to the tuple of floats that a `Finding` stores."""
    x1, y1, x2, y2 = map(float, box)
    return x1, y1, x2, y2


def rotated(
    xyxy: Iterable[float | None], degrees: object, pivot: tuple[float, float] | None = None
) -> list[float] | None:
    """Return the corners x, y, x, y, ... of a box that is rotated clockwise, by default around its center.

    None if the rotation is absent or a multiple of 180 degrees around the center.

    Raises:
        ValueError: it is not a finite number.
    """
    if not degrees:
        return None
    x1, y1, x2, y2 = (math.nan if number is None else number for number in xyxy)
    px, py = pivot or ((x1 + x2) / 2, (y1 + y2) / 2)
    angle = math.radians(float(degrees))  # type: ignore[arg-type]
    if not math.isfinite(angle):
        raise ValueError(f"{degrees!r} degrees")
    cos, sin = math.cos(angle), math.sin(angle)
    if abs(sin) <= 1e-6 and (pivot is None or cos > 0):
        return None
    points = ((x - px, y - py) for x, y in ((x1, y1), (x2, y1), (x2, y2), (x1, y2)))
    return [number for x, y in points for number in (px + x * cos - y * sin, py + x * sin + y * cos)]


def edges(numbers: Numbers, form: str) -> Numbers:
    """Convert boxes (n, 4) of one of `FORMS` to x1, y1, x2, y2, in the same unit."""
    first, second = numbers[:, :2], numbers[:, 2:]
    if form == "xywh":
        second = first + second
    elif form == "cxcywh":
        first, second = first - second / 2, first + second / 2
    return np.concatenate([first, second], 1)


def include_last(corners: Numbers, low: float, high: float) -> Numbers:
    """Convert corners (n, 4) that are numbers of pixels to edges: add `low` to the lower, `high` to the higher ones.

    Corners in the wrong order stay so, for `repair` to report, but get the same edges as if they were in order.
    A box may be smaller than a pixel, so the order is wrong only if it still is so as edges.
    """
    first, second = corners[:, :2], corners[:, 2:]
    swapped = first + low >= second + high
    return np.concatenate([first + np.where(swapped, high, low), second + np.where(swapped, low, high)], 1)


def check_form(form: str | None, unit: str | None) -> None:
    """Check the options --boxes and --unit.

    Raises:
        ConfigError: one is given and unknown.
    """
    for option, value, known in (("boxes", form, FORMS), ("unit", unit, UNITS)):
        if value is not None and value not in known:
            raise ConfigError(f"--{option} {value}: expected one of {', '.join(known)}")


def check_reading(
    where: str,
    numbers: Numbers,
    sizes: Numbers,
    areas: Numbers,
    form: str,
    unit: str,
    *,
    forms: Iterable[str] = FORMS,
    units: Iterable[str] = UNITS,
    named: bool = False,
    least: int = 2,
) -> None:
    """Check that the boxes of a file, read in one convention, agree with the stated areas and image sizes.

    A reading is refused if another one explains the boxes and it does not: by the areas, or because boxes stand far
    over the edge, have their corners in the wrong order, or are smaller than a pixel.

    Args:
        where: the file, for the message.
        numbers: (n, 4) as they are in the file.
        sizes: (n, 2) width and height of each box's image in pixels; 0 if unknown.
        areas: (n,) as stated, in pixels; NaN if not.
        form, unit: the reading, one of `FORMS` and of `UNITS`.
        forms, units: what it may be instead.
        named: the file names the columns, so that a few boxes in the wrong order are no reason to doubt.
        least: how many boxes must have areas of masks, before the part of the box that they cover is a reason to doubt.

    Raises:
        FormatError: it is contradicted; the message gives both readings.
    """
    some = slice(None, None, len(numbers) // SAMPLE + 1)  # from the whole file
    numbers, sizes, areas = numbers[some], sizes[some], areas[some]
    finite = np.isfinite(numbers).all(1)
    numbers, sizes, areas = numbers[finite], sizes[finite], areas[finite]
    if not len(numbers):
        return

    def read(form: str, unit: str) -> Numbers:
        scale = np.where(sizes > 0, sizes, 1) if unit == "unit" else np.ones((1, 2))
        return edges(numbers, form) * np.concatenate([scale, scale], 1)

    def agree(form: str, unit: str) -> float:
        width, height = (read(form, unit)[:, 2:] - read(form, unit)[:, :2])[stated].T
        area = width * height
        close = np.abs(area - areas[stated]) <= 0.5 + 0.01 * area
        return float(np.mean(close & (width > 0) & (area >= 4)))

    def filled(form: str, unit: str) -> float:
        """Return the usual part of a box that its object covers; 0 if some objects would not be inside their boxes."""
        width, height = (read(form, unit)[:, 2:] - read(form, unit)[:, :2])[stated].T
        with np.errstate(all="ignore"):
            parts = areas[stated] / (width * height)
        possible = (width > 0) & (height > 0) & (parts <= 1.02)
        return float(np.median(parts)) if possible.mean() >= FIT else 0.0

    def fit(form: str, unit: str) -> NDArray[np.bool_]:
        xyxy = read(form, unit)[known]
        far = 1 + 0.05 * sizes[known]
        inside = (xyxy[:, :2] >= -far) & (xyxy[:, 2:] <= sizes[known] + far)
        return np.asarray((inside & (xyxy[:, 2:] - xyxy[:, :2] >= 1)).all(1))

    stated = areas > 0
    known = (sizes > 0).all(1)
    confirmed = agree(form, unit) if stated.any() else 0.0
    if confirmed >= CERTAIN:
        return
    others = [(form, other) for other in units if other != unit] + [(other, unit) for other in forms if other != form]
    for other in others:
        changes_unit = other[1] != unit
        by_area = stated.sum() > 1 and confirmed <= 1 - CERTAIN
        by_area = by_area and (
            agree(*other) >= CERTAIN
            or (stated.sum() >= least and filled(*other) >= USUAL[1] and filled(form, unit) < USUAL[0])
        )
        enough = known.sum() >= (1 if changes_unit else 10 if named else 3)
        if by_area:
            why = f"the stated areas of {stated.sum()} boxes do not fit it, but fit"
            n = int(np.nonzero(stated)[0][0])
        elif enough and 1 - (fits := fit(form, unit)).mean() >= FAIL and fit(*other).mean() >= FIT:
            why = f"{(~fits).sum()} of {len(fits)} boxes do not fit their images, but do as"
            n = int(np.nonzero(known)[0][np.nonzero(~fits)[0][0]])
        else:
            continue
        boxes = [", ".join(f"{v:.6g}" for v in read(*reading)[n].tolist()) for reading in ((form, unit), other)]
        numbers_n = ", ".join(f"{v:.6g}" for v in numbers[n].tolist())
        raise FormatError(
            f"{where}: boxes read as {_words(form, unit)}: {why} {_words(*other)}; the box [{numbers_n}] is "
            f"xyxy [{boxes[0]}] or [{boxes[1]}] in pixels; say which with --boxes {form} --unit {unit} or "
            f"--boxes {other[0]} --unit {other[1]}"
        )


def _words(form: str, unit: str) -> str:
    return f"{FORMS[form]} in {UNITS[unit]}"

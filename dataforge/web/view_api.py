"""The API of `dataforge view`: what is sent and answered. Nothing can be changed by it."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from dataforge.web.api import ClassEntry
from dataforge.web.openapi import PAGE, Failure, Operation, number_schema, picture
from dataforge.web.selection import query_schema


class ViewedSet(Struct):
    """What is viewed; `recipe` is the name of the augmentation, `report` the kind of a report, or ""."""

    title: str
    fingerprint: str
    images: int
    boxes: int
    classes: list[ClassEntry]
    counts: list[int]
    splits: list[str]
    detections: int | None
    kinds: list[str]
    recipe: str
    report: str
    changes: list[str]


Box = tuple[float, float, float, float, int, int, bool]  # xyxy, label, flags, fulfils what is asked for
Found = tuple[float, float, float, float, int, float, int]  # xyxy, label, score, index into `ViewedSet.kinds`
Other = tuple[float, float, float, float, int, str]  # xyxy and label (-1: unknown) in the other set, what it is there


class Row(Struct):
    n: int
    key: str
    split: str
    width: int
    height: int
    boxes: list[Box]
    found: list[Found]
    others: list[Other]


class Rows(Struct):
    """A part of the images that are asked for; `total` is how many there are, `boxes` how many fulfilling boxes."""

    total: int
    boxes: int
    images: list[Row]


class ImageFinding(Struct):
    code: str
    text: str
    box: tuple[float, float, float, float] | None


class ViewedImage(Row):
    """An image; `position`, `before` and `after` are its place and neighbours among those asked for, -1 for none;
    `polygons` has the rings of each box, x, y, x, y, ..., or is empty if none has any.
    """

    id: int
    bytes: int
    areas: list[float]
    polygons: list[list[list[float]]]
    missed: list[bool]
    changes: list[str]
    findings: list[ImageFinding]
    position: int
    total: int
    before: int | None
    after: int | None


class Cells(Struct):
    head: list[str]
    rows: list[list[Any]]


class ReportTable(Cells):
    """A table of a report; values of its first column are those of a `field` of the filter, or "" for none."""

    title: str
    field: str


class ShownReport(Struct):
    kind: str
    about: str
    tables: list[ReportTable]


class Statistics(Struct):
    images: int
    boxes: int
    areas: dict[str, int]
    splits: Cells
    classes: Cells
    spreads: Cells
    charts: list[str]


class Cell(Struct):
    """A cell of the confusion matrix, by labels; C is the background."""

    true: int
    found: int
    count: int


class KindCount(Struct):
    kind: str
    count: int


class Errors(Struct):
    cells: list[Cell]
    kinds: list[KindCount]


class Code(Struct):
    code: str
    severity: str
    meaning: str
    findings: int
    images: int


class Lint(Struct):
    """The check of the set, which the first request starts."""

    done: int
    total: int
    finished: bool
    error: str
    codes: list[Code]


CHARTS = (
    *("classes", "box_sizes", "relative_box_sizes", "box_centres", "box_widths_and_heights"),
    *("image_aspects", "box_aspects", "boxes_per_image", "image_sizes"),
)
SMALLEST, USUAL, LARGEST_PICTURE = 16, 256, 1024  # pixels
SIZE = {"type": "integer", "minimum": SMALLEST, "maximum": LARGEST_PICTURE, "default": USUAL}
OF = {"type": "string", "maxLength": 40}  # says that a cached picture is of the same set
_QUERY = query_schema()
_WRONG = {400: Failure}
_OF_IMAGE = {400: Failure, 404: Failure, 422: Failure}
OPERATIONS = (
    Operation("GET", "/api/set", "set", "What is viewed.", {200: ViewedSet}),
    Operation("GET", "/api/images", "images", "Images by filter.", {200: Rows, **_WRONG}, query=_QUERY | PAGE),
    Operation("GET", "/api/images/{n}", "get_image", "An image.", {200: ViewedImage, **_OF_IMAGE}, query=_QUERY),
    picture(_OF_IMAGE),
    Operation(
        "GET",
        "/thumbnail/{n}",
        "thumbnail",
        "An image as JPEG, at most `size` pixels on its longer side.",
        {200: "image/jpeg", **_OF_IMAGE},
        query={"size": SIZE, "of": OF},
    ),
    Operation(
        "GET",
        "/augmented/{n}",
        "augmented",
        "An image as the recipe changes it, with its boxes.",
        {200: "image/jpeg", **_OF_IMAGE},
        query={"size": SIZE, "seed": number_schema(0), "of": OF},
    ),
    Operation(
        "GET", "/api/statistics", "statistics", "Of images by filter.", {200: Statistics, **_WRONG}, query=_QUERY
    ),
    Operation(
        "GET",
        "/chart",
        "chart",
        "A chart of the images by filter.",
        {200: "image/svg+xml", **_WRONG},
        query=_QUERY | {"name": {"type": "string", "enum": list(CHARTS)}},
        required=("name",),
    ),
    Operation("GET", "/api/errors", "errors", "Detections by class and kind.", {200: Errors, **_WRONG}, query=_QUERY),
    Operation("GET", "/api/lint", "lint", "Findings by code.", {200: Lint}),
    Operation("GET", "/api/report", "report", "The report that was opened.", {200: ShownReport, 404: Failure}),
    Operation("GET", "/api/openapi.json", "openapi", "This document.", {200: "application/json"}),
)

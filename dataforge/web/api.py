"""The annotator's API: what is sent and answered."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from dataforge.overlay.requests import ClassName, Edit, Flags, Label, Numbers, State
from dataforge.web.openapi import PAGE, Failure, Operation, number_schema, picture

RequestId = Annotated[str, Meta(min_length=1, max_length=200)]


class ImageEdits(Struct, forbid_unknown_fields=True):
    """Edits of an image, all or none."""

    request: RequestId
    revision: Annotated[int, Meta(ge=0)]
    edits: Annotated[list[Edit], Meta(min_length=1, max_length=20_000)]
    client: Annotated[str, Meta(max_length=200)] = ""
    seconds: Annotated[float, Meta(ge=0, le=86_400)] | None = None


class ClassChange(Struct, forbid_unknown_fields=True):
    """A change of the classes: `to` is the new name, or the class that `name` is merged into."""

    request: RequestId
    op: Literal["add", "rename", "merge"]
    name: ClassName
    to: ClassName | None = None


class ClassEntry(Struct):
    id: Label
    name: str


class Classes(Struct):
    classes: list[ClassEntry]


class SetFacts(Struct):
    id: str
    title: str
    images: int
    classes: list[ClassEntry]
    splits: list[str]
    proposals: bool
    keys: dict[str, list[str]]


class Entry(Struct):
    """A line on an image; `error` says why it cannot be read, and its width and height are 0 then."""

    n: int
    key: str
    split: str
    width: int
    height: int
    boxes: int
    classes: list[Label]
    state: State
    error: str | UnsetType = UNSET


class Entries(Struct):
    images: list[Entry]


class BoxEntry(Struct):
    id: str
    box: Numbers
    label: Label
    flags: Flags


class BoxPolygon(Struct):
    """The polygon of a box of the set, as long as the box is this one: a list of rings, each x, y, x, y, ..."""

    id: str
    box: Numbers
    rings: list[list[float]]


class Image(Struct):
    n: int
    key: str
    split: str
    width: int
    height: int
    state: State
    revision: int
    boxes: list[BoxEntry]
    polygons: list[BoxPolygon]


class Saved(Struct):
    revision: int


class Stale(Struct):
    """The image as it is, where the edits were of another revision of it."""

    error: str
    revision: int
    boxes: list[BoxEntry]
    state: State


class ClassSpeed(Struct):
    id: Label
    name: str
    boxes: int
    seconds: float


class Speed(Struct):
    seconds: float
    images: int
    boxes: int
    seconds_per_box: float | None
    seconds_per_image: float | None
    by_class: list[ClassSpeed]


class Crop(Struct):
    n: int
    id: str
    box: Numbers


class Crops(Struct):
    crops: list[Crop]


class Proposal(Struct):
    box: Numbers
    label: Label
    score: float


class Proposals(Struct):
    """Boxes that a model proposes; `error` says why there are none."""

    boxes: list[Proposal]
    pending: bool
    error: str | UnsetType = UNSET


class Queued(Struct):
    n: int
    value: Annotated[float, Meta(ge=0, le=1)]


class Queue(Struct):
    """The images in an order, the greatest values first; `pending` while there are others, `error` says why it ends,
    `by` what they were compared by: "model" or "hash", or "" while that is open.
    """

    images: list[Queued]
    pending: bool
    by: Literal["", "model", "hash"] | UnsetType = UNSET
    error: str | UnsetType = UNSET


ORDERS = ("unsure", "errors", "novelty")
_PIXEL = r"[0-9]{1,9}(\.[0-9]{1,30})?(e-[0-9]{1,3})?"  # as JavaScript writes a number
BOX_PATTERN = f"^{_PIXEL}(,{_PIXEL}){{3}}$"
_BOX = {"type": "string", "pattern": BOX_PATTERN}
_OF_IMAGE = {404: Failure, 422: Failure}
_WRITES = {400: Failure, 413: Failure, 507: Failure}
OPERATIONS = (
    Operation("GET", "/api/set", "set", "What is annotated.", {200: SetFacts}),
    Operation("GET", "/api/images", "images", "Lines on images.", {200: Entries, 400: Failure}, query=PAGE),
    Operation("GET", "/api/images/{n}", "get_image", "An image's boxes.", {200: Image, **_OF_IMAGE}),
    Operation(
        "POST",
        "/api/images/{n}",
        "post_image",
        "Edit an image. Answered once the edits are on the disk; the same `request` again changes nothing.",
        {200: Saved, 409: Stale, **_WRITES, **_OF_IMAGE},
        ImageEdits,
    ),
    picture(_OF_IMAGE),
    Operation(
        "POST", "/api/classes", "post_classes", "Add, rename or merge a class.", {200: Classes, **_WRITES}, ClassChange
    ),
    Operation("GET", "/api/speed", "speed", "Seconds a box and an image, by class.", {200: Speed}),
    Operation("GET", "/api/speed.csv", "speed_csv", "The same as a table.", {200: "text/csv"}),
    Operation(
        "GET",
        "/api/crops",
        "crops",
        "Boxes of a class.",
        {200: Crops, 400: Failure},
        query={"label": number_schema(0), **PAGE},
        required=("label",),
    ),
    Operation(
        "GET",
        "/crop/{n}",
        "crop",
        "A part of an image as JPEG, `size` pixels on its longer side.",
        {200: "image/jpeg", 400: Failure, **_OF_IMAGE},
        query={"box": _BOX, "size": {"type": "integer", "minimum": 8, "maximum": 512, "default": 96}},
        required=("box",),
    ),
    Operation("GET", "/api/proposals/{n}", "proposals", "A model's boxes.", {200: Proposals, 404: Failure}),
    Operation(
        "GET",
        "/api/queue",
        "queue",
        "What to look at first: where the model is unsure, contradicts the boxes, or what is unlike other images.",
        {200: Queue, 400: Failure},
        query={"by": {"type": "string", "enum": [*ORDERS]}},
        required=("by",),
    ),
    Operation("GET", "/api/openapi.json", "openapi", "This document.", {200: "application/json"}),
)

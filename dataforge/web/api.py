"""The annotator's API: what is sent and answered, and the OpenAPI document that is made of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from dataforge import __version__
from dataforge.overlay.edits import ClassName, Edit, Flags, Label, Numbers, State

MAX_COUNT = 10_000  # entries of an answer
LARGEST = 1 << 53  # of the numbers in queries
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


class Failure(Struct):
    error: str


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


class Image(Struct):
    n: int
    key: str
    split: str
    width: int
    height: int
    state: State
    revision: int
    boxes: list[BoxEntry]


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


@dataclass(frozen=True)
class Operation:
    """A request that the server answers.

    Attributes:
        name: of the method of `server.Pages` that answers it.
        query: name -> JSON Schema, of parameters that may be absent unless they are in `required`.
        answers: status -> what is answered: a struct, or a media type. Statuses of `Guard` are not listed.
    """

    method: Literal["GET", "POST"]
    path: str
    name: str
    summary: str
    answers: dict[int, Any]
    body: Any = None
    query: dict[str, Any] = field(default_factory=dict)
    required: tuple[str, ...] = ()


def _number(default: int, limit: int = LARGEST) -> dict[str, Any]:
    return {"type": "integer", "minimum": 0, "maximum": limit, "default": default}


_PAGE = {"from": _number(0), "count": _number(1000, MAX_COUNT)}
_PIXEL = r"[0-9]{1,9}(\.[0-9]{1,30})?(e-[0-9]{1,3})?"  # as JavaScript writes a number
BOX_PATTERN = f"^{_PIXEL}(,{_PIXEL}){{3}}$"
_BOX = {"type": "string", "pattern": BOX_PATTERN}
_OF_IMAGE = {404: Failure, 422: Failure}
_WRITES = {400: Failure, 413: Failure, 507: Failure}
OPERATIONS = (
    Operation("GET", "/api/set", "set", "What is annotated.", {200: SetFacts}),
    Operation("GET", "/api/images", "images", "Lines on images.", {200: Entries, 400: Failure}, query=_PAGE),
    Operation("GET", "/api/images/{n}", "get_image", "An image's boxes.", {200: Image, **_OF_IMAGE}),
    Operation(
        "POST",
        "/api/images/{n}",
        "post_image",
        "Edit an image. Answered once the edits are on the disk; the same `request` again changes nothing.",
        {200: Saved, 409: Stale, **_WRITES, **_OF_IMAGE},
        ImageEdits,
    ),
    Operation("GET", "/image/{n}", "picture", "An image's bytes, as stored.", {200: "image/*", **_OF_IMAGE}),
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
        query={"label": _number(0), **_PAGE},
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
    Operation("GET", "/api/openapi.json", "openapi", "This document.", {200: "application/json"}),
)


def document() -> dict[str, Any]:
    """Return the API as an OpenAPI 3.1 document."""
    kinds = {kind for one in OPERATIONS for kind in (*one.answers.values(), one.body) if isinstance(kind, type)}
    kinds -= {type(None)}
    ordered = sorted((kind for kind in kinds if issubclass(kind, Struct)), key=lambda kind: kind.__name__)
    schemas, components = msgspec.json.schema_components(ordered, ref_template="#/components/schemas/{name}")
    refs = dict(zip(ordered, schemas, strict=True))

    def content(kind: Any) -> dict[str, Any]:
        if isinstance(kind, str):
            return {kind: {"schema": {} if kind == "application/json" else {"type": "string"}}}
        return {"application/json": {"schema": refs[kind]}}

    paths: dict[str, Any] = {}
    for one in OPERATIONS:
        parameters = [
            {"name": name, "in": "query", "required": name in one.required, "schema": schema}
            for name, schema in one.query.items()
        ]
        if "{n}" in one.path:
            schema = {"type": "integer", "minimum": 0}
            parameters.append({"name": "n", "in": "path", "required": True, "schema": schema})
        answers = one.answers | {401: Failure, 403: Failure} | ({415: Failure} if one.body else {})
        operation: dict[str, Any] = {
            "operationId": one.name,
            "summary": one.summary,
            "parameters": parameters,
            "responses": {
                str(status): {"description": f"status {status}", "content": content(kind)}
                for status, kind in sorted(answers.items())
            },
        }
        if one.body:
            operation["requestBody"] = {"required": True, "content": content(one.body)}
        paths.setdefault(one.path, {})[one.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "dataforge annotate", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}],
    }

"""An API as a list of operations, and the OpenAPI document that is made of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec
from msgspec import Struct

from dataforge import __version__

MAX_COUNT = 10_000  # entries of an answer
LARGEST = 1 << 53  # of the numbers in queries


class Failure(Struct):
    error: str


@dataclass(frozen=True)
class Operation:
    """A request that the server answers.

    Attributes:
        name: of the method that answers it.
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


def picture(failures: dict[int, Any]) -> Operation:
    """Return the operation that both pages have."""
    summary = "An image's bytes as stored, or as PNG if browsers cannot show them."
    return Operation("GET", "/image/{n}", "picture", summary, {200: "image/*", **failures})


def number_schema(default: int, limit: int = LARGEST) -> dict[str, Any]:
    return {"type": "integer", "minimum": 0, "maximum": limit, "default": default}


PAGE = {"from": number_schema(0), "count": number_schema(1000, MAX_COUNT)}


def document(title: str, operations: Sequence[Operation]) -> dict[str, Any]:
    """Return an API as an OpenAPI 3.1 document."""
    kinds = {kind for one in operations for kind in (*one.answers.values(), one.body) if isinstance(kind, type)}
    kinds -= {type(None)}
    ordered = sorted((kind for kind in kinds if issubclass(kind, Struct)), key=lambda kind: kind.__name__)
    schemas, components = msgspec.json.schema_components(ordered, ref_template="#/components/schemas/{name}")
    refs = dict(zip(ordered, schemas, strict=True))

    def content(kind: Any) -> dict[str, Any]:
        if isinstance(kind, str):
            return {kind: {"schema": {} if kind == "application/json" else {"type": "string"}}}
        return {"application/json": {"schema": refs[kind]}}

    paths: dict[str, Any] = {}
    for one in operations:
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
        "info": {"title": title, "version": __version__},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}],
    }

"""Small sets on disk, in each format."""

from __future__ import annotations

import builtins
import errno
import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from dataforge.record import Finding, Record, Source
from tests import tiny

CATEGORIES = [{"id": 3, "name": "cat"}, {"id": 17, "name": "dog"}]


def drain(source: Source) -> tuple[list[Record], list[Finding]]:
    items = list(source.records)
    return [i for i in items if isinstance(i, Record)], [i for i in items if isinstance(i, Finding)]


def picture(seed: int = 0, height: int = 48, width: int = 64) -> bytes:
    return tiny.encode(tiny.pixels(height, width, seed))


def box(image_id: int, bbox: object, category_id: int = 3, **more: object) -> dict[str, Any]:
    return {"image_id": image_id, "category_id": category_id, "bbox": bbox, "iscrowd": 0, **more}


def put(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def coco_json(names: Sequence[str], annotations: Sequence[dict[str, Any]], **more: Any) -> dict[str, Any]:
    images = [{"id": 10 + n, "file_name": name, "height": 48, "width": 64} for n, name in enumerate(names)]
    numbered = [{"id": 100 + n, **annotation} for n, annotation in enumerate(annotations)]
    return {"images": images, "annotations": numbered, "categories": CATEGORIES, **more}


def coco(
    root: Path,
    pictures: Mapping[str, bytes],
    annotations: Sequence[dict[str, Any]] = (),
    split: str = "train",
    **more: Any,
) -> Path:
    """`annotations/instances_<split>.json` and `<split>/`; image ids are 10, 11, ..."""
    for name, data in pictures.items():
        put(root / split / name, data)
    put(root / f"annotations/instances_{split}.json", json.dumps(coco_json(list(pictures), annotations, **more)))
    return root


def voc_xml(filename: str, objects: str = "", size: tuple[int, int] = (48, 64)) -> str:
    height, width = size
    return (
        f"<annotation><filename>{filename}</filename><size><width>{width}</width><height>{height}</height><depth/></size>"
        f"{objects}</annotation>"
    )


def voc_object(name: str, corners: Sequence[object], extra: str = "") -> str:
    tags = "".join(f"<{t}>{v}</{t}>" for t, v in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True))
    return f"<object>{extra}<name>{name}</name><bndbox>{tags}</bndbox></object>"


def unreadable(monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    """Let the system err for paths with this end, as a disk or a network does."""

    def failing(call: Callable[..., Any]) -> Callable[..., Any]:
        def maybe(path: Any, *given: Any, **more: Any) -> Any:
            if str(path).endswith(end):
                raise OSError(errno.EIO, "Input/output error", str(path))
            return call(path, *given, **more)

        return maybe

    for module, name in ((os, "open"), (os, "stat"), (io, "open"), (builtins, "open")):
        monkeypatch.setattr(module, name, failing(getattr(module, name)))

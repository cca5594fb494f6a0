"""Reader of Labelbox's NDJSON export, version 2.

Fields: docs.labelbox.com/reference/export-image-annotations; labelformat's `labelbox.py` reads the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from dataforge.errors import ConfigError, FormatError
from dataforge.formats.annotated import Annotated, by_split, files_of, hull, ring_of, source, xywh
from dataforge.formats.json_files import read_lines, uncollected
from dataforge.formats.labelbox import is_export
from dataforge.formats.pictures import as_size, is_picture, path_of
from dataforge.record import Finding, Source

EXPECTED = "Labelbox's NDJSON export: a line of data_row, media_attributes and projects for each image"
SPLITS = {"TRAINING": "train", "VALIDATION": "val", "TEST": "test"}


class DataRow(msgspec.Struct):
    id: str = ""
    external_id: str | None = None
    global_key: str | None = None
    row_data: str | None = None


class Media(msgspec.Struct):
    width: float | None = None
    height: float | None = None


class Box(msgspec.Struct, gc=False):
    top: float | None = None
    left: float | None = None
    height: float | None = None
    width: float | None = None


class Point(msgspec.Struct, gc=False):
    x: float
    y: float


class Object(msgspec.Struct, gc=False):
    name: str | None = None
    annotation_kind: str | None = None
    bounding_box: Box | None = None
    polygon: list[Point] | None = None


class Annotations(msgspec.Struct):
    objects: list[Object] = []
    frames: dict[str, Any] | None = None  # of a video


class Details(msgspec.Struct):
    is_benchmark_reference: bool | None = False


class Label(msgspec.Struct):
    annotations: Annotations
    label_details: Details | None = None


class Project(msgspec.Struct):
    labels: list[Label] = []
    name: str | None = None


class Run(msgspec.Struct):
    run_data_row_split: str | None = None


class Experiment(msgspec.Struct):
    runs: dict[str, Run] = {}


class Row(msgspec.Struct):
    data_row: DataRow
    projects: dict[str, Project]
    media_attributes: Media | None = None
    experiments: dict[str, Experiment] | None = None


def read(
    root: Path,
    *,
    split: tuple[str, ...] | None = None,
    images: Path | None = None,
    project: str | None = None,
    allow_outside: bool = False,
) -> Source:
    """Read boxes and polygons. Of several labels of an image, the benchmark's is read, else the last one.

    An image is sought by its `external_id`, `global_key` or URL, the first that ends like a picture's name. Splits are
    those of model runs, else those that the files' names state. Images without labels are left out. Classes are the
    sorted names in use.

    Args:
        root: a folder of files, or one file.
        split: read only these splits.
        images: the folder with the images; by default they are searched below `root`.
        project: the name or id of the project whose labels are read.
        allow_outside: allow names outside the folder: absolute, or with `..`.

    Raises:
        FormatError: no such files, or a line is not Labelbox's. ConfigError: no such split, or no telling the project.
    """
    splits = files_of(root, is_export, EXPECTED, ".ndjson", ".jsonl", ".json")
    with uncollected():
        items = [(_split(row, where) or name, item) for name, paths in splits.items() for path in paths
                 for where, row, item in _rows(path, project)]  # fmt: skip
    files = [path for paths in splits.values() for path in paths]
    return source(root, by_split(items), split, images, allow_outside, files=files)


def _rows(path: Path, project: str | None) -> Iterator[tuple[str, Row, Annotated | Finding]]:
    for number, row in read_lines(path, Row, EXPECTED):
        where = f"{path}: line {number}"
        facts = row.data_row
        names = (facts.external_id, facts.global_key, path_of(facts.row_data or ""))
        name = next((one for one in names if one and is_picture(one)), facts.external_id or facts.id)
        item = Annotated(name, path)
        if row.media_attributes:
            item.width, item.height = as_size(row.media_attributes.width), as_size(row.media_attributes.height)
        fitting = {key: one for key, one in row.projects.items() if project in (None, key, one.name) and one.labels}
        if len(fitting) > 1:
            known = ", ".join(f"{one.name} ({key})" for key, one in fitting.items())
            raise ConfigError(f"{where}: labels of several projects: {known}; say which with --project")
        labels = [label for one in fitting.values() for label in one.labels]
        if not labels:
            yield where, row, Finding("noted", "not-annotated", str(path), name, "", "no label; left out", "image")
            continue
        if len(labels) > 1:
            reason = "several labels of one image; the benchmark, or the last one, is read"
            found = Finding("noted", "annotations-several", str(path), name, f"{len(labels)}", reason, "image")
            yield where, row, found
        best = [one for one in labels if one.label_details and one.label_details.is_benchmark_reference]
        label = (best or labels)[-1]
        if label.annotations.frames is not None:
            raise FormatError(f"{where}: annotations of a video's frames; expected those of images")
        for one in label.annotations.objects:
            if one.bounding_box:
                box = one.bounding_box
                item.add(one.name, xywh(box.left, box.top, box.width, box.height))
            elif one.polygon:
                xs, ys = [p.x for p in one.polygon], [p.y for p in one.polygon]
                item.add(one.name, hull(xs, ys), ring=ring_of(xs, ys))
            else:
                item.refuse("shape-unknown", one.annotation_kind or "", "expected a bounding_box or a polygon")
        yield where, row, item.close()


def _split(row: Row, where: str) -> str:
    """Return the split that model runs give an image, "" if none does."""
    runs = [run for one in (row.experiments or {}).values() for run in one.runs.values()]
    names = {SPLITS[run.run_data_row_split] for run in runs if run.run_data_row_split in SPLITS}
    if len(names) > 1:
        raise FormatError(f"{where}: model runs give it the splits {', '.join(sorted(names))}; export one run alone")
    return names.pop() if names else ""

"""Reader of VoTT's JSON.

Fields: VoTT's `models/applicationState.ts`; regions have their box in pixels, whatever their shape, and no rotation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote

import msgspec

from dataforge.errors import counted
from dataforge.formats.annotated import NAN, Annotated, files_of, hull, ring_of, source, xywh
from dataforge.formats.json_files import read_json
from dataforge.formats.pictures import as_size, path_of
from dataforge.formats.sniff import outline
from dataforge.formats.vott import is_vott
from dataforge.record import Finding, Source

EXPECTED = "VoTT's <project>-export.json (assets, tags), or its files of asset and regions"
TAGGED = 2  # the state of assets that were annotated; 1 was visited, 0 not


class Size(msgspec.Struct):
    width: float | None = None
    height: float | None = None


class Asset(msgspec.Struct):
    name: str
    path: str = ""
    size: Size | None = None
    state: int = TAGGED


class Box(msgspec.Struct, gc=False):
    left: float | None = None
    top: float | None = None
    width: float | None = None
    height: float | None = None


class Point(msgspec.Struct, gc=False):
    x: float
    y: float


class Region(msgspec.Struct, gc=False):
    tags: list[str] = []
    type: str = ""
    box: Box | None = msgspec.field(name="boundingBox", default=None)
    points: list[Point] = []


class Entry(msgspec.Struct):
    asset: Asset
    regions: list[Region] = []


class Tag(msgspec.Struct):
    name: str


class Project(msgspec.Struct):
    assets: dict[str, Entry]
    tags: list[Tag] | None = None


def read(
    root: Path, *, split: tuple[str, ...] | None = None, images: Path | None = None, allow_outside: bool = False
) -> Source:
    """Read regions; one of several tags becomes a box for each. Classes are the project's tags in their order.

    Images that were never visited are left out; those without regions that were, are empty. If a folder holds both the
    export and files of single images, the export is read.

    Args:
        root: a folder of files, or one file.
        split: read only these splits.
        images: the folder with the images; by default they are searched below `root`.
        allow_outside: allow names outside the folder: absolute, or with `..`.

    Raises:
        FormatError: no such files, or a file is not VoTT's. ConfigError: no such split.
    """
    splits = files_of(root, is_vott, EXPECTED)
    exports = {path for paths in splits.values() for path in paths if "assets" in outline(path)[1]}
    splits = {name: [path for path in paths if path in exports or not exports] for name, paths in splits.items()}
    splits = {name: paths for name, paths in splits.items() if paths}
    projects = {path: _project(path) for paths in splits.values() for path in paths}
    tags = dict.fromkeys(tag.name for project in projects.values() for tag in project.tags or ())

    def items(paths: Sequence[Path]) -> Iterator[Annotated | Finding]:
        for path in paths:
            entries = projects[path].assets.values()
            kept = [one for one in entries if one.regions or one.asset.state]
            yield from (_annotated(path, entry) for entry in kept)
            if len(kept) < len(entries):
                value, reason = counted(len(entries) - len(kept), "image"), "were never visited in VoTT; left out"
                yield Finding("noted", "not-annotated", str(path), "", value, reason, "set")

    parts = {name: items(paths) for name, paths in splits.items()}
    return source(root, parts, split, images, allow_outside, classes=tags, files=projects)


def _project(path: Path) -> Project:
    if "assets" in outline(path)[1]:
        return read_json(path, Project, EXPECTED)
    return Project({"": read_json(path, Entry, EXPECTED)})


def _annotated(path: Path, entry: Entry) -> Annotated:
    asset = entry.asset
    local = asset.path.startswith("file:")
    item = Annotated(unquote(asset.path[5:]) if local else path_of(asset.path or asset.name), path)
    if asset.size:
        item.width, item.height = as_size(asset.size.width), as_size(asset.size.height)
    for region in entry.regions:
        box = region.box
        if box:
            edges = xywh(box.left, box.top, box.width, box.height)
        else:
            edges = hull([p.x for p in region.points], [p.y for p in region.points]) if region.points else NAN
        is_polygon = region.type == "POLYGON" and len(region.points) > 2
        ring = ring_of([p.x for p in region.points], [p.y for p in region.points]) if is_polygon else None
        for tag in region.tags or [""]:
            item.add(tag, edges, ring=ring)
    return item

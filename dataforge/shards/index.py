"""The index of a shard folder: its version, required contents, checksum and publication."""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from dataforge.cloud.path import RemotePath
from dataforge.errors import ShardError
from dataforge.files import flush, inside, reading
from dataforge.images.header import DEPTHS

FORMAT_VERSION = 1
INDEX = "index.json"
REPORT = "ingest.jsonl"
JOURNAL = "resume.jsonl"
PART = "part.json"  # the index of one part of an ingest, see `ingest.parts`
POLYGONS_FILE = "polygons.arrow"  # of a shard of which a box has a polygon
PIXELS = ("raw", "yuv420")  # codecs of pixels in the store `rows`: RGB or grey; planes, see `dataforge.images.planes`
CODECS = ("keep", "jpeg", *PIXELS)  # the source's bytes; re-encoded; pixels
CHECKSUM = "index_crc"
LINK = "link"  # the store of shards whose images lie in other shards
_Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 48)]
_Crc = Annotated[int, msgspec.Meta(ge=0, lt=1 << 32)]


class _Shard(msgspec.Struct):
    path: str
    images: _Count
    boxes: _Count
    bytes: _Count
    table_crc: _Crc
    polygons_crc: _Crc | None = None
    judged_crc: _Crc | None = None


class _Baked(msgspec.Struct):
    parent: str
    fingerprint: str
    view: str
    form: dict[str, Any]
    channels: Literal[1, 3]
    origin_crc: _Crc


class _Parent(msgspec.Struct):
    path: str
    fingerprint: str


class _Index(msgspec.Struct):
    classes: list[str]
    class_ids: list[int]
    source: str
    store: str
    codec: str
    splits: dict[str, list[_Shard]]
    unions: dict[str, list[str]]
    frequencies: dict[str, str] = {}
    ancestors: dict[str, list[str]] = {}
    baked: _Baked | None = None
    parents: list[_Parent] = []


def read_index(path: Path, name: str = INDEX) -> dict[str, Any]:
    """Read the index of a shard folder, checking its version first, then its checksum if it has one.

    Args:
        name: of the file: INDEX, or PART for a part of an ingest.

    Raises:
        ShardError: no such folder, nothing published in it, not JSON, damaged, or written by a newer dataforge.
    """
    file = path / name
    with reading(file, ShardError):
        try:  # at a URL by one request, whose error has the store's code in its body
            there = isinstance(file, RemotePath) or file.is_file()
            data = file.read_bytes() if there else b""
        except FileNotFoundError:
            there = False
        if not there:
            raise ShardError(f"{path}: {_without(path, name)}")
    try:
        index = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ShardError(f"{file}: not JSON: {error}") from None
    version = index.get("format_version") if isinstance(index, dict) else None
    if version != FORMAT_VERSION:
        raise ShardError(f"{file}: format_version is {version!r}; this dataforge reads {FORMAT_VERSION}")
    if CHECKSUM in index and index[CHECKSUM] != checksum(index):
        raise ShardError(f"{file}: is damaged or was edited: its contents do not have its {CHECKSUM}")
    index.setdefault("source", "")
    lacking = {"classes", "class_ids", "store", "codec", "splits", "unions"} - index.keys()
    if lacking:
        raise ShardError(f"{file}: lacks {', '.join(sorted(lacking))}")
    if index["codec"] not in CODECS:
        raise ShardError(f"{file}: codec is {index['codec']!r}; this dataforge reads {', '.join(CODECS)}")
    _check(file, index)
    if index.get("depth", "scale") not in DEPTHS:
        raise ShardError(f"{file}: depth is {index['depth']!r}; this dataforge reads {', '.join(DEPTHS)}")
    return index


def _without(path: Path, name: str) -> str:
    """Return what a folder is that has no index of this name."""
    if name == INDEX and (path / PART).is_file():
        return "is a part of an ingest; `dataforge merge --parts` publishes all parts as one set"
    if name == PART and (path / INDEX).is_file():
        return "is a whole set; expected a part that `dataforge ingest --part` wrote"
    what = f"holds no {name} (an ingest that did not finish?)" if path.is_dir() else "does not exist"
    what = "is a file" if path.is_file() else what
    return f"{what}; expected a folder written by `dataforge ingest{'' if name == INDEX else ' --part'}`"


def _check(file: Path, index: dict[str, Any]) -> None:
    """Check the type of every value that is used, and that shards lie within the folder."""
    try:
        checked = msgspec.convert(index, _Index)
    except (msgspec.ValidationError, UnicodeEncodeError, RecursionError) as error:
        raise ShardError(f"{file}: {error}") from None
    if len(checked.class_ids) != len(checked.classes):
        raise ShardError(f"{file}: has {len(checked.classes)} classes, but {len(checked.class_ids)} class_ids")
    for shard in (shard for shards in checked.splits.values() for shard in shards):
        if inside(shard.path) != shard.path:
            raise ShardError(f"{file}: path {shard.path!r}; expected one below the folder")
    if (checked.codec == "keep") != (checked.baked is None):
        raise ShardError(f"{file}: codec is {checked.codec!r}; expected keep, or a cache's with `baked`")
    if checked.parents and (checked.store, checked.codec) != (LINK, "keep"):
        raise ShardError(f"{file}: has parents; expected none with store {checked.store!r}, codec {checked.codec!r}")
    for parent in checked.parents:
        if "\0" in parent.path or not Path(parent.path).is_absolute():
            raise ShardError(f"{file}: parent {parent.path!r}; expected an absolute path")


def checksum(index: dict[str, Any]) -> int:
    """Return the CRC-32 of an index's JSON text, ASCII without spaces, of all keys in their order but the checksum."""
    contents = {key: value for key, value in index.items() if key != CHECKSUM}
    return zlib.crc32(json.dumps(contents, separators=(",", ":")).encode())


def fingerprint(folder: Path) -> str:
    """Return the CRC-32 of a shard folder's index as 8 hex digits."""
    return f"{zlib.crc32((folder / INDEX).read_bytes()):08x}"


def write_index(path: Path, index: dict[str, Any], name: str = INDEX) -> None:
    """Publish a shard folder by writing its index atomically."""
    temporary = path / (name + ".tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump({**index, CHECKSUM: checksum(index)}, file, indent=1, ensure_ascii=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path / name)
    flush(path)

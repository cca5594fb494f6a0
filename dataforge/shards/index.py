"""The index of a shard folder: its version, required contents and publication."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from dataforge.errors import ShardError
from dataforge.images.header import DEPTHS

FORMAT_VERSION = 1
INDEX = "index.json"
REPORT = "ingest.jsonl"
JOURNAL = "resume.jsonl"
CODECS = ("keep", "jpeg", "raw")  # the source's bytes; re-encoded; pixels


def read_index(path: Path) -> dict[str, Any]:
    """Read `index.json` of a shard folder, checking its version first.

    Raises:
        ShardError: no such folder, nothing published in it, not JSON, or written by a newer dataforge.
    """
    file = path / INDEX
    if not file.is_file():
        what = "holds no index.json (an ingest that did not finish?)" if path.is_dir() else "does not exist"
        raise ShardError(f"{path}: {what}; expected a folder written by `dataforge ingest`")
    try:
        index = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise ShardError(f"{file}: not JSON: {error}") from None
    version = index.get("format_version") if isinstance(index, dict) else None
    if version != FORMAT_VERSION:
        raise ShardError(f"{file}: format_version is {version!r}; this dataforge reads {FORMAT_VERSION}")
    lacking = {"classes", "class_ids", "store", "codec", "splits", "unions"} - index.keys()
    if lacking:
        raise ShardError(f"{file}: lacks {', '.join(sorted(lacking))}")
    if index["codec"] not in CODECS:
        raise ShardError(f"{file}: codec is {index['codec']!r}; this dataforge reads {', '.join(CODECS)}")
    if index.get("depth", "scale") not in DEPTHS:
        raise ShardError(f"{file}: depth is {index['depth']!r}; this dataforge reads {', '.join(DEPTHS)}")
    return dict(index)


def write_index(path: Path, index: dict[str, Any]) -> None:
    """Publish a shard folder by writing `index.json` atomically."""
    temporary = path / (INDEX + ".tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(index, file, indent=1, ensure_ascii=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path / INDEX)

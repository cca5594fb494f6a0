"""Annotation files that were cut or changed: a clear error, a finding or a record, never another exception."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from dataforge.errors import DataforgeError
from dataforge.formats import FORMATS, reader, writable, writer
from dataforge.ingest.run import ingest
from dataforge.polygons import Polygons
from dataforge.record import Record, Source
from tests.formats.named import WRITE
from tests.formats.sets import picture, put

TEXT = (".json", ".xml", ".txt", ".yaml", ".ndjson", ".manifest", ".odgt")
SWAPS = [
    b"",
    b"\0",
    b"\xff",
    b"-",
    b"1e999",
    b"null",
    b'"',
    b"[",
    b"}",
    b"<",
    b"&x;",
    b"../",
    b",",
    b"\r\n",
    b"99999999999999999999",
]


def small(root: Path, name: str) -> Path:
    """Three pictures and their boxes, of a split "val" too where the format is written; one box has a polygon."""
    if name not in writable():
        names = ["0.jpg", "1.jpg", "2.jpg"]
        for n, key in enumerate(names):
            put(root / key, picture(n))
        WRITE[name](root, names)
        return root
    boxes = np.array([[1, 2, 30, 40], [5, 6, 17.5, 8]], np.float32)
    labels, flags = np.array([0, 1], np.int32), np.array([0, 2], np.uint8)
    polygons = Polygons.of([[[1, 2, 30, 2, 30, 40]], []])
    records = [
        Record(f"{n}.jpg", split, picture(n), 48, 64, boxes, labels, flags, polygons=None if n else polygons)
        for n, split in enumerate(("train", "train", "val"))
    ]
    writer(name)(Source(("cat", "traffic light"), iter(records), total=3), root)
    return root


@pytest.mark.parametrize("name", sorted(FORMATS.keys() - {"flatbuffer", "sqlite", "table"}))
def test_damaged_files(tmp_path: Path, name: str) -> None:
    root = small(tmp_path / "set", name)
    rng = np.random.default_rng(0)
    turns = outcomes = 0
    for path in [path for path in sorted(root.rglob("*")) if path.suffix in TEXT]:
        whole = path.read_bytes()
        places = rng.integers(0, len(whole), 6)
        damaged = [whole[:place] for place in places]
        damaged += [
            whole[:place] + SWAPS[swap] + whole[place + int(width) :]
            for place, swap, width in zip(
                rng.integers(0, len(whole), 24), rng.integers(0, len(SWAPS), 24), rng.integers(0, 6, 24), strict=True
            )
        ]
        for data in damaged:
            path.write_bytes(data)
            turns += 1
            shutil.rmtree(tmp_path / "out", ignore_errors=True)
            try:
                summary = ingest(reader(name)(root), tmp_path / "out")
            except DataforgeError as error:
                outcomes += 1
                assert str(error) and not (tmp_path / "out/index.json").exists()
            else:
                assert summary.images and (tmp_path / "out/index.json").exists()
        path.write_bytes(whole)
    assert turns >= 30 and outcomes >= 5
    assert ingest(reader(name)(root), tmp_path / "whole").images == 3

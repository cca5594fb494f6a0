"""Which classes were looked for in an image: kept from LVIS's JSON through shards, views, merges, caches and back."""

from __future__ import annotations

import json
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from dataforge.errors import ShardError
from dataforge.formats.coco.reader import read
from dataforge.formats.coco.writer import write
from dataforge.ingest.prove import first_difference
from dataforge.ingest.run import ingest
from dataforge.record import Record, Source
from dataforge.shards.as_source import source_of
from dataforge.shards.judged import FILE, SCHEMA, read_judged, write_judged
from dataforge.shards.reader import Shards
from dataforge.shards.verify import verify
from dataforge.sources.join import join, rename
from dataforge.sources.view import View
from dataforge.transform.bake import Form, bake
from dataforge.transform.edited import Stored
from dataforge.transform.merge import merge
from dataforge.web.session import Session
from tests.formats.sets import box, coco, drain, picture, put

FIELDS = ("neg_category_ids", "not_exhaustive_category_ids")
CLASSES = {3: "cat", 17: "dog", 20: "owl"}
LOOKED_FOR = {"a.png": ([17], [3]), "b.png": ([], []), "c.png": ([3, 17, 20], []), "d.png": ()}
JUDGED = {"a.png": [[1, 0], [0, 1]], "b.png": [], "c.png": [[0, 0], [1, 0], [2, 0]], "d.png": None}
FREQUENCIES = {"cat": "r", "dog": "c", "owl": "f"}


@pytest.fixture(scope="module")
def lvis(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pictures = {name: picture(n) for n, name in enumerate(LOOKED_FOR)}
    categories = [{"id": i, "name": name, "frequency": FREQUENCIES[name]} for i, name in CLASSES.items()]
    boxes = [box(10, [1, 2, 30, 4])]
    root = coco(tmp_path_factory.mktemp("set"), pictures, boxes, "val", categories=categories)
    file = root / "annotations/instances_val.json"
    facts = json.loads(file.read_text())
    for image in facts["images"]:
        image |= dict(zip(FIELDS, LOOKED_FOR[image["file_name"]], strict=False))
    put(file, json.dumps(facts))
    return root


@pytest.fixture(scope="module")
def shards(lvis: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "shards"
    ingest(read(lvis), out, shard_bytes=1)  # each record in a shard of its own, of which one has no file
    return out


def plain(rows: NDArray[np.int32] | None) -> Any:
    return None if rows is None else rows.tolist()


def judged(source: Source) -> dict[str, Any]:
    return {record.key: plain(record.judged) for record in drain(source)[0]}


def test_kept_by_ingest_and_export(lvis: Path, shards: Path, tmp_path: Path) -> None:
    stored = Shards(shards, "val")
    assert judged(source_of(stored)) == JUDGED and stored.frequencies == FREQUENCIES
    assert len([*shards.rglob("judged.arrow")]) == 3 and not [*verify(stored)]
    assert first_difference(stored, read(lvis)) is None
    write(source_of(stored), tmp_path / "out")
    again = read(tmp_path / "out")
    assert again.frequencies == FREQUENCIES and judged(again) == JUDGED


def test_follows_the_records_and_the_classes(lvis: Path, shards: Path, tmp_path: Path) -> None:
    taken = Shards(shards).table.records(np.array([3, 0, 2, 0]))
    keys = ("d.png", "a.png", "c.png", "a.png")
    assert [plain(taken.judged_of(i)) for i in range(4)] == [JUDGED[key] for key in keys]
    view = View(classes=("owl", "cat"))
    owl_and_cat = {name: FREQUENCIES[name] for name in view.classes}
    assert view.filter(read(lvis)).frequencies == Shards(shards, view=view).frequencies == owl_and_cat
    chosen = {"a.png": [[1, 1]], "b.png": [], "c.png": [[1, 0], [0, 0]], "d.png": None}
    assert judged(view.filter(read(lvis))) == judged(source_of(Shards(shards, view=view))) == chosen
    bake(Shards(shards), tmp_path / "cache", Form(side=16))
    assert [plain(Shards(tmp_path / "cache").table.judged_of(i)) for i in range(4)] == [*JUDGED.values()]


def test_a_merged_class_is_absent_only_where_all_its_parts_are(lvis: Path) -> None:
    source = rename(read(lvis), {"dog": "pet", "cat": "pet"})
    assert source.classes == ("pet", "owl") and source.frequencies["owl"] == "f"
    assert rename(read(lvis), {"owl": ""}).frequencies.keys() == {"dog", "cat"}
    assert judged(source) == {"a.png": [[0, 1]], "b.png": [[0, 1]], "c.png": [[0, 0], [1, 0]], "d.png": None}


def test_joined_sets_keep_what_each_states(lvis: Path, tmp_path: Path) -> None:
    other = coco(tmp_path, {"z.png": picture(9)}, split="val", categories=[{"id": 1, "name": "owl"}])
    joined = join([("other", read(other)), ("lvis", read(lvis))])
    assert joined.classes[0] == "owl" and joined.frequencies == FREQUENCIES
    assert judged(joined) == {"z.png": None, **JUDGED, "a.png": [[2, 0], [1, 1]], "c.png": [[1, 0], [2, 0], [0, 0]]}


@pytest.mark.parametrize(("row", "column", "value"), [(0, "label", 9), (1, "record", 1), (0, "partial", 2)])
def test_damage_is_an_error(row: int, column: str, value: int, tmp_path: Path) -> None:
    rows = np.array([[0, 0], [1, 1]], np.int32)
    crc = write_judged(tmp_path, [rows])
    whole = read_judged([tmp_path], [1], [crc], 2)
    assert whole is not None and whole.tolist() == [[0, 0, 0], [0, 1, 1]]
    columns = {"record": [0, 0], "label": [0, 1], "partial": [0, 1]}
    columns[column][row] = value
    with pa.OSFile(str(tmp_path / FILE), "wb") as file, pa.ipc.new_file(file, SCHEMA) as writer:
        writer.write_table(pa.table(columns, SCHEMA))
    with pytest.raises(ShardError, match="its checksum is not the one"):
        read_judged([tmp_path], [1], [crc], 2)
    with pytest.raises(ShardError, match="a record or a label that the set has not"):
        read_judged([tmp_path], [1], [zlib.crc32((tmp_path / FILE).read_bytes())], 2)


def test_classes_that_were_not_looked_for_stay_so_when_sets_are_merged(shards: Path, tmp_path: Path) -> None:
    put(tmp_path / "photo.png", picture(9))
    one = Record("e.png", "val", tmp_path / "photo.png", 48, 64, np.array([[1, 2, 9, 9]]), *np.zeros((2, 1), np.int32))
    ingest(Source(("bird",), iter([replace(one, flags=np.zeros(1, np.uint8))])), tmp_path / "birds")
    ingest(merge([Shards(shards), Shards(tmp_path / "birds")]), tmp_path / "out")
    both = Shards(tmp_path / "out")
    label = {name: n for n, name in enumerate(both.classes)}
    judged = {key: both.table.judged_of(n) for n, key in enumerate(both.table.key)}
    assert judged["e.png"] is not None and len(judged["e.png"]) == 0, "of birds only, of which it has one"
    assert judged["d.png"] is not None and set(judged["d.png"][:, 0]) <= {label[n] for n in ("cat", "dog", "owl")}
    assert not list(verify(both))


def test_a_merged_class_of_an_overlay_is_absent_only_if_all_were(shards: Path, tmp_path: Path) -> None:
    session = Session(Stored(Shards(shards)), tmp_path / "overlay")
    session.change_classes("r1", "merge", "dog", "cat")
    version = Shards(tmp_path / "overlay")
    rows = {key: version.table.judged_of(n) for n, key in enumerate(version.table.key)}
    assert rows["c.png"].tolist() == [[0, 0], [1, 0]] and rows["d.png"] is None
    assert rows["b.png"].tolist() == [[0, 1]], "neither was looked for"
    assert version.frequencies == {"cat": "r", "owl": "f"}

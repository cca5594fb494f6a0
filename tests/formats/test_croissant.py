"""Croissant: what is written passes MLCommons' validator and is loaded by it; what is read is below the root."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from dataforge.errors import FormatError
from dataforge.formats import writer
from dataforge.formats.croissant import read
from dataforge.formats.sniff import detect
from dataforge.record import Source
from tests import tiny
from tests.archives.test_archives import pack
from tests.formats.named import run
from tests.formats.sets import drain, picture, put
from tests.formats.suite import FormatSuite


class TestCroissantRoundTrip(FormatSuite):
    name = "croissant"


def written(root: Path) -> dict[str, Any]:
    records = [record for record in tiny.records("train") if record.key in ("a.jpg", "empty.jpg", "grey.jpg")]
    writer("croissant")(Source(tiny.CLASSES, iter(records), tiny.CLASS_IDS, total=3), root)
    facts: dict[str, Any] = json.loads((root / "croissant.json").read_text())
    return facts


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of rdflib, by mlcroissant
def test_mlcroissant_validates_and_loads_it(tmp_path: Path) -> None:
    mlcroissant = pytest.importorskip("mlcroissant")
    written(tmp_path / "set")
    dataset = mlcroissant.Dataset(jsonld=tmp_path / "set/croissant.json")
    assert not dataset.metadata.issues.errors, dataset.metadata.issues.report()
    records = list(dataset.records("images-train"))
    expected = {record.key: record for record in tiny.records("train")}
    assert len(records) == 3
    for row in records:
        values = {name.rpartition("/")[2]: value for name, value in row.items()}
        record = expected[as_text(values["file_name"])]
        assert isinstance(values["image"], PIL.Image.Image) and values["image"].size == (record.width, record.height)
        boxes = [[x, y, x + w, y + h] for x, y, w, h in values["bbox"]]
        assert boxes == record.boxes.tolist() and values["category"] == record.labels.tolist()
        assert values["image_id"] == record.id
    names = [as_text(row["classes/name"]) for row in dataset.records("classes")]
    assert tuple(names) == tiny.CLASSES


def test_it_is_found_and_read_in_an_archive_too(tmp_path: Path) -> None:
    written(tmp_path / "set")
    assert detect(tmp_path / "set") == ("croissant", "croissant.json: Croissant's metadata")
    result = run("ingest", "auto", pack(tmp_path / "set", "zip"), "--out", tmp_path / "out")
    assert result.exit_code == 0 and "3 images" in result.stdout and "unread" not in result.stdout


def as_text(value: str | bytes) -> str:
    """Return a text, which mlcroissant gives as bytes from some sources."""
    return value.decode() if isinstance(value, bytes) else value


def change(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def make(facts: dict[str, Any]) -> None:
        *keys, last = (int(key) if key.isdecimal() else key for key in path.split("/"))
        node: Any = facts
        for key in keys:
            node = node[key]
        node[last] = value

    return make


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (change("distribution/0/sha256", "0" * 64), "its SHA-256 is"),
        (change("distribution/0/contentUrl", "https://host/train.parquet"), "expected a file below"),
        (change("distribution/0/contentUrl", "../train.parquet"), "expected a file below"),
        (change("distribution/0/@id", "other"), "expected a file of the distribution"),
        (change("recordSet/1/field/5/source/format", "XYZ"), "expected one of XYXY"),
        (change("recordSet/1/field/5/dataType", "sc:Float"), "no field has the type cr:BoundingBox"),
        (change("recordSet/1/field/5/source/extract", {}), "expected extract with a column"),
        (change("recordSet/1/field/5/source/extract/column", "boxes"), "no such column"),
        (change("recordSet/1/field", []), "no field has the type"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, damage: Callable[[dict[str, Any]], None], expected: str) -> None:
    facts = written(tmp_path)
    damage(facts)
    (tmp_path / "croissant.json").write_text(json.dumps(facts))
    with pytest.raises(FormatError, match=expected):
        read(tmp_path)


def test_another_sets_file_set_of_rows_of_boxes(tmp_path: Path) -> None:
    """A CSV with a box in a column, relative to the image, in a local zip; as its format says."""
    csv = 'name,kind,where\na.jpg,cat,"[0.25, 0.5, 0.5, 1]"\n'
    put(tmp_path / "tables/val.csv", csv)
    pack(tmp_path / "tables", "zip")
    put(tmp_path / "a.jpg", picture())

    def field(name: str, kind: str, column: str, **more: Any) -> dict[str, Any]:
        source = {"fileSet": {"@id": "csv"}, "extract": {"column": column}, **more}
        return {"@type": "cr:Field", "@id": name, "name": name, "dataType": kind, "source": source}

    fields = [
        field("x/filename", "sc:Text", "name"),
        field("x/label", "sc:Text", "kind"),
        field("x/b", "cr:BoundingBox", "where", format="REL_XYXY"),
    ]
    zip_file = {"@type": "cr:FileObject", "@id": "zip", "contentUrl": "tables.zip"}
    file_set = {"@type": "cr:FileSet", "@id": "csv", "containedIn": {"@id": "zip"}, "includes": "*.csv"}
    facts = {"distribution": [zip_file, file_set], "recordSet": {"@id": "x", "field": fields}}
    put(tmp_path / "metadata.json", json.dumps(facts))
    (record,), findings = drain(read(tmp_path, split=("val",)))
    assert record.boxes.tolist() == [[16, 24, 32, 48]] and record.image == tmp_path / "a.jpg" and not findings
    assert io.BytesIO(Path(str(record.image)).read_bytes()).read(2) == b"\xff\xd8"

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from dataforge.cli.main import main
from dataforge.errors import ConfigError, FormatError
from dataforge.formats.sqlite import read
from dataforge.record import CROWD
from tests.formats.sets import drain, picture, put
from tests.formats.suite import FormatSuite

SCHEMA = """
    CREATE TABLE categories (id INTEGER PRIMARY KEY, name TEXT, coco_id INTEGER);
    CREATE TABLE images (filename TEXT, coco_id INTEGER, width INTEGER, height INTEGER, area REAL);
    CREATE TABLE annotations (box TEXT, cat_coco_id INTEGER, image_coco_id INTEGER, is_crowd INTEGER, area REAL);
    INSERT INTO categories VALUES (1, 'cat', 3), (2, 'dog', 17);
"""


class TestRoundTrip(FormatSuite):
    name = "sqlite"


def database(path: Path, images: list[Any], annotations: list[Any] = [], schema: str = SCHEMA) -> Path:  # noqa: B006
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(schema)
        connection.executemany("INSERT INTO images VALUES (?, ?, 64, 48, 3072)", images)
        connection.executemany("INSERT INTO annotations VALUES (?, ?, ?, ?, ?)", annotations)
        connection.commit()
    return path


def test_one_join_gives_each_image_its_boxes(tmp_path: Path) -> None:
    rows = [
        ("1,2,30.5,40", 17, 11, 0, 5.5),
        ("1,2,3,4", 3, 10, 1, None),
        (" 0.1, 0.2 ,3e1,4", 3, 11, None, 7),
    ]
    file = database(
        tmp_path / "train.db", [("a.jpg", 10), ("b c.jpg", 11), ("empty.jpg", 12), ("none.jpg", None)], rows
    )
    put(tmp_path / "images/a.jpg", picture())
    before = file.read_bytes()
    source = read(tmp_path)
    records, findings = drain(source)
    assert not findings and source.total == 4
    assert (source.classes, source.class_ids) == (("cat", "dog"), (3, 17))
    assert [(r.key, r.id, r.split, r.height, r.width) for r in records] == [
        ("a.jpg", 10, "train", 48, 64),
        ("b c.jpg", 11, "train", 48, 64),
        ("empty.jpg", 12, "train", 48, 64),
        ("none.jpg", -1, "train", 48, 64),
    ]
    a, b, *empty = records
    assert a.flags.tolist() == [CROWD] and a.areas is None and a.image == tmp_path / "images/a.jpg"
    np.testing.assert_array_equal(b.boxes, np.array([[1, 2, 30.5, 40], [0.1, 0.2, 30, 4]], np.float32))
    assert b.labels.tolist() == [1, 0] and b.areas is not None and b.areas.tolist() == [5.5, 7]
    assert all(r.boxes.shape == (0, 4) for r in empty)
    assert file.read_bytes() == before and sorted(p.name for p in tmp_path.iterdir()) == ["images", "train.db"]
    assert [r.key for r in drain(read(file))[0]] == [r.key for r in records]


def test_files_are_splits_and_join_by_name(tmp_path: Path) -> None:
    database(tmp_path / "train.sqlite", [("a.jpg", 1)], [("1,1,5,5", 17, 1, 0, 1)])
    other = SCHEMA.replace("(1, 'cat', 3), (2, 'dog', 17)", "(1, 'dog', 1), (2, 'bird', 90)")
    database(tmp_path / "val.sqlite3", [("a.jpg", 1)], [("1,1,5,5", 1, 1, 0, 1)], other)
    put(tmp_path / "pictures/val/a.jpg", picture())
    source = read(tmp_path, images=Path("pictures"))
    records, _ = drain(source)
    assert source.classes == ("cat", "dog", "bird") and source.class_ids == (3, 17, 90)
    assert [(r.split, source.classes[r.labels[0]]) for r in records] == [("train", "dog"), ("val", "dog")]
    assert records[1].image == tmp_path / "pictures/val/a.jpg"
    assert [r.split for r in drain(read(tmp_path, split=("val",)))[0]] == ["val"]
    with pytest.raises(ConfigError, match="unknown split 'test'; known: train, val"):
        read(tmp_path, split=("test",))
    with pytest.raises(ConfigError, match="--images nowhere: does not exist"):
        read(tmp_path, images=Path("nowhere"))
    database(tmp_path / "val.db", [])
    with pytest.raises(FormatError, match=r"val\.sqlite3: the split 'val' is in val\.db too"):
        read(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "1,2,3", "1,2,3,4,5", "1,5,2,5,3,5,4,5", "a,b,c,d", "[1, 2, 3, 4]", None, b"1,2,3,4", 7, "x" * 1000,
             "1,2,3,4'); DROP TABLE images; --"],
)  # fmt: skip
def test_text_that_is_no_box_is_refused_with_its_row(tmp_path: Path, text: object) -> None:
    file = database(tmp_path / "train.db", [("a.jpg", 1)], [("1,1,5,5", 3, 1, 0, 1), (text, 3, 1, 0, 1)])
    (record,), (finding,) = drain(read(tmp_path))
    assert len(record.boxes) == 1
    assert (finding.action, finding.code, finding.file) == ("refused", "box-text", str(file))
    assert (finding.key, finding.box) == ("a.jpg", 1) and finding.value.startswith("annotations row 2: ")
    assert len(finding.value) <= 190


def test_rows_that_name_nothing_are_refused(tmp_path: Path) -> None:
    rows = [("1,1,5,5", 99, 1, 0, 1), ("1,1,5,5", None, 1, 0, 1), ("1,1,5,5", 3, 77, 0, 1), ("1,1,5,5", 3, None, 0, 1)]
    images = [("a.jpg", 1), ("../b.jpg", 2), ("/c.jpg", 3), (None, 4), (b"d.jpg", 5), ("", 6)]
    database(tmp_path / "train.db", images, rows)
    records, findings = drain(read(tmp_path))
    assert [(r.key, len(r.boxes)) for r in records] == [("a.jpg", 0)]
    assert [(f.code, f.key, f.box, f.value.partition(":")[0]) for f in findings] == [
        ("unknown-image", "", None, "annotations row 3"),
        ("unknown-image", "", None, "annotations row 4"),
        ("unknown-class", "a.jpg", 0, "annotations row 1"),
        ("unknown-class", "a.jpg", 1, "annotations row 2"),
        ("image-path", "", None, "images row 2"),
        ("image-missing", "", None, "images row 3"),
        *(("image-path", "", None, f"images row {n}") for n in (4, 5, 6)),
    ]


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ("CREATE TABLE a (b)", r"no table 'categories'; expected the tables categories\(id, name, coco_id\); images\("),
        (SCHEMA.replace("box TEXT, ", ""), "table 'annotations' lacks box; expected the tables "),
        (SCHEMA.replace("height INTEGER, ", "").replace("filename", "name"), "table 'images' lacks filename, height"),
        (SCHEMA.replace("(1, 'cat', 3), (2, 'dog', 17)", "(1, 'cat', 3), (2, 'dog', 3)"), "coco_id 3 is given twice"),
        (SCHEMA.replace("(1, 'cat', 3), (2, 'dog', 17)", "(1, NULL, 3)"), "categories row 1: name None, coco_id 3"),
        (SCHEMA.replace("INSERT", "-- INSERT"), "categories is empty"),
        (SCHEMA + "INSERT INTO images VALUES ('a', 1, 1, 1, 1), ('b', 1, 1, 1, 1)", "images: coco_id 1 is given twice"),
        # a view's SQL is the file's own, and might run for ever
        (SCHEMA + "DROP TABLE images; CREATE VIEW images AS WITH RECURSIVE x(filename) AS (SELECT 1 UNION ALL SELECT "
         "filename + 1 FROM x) SELECT filename, 1 AS coco_id, 1 AS width, 1 AS height, 1 AS area FROM x;",
         "no table 'images'"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_the_schema_is_said(tmp_path: Path, schema: str, reason: str) -> None:
    file = tmp_path / "train.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.executescript(schema)
        connection.commit()
    with pytest.raises(FormatError, match=reason) as caught:
        drain(read(tmp_path))
    assert str(file) in str(caught.value)


def test_files_that_are_no_database(tmp_path: Path) -> None:
    images = [(f"{n}.jpg", n) for n in range(300)]
    whole = database(tmp_path / "a/train.db", images, [("1,2,3,4", 3, n, 0, 1) for n in range(300)]).read_bytes()
    assert len(whole) > 12000
    for data in (b"SQLite", b"not a database" * 100, whole[:-3000], whole[:5000], whole[:50], b"", b"\xff" * 5000):
        file = put(tmp_path / "b/train.db", data)
        with pytest.raises(FormatError, match=r"cannot be read as a SQLite database|no table|cut short") as caught:
            drain(read(tmp_path / "b"))
        assert str(file) in str(caught.value)
    for folder, reason in (("nowhere", "does not exist; expected a SQLite"), ("c", "no SQLite database found")):
        put(tmp_path / "c/readme.md", "x")
        with pytest.raises(FormatError, match=reason):
            read(tmp_path / folder)


def test_damaged_bytes_never_end_in_a_traceback(tmp_path: Path) -> None:
    images = [(f"{n}.jpg", n) for n in range(60)]
    whole = database(tmp_path / "a/train.db", images, [("1,2,3,4", 3, n, 0, 1) for n in range(60)]).read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(150):
        data = np.frombuffer(whole, np.uint8).copy()
        data[rng.integers(100, len(data), 20)] = rng.integers(0, 256, 20)
        put(tmp_path / "b/train.db", data.tobytes())
        try:
            drain(read(tmp_path / "b"))
        except FormatError as error:
            assert "train.db" in str(error)


def test_a_write_ahead_log_is_not_passed_over(tmp_path: Path) -> None:
    file = database(tmp_path / "train.db", [("a.jpg", 1)])
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("INSERT INTO images VALUES ('b.jpg', 2, 1, 1, 1)")
        connection.commit()
        with pytest.raises(FormatError, match=r"unfinished changes in train\.db-wal"):
            read(tmp_path)
    assert len(drain(read(tmp_path))[0]) == 2


def test_through_the_command(tmp_path: Path) -> None:
    folder = tmp_path / "odd ?name#%20"
    database(folder / "train.db", [("a.jpg", 1)], [("1,1,5,5", 3, 1, 0, 1), ("no box", 3, 1, 0, 1)])
    put(folder / "train/a.jpg", picture())
    result = CliRunner().invoke(main, ["ingest", "sqlite", str(folder), "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "refused box-text: 1" in result.stdout and "'no box'" in result.stdout
    put(folder / "train.db", b"x" * 1000)
    result = CliRunner().invoke(main, ["ingest", "sqlite", str(folder), "--out", str(tmp_path / "bad")])
    assert result.exit_code == 2 and result.stderr.startswith("error: ") and "file is not a database" in result.stderr
    assert not (tmp_path / "bad").exists()

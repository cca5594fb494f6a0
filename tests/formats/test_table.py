from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from dataforge.cli.main import main
from dataforge.errors import ConfigError, FormatError
from dataforge.formats.table import read
from dataforge.ingest.run import ingest
from dataforge.record import CROWD, DIFFICULT, TRUNCATED, Record
from dataforge.shards.reader import Shards
from tests.formats.named import run
from tests.formats.sets import drain, picture, put
from tests.formats.suite import FormatSuite

TENSORFLOW = "filename,width,height,class,xmin,ymin,xmax,ymax\n"
HUGGING_FACE = {"bbox": [[1.0, 2.0, 10.0, 20.0]], "category": [0]}


class TestRoundTrip(FormatSuite):
    name = "table"


def rows(records: list[Record], classes: tuple[str, ...]) -> list[tuple[str, str, list[list[float]], list[str]]]:
    return [(r.split, r.key, r.boxes.tolist(), [classes[label] for label in r.labels]) for r in records]


def table(path: Path, lines: list[dict[str, Any]], schema: pa.Schema | None = None) -> Path:
    """A table as the suffix says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    arrow = pa.Table.from_pylist(lines, schema)
    if path.suffix == ".parquet":
        pq.write_table(arrow, path)
    elif path.suffix == ".feather":
        pyarrow.feather.write_feather(arrow, path)
    elif path.suffix == ".arrow":
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, arrow.schema) as stream:
            stream.write_table(arrow)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    else:
        delimiter = "\t" if path.suffix == ".tsv" else ","
        lined = [
            delimiter.join(map(str, line.values())) for line in (dict(zip(lines[0], lines[0], strict=True)), *lines)
        ]
        path.write_text("\n".join(lined) + "\n")
    return path


SUFFIXES = ["csv", "tsv", "jsonl", "parquet", "feather", "arrow"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_tensorflow_in_every_file(tmp_path: Path, suffix: str) -> None:
    names = TENSORFLOW.strip().split(",")
    lines = [
        ("sub dir/ä b.c.jpg", 64, 48, "traffic light", 1, 2, 30.5, 40),
        ("b.jpg", 32, 16, "cat", 0, 0, 5, 6.25),
        ("sub dir/ä b.c.jpg", 64, 48, "cat", 3, 4, 5, 6),  # its rows need not stand together
    ]
    table(tmp_path / f"val.{suffix}", [dict(zip(names, line, strict=True)) for line in lines])
    put(tmp_path / "images/val/b.jpg", picture())
    source = read(tmp_path)
    records, findings = drain(source)
    assert not findings and source.classes == ("cat", "traffic light")
    assert rows(records, source.classes) == [
        ("val", "sub dir/ä b.c.jpg", [[1, 2, 30.5, 40], [3, 4, 5, 6]], ["traffic light", "cat"]),
        ("val", "b.jpg", [[0, 0, 5, 6.25]], ["cat"]),
    ]
    assert [(r.height, r.width, r.id) for r in records] == [(48, 64, -1), (16, 32, -1)]
    assert records[1].image == tmp_path / "images/val/b.jpg"


@pytest.mark.parametrize("header", ["", "path,x1,y1,x2,y2,class\n"])
def test_keras_retinanet(tmp_path: Path, header: str) -> None:
    put(tmp_path / "annotations.csv", header + "empty.jpg,,,,,\nimg/a.jpg,1,2,3,4,cow\nimg/a.jpg,5.5,6,7,8,bird\n")
    put(tmp_path / "classes.csv", "cow,0\nbird,1\n")
    source = read(tmp_path)
    records, findings = drain(source)
    assert not findings
    assert rows(records, source.classes) == [
        ("train", "empty.jpg", [], []),
        ("train", "img/a.jpg", [[1, 2, 3, 4], [5.5, 6, 7, 8]], ["cow", "bird"]),
    ]


def test_open_images(tmp_path: Path) -> None:
    head = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,"
    head += "IsInside\n"
    lines = "0a1,xclick,/m/01g317,1,0.25,0.5,0.125,1,0,1,0,0,0\n0a1,xclick,/m/0k4j,1,0,1,0,1,-1,-1,1,0,0\n"
    put(tmp_path / "oidv6-train-annotations-bbox.csv", head + lines)
    put(tmp_path / "validation-annotations-bbox.csv", head + lines.replace("0a1", "ff0"))
    put(tmp_path / "class-descriptions-boxable.csv", '/m/01g317,Person\n/m/0k4j,"Car, any"\n')
    put(tmp_path / "train/0a1.jpg", picture())
    put(tmp_path / "validation/ff0.jpg", picture())
    source = read(tmp_path)
    records, findings = drain(source)
    assert not findings
    assert rows(records, source.classes) == [
        (split, key, [[16, 6, 32, 48], [0, 0, 64, 48]], ["Person", "Car, any"])
        for split, key in (("train", "0a1.jpg"), ("validation", "ff0.jpg"))
    ]
    assert [r.flags.tolist() for r in records] == [[TRUNCATED, CROWD]] * 2
    assert records[0].flags.tolist() == [TRUNCATED, CROWD]


NAMES, LABELS = "class-descriptions-boxable.csv", "train-annotations-human-imagelabels.csv"


@pytest.mark.parametrize(
    ("name", "damage"), [(LABELS, b"0a1,/m/1,\x80\n"), (NAMES, b"/m/1,\x80\n"), (NAMES, b'/m/1,"' + b"x\n" * (1 << 18))]
)
def test_damage_in_the_files_beside_open_images(tmp_path: Path, name: str, damage: bytes) -> None:
    head = "ImageID,LabelName,Confidence"
    put(tmp_path / "train-annotations-bbox.csv", f"{head},XMin,XMax,YMin,YMax\n0a1,/m/01g317,1,0.25,0.5,0.125,1\n")
    put(tmp_path / "0a1.jpg", picture())
    put(tmp_path / name, f"{head}\n".encode() + damage)
    with pytest.raises(FormatError, match=name):
        drain(read(tmp_path))


def features(names: list[str], new: bool) -> dict[bytes, bytes]:
    category = {"feature": {"names": names, "_type": "ClassLabel"}, "_type": "Sequence"}
    objects = {"category": category} if new else {"feature": {"category": category["feature"]}, "_type": "Sequence"}
    return {b"huggingface": json.dumps({"info": {"features": {"objects": objects}}}).encode()}


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
@pytest.mark.parametrize("listed", [False, True])
def test_hugging_face(tmp_path: Path, suffix: str, listed: bool) -> None:
    """Lists in a structure or a list of structures, in shards; names from the schema."""
    pieces = [("a.jpg", [[1, 2, 10, 20], [0.5, 0, 3, 4]], [2, 0]), ("b.png", [], []), (None, [[1, 1, 1, 1]], [1])]
    number = pa.float32()
    if listed:
        kind = pa.list_(pa.struct({"bbox": pa.list_(number, 4), "category": pa.int64()}))
    else:
        kind = pa.struct({"bbox": pa.list_(pa.list_(number, 4)), "category": pa.list_(pa.int64())})
    schema = pa.schema(
        {"image_id": pa.int64(), "image": pa.struct({"bytes": pa.binary(), "path": pa.string()}), "objects": kind},
        metadata=features(["cat", "dog", "red light"], not listed),
    )
    for n, (name, boxes, labels) in enumerate(pieces):
        objects: Any = {"bbox": boxes, "category": labels}
        if listed:
            objects = [{"bbox": box, "category": label} for box, label in zip(boxes, labels, strict=True)]
        line = {"image_id": 70 + n, "image": {"bytes": picture(n), "path": name}, "objects": objects}
        table(tmp_path / f"data/train-0000{n}-of-00003.{suffix}", [line], schema)
    source = read(tmp_path)
    assert source.classes == ("cat", "dog", "red light") and source.total == 3
    records, findings = drain(source)
    assert not findings
    assert rows(records, source.classes) == [
        ("train", "a.jpg", [[1, 2, 11, 22], [0.5, 0, 3.5, 4]], ["red light", "cat"]),
        ("train", "b.png", [], []),
        ("train", "train-00002-of-00003-00000001.jpg", [[1, 1, 2, 2]], ["dog"]),
    ]
    assert [r.image for r in records] == [picture(0), picture(1), picture(2)]
    assert [r.id for r in records] == [70, 71, 72]


def test_hugging_face_folder_with_metadata(tmp_path: Path) -> None:
    objects = {"bbox": [[302.0, 109.0, 73.0, 52.0]], "categories": [3]}
    table(tmp_path / "train/metadata.jsonl", [{"file_name": "a.png", "objects": objects}])
    put(tmp_path / "train/a.png", picture())
    source = read(tmp_path)
    (record,), _ = drain(source)
    assert rows([record], source.classes) == [("train", "a.png", [[302, 109, 375, 161]], ["3"])]
    assert record.image == tmp_path / "train/a.png" and source.class_ids == (3,)


CONVENTIONS = [
    ("xyxy", "pixel", False, [8, 12, 24, 36], [8, 12, 24, 36]),
    ("xyxy", "pixel", True, [8, 12, 23, 35], [8, 12, 24, 36]),
    ("xyxy", "unit", False, [0.125, 0.25, 0.375, 0.75], [8, 12, 24, 36]),
    ("xywh", "pixel", False, [8, 12, 16, 24], [8, 12, 24, 36]),
    ("xywh", "unit", False, [0.125, 0.25, 0.25, 0.5], [8, 12, 24, 36]),
    ("cxcywh", "pixel", False, [16, 24, 16, 24], [8, 12, 24, 36]),
    ("cxcywh", "unit", False, [0.25, 0.5, 0.25, 0.5], [8, 12, 24, 36]),
]


@pytest.mark.parametrize(("boxes", "unit", "inclusive", "numbers", "expected"), CONVENTIONS)
@pytest.mark.parametrize("how", ["columns", "text", "list", "lists", "four lists"])
def test_conventions_and_mapping(
    tmp_path: Path, boxes: str, unit: str, inclusive: bool, numbers: list[float], expected: list[float], how: str
) -> None:
    put(tmp_path / "a.jpg", picture())
    fields = {"xyxy": "xmin ymin xmax ymax", "xywh": "x y w h", "cxcywh": "cx cy w h"}[boxes].split()
    mapped = "file=image.name, label=what,difficult=hard,"
    line: dict[str, Any] = {"image.name": "a.jpg", "what": "cat", "hard": 1}
    if how in ("columns", "four lists"):
        line |= {f"c{n}": number if how == "columns" else [number] for n, number in enumerate(numbers)}
        mapped += ",".join(f"{field}=c{n}" for n, field in enumerate(fields))
    else:
        line |= {"b": {"text": str(numbers), "list": numbers, "lists": [numbers]}[how]}
        mapped += "box=b"
    if how in ("lists", "four lists"):
        line |= {"what": ["cat"], "hard": [1]}
    for suffix in ("parquet", "jsonl"):
        table(tmp_path / f"t.{suffix}", [line])
        put(tmp_path / "map.toml", "\n".join("{} = '{}'".format(*p.strip().split("=")) for p in mapped.split(",")))
        for way in (mapped, str(tmp_path / "map.toml")):
            source = read(tmp_path / f"t.{suffix}", map=way, boxes=boxes, unit=unit, inclusive=inclusive)
            (record,), findings = drain(source)
            assert not findings and rows([record], source.classes) == [("t", "a.jpg", [expected], ["cat"])]
            assert record.flags.tolist() == [DIFFICULT]


def test_a_split_column(tmp_path: Path) -> None:
    head = TENSORFLOW.replace("\n", ",split,area,truncated\n")
    lines = "a.jpg,64,48,cat,1,2,3,4,train,2.5,yes\na.jpg,64,48,dog,1,2,3,4,val,,no\nb.jpg,64,48,cat,1,2,3,4,,,0\n"
    put(tmp_path / "all.csv", head + lines)
    source = read(tmp_path)
    records, findings = drain(source)
    assert not findings
    assert [row[:2] for row in rows(records, source.classes)] == [
        ("train", "a.jpg"),
        ("val", "a.jpg"),
        ("all", "b.jpg"),
    ]
    assert records[0].areas is not None and records[0].areas.tolist() == [2.5] and records[1].areas is None
    assert [r.flags.tolist() for r in records] == [[TRUNCATED], [0], [0]]
    assert [r.split for r in drain(read(tmp_path, split=("val",)))[0]] == ["val"]
    with pytest.raises(ConfigError, match="unknown split 'test'; known: all, train, val"):
        read(tmp_path, split=("test",))


def test_files_are_splits_and_join_by_name(tmp_path: Path) -> None:
    put(tmp_path / "train.csv", TENSORFLOW + "a.jpg,64,48,dog,1,2,3,4\n")
    put(tmp_path / "val.csv", TENSORFLOW + "a.jpg,64,48,ant,1,2,3,4\na.jpg,64,48,dog,1,2,3,4\n")
    source = read(tmp_path)
    assert source.classes == ("ant", "dog")
    assert [(s, names) for s, _, _, names in rows(drain(source)[0], source.classes)] == [
        ("train", ["dog"]),
        ("val", ["ant", "dog"]),
    ]
    for split in ("train", "valid"):  # Roboflow's
        put(tmp_path / f"other/{split}/_annotations.csv", TENSORFLOW + "a.jpg,64,48,dog,1,2,3,4\n")
        put(tmp_path / f"other/{split}/a.jpg", picture())
    records, _ = drain(read(tmp_path / "other"))
    assert [(r.split, r.image) for r in records] == [(s, tmp_path / f"other/{s}/a.jpg") for s in ("train", "valid")]


@pytest.mark.parametrize("suffix", ["csv", "parquet", "feather", "arrow"])
def test_a_split_without_rows(tmp_path: Path, suffix: str) -> None:
    names = TENSORFLOW.strip().split(",")
    kinds = [(name, pa.string() if name in ("filename", "class") else pa.int64()) for name in names]
    line = dict(zip(names, ("a.jpg", 64, 48, "cat", 1, 2, 3, 4), strict=True))
    table(tmp_path / f"train.{suffix}", [line])
    if suffix == "csv":
        put(tmp_path / "val.csv", TENSORFLOW)
    else:
        table(tmp_path / f"val.{suffix}", [], pa.schema(kinds))
    records, findings = drain(read(tmp_path))
    assert [r.split for r in records] == ["train"] and not findings
    objects = pa.struct({"bbox": pa.list_(pa.list_(pa.float64())), "category": pa.list_(pa.int64())})
    if suffix != "csv":
        lines = [{"file_name": "a.jpg", "objects": HUGGING_FACE}]
        for split, some in (("train", lines), ("val", [])):
            table(tmp_path / f"lists/{split}.{suffix}", some, pa.schema({"file_name": pa.string(), "objects": objects}))
        assert [r.boxes.tolist() for r in drain(read(tmp_path / "lists"))[0]] == [[[1, 2, 11, 22]]]


def test_facts_of_images_are_not_taken_for_those_of_boxes(tmp_path: Path) -> None:
    file = table(tmp_path / "t.parquet", [{"path": "a.jpg", "objects": HUGGING_FACE, "area": 3072, "crowd": 1}])
    (record,), _ = drain(read(file))
    assert record.areas is None and record.flags.tolist() == [0]
    with pytest.raises(FormatError, match="--map area=area: is int64; expected at least one per rank box"):
        read(file, map="area=area")


def test_numbers_as_classes_keep_their_order(tmp_path: Path) -> None:
    put(tmp_path / "t.csv", TENSORFLOW + "a.jpg,64,48,10,1,2,3,4\na.jpg,64,48,9,1,2,3,4\n")
    source = read(tmp_path)
    assert (source.classes, source.class_ids) == (("9", "10"), (9, 10))


def test_wrong_rows_are_listed_with_their_place_and_the_rest_kept(tmp_path: Path) -> None:
    lines = [
        "a.jpg,64,48,cat,1,2,3,4",
        'a.jpg,64,48,cat,"1,5",2,3,4',
        "a.jpg,64,48,cat,1,5,2,3,4,5",
        "a.jpg,64",
        "a.jpg,64,48,cat,one,2,3,4",
        "a.jpg,64,48,,1,2,3,4",
        "a.jpg,64,48,cat,,,,",
        ",64,48,cat,1,2,3,4",
        "../b.jpg,64,48,cat,1,2,3,4",
        "/etc/c.jpg,64,48,cat,1,2,3,4",
        " d.jpg ,64,48, cat ,+1,2.,.3e1,nan",
    ]
    file = put(tmp_path / "t.csv", "\ufeff" + (TENSORFLOW + "\n".join(lines)).replace("\n", "\r\n") + "\r\n")
    records, findings = drain(read(tmp_path))
    assert [(r.key, r.boxes.tolist()) for r in records[:1]] == [("a.jpg", [[1, 2, 3, 4]])]
    assert records[1].key == "d.jpg" and np.isnan(records[1].boxes[0, 3]) and records[1].boxes[0, 2] == 3
    assert [(f.code, f.key, f.box, f.value.partition(":")[0]) for f in findings] == [
        ("line-broken", "", None, "row 4"),
        ("line-broken", "", None, "row 5"),
        ("image-path", "", None, "row 9"),
        ("line-broken", "a.jpg", 1, "row 3"),
        ("line-broken", "a.jpg", 2, "row 6"),
        ("unknown-class", "a.jpg", 3, "row 7"),
        ("line-broken", "a.jpg", 4, "row 8"),
        ("image-path", "", None, "row 10"),
        ("image-missing", "", None, "row 11"),
    ]
    assert {(f.action, f.file) for f in findings} == {("refused", str(file))}
    assert findings[3].value == "row 3: 1,5, 2, 3, 4" and "points for decimals" in findings[3].reason
    assert "decimal commas?" in findings[0].reason and "decimal commas?" not in findings[1].reason


def test_a_unit_that_the_sizes_contradict_stops(tmp_path: Path) -> None:
    put(tmp_path / "a.jpg", picture())
    put(tmp_path / "t.csv", TENSORFLOW + "a.jpg,64,48,cat,0.1,0.2,0.5,1\n")
    with pytest.raises(
        FormatError, match=r"t\.csv: boxes read as x1, y1, x2, y2 in pixels: .*\[6\.4, 9\.6, 32, 48\] in pixels"
    ):
        drain(read(tmp_path))
    assert drain(read(tmp_path, unit="unit"))[0][0].boxes[0, 3] == 48
    assert [f.code for f in drain(read(tmp_path, unit="pixel"))[1]] == ["looks-unit"]
    put(tmp_path / "t.csv", TENSORFLOW + "a.jpg,64,48,cat,0.1,0.2,0.5,1\na.jpg,64,48,cat,0,0,2,1\n")
    assert not drain(read(tmp_path))[1]
    put(tmp_path / "t.csv", "filename,class,xmin,ymin,xmax,ymax\na.jpg,cat,0.1,0.2,0.5,1\n")  # the image's own size
    with pytest.raises(FormatError, match=r"\[6\.4, 9\.6, 32, 48\] in pixels"):
        drain(read(tmp_path))
    (tmp_path / "a.jpg").rename(tmp_path / "b.jpg")  # no size at all
    assert [f.code for f in drain(read(tmp_path))[1]] == ["looks-unit"]
    head = "ImageID,LabelName,XMin,XMax,YMin,YMax,width,height\n"
    put(tmp_path / "t.csv", head + "a,/m/1,10,20,10,40,64,48\n")
    with pytest.raises(FormatError, match=r"in fractions of the image: .*--boxes xyxy --unit pixel"):
        drain(read(tmp_path))


@pytest.mark.parametrize("part", [1, 0.6])
def test_corners_in_a_column_of_widths_stop(tmp_path: Path, part: float) -> None:
    """Boxes that Hugging Face's convention has as x, y, width, height: by areas of boxes, and by those of masks."""
    boxes = [[10.0, 20, 40, 46], [30, 10, 62, 30]]

    def write(form: str, size: tuple[int, int], areas: bool) -> Path:
        made = [b if form == "xyxy" else [b[0], b[1], b[2] - b[0], b[3] - b[1]] for b in boxes]
        objects: dict[str, Any] = {"bbox": made, "category": [0, 1]}
        objects |= {"area": [part * (b[2] - b[0]) * (b[3] - b[1]) for b in boxes]} if areas else {}
        line = {"file_name": "a.jpg", "width": size[0], "height": size[1], "objects": objects}
        return table(tmp_path / f"{form}.jsonl", [line] * 2)

    with pytest.raises(FormatError, match=r"stated areas of 4 boxes .*--boxes xywh --unit pixel or --boxes xyxy"):
        drain(read(write("xyxy", (200, 200), True)))
    with pytest.raises(FormatError, match="4 of 4 boxes do not fit their images"):
        drain(read(write("xyxy", (64, 48), False)))
    assert drain(read(write("xyxy", (64, 48), False), boxes="xyxy"))[0][0].boxes.tolist() == boxes
    for areas in (True, False):
        assert drain(read(write("xywh", (64, 48), areas)))[0][0].boxes.tolist() == boxes


def test_named_corners_of_which_many_are_inverted(tmp_path: Path) -> None:
    """A few are a slip of the hand and are put in order; if most are, and all are widths, they may be widths."""
    head = TENSORFLOW
    few = "".join(f"a.jpg,64,48,cat,{n + 20},30,{n},20\n" for n in range(5))
    put(tmp_path / "t.csv", head + few)
    assert len(drain(read(tmp_path))[0][0].boxes) == 5
    many = "".join(f"a.jpg,64,48,cat,{n + 20},20,{n + 2},20\n" for n in range(12))
    put(tmp_path / "t.csv", head + many)
    with pytest.raises(FormatError, match="--boxes xywh"):
        drain(read(tmp_path))


def test_inverted_corners_of_last_pixels(tmp_path: Path) -> None:
    put(tmp_path / "a.jpg", picture())
    put(tmp_path / "t.csv", TENSORFLOW + "a.jpg,64,48,cat,39,40,10,20\na.jpg,64,48,cat,10,20,39,40\n")
    summary = ingest(read(tmp_path, inclusive=True), tmp_path / "out")
    assert Shards(tmp_path / "out").table.boxes.tolist() == [[10, 20, 40, 41]] * 2
    assert summary.findings["repaired", "box-inverted"] == 1


@pytest.mark.parametrize("column", ["split", "Subset", "partition"])
def test_columns_that_name_splits_and_headers_of_any_case(tmp_path: Path, column: str) -> None:
    put(
        tmp_path / "t.csv",
        f"{column},Filename,Class,xMin,yMin,xMax,yMax\ntrain,a.jpg,cat,1,2,3,4\nval,b.jpg,cat,1,2,3,4\n",
    )
    assert [(r.split, r.key) for r in drain(read(tmp_path))[0]] == [("train", "a.jpg"), ("val", "b.jpg")]


@pytest.mark.parametrize(
    ("files", "splits"),
    [
        (["annotations/train.csv", "annotations/val.csv"], ["train", "val"]),
        (["labels/train_labels.csv", "labels/test_labels.csv"], ["test", "train"]),
        (["boxes/train.csv", "boxes/val.csv"], ["train", "val"]),
        (["train/a.csv", "train/b.csv"], ["train", "train"]),
        (["annotations/annotations.csv"], ["train"]),
        (["val_annotations.csv"], ["val"]),
        (["x/annotations.csv"], ["x"]),
    ],
)
def test_files_and_folders_tell_the_splits(tmp_path: Path, files: list[str], splits: list[str]) -> None:
    for n, name in enumerate(files):
        put(tmp_path / name, TENSORFLOW + f"{n}.jpg,64,48,cat,1,2,3,4\n")
        put(tmp_path / f"images/{n}.jpg", picture())
    records, _ = drain(read(tmp_path))
    assert [r.split for r in records] == splits and all(Path(str(r.image)).is_file() for r in records)


@pytest.mark.parametrize("place", ["", "annotations", "metadata"])
def test_todays_names_of_open_images(tmp_path: Path, place: str) -> None:
    head = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf\n"
    put(tmp_path / "validation-annotations-bbox.csv", head + "a,x,/m/1,1,0.25,0.5,0.125,1,0,0,0\n")
    put(tmp_path / place / "oidv7-class-descriptions-boxable.csv", "LabelName,DisplayName\n/m/1,Person\n")
    put(tmp_path / "validation/a.jpg", picture())
    source = read(tmp_path)
    assert rows(drain(source)[0], source.classes) == [("validation", "a.jpg", [[16, 6, 32, 48]], ["Person"])]


@pytest.mark.parametrize("as_list", [False, True])
def test_metadata_csv_with_json(tmp_path: Path, as_list: bool) -> None:
    """Hugging Face's imagefolder: a CSV cannot nest, so users put JSON in its column; an empty cell is no box."""
    boxes, names = [[1, 2, 3, 4.5], [10, 20, 30, 8]], ["cat", "dog"]
    listed = [{"bbox": one, "category": name} for one, name in zip(boxes, names, strict=True)]
    whole = json.dumps(listed if as_list else {"bbox": boxes, "category": names}).replace('"', '""')
    put(tmp_path / "train/metadata.csv", f'file_name,objects\na.jpg,"{whole}"\nb.jpg,\n')
    for name in ("a.jpg", "b.jpg"):
        put(tmp_path / "train" / name, picture())
    source = read(tmp_path)
    records, findings = drain(source)
    assert not findings
    assert rows(records, source.classes) == [
        ("train", "a.jpg", [[1, 2, 4, 6.5], [10, 20, 40, 28]], ["cat", "dog"]),
        ("train", "b.jpg", [], []),
    ]
    put(tmp_path / "val/metadata.csv", "file_name,objects\na.jpg,\"{'bbox': [[1, 2, 3, 4]]}\"\n")
    with pytest.raises(FormatError, match=r"row 2: objects: \{'bbox'.*expected JSON"):
        read(tmp_path)


@pytest.mark.parametrize("name", ["oidv6-train-annotations-human-imagelabels.csv", "classifications.csv"])
def test_open_images_states_what_was_looked_for(tmp_path: Path, name: str) -> None:
    """Classes that people verified to be absent are kept for evaluation; those of other splits' files are not."""
    head = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf\n"
    boxes = [f"{image},x,/m/{label},1,0.25,0.5,0.125,1,0,0,0\n" for image, label in ("a2", "b1", "a1", "c3")]
    put(tmp_path / "oidv6-train-annotations-bbox.csv", head + "".join(boxes))
    lines = ("a,v,/m/3,0", "b,v,/m/3,0", "a,v,/m/1,1", "a,v,/m/1,0", "a,v,/m/9,0", "d,v,/m/3,0", "b,v,/m/2,0.0")
    put(tmp_path / name, "ImageID,Source,LabelName,Confidence\n" + "\n".join(lines) + "\n")
    put(tmp_path / "validation-annotations-human-imagelabels.csv", "ImageID,LabelName,Confidence\nc,/m/1,0\n")
    for image in "abc":
        put(tmp_path / f"train/{image}.jpg", picture())
    source = read(tmp_path)
    records, _ = drain(source)
    judged = [one.judged.tolist() for one in records if one.judged is not None]
    assert judged == [[[2, 0], [0, 0]], [[2, 0], [1, 0]], []]
    assert tmp_path / name in source.files


OPEN_IMAGES = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf\n"
TREE = {  # a cat is at two places, a leg is a part
    "LabelName": "/m/root",
    "Subcategory": [
        {
            "LabelName": "/m/animal",
            "Subcategory": [
                {"LabelName": "/m/mammal", "Subcategory": [{"LabelName": "/m/cat"}]},
                {"LabelName": "/m/dog"},
            ],
        },
        {"LabelName": "/m/pet", "Subcategory": [{"LabelName": "/m/cat"}], "Part": [{"LabelName": "/m/leg"}]},
    ],
}


def test_a_box_counts_for_the_ancestors_of_its_class(tmp_path: Path) -> None:
    """With --hierarchy, as in the challenge: flags are kept, no box is added twice; what is below absent is absent."""
    a, b = "0.25,0.5,0.125,1", "0,1,0,1"
    lines = f"a,x,/m/cat,1,{a},0,0,1\na,x,/m/animal,1,{a},0,0,1\na,x,/m/leg,1,{b},0,1,0\nb,x,/m/cat,1,{b},0,0,0\n"
    put(
        tmp_path / "train-annotations-bbox.csv",
        OPEN_IMAGES + lines + f"b,x,/m/cat,1,{b},0,0,0\nc,x,/m/dog,1,,,,,0,0,0\n",
    )
    put(
        tmp_path / "train-annotations-human-imagelabels.csv",
        "ImageID,LabelName,Confidence\nc,/m/animal,0\nb,/m/pet,1\n",
    )
    put(tmp_path / "class-descriptions-boxable.csv", "/m/cat,Cat\n/m/animal,Animal\n/m/pet,Pet\n/m/leg,Leg\n")
    put(tmp_path / "bbox_labels_600_hierarchy.json", json.dumps(TREE))
    for image in "abc":
        put(tmp_path / f"train/{image}.jpg", picture())
    plain = read(tmp_path)
    assert plain.classes == ("/m/dog", "Animal", "Cat", "Leg") and len(drain(plain)[0][0].labels) == 3
    source = read(tmp_path, hierarchy=Path("bbox_labels_600_hierarchy.json"))
    assert source.classes == ("/m/dog", "/m/mammal", "Animal", "Cat", "Leg", "Pet")
    records, findings = drain(source)
    first, second = [16, 6, 32, 48], [0, 0, 64, 48]
    assert rows(records, source.classes) == [
        ("train", "a.jpg", [first, first, second, first, first], ["Cat", "Animal", "Leg", "/m/mammal", "Pet"]),
        ("train", "b.jpg", [second] * 5, ["Cat", "Cat", "/m/mammal", "Animal", "Pet"]),
        ("train", "c.jpg", [], []),
    ]
    assert records[0].flags.tolist() == [CROWD, CROWD, TRUNCATED, CROWD, CROWD]
    judged = records[2].judged
    assert judged is not None and judged.tolist() == [[2, 0], [0, 0], [1, 0], [3, 0]]
    assert [(one.code, one.value) for one in findings if one.action == "noted"] == [("boxes-expanded", "5 boxes")]
    for flag in ([], ["--hierarchy", tmp_path / "bbox_labels_600_hierarchy.json"]):
        done = run("ingest", "table", tmp_path, "--out", tmp_path / f"out{len(flag)}", "--max-bad-boxes", "1", *flag)
        assert done.exit_code == 0 and ("file-unread" in done.stdout) != bool(flag), done.output
        assert ("noted boxes-expanded" in done.stdout) == bool(flag)


def test_what_is_absent_in_spite_of_boxes_below_it(tmp_path: Path) -> None:
    """A class with a box is not absent, nor what is below it; nothing is noted where nothing is added."""
    put(
        tmp_path / "train-annotations-bbox.csv",
        OPEN_IMAGES + "a,x,/m/mammal,1,0,1,0,1,0,0,0\nb,x,/m/pet,1,0,1,0,1,0,0,0\nc,x,/m/dog,1,,,,,0,0,0\n",
    )
    lines = "a,/m/animal,0\na,/m/animal,0\na,/m/pet,0\nb,/m/animal,0\n"
    put(tmp_path / "train-annotations-human-imagelabels.csv", "ImageID,LabelName,Confidence\n" + lines)
    put(tmp_path / "tree.json", json.dumps(TREE))
    for image in "abc":
        put(tmp_path / f"train/{image}.jpg", picture())
    source = read(tmp_path, hierarchy=Path("tree.json"))
    assert source.classes == ("/m/animal", "/m/dog", "/m/mammal", "/m/pet")
    records, findings = drain(source)
    assert [one.judged.tolist() for one in records if one.judged is not None] == [
        [[3, 0]],
        [[0, 0], [1, 0], [2, 0]],
        [],
    ]
    noted = [(one.code, one.value) for one in findings if one.action == "noted"]
    assert noted == [("boxes-expanded", "1 box"), ("absent-boxed", "1 class")]
    put(tmp_path / "root/train-annotations-bbox.csv", OPEN_IMAGES + "a,x,/m/animal,1,0,1,0,1,0,0,0\n")
    put(tmp_path / "root/train/a.jpg", picture())
    assert not drain(read(tmp_path / "root", hierarchy=tmp_path / "tree.json"))[1]


@pytest.mark.parametrize(
    ("tree", "reason"),
    [
        (
            {"LabelName": "/m/root", "Subcategory": [{"LabelName": "/m/a"}]},
            "1 of 1 classes are not in --hierarchy .*: /m/cat;",
        ),
        ({"LabelName": "/m/a", "Subcategory": [{"LabelName": "/m/a"}]}, "/m/a is below itself: /m/a > /m/a"),
        (
            {"LabelName": "r", "Subcategory": [{"LabelName": 1}]},
            r"tree.json: Subcategory.*1; expected `str`.*LabelName and",
        ),
        ([], "tree.json: the whole file: \\[\\]; expected"),
        ("{", "tree.json: not JSON"),
        ('{"LabelName":"r","Subcategory":[' * 5000, "tree.json: not JSON"),
    ],
)
def test_what_is_no_hierarchy_of_the_classes(tmp_path: Path, tree: Any, reason: str) -> None:
    put(tmp_path / "train-annotations-bbox.csv", OPEN_IMAGES + "a,x,/m/cat,1,0,1,0,1,0,0,1\n")
    put(tmp_path / "tree.json", tree if isinstance(tree, str) else json.dumps(tree))
    with pytest.raises(FormatError, match=reason):
        read(tmp_path, hierarchy=tmp_path / "tree.json")
    with pytest.raises(ConfigError, match="--hierarchy none: does not exist"):
        read(tmp_path, hierarchy=Path("none"))


def test_fiftyones_open_images(tmp_path: Path) -> None:
    head = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf\n"
    for split in ("train", "validation"):
        put(tmp_path / split / "data/a.jpg", picture())
        put(tmp_path / split / "labels/detections.csv", head + "a,x,/m/1,1,0.25,0.5,0.125,1,0,0,1\n")
        put(tmp_path / split / "labels/classifications.csv", "ImageID,Source,LabelName,Confidence\na,x,/m/1,1\n")
        put(tmp_path / split / "metadata/classes.csv", "/m/1,Person\n/m/2,Car\n")
        put(tmp_path / split / "metadata/hierarchy.json", "{}")
    source = read(tmp_path)
    records, findings = drain(source)
    boxes = [[16, 6, 32, 48]]
    assert rows(records, source.classes) == [(split, "a.jpg", boxes, ["Person"]) for split in ("train", "validation")]
    assert not findings and {r.flags.item() for r in records} == {CROWD}
    result = run("ingest", "auto", tmp_path, "--out", tmp_path / "out")
    assert result.exit_code == 0 and "noted file-unread" in result.stdout, result.output


def test_blanks_around_names_that_files_have(tmp_path: Path) -> None:
    put(tmp_path / " a.jpg", picture())
    put(tmp_path / "b.jpg", picture(1))
    put(
        tmp_path / "t.csv",
        TENSORFLOW + '" a.jpg",64,48,cat,1,2,3,4\n" b.jpg ",64,48,cat,1,2,3,4\nb.jpg,64,48,cat,2,3,4,5\n',
    )
    assert [(r.key, len(r.boxes)) for r in drain(read(tmp_path))[0]] == [(" a.jpg", 1), ("b.jpg", 2)]


def test_lists_that_do_not_match(tmp_path: Path) -> None:
    objects = [
        {"bbox": [[1, 2, 3, 4]], "category": ["cat", "dog"]},
        {"bbox": [[1, 2, 3], [1, 2, 3, 4], None], "category": ["cat", "cat", "dog"]},
    ]
    table(tmp_path / "t.jsonl", [{"file_name": f"{n}.jpg", "objects": one} for n, one in enumerate(objects)])
    records, findings = drain(read(tmp_path))
    assert [(r.key, r.boxes.tolist()) for r in records] == [("1.jpg", [[1, 2, 4, 6]])]
    assert [(f.code, f.key, f.box) for f in findings] == [
        ("row-uneven", "", None),
        ("line-broken", "1.jpg", 0),
        ("line-broken", "1.jpg", 2),
    ]
    assert findings[0].value == "objects.bbox 1, objects.category 2" or "objects.category 2" in findings[0].value


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("t.csv", b"", "the file is empty"),
        ("t.csv", b"a,b\n1,2\n", "no column for file, label, xmin, ymin, xmax, ymax; columns found: a, b; exp"),
        ("t.csv", TENSORFLOW.replace("class", "kind").encode() + b"a,1,1,c,1,1,2,2\n", "no column for label; col"),
        ("t.csv", TENSORFLOW.encode(), "no row has a class"),
        ("t.csv", TENSORFLOW.encode() + b"a.jpg,1,1,c,1,5,2,5,3,5,4,5\n", r"row 2: a\.jpg.*12 columns, expected 8; "),
        ("t.csv", TENSORFLOW.encode() + b"a.jpg,1,1,\xe4,1,2,3,4\n", "not UTF-8 text: byte 0xe4 in line 2"),
        ("t.csv", TENSORFLOW.encode("utf-16"), "not UTF-8 text: byte 0xff in line 1"),
        ("t.csv", b"filename,class,class\n", "column 'class' is given twice"),
        ("t.jsonl", b'{"file_name": "a"}\n{"file_na', "cannot be read as jsonl: JSON parse error: .* in row 1"),
        ("t.jsonl", b'{"file_name": "\xff"}\n', "not UTF-8 text: byte 0xff in line 1"),
        ("t.jsonl", b"", "cannot be read as jsonl: Empty JSON file"),
        ("t.jsonl", b'{"path": "a", "objects": {"bbox": [[1, 2, 3, 4]], "label": 1}}', "single values, a row a box"),
        ("t.jsonl", b'{"path": "a", "label": 1, "x": 1, "y": 1, "w": 1, "h": {"a": 1}}', "no column for xmin"),
        ("t.jsonl", b'{"path": "a", "label": "2020-01-01", "x": 1, "y": 1, "w": 1, "h": 1}', "a column of type "),
        ("t.parquet", b"PAR1xxxxPAR1", "cannot be read as parquet"),
        ("t.parquet", b"", "cannot be read as parquet"),
        ("t.arrow", b"ARROW1", "cannot be read as arrow"),
        ("t.feather", b"not feather at all", "cannot be read as feather"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_understood(tmp_path: Path, name: str, data: bytes, reason: str) -> None:
    file = put(tmp_path / name, data)
    with pytest.raises(FormatError, match=reason) as caught:
        drain(read(tmp_path))
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("suffix", ["parquet", "feather", "arrow"])
def test_a_file_that_is_cut_short(tmp_path: Path, suffix: str) -> None:
    line = {"file_name": "a.jpg", "objects": HUGGING_FACE, "noise": np.random.default_rng(0).bytes(5000)}
    whole = table(tmp_path / f"a/t.{suffix}", [line] * 3).read_bytes()
    for size in (1, 7, 100, len(whole) // 2, len(whole) - 100):
        put(tmp_path / f"b/t.{suffix}", whole[:size])
        with pytest.raises(FormatError, match=f"cannot be read as {suffix}"):
            drain(read(tmp_path / "b"))


@pytest.mark.parametrize("suffix", ["parquet", "feather", "arrow", "jsonl", "csv"])
def test_damaged_bytes_never_end_in_a_traceback(tmp_path: Path, suffix: str) -> None:
    names = TENSORFLOW.strip().split(",")
    lines = [dict(zip(names, (f"{n}.jpg", 64, 48, "cat", 1, 2, 3, 4), strict=True)) for n in range(20)]
    whole = np.frombuffer(table(tmp_path / f"a/t.{suffix}", lines).read_bytes(), np.uint8)
    rng = np.random.default_rng(0)
    for _ in range(60):
        data = whole.copy()
        data[rng.integers(0, len(data), 6)] = rng.integers(0, 256, 6)
        put(tmp_path / f"b/t.{suffix}", data.tobytes())
        try:
            drain(read(tmp_path / "b"))
        except FormatError as error:
            assert f"t.{suffix}" in str(error)


def test_a_header_of_many_columns(tmp_path: Path) -> None:
    names = ",".join(f"c{n}" for n in range(100_000))
    with pytest.raises(FormatError, match="no column for file, label"):
        read(put(tmp_path / "t.csv", f"{names}\n"))


def test_folders_without_a_table(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"nowhere: does not exist; expected a table \(.csv, "):
        read(tmp_path / "nowhere")
    put(tmp_path / "sub/readme.md", "x")
    with pytest.raises(FormatError, match="no table found; expected a table"):
        read(tmp_path)
    with pytest.raises(FormatError, match=r"readme\.md: suffix '\.md'; expected a table"):
        read(tmp_path / "sub/readme.md")


def test_options_that_do_not_fit(tmp_path: Path) -> None:
    file = put(tmp_path / "t.csv", "f,c,b\na.jpg,cat,1 2 3 4\n")
    for options, reason in (
        ({"map": "file"}, "--map file=: expected FIELD=COLUMN; the fields are file, image, "),
        ({"map": "fil=f"}, "--map fil=f: expected FIELD=COLUMN"),
        ({"map": "file=f,label=c,box=b"}, r"--map box=b: say with --boxes xyxy\|xywh\|cxcywh"),
        ({"boxes": "yxyx"}, "--boxes yxyx: expected one of xyxy, xywh, cxcywh"),
        ({"unit": "mm"}, "--unit mm: expected one of pixel, unit"),
        ({"map": "file=f,label=c,box=b", "boxes": "xywh", "inclusive": True}, "--inclusive: is for corners in pixels"),
        ({"images": Path("none")}, "--images none: does not exist"),
    ):
        with pytest.raises(ConfigError, match=reason):
            read(file, **options)  # type: ignore[arg-type]
    with pytest.raises(FormatError, match="--map file=g: no such column; columns found: f, c, b"):
        read(file, map="file=g")
    with pytest.raises(FormatError, match=r"none\.toml: cannot be read"):
        read(file, map="none.toml")
    with pytest.raises(ConfigError, match=r"bad\.toml: not TOML: .*line 1"):
        read(file, map=str(put(tmp_path / "bad.toml", "file = f")))
    (record,), _ = drain(read(file, map="file=f,label=c,box=b", boxes="xyxy"))
    assert record.boxes.tolist() == [[1, 2, 3, 4]]


def test_through_the_command(tmp_path: Path) -> None:
    put(tmp_path / "in/a b.jpg", picture())
    put(tmp_path / "in/labels.csv", "img;kind;l;t;w;h\na b.jpg;cat;0.25;0.5;0.25;0.5\na b.jpg;cat;0,25;0,5;0,25;0,5\n")
    options = ["--map", "file=img,label=kind,x=l,y=t", "--boxes", "xywh", "--unit", "unit"]
    arguments = ["ingest", "table", str(tmp_path / "in"), *options, "--out"]
    result = CliRunner().invoke(main, [*arguments, str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "refused line-broken: 1" in result.stdout and "a b.jpg box 1: row 3: 0,25, 0,5, 0,25, 0,5" in result.stdout
    assert Shards(tmp_path / "out").table.boxes.tolist() == [[16, 24, 32, 48]]
    result = CliRunner().invoke(main, ["ingest", "coco", str(tmp_path), "--inclusive", "--out", str(tmp_path / "bad")])
    assert result.exit_code == 2 and "--inclusive: format 'coco' does not take it" in result.stderr
    result = CliRunner().invoke(main, ["ingest", "table", str(tmp_path / "in"), "--out", str(tmp_path / "bad")])
    assert (
        result.exit_code == 2 and result.stderr.startswith("error: ") and "columns found: img, kind, l" in result.stderr
    )
    assert not (tmp_path / "bad").exists()


def test_written_files_are_read_by_pyarrow_alone(tmp_path: Path) -> None:
    """What other programs see: the columns and the names that Hugging Face's datasets look for."""
    from dataforge.formats.table import write
    from tests.formats.suite import CLASS_IDS, CLASSES, Source, awkward

    write(Source(CLASSES, iter(awkward(("train",))), CLASS_IDS), tmp_path / "set")
    arrow = pq.read_table(tmp_path / "set/train.parquet")
    facts = json.loads(arrow.schema.metadata[b"huggingface"])["info"]["features"]
    assert facts["objects"]["category"]["feature"]["names"] == list(CLASSES) and facts["image"] == {"_type": "Image"}
    first, record = arrow.slice(0, 1).to_pylist()[0], awkward(("train",))[0]
    assert first["image"] == {"bytes": record.image, "path": record.key} and first["image_id"] == record.id
    xywh = np.array(first["objects"]["bbox"])
    np.testing.assert_array_equal((xywh[:, :2] + xywh[:, 2:]).astype(np.float32), record.boxes[:, 2:])


def test_nothing_is_left_of_a_set_that_failed(tmp_path: Path) -> None:
    from dataforge.formats.table import write
    from tests.formats.suite import CLASSES, Source, awkward

    def records() -> Any:
        yield awkward(("train",))[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(Source(CLASSES, records()), tmp_path / "set")
    assert not list((tmp_path / "set").iterdir())
    missing = Record("a.jpg", "train", tmp_path / "none.jpg", 1, 1, *(io,) * 3)  # type: ignore[arg-type]
    with pytest.raises(FormatError, match="No such file"):
        write(Source(CLASSES, iter([missing])), tmp_path / "set")


def test_roboflows_list_of_classes_is_no_table(tmp_path: Path) -> None:
    for n, name in enumerate(("train", "valid")):
        put(tmp_path / name / "_annotations.csv", "a.jpg,1,2,5,6,cat\n")
        put(tmp_path / name / "_classes.csv", "cat,0\n")
        put(tmp_path / name / "a.jpg", picture(n))
    records, findings = drain(read(tmp_path))
    assert [(r.split, r.boxes.tolist()) for r in records] == [(name, [[1, 2, 5, 6]]) for name in ("train", "valid")]
    assert not findings


def test_files_that_are_urls(tmp_path: Path) -> None:
    put(tmp_path / "a.jpg", picture())
    put(tmp_path / "train.csv", TENSORFLOW + "https://host/in/a.jpg,64,48,cat,1,2,5,6\n")
    (record,), findings = drain(read(tmp_path))
    assert record.key == "a.jpg" and [f.code for f in findings] == ["images-by-name"]

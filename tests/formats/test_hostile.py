"""Files made to do harm or by another system, in every format: an error that names the file, and nothing published."""

from __future__ import annotations

import base64
import json
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from dataforge.errors import FormatError
from dataforge.files import inside
from dataforge.formats import FORMATS, holds, reader, writable, writer
from dataforge.record import Record, Source
from dataforge.shards.reader import Shards
from tests.formats.named import FIXED, WRITE, run
from tests.formats.sets import drain, picture, put
from tests.formats.test_damage import small
from tests.formats.test_registry import LOOK_FOR
from tests.formats.test_sqlite import database

BOM = b"\xef\xbb\xbf"
LINES_OF_JSON = (".jsonl", ".ndjson", ".manifest", ".odgt")
TEXT = (*LINES_OF_JSON, ".json", ".xml", ".txt", ".yaml", ".csv")


def boxes_of(name: str, root: Path) -> list[list[float]]:
    return [record.boxes.round(2).tolist() for record in drain(reader(name)(root))[0]]


def texts(root: Path) -> list[Path]:
    return [path for path in sorted(root.rglob("*")) if path.suffix in TEXT]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("change", ["bom", "crlf"])
def test_other_systems_text_files(tmp_path: Path, name: str, change: str) -> None:
    root = small(tmp_path / "set", name)
    before = boxes_of(name, root)
    for path in texts(root):
        data = path.read_bytes()
        path.write_bytes(BOM + data if change == "bom" else data.replace(b"\n", b"\r\n"))
    assert boxes_of(name, root) == before and before


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("kind", ["loop", "itself", "nowhere"])
def test_symbolic_links_that_lead_nowhere_never_hang(tmp_path: Path, name: str, kind: str) -> None:
    root = small(tmp_path / "set", name)
    before = boxes_of(name, root)
    for place in [root, *(path for path in root.rglob("*") if path.is_dir())]:
        target = {"loop": root, "itself": place / "link", "nowhere": root / "gone"}[kind]
        (place / "link").symlink_to(target, target_is_directory=True)
    assert sorted(map(str, boxes_of(name, root))) == sorted(map(str, before))


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in ("kitti", "visdrone", "yolo")])
def test_a_folder_that_is_cut_in_half(tmp_path: Path, name: str) -> None:
    """Every annotation file ends in its middle."""
    root = small(tmp_path / "set", name)
    for path in [path for path in root.rglob("*") if path.is_file() and path.suffix not in (".jpg", ".png")]:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    result = run("ingest", name, root, "--out", tmp_path / "out")
    assert result.exit_code == 2 and result.stderr.startswith("error: ") and str(root) in result.stderr
    assert not (tmp_path / "out/index.json").exists()


LINES = {  # a file of lines, each a box of its own: what is lost with a line's end cannot be told
    "yolo": ("labels/train/0.txt", ["0 0.25 0.5 0.125 0.25\n", "1 0.75 0.5 0.25 0.5\n", "0 0.5 0.5 0.5 0.25\n"]),
    "kitti": (
        "labels/train/0.txt",
        [f"cat 0 0 -10 {n}.5 2 {n + 20} 4{n} -1 -1 -1 -1000 -1000 -1000 0.25\n" for n in range(1, 4)],
    ),
    "csv": (
        "train.csv",
        ["filename,class,xmin,ymin,xmax,ymax\n", *(f"0.jpg,cat,{n},2,{n + 20},4{n}\n" for n in range(1, 4))],
    ),
    "jsonl": (
        "train.jsonl",
        [
            f'{{"filename": "0.jpg", "class": "cat", "xmin": {n}, "ymin": 2, "xmax": {n + 20}, "ymax": 4{n}}}\n'
            for n in range(1, 4)
        ],
    ),
}


@pytest.mark.parametrize("kind", LINES)
def test_lines_that_are_cut_anywhere(tmp_path: Path, kind: str) -> None:
    """What is left out is said, and what is taken is what stands there: whole lines, and a last one whose last number
    may have lost digits, which no reader can tell."""
    name, (file, lines) = kind if kind in FORMATS else "table", LINES[kind]
    put(tmp_path / ("images/train/0.jpg" if kind in FORMATS else "0.jpg"), picture())
    put(tmp_path / "data.yaml", "train: images/train\nnames: [cat, dog]")
    text = "".join(lines)

    def taken() -> tuple[list[list[float]], int]:
        records, findings = drain(reader(name)(tmp_path))
        return [box for record in records for box in record.boxes.tolist()], len(findings)

    put(tmp_path / file, text)
    whole, odd = taken()
    assert len(whole) == 3 and not odd
    ends = {sum(map(len, lines[: n + 1])) for n in range(len(lines))}
    outcomes = {"error": 0, "finding": 0, "fewer": 0}
    for place in range(len(text)):
        put(tmp_path / file, text[:place])
        try:
            boxes, odd = taken()
        except FormatError as error:
            assert str(tmp_path) in str(error)
            outcomes["error"] += 1
            continue
        outcomes["finding" if odd else "fewer"] += 1
        full = [*text[:place].splitlines(), ""][: text[:place].count("\n")]
        count = len(full) - (kind == "csv")
        assert boxes[:count] == whole[:count] and len(boxes) <= count + 1
        if not odd and place not in ends and place:  # nothing was said of the last line, so it has to be one
            assert len(boxes) == count + 1
            rest = text[place:].split("\n")[0]
            assert kind != "jsonl" or not rest
            assert rest.replace(".", "").isdigit() or not rest
    assert outcomes["error"] + outcomes["finding"] > len(text) // 3


LATIN = [*(name for name in FORMATS if name not in ("flatbuffer", "sqlite", "table", *FIXED)), "csv", "jsonl"]


@pytest.mark.parametrize("name", LATIN)
def test_text_in_another_encoding(tmp_path: Path, name: str) -> None:
    root = tmp_path / "set"
    if name in ("csv", "jsonl"):
        put(root / "0.jpg", picture())
        put(root / f"train.{name}", "".join(LINES[name][1]))
    else:
        small(root, name)
    changed = 0
    for path in texts(root):
        data = path.read_bytes()
        changed += b"cat" in data
        path.write_bytes(data.replace(b"cat", "c\u00e4t".encode("latin-1")))
    assert changed
    result = run("ingest", "table" if name in ("csv", "jsonl") else name, root, "--out", tmp_path / "out")
    assert result.exit_code == 2 and result.stderr.startswith("error: ") and str(root) in result.stderr
    assert not (tmp_path / "out/index.json").exists()


NAN = {  # what Python's json writes for a number that there is not
    "bdd100k": ("set.json", '"x1": 1,'),
    "coco": ("set.json", '"bbox": [1,'),
    "createml": ("set.json", '"x": 3,'),
    "crowdhuman": ("set.odgt", '"fbox": [1.0,'),
    "datumaro": ("default.json", '"bbox": [1,'),
    "groundtruth": ("set.manifest", '"left": 1,'),
    "labelbox": ("set.ndjson", '"left": 1.0,'),
    "labelstudio": ("set.json", '"x": 1.5625,'),
    "ultralytics": ("set.ndjson", "[[0, 0.046875,"),
    "via": ("set.json", '"x": 1,'),
    "vott": ("set.json", '"left": 1.0,'),
}


@pytest.mark.parametrize("name", NAN)
def test_a_box_with_nan_is_refused_alone(tmp_path: Path, name: str) -> None:
    for n, key in enumerate(("a.jpg", "b.jpg")):
        put(tmp_path / "in" / key, picture(n))
    WRITE[name](tmp_path / "in", ["a.jpg", "b.jpg"])
    file, number = NAN[name]
    text = (tmp_path / "in" / file).read_text()
    assert text.count(number) == 2
    put(tmp_path / "in" / file, text.replace(number, re.sub(r"[\d.]+,$", "NaN,", number), 1))
    result = run("ingest", name, tmp_path / "in", "--out", tmp_path / "out")
    assert result.exit_code == 0 and "refused box-nan: 1" in result.stdout, result.output
    assert Shards(tmp_path / "out").info()["boxes"] == 1


ODD = ["a b.jpg", "a.b.c.jpg", "\u00e4 \u7ea2.jpg", "sub dir/deep.er/x.jpg", ".hidden.jpg", "100%.jpg", "%20.jpg",
       "#1.jpg", "a#b?c=d.jpg", "a&b;c.jpg", "'q'.jpg", "-.jpg", "a:b.jpg", "x.jpg.jpg", "..a.jpg"]  # fmt: skip
NOT_HIDDEN = ("kitti", "supervisely", "voc", "yolo")  # they find pictures by looking, and hidden ones are not looked at


@pytest.mark.parametrize("name", writable())
@pytest.mark.parametrize("key", ODD)
def test_odd_names_come_back(tmp_path: Path, name: str, key: str) -> None:
    boxes, one = np.array([[1, 2, 30, 40]], np.float32), np.zeros(1, np.int32)
    records = [
        Record(k, "train", picture(n), 48, 64, boxes, one, one.astype(np.uint8)) for n, k in enumerate(("a.jpg", key))
    ]
    source = Source(("cat",), iter(records), total=2)
    if key.startswith(".") and name in NOT_HIDDEN:
        with pytest.raises(FormatError, match=re.escape(key)):
            writer(name)(source, tmp_path / "set")
        return
    writer(name)(source, tmp_path / "set")
    result = run("ingest", name, tmp_path / "set", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    shards = Shards(tmp_path / "out")
    assert {bytes(shards.blob(n)) for n in range(2)} == {picture(0), picture(1)} and shards.info()["boxes"] == 2
    assert all(inside(found) == found for found in shards.table.key)
    if "keys" in holds(name):
        assert {*shards.table.key} == {"a.jpg", key}


@pytest.mark.parametrize("name", [name for name in FORMATS if name not in (*LOOK_FOR, "voc")])  # by label files' names
@pytest.mark.parametrize("key", ODD)
def test_odd_names_in_files_of_others(tmp_path: Path, name: str, key: str) -> None:
    if "&" in key and name == "cvat":
        key = key.replace("&", "&amp;")
    root = tmp_path / "set"
    WRITE[name](root, ["a.jpg", key])
    key = key.replace("&amp;", "&")
    for n, one in enumerate(("a.jpg", key)):
        put(root / one, picture(n))
        put((root / one).with_suffix(".txt"), "0 .5 .5 .1 .1")
    result = run("ingest", name, root, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    shards = Shards(tmp_path / "out")
    assert shards.table.key.tolist() == ["a.jpg", key] and shards.info()["boxes"] == 2
    assert bytes(shards.blob(1)) == picture(1)


@pytest.mark.parametrize(
    "text", ["1,2,3", "1;2;3;4", "1,2,3,'); DROP TABLE images; --", "nan,1,2,3", "1e999,2,3,4", ""]
)
def test_sql_text_that_is_no_box(tmp_path: Path, text: str) -> None:
    rows = [("1,2,30,40", 3, 1, 0, None), (text, 3, 1, 0, None)]
    file = database(tmp_path / "set/train.db", [("a.jpg", 1)], rows)
    put(tmp_path / "set/a.jpg", picture())
    before = file.read_bytes()
    result = run("ingest", "sqlite", tmp_path / "set", "--out", tmp_path / "out")
    assert result.exit_code == 0 and "refused box-" in result.stdout
    assert Shards(tmp_path / "out").table.boxes.tolist() == [[1, 2, 30, 40]] and file.read_bytes() == before


@pytest.mark.parametrize("name", ["voc", "cvat"])
def test_entity_bombs(tmp_path: Path, name: str) -> None:
    root = small(tmp_path / "set", name)
    bomb = (
        '<!DOCTYPE a [<!ENTITY a "'
        + "x" * 99
        + '">'
        + "".join(f'<!ENTITY {chr(98 + n)} "{f"&{chr(97 + n)};" * 99}">' for n in range(9))
    )
    for path in root.rglob("*.xml"):
        path.write_text(bomb + "]><annotation><filename>&j;</filename></annotation>")
    result = run("ingest", name, root, "--out", tmp_path / "out")
    assert result.exit_code == 2 and "declares a" in result.stderr
    assert not (tmp_path / "out/index.json").exists()


def png(width: int, height: int) -> bytes:
    """A PNG that states a size, and holds a megabyte of zeros for it in a kilobyte."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1 << 20))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def jpeg(width: int, height: int) -> bytes:
    data = bytearray(picture())
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


BOMBS = [png(1 << 30, 1 << 30), png(60_000, 60_000), jpeg(65_500, 65_500)]


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize("options", [[], ["--decode-check"]])
@pytest.mark.parametrize("name", FORMATS)
def test_images_that_state_more_pixels_than_the_limit(
    tmp_path: Path, name: str, bomb: bytes, options: list[str]
) -> None:
    root = tmp_path / "in"
    WRITE[name](root, ["a.jpg", "bomb.png"])
    put(root / "a.jpg", picture())
    put(root / "bomb.png", bomb)
    put(root / "bomb.txt", "0 .5 .5 .1 .1")
    result = run("ingest", name, root, "--out", tmp_path / "out", *options)
    assert result.exit_code == 2 and "bomb.png" in result.stderr and "pixel" in result.stderr
    assert not (tmp_path / "out/index.json").exists()


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize("name", ["flatbuffer", "labelme", "table"])
def test_the_same_within_the_annotations(tmp_path: Path, name: str, bomb: bytes) -> None:
    one = np.zeros(1, np.int32)
    record = Record("bomb.png", "train", bomb, 9, 9, np.ones((1, 4), np.float32), one, one.astype(np.uint8))
    if name == "labelme":
        data = {"shapes": [], "imagePath": "bomb.png", "imageData": base64.b64encode(bomb).decode()}
        put(tmp_path / "in/a.json", json.dumps(data))
    else:
        writer(name)(Source(("cat",), iter([record]), total=1), tmp_path / "in")
    assert not [*(tmp_path / "in").rglob("*.png")]
    result = run("ingest", name, tmp_path / "in", "--out", tmp_path / "out")
    assert result.exit_code == 2 and "bomb.png" in result.stderr and "pixel" in result.stderr


@pytest.mark.parametrize(
    "name", [*(n for n in FORMATS if n not in ("croissant", "flatbuffer", "sqlite", "table")), "csv"]
)
def test_decimal_commas_never_give_other_boxes(tmp_path: Path, name: str) -> None:
    root = tmp_path / "set"
    if name == "csv":
        put(root / "0.jpg", picture())
        put(root / "train.csv", "filename,class,xmin,ymin,xmax,ymax\n0.jpg,cat,1,2,30,40\n0.jpg,cat,5,6,17.5,8\n")
    else:
        small(root, name)
    called = "table" if name == "csv" else name
    before = [box for boxes in boxes_of(called, root) for box in boxes]
    changed = 0
    for path in [path for path in texts(root) if path.suffix != ".yaml"]:
        text, count = re.subn(r"(?<=\d)\.(?=\d)", ",", path.read_text().replace('version="1.0"', ""))
        changed += count
        path.write_text(text)
    assert changed
    result = run("ingest", called, root, "--out", tmp_path / "out")
    if result.exit_code:
        assert result.stderr.startswith("error: ") and str(root) in result.stderr
        return
    assert "refused" in result.stdout
    boxes = Shards(tmp_path / "out").table.boxes.round(2).tolist()
    assert len(boxes) < len(before) and all(box in before for box in boxes)

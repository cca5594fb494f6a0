"""Small sets that name their pictures, in every format; and the command that takes them in."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from click.testing import CliRunner, Result

from dataforge.cli.main import main
from tests.formats import test_flatbuffer, test_sqlite
from tests.formats.sets import box, coco_json, put, voc_object, voc_xml

CREATEML = {"label": "cat", "coordinates": {"x": 3, "y": 3, "width": 4, "height": 4}}
OBJECT = {"boxes": [[1, 1, 5, 5]], "labels": [1], "difficulties": [0]}


def write_croissant(root: Path, names: list[str]) -> None:
    """A CSV of a box a row, and the metadata that says so."""
    put(root / "train.csv", "file_name,label,box\n" + "".join(f'{name},cat,"1 1 4 4"\n' for name in names))
    types = {"file_name": "sc:Text", "label": "sc:Text", "box": "cr:BoundingBox"}
    fields = [
        {"name": name, "dataType": kind, "source": {"fileObject": {"@id": "csv"}, "extract": {"column": name}}}
        for name, kind in types.items()
    ]
    facts = {"distribution": [{"@id": "csv", "contentUrl": "train.csv"}], "recordSet": [{"field": fields}]}
    put(root / "croissant.json", json.dumps(facts))


def write_cvat(root: Path, names: list[str]) -> None:
    images = [
        f'<image name="{name}" width="64" height="48"><box label="cat" xtl="1" ytl="1" xbr="5" ybr="5"/></image>'
        for name in names
    ]
    put(root / "annotations.xml", f"<annotations>{''.join(images)}</annotations>")


def write_kitti(root: Path, names: list[str]) -> None:
    for name in names:
        put((root / name).with_suffix(".txt"), "cat 0.00 0 -10 1 1 5 5 -1 -1 -1 -1000 -1000 -1000 -10")


def write_labelme(root: Path, names: list[str]) -> None:
    shape = {"label": "cat", "points": [[1, 1], [5, 5]], "shape_type": "rectangle"}
    for n, name in enumerate(names):
        put(root / f"{n}.json", json.dumps({"shapes": [shape], "imagePath": name}))


def write_lists(root: Path, names: list[str]) -> None:
    put(root / "TRAIN_images.json", json.dumps(names))
    put(root / "TRAIN_objects.json", json.dumps([OBJECT] * len(names)))
    put(root / "label_map.json", '{"background": 0, "cat": 1}')


def write_voc(root: Path, names: list[str]) -> None:
    for n, name in enumerate(names):
        put(root / f"{n or 'a'}.xml", voc_xml(name, voc_object("cat", [1, 1, 5, 5])))


def write_yolo(root: Path, names: list[str]) -> None:
    put(root / "train.txt", "\n".join(names))
    put(root / "a.txt", "0 .5 .5 .1 .1")
    put(root / "data.yaml", "train: train.txt\nnames: [cat]")


WRITE: dict[str, Callable[[Path, list[str]], object]] = {
    "coco": lambda root, names: put(
        root / "set.json", json.dumps(coco_json(names, [box(10 + n, [1, 1, 4, 4]) for n in range(len(names))]))
    ),
    "createml": lambda root, names: put(
        root / "set.json", json.dumps([{"image": name, "annotations": [CREATEML]} for name in names])
    ),
    "croissant": write_croissant,
    "cvat": write_cvat,
    "flatbuffer": lambda root, names: put(
        root / "train.db",
        test_flatbuffer.build(
            [test_flatbuffer.example(n, test_flatbuffer.box(1, 1, 5, 5), file_name=x) for n, x in enumerate(names)]
        ),
    ),
    "kitti": write_kitti,
    "labelme": write_labelme,
    "lists": write_lists,
    "matlab": lambda root, names: put(
        root / "set.json", json.dumps([{"imageFilename": name, "cat": [[1, 1, 5, 5]]} for name in names])
    ),
    "sqlite": lambda root, names: test_sqlite.database(
        root / "train.db",
        [(name, n) for n, name in enumerate(names)],
        [("1,1,5,5", 3, n, 0, None) for n in range(len(names))],
    ),
    "table": lambda root, names: put(
        root / "train.csv",
        "filename,width,height,class,xmin,ymin,xmax,ymax\n" + "".join(f"{x},64,48,cat,1,1,5,5\n" for x in names),
    ),
    "voc": write_voc,
    "yolo": write_yolo,
}


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(main, [*map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result

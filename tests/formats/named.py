"""Small sets that name their pictures, in every format; and the command that takes them in."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


def labelstudio(names: list[str]) -> str:
    value = {"x": 100 / 64, "y": 100 / 48, "width": 400 / 64, "height": 400 / 48, "rectanglelabels": ["cat"]}
    result = [{"id": "a", "type": "rectanglelabels", "value": value}]
    return json.dumps([{"data": {"image": name}, "annotations": [{"result": result}]} for name in names])


def lines(rows: list[Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def via_entry(name: str) -> dict[str, Any]:
    shape = {"name": "rect", "x": 1, "y": 1, "width": 4, "height": 4}
    return {
        "filename": name,
        "size": 9,
        "regions": [{"shape_attributes": shape, "region_attributes": {"class": "cat"}}],
    }


def labelbox_row(name: str) -> dict[str, Any]:
    box = {"top": 1.0, "left": 1.0, "height": 4.0, "width": 4.0}
    labels = [
        {"annotations": {"objects": [{"name": "cat", "annotation_kind": "ImageBoundingBox", "bounding_box": box}]}}
    ]
    return {"data_row": {"id": "x", "external_id": name}, "projects": {"p": {"name": "p", "labels": labels}}}


def ultralytics_rows(names: list[str]) -> list[Any]:
    boxes = [[0, 3 / 64, 3 / 48, 4 / 64, 4 / 48]]
    rows = [{"type": "image", "file": name, "annotations": {"boxes": boxes}} for name in names]
    return [{"type": "dataset", "task": "detect", "class_names": {"0": "cat"}}, *rows]


def datumaro(names: list[str]) -> dict[str, Any]:
    boxes = [{"id": 0, "type": "bbox", "label_id": 0, "bbox": [1, 1, 4, 4]}]
    items = [{"id": name, "annotations": boxes, "image": {"path": name, "size": [48, 64]}} for name in names]
    return {"info": {}, "categories": {"label": {"labels": [{"name": "cat"}]}}, "items": items}


def vott(names: list[str]) -> dict[str, Any]:
    region = {"type": "RECTANGLE", "tags": ["cat"], "boundingBox": {"left": 1.0, "top": 1.0, "width": 4, "height": 4}}
    assets = {str(n): {"asset": {"name": name}, "regions": [region]} for n, name in enumerate(names)}
    return {"name": "p", "tags": [{"name": "cat"}], "assets": assets}


def write_supervisely(root: Path, names: list[str]) -> None:
    shape = {"classTitle": "cat", "geometryType": "rectangle", "points": {"exterior": [[1, 1], [4, 4]]}}
    put(root / "meta.json", json.dumps({"classes": [{"title": "cat"}]}))
    for name in names:
        facts = {"size": {"height": 48, "width": 64}, "tags": [], "objects": [shape]}
        put(root / "ann" / f"{name}.json", json.dumps(facts))


def groundtruth_row(name: str) -> dict[str, Any]:
    boxes = [{"class_id": 0, "left": 1, "top": 1, "width": 4, "height": 4}]
    about = {"class-map": {"0": "cat"}, "type": "groundtruth/object-detection", "objects": [{"confidence": 1}]}
    return {"source-ref": name, "box": {"annotations": boxes, "image_size": []}, "box-metadata": about}


def bdd_frame(name: str) -> dict[str, Any]:
    return {"name": name, "labels": [{"category": "cat", "box2d": {"x1": 1, "y1": 1, "x2": 4, "y2": 4}}]}


def crowdhuman_row(name: str) -> dict[str, Any]:
    return {"ID": name, "gtboxes": [{"tag": "person", "fbox": [1.0, 1, 4, 4], "extra": {"box_id": 0}}]}


def write_mot(root: Path, names: list[str]) -> None:
    frames = range(1, len(names) + 1)  # pictures in the order of their names
    put(root / "gt/gt.txt", "".join(f"{frame},1,2.0,2,4,4,1,1,1\n" for frame in frames))


def write_visdrone(root: Path, names: list[str]) -> None:
    for name in names:
        put((root / name).with_suffix(".txt"), "1.0,1,4,4,1,4,0,0\n")


def widerface(names: list[str]) -> str:
    return "".join(f"{name}\n1\n1.0 1 4 4 0 0 0 0 0 0 \n" for name in names)


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
    "bdd100k": lambda root, names: put(root / "set.json", json.dumps([bdd_frame(name) for name in names])),
    "coco": lambda root, names: put(
        root / "set.json", json.dumps(coco_json(names, [box(10 + n, [1, 1, 4, 4]) for n in range(len(names))]))
    ),
    "createml": lambda root, names: put(
        root / "set.json", json.dumps([{"image": name, "annotations": [CREATEML]} for name in names])
    ),
    "crowdhuman": lambda root, names: put(root / "set.odgt", lines([crowdhuman_row(name) for name in names])),
    "croissant": write_croissant,
    "cvat": write_cvat,
    "datumaro": lambda root, names: put(root / "default.json", json.dumps(datumaro(names))),
    "flatbuffer": lambda root, names: put(
        root / "train.db",
        test_flatbuffer.build(
            [test_flatbuffer.example(n, test_flatbuffer.box(1, 1, 5, 5), file_name=x) for n, x in enumerate(names)]
        ),
    ),
    "groundtruth": lambda root, names: put(root / "set.manifest", lines([groundtruth_row(name) for name in names])),
    "kitti": write_kitti,
    "labelbox": lambda root, names: put(root / "set.ndjson", lines([labelbox_row(name) for name in names])),
    "labelme": write_labelme,
    "labelstudio": lambda root, names: put(root / "set.json", labelstudio(names)),
    "lists": write_lists,
    "matlab": lambda root, names: put(
        root / "set.json", json.dumps([{"imageFilename": name, "cat": [[1, 1, 5, 5]]} for name in names])
    ),
    "mot": write_mot,
    "sqlite": lambda root, names: test_sqlite.database(
        root / "train.db",
        [(name, n) for n, name in enumerate(names)],
        [("1,1,5,5", 3, n, 0, None) for n in range(len(names))],
    ),
    "supervisely": write_supervisely,
    "table": lambda root, names: put(
        root / "train.csv",
        "filename,width,height,class,xmin,ymin,xmax,ymax\n" + "".join(f"{x},64,48,cat,1,1,5,5\n" for x in names),
    ),
    "ultralytics": lambda root, names: put(root / "set.ndjson", lines(ultralytics_rows(names))),
    "via": lambda root, names: put(root / "set.json", json.dumps({name: via_entry(name) for name in names})),
    "visdrone": write_visdrone,
    "voc": write_voc,
    "vott": lambda root, names: put(root / "set.json", json.dumps(vott(names))),
    "widerface": lambda root, names: put(root / "set_bbx_gt.txt", widerface(names)),
    "yolo": write_yolo,
}
FIXED = ("crowdhuman", "mot", "visdrone", "widerface")  # whose classes are not in their files


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(main, [*map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result

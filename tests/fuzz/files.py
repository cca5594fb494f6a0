"""Readers of single files and of annotation folders, for the campaign; those of shards are in `readers`."""

from __future__ import annotations

import json
import random
import struct
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from dataforge.archives.path import opened
from dataforge.errors import ImageError
from dataforge.formats import FORMATS, reader
from dataforge.images.decode import decode
from dataforge.images.header import probe
from dataforge.overlay import journal
from dataforge.overlay.versions import open_version
from dataforge.record import Record
from tests import tiny
from tests.archives.test_archives import pack
from tests.formats import test_tfrecord, test_webdataset
from tests.formats.named import WRITE
from tests.formats.sets import drain, picture, put
from tests.formats.test_damage import small
from tests.formats.test_table import table
from tests.fuzz.mutate import mutate

Reader = Callable[[random.Random], None]
PICTURES = (".jpg", ".png")


def mutated(files: list[Path], use: Callable[[Path], object]) -> Reader:
    """A reader that mutates one of the files, uses it and puts it back."""
    sound = {file: file.read_bytes() for file in files}

    def read(rng: random.Random) -> None:
        file = rng.choice(files)
        file.write_bytes(mutate(sound[file], rng))
        try:
            use(file)
        finally:
            file.write_bytes(sound[file])

    return read


def take(name: str, root: Path) -> None:
    for record in drain(reader(name)(root))[0]:
        assert isinstance(record, Record) and record.boxes.shape == (len(record.labels), 4)
        assert not record.polygons or len(record.polygons.hulls()) == len(record.boxes)  # are decoded here


def reads(name: str, *roots: Path) -> Reader:
    """A reader that mutates a file of one of some sets, but no picture."""
    root_of = {file: root for root in roots for file in sorted(root.rglob("*")) if file.is_file()}
    files = [file for file in root_of if file.suffix not in PICTURES]
    return mutated(files, lambda file: take(name, root_of[file]))


def annotations(name: str, folder: Path) -> Reader:
    """A format as it is written here, and as others write it."""
    names = ["0.jpg", "1.jpg"]
    for n, key in enumerate(names):
        put(folder / "named" / key, picture(n))
    WRITE[name](folder / "named", names)
    return reads(name, small(folder / "written", name), folder / "named")


def tables(folder: Path) -> Reader:
    """The files of tables that `annotations` has not."""
    row = {"filename": "0.jpg", "class": "cat", "xmin": 1, "ymin": 2, "xmax": 30.5, "ymax": 40}
    roots = [folder / suffix for suffix in ("tsv", "jsonl", "feather", "arrow", "tfrecord", "tar", "open")]
    for root in roots:
        put(root / "0.jpg", picture())
    for root in roots[:4]:
        table(root / f"train.{root.name}", [row, {**row, "class": "dog"}])
    detection = test_tfrecord.detection("0.jpg", [[1, 2, 30, 40]], image__object__class__text=[b"cat"])
    put(folder / "tfrecord/train.tfrecord", test_tfrecord.framed(detection, detection))
    test_webdataset.tar(
        folder / "tar/train-0.tar", {"s.jpg": picture(), "s.json": {"objects": test_webdataset.OBJECTS}}
    )
    head, absent = "ImageID,LabelName,Confidence", "0,/m/1,1\n0,/m/2,0\n"
    put(
        folder / "open/train-annotations-bbox.csv",
        f"{head},XMin,XMax,YMin,YMax,IsGroupOf\n0,/m/1,1,0.1,0.5,0.2,0.6,1\n",
    )
    put(folder / "open/train-annotations-human-imagelabels.csv", f"{head}\n{absent}")
    put(folder / "open/class-descriptions-boxable.csv", '/m/1,Person\n/m/2,"Car, any"\n')
    return reads("table", *roots)


def archive(folder: Path, suffix: str) -> Reader:
    file = pack(small(folder / "set", "coco"), suffix)
    return mutated([file], lambda _: take("coco", opened(file)))


def pictures(folder: Path) -> Reader:
    for name, data in tiny.images().items():
        (folder / name.replace("/", "-")).write_bytes(data)
    files = sorted(folder.iterdir())
    place = folder / "mutated"

    def read(rng: random.Random) -> None:
        place.write_bytes(data := mutate(rng.choice(files).read_bytes(), rng))
        info = probe(data)
        pixels = decode(data, info.orientation)
        if pixels.shape != (info.height, info.width, 3):
            raise ImageError("another size than its header has")

    return read


def overlay(folder: Path) -> Reader:
    """A journal whose lines are mutated, in half of the inputs with their right checksums, as a stranger would."""
    image = {"kind": "edit", "split": "train", "key": "a.jpg", "base": 7}
    add = {"op": "add", "id": "x", "box": [1.0, 2.0, 30.0, 40.0], "label": 0, "flags": 1}
    lines: list[dict[str, object]] = [
        {
            "kind": "overlay",
            "format_version": journal.FORMAT_VERSION,
            "path": "p",
            "format": "coco",
            "classes": ["a", "b"],
        },
        {**image, "revision": 1, "version": 1, "request": "r1", "edits": [add, {"op": "state", "state": "done"}]},
        {**image, "revision": 2, "version": 2, "request": "r2", "edits": [{"op": "delete", "id": "b0"}]},
        {"kind": "classes", "op": "rename", "label": 1, "name": "c", "request": "r3", "version": 3},
        {"kind": "classes", "op": "merge", "label": 1, "to": 0, "request": "r4", "version": 4},
        {"kind": "conflict", "request": "r5", "revision": 2},
    ]
    sound = [journal.encode(line) for line in lines]
    file = folder / journal.JOURNAL
    file.write_bytes(b"".join(sound))
    assert open_version(folder).edits.version == 4

    def read(rng: random.Random) -> None:
        changed, n = list(sound), rng.randrange(len(sound))
        changed[n] = mutate(changed[n], rng)
        if rng.random() < 0.5:
            body = mutate(json.dumps(lines[n]).encode(), rng).replace(b"\n", b" ")
            changed[n] = body[:-1] + b',"crc":"%08x"}\n' % zlib.crc32(body)
        file.write_bytes(b"".join(changed))
        edits = open_version(folder).edits
        for box in (box for edited in edits.images.values() for box in edited.changes.values() if box):
            assert edits.classes()[edits.label(box.label)] and np.isfinite(box.box).all()

    return read


def config(folder: Path) -> Reader:
    from trainers.config import read_toml, write_toml
    from trainers.yolov2 import YOLOv2Config

    write_toml(YOLOv2Config(shards="a", augment="b.toml"), folder / "a.toml")
    return mutated([folder / "a.toml"], lambda file: read_toml(YOLOv2Config, file))


def recipe(folder: Path) -> Reader:
    from dataforge.augment import recipes

    file = folder / "a.toml"
    file.write_text('steps = [{ op = "flip", p = 0.5 }, { op = "hue", strength = 0.1 }, { op = "expand" }]')
    recipes.recipe(str(file))
    return mutated([file], lambda _: recipes.recipe(str(file)))


def weights(folder: Path) -> Reader:
    from trainers.models.darknet_files import read_values

    (folder / "a.weights").write_bytes(struct.pack("<3iQ", 0, 2, 0, 99) + bytes(range(200)))
    return mutated([folder / "a.weights"], read_values)


def onnx(folder: Path) -> Reader:
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper, save

    from trainers.results.exported import load_onnx

    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, 16, 16])
    boxes = helper.make_tensor_value_info("boxes", TensorProto.FLOAT, None)
    kernel = numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "kernel")
    nodes = [helper.make_node("Conv", ["images", "kernel"], ["x"]), helper.make_node("Relu", ["x"], ["boxes"])]
    model = helper.make_model(helper.make_graph(nodes, "g", [images], [boxes], [kernel]), ir_version=10)
    helper.set_model_props(model, {"dataforge": json.dumps({"version": 1, "classes": ["a"], "size": [16, 16]})})
    save(model, folder / "a.onnx")
    return mutated([folder / "a.onnx"], lambda file: load_onnx(file, "cpu"))


FILES: dict[str, Callable[[Path], Reader]] = {
    **{name: partial(annotations, name) for name in FORMATS},
    **{suffix: partial(archive, suffix=suffix) for suffix in ("zip", "tar", "tgz")},
    "tables": tables,
    "picture": pictures,
    "overlay": overlay,
    "config": config,
    "recipe": recipe,
    "weights": weights,
    "onnx": onnx,
}


def any_file(folder: Path) -> Reader:
    """Another one of these readers for each input."""
    readers = []
    for name, make in FILES.items():
        (folder / name).mkdir()
        readers.append(make(folder / name))
    return lambda rng: rng.choice(readers)(rng)

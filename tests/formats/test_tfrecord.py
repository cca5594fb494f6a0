"""TFRecord: files made by protobuf's own encoder, and damage of every kind."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given, settings
from hypothesis import strategies as st

from dataforge.errors import FormatError
from dataforge.formats.table import read
from dataforge.formats.table.tfrecord import TfRecords, label_map
from dataforge.ingest.run import ingest
from dataforge.record import CROWD, DIFFICULT, TRUNCATED
from dataforge.shards.reader import Shards
from tests.archives.test_archives import facts, pack
from tests.formats.named import run
from tests.formats.sets import drain, picture, put

LABEL_MAP = """item {\n  id: 3\n  name: 'cat'\n}\nitem { name: "/m/1" id: 17 display_name: "traffic light" }\n"""


def example_class() -> Any:
    """`tf.train.Example`, built from a descriptor as in tensorflow/core/example."""
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="t", syntax="proto3")
    field = descriptor_pb2.FieldDescriptorProto
    for name, kind in (
        ("BytesList", field.TYPE_BYTES),
        ("FloatList", field.TYPE_FLOAT),
        ("Int64List", field.TYPE_INT64),
    ):
        file.message_type.add(name=name).field.add(name="value", number=1, type=kind, label=field.LABEL_REPEATED)
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, (name, kind) in enumerate(
        (("bytes_list", "Bytes"), ("float_list", "Float"), ("int64_list", "Int64")), 1
    ):
        feature.field.add(
            name=name, number=number, type=field.TYPE_MESSAGE, type_name=f".t.{kind}List", label=1, oneof_index=0
        )
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=field.TYPE_STRING, label=1)
    entry.field.add(name="value", number=2, type=field.TYPE_MESSAGE, type_name=".t.Feature", label=1)
    map_type = ".t.Features.FeatureEntry"
    features.field.add(name="feature", number=1, type=field.TYPE_MESSAGE, type_name=map_type, label=3)
    example = file.message_type.add(name="Example")
    example.field.add(name="features", number=1, type=field.TYPE_MESSAGE, type_name=".t.Features", label=1)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("t.Example"))


EXAMPLE = example_class()


def example(**features: list[Any]) -> bytes:
    """Encode features, whose names have "__" for "/"."""
    message = EXAMPLE()
    for name, values in features.items():
        feature = message.features.feature[name.replace("__", "/")]
        if not values:
            feature.SetInParent()
        elif isinstance(values[0], bytes):
            feature.bytes_list.value.extend(values)
        elif isinstance(values[0], float):
            feature.float_list.value.extend(values)
        else:
            feature.int64_list.value.extend(values)
    return message.SerializeToString()


def masked(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def framed(*records: bytes) -> bytes:
    parts = []
    for data in records:
        length = struct.pack("<Q", len(data))
        parts += [length, masked(length), data, masked(data)]
    return b"".join(parts)


def detection(name: str, boxes: list[list[float]], **more: list[Any]) -> bytes:
    """An example of the detection API; the picture has 64 x 48 pixels."""
    unit = np.array(boxes, float).reshape(-1, 4) / [64, 48, 64, 48]
    corners = {
        f"image__object__bbox__{side}": unit[:, n].tolist() for n, side in enumerate(("xmin", "ymin", "xmax", "ymax"))
    }
    facts = {"image__encoded": [picture()], "image__filename": [name.encode()], "image__format": [b"jpeg"]}
    return example(**facts, image__height=[48], image__width=[64], **corners, **more)


def test_the_detection_api(tmp_path: Path) -> None:
    first = detection(
        "a.jpg",
        [[8, 12, 32, 24], [16, 0, 64, 48]],
        image__source_id=[b"7"],
        image__object__class__text=[b"traffic light", b"cat"],
        image__object__class__label=[17, 3],
        image__object__is_crowd=[0, 1],
        image__object__difficult=[1, 0],
        image__object__truncated=[1, 0],
        image__object__area=[200.0, 100.0],
    )
    empty = detection("b.jpg", [], image__object__class__text=[])
    put(tmp_path / "coco_train.record-00000-of-00002", framed(first))
    put(tmp_path / "coco_train.record-00001-of-00002", framed(empty))
    put(
        tmp_path / "coco_val.record-00000-of-00001",
        framed(detection("c.jpg", [[8, 12, 32, 24]], image__object__class__text=[b"cat"])),
    )
    put(tmp_path / "label_map.pbtxt", LABEL_MAP)
    result = run("ingest", "auto", tmp_path, "--out", tmp_path / "out")
    assert result.exit_code == 0 and "table (" in result.stderr, result.stderr
    shards = Shards(tmp_path / "out")
    assert (shards.classes, shards.class_ids) == (("cat", "traffic light"), (3, 17))
    assert [*shards.table.key] == ["a.jpg", "b.jpg", "c.jpg"] and {*shards.splits} == {"train", "val"}
    np.testing.assert_allclose(shards.table.boxes, [[8, 12, 32, 24], [16, 0, 64, 48], [8, 12, 32, 24]], atol=1e-4)
    assert shards.table.labels.tolist() == [1, 0, 0] and shards.table.areas.tolist()[:2] == [200, 100]
    assert shards.table.flags.tolist() == [DIFFICULT | TRUNCATED, CROWD, 0] and shards.table.id[0] == 7
    assert all(bytes(shards.blob(i)) == picture() for i in range(3))
    assert "file-unread" not in result.stdout


def test_numbers_with_and_without_a_label_map(tmp_path: Path) -> None:
    put(tmp_path / "train.tfrecord", framed(detection("a.jpg", [[8, 12, 32, 24]], image__object__class__label=[17])))
    assert read(tmp_path).classes == ("17",)
    put(tmp_path / "x_label_map.pbtxt", LABEL_MAP)
    source = read(tmp_path)
    assert (source.classes, source.class_ids) == (("cat", "traffic light"), (3, 17))
    assert drain(source)[0][0].labels.tolist() == [1]
    put(tmp_path / "y.pbtxt", "item { id: 3 name: 'dog' }")
    with pytest.raises(FormatError, match="3 is given twice, to 'cat' and 'dog'"):
        read(tmp_path)


def test_pixels_in_place_of_fractions_stop(tmp_path: Path) -> None:
    unit = [[8 * 64, 12 * 48, 32 * 64, 24 * 48]]
    put(
        tmp_path / "train.tfrecord",
        framed(*[detection(f"{n}.jpg", unit, image__object__class__text=[b"cat"]) for n in range(3)]),
    )
    with pytest.raises(FormatError, match="--boxes xyxy --unit pixel"):
        drain(read(tmp_path))
    assert drain(read(tmp_path, unit="pixel"))[0][0].boxes.tolist() == [[8, 12, 32, 24]]


def test_other_features_by_map(tmp_path: Path) -> None:
    file = put(
        tmp_path / "t.tfrecord", framed(example(image=[picture()], bboxes=[1.0, 2.0, 30.0, 40.0], name=[b"a.jpg"]))
    )
    with pytest.raises(FormatError, match=r"no column for file, label, .*columns found: bboxes, image, name"):
        read(file)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda data: data[:-1], "record 1: is cut short"),
        (lambda data: data[:5], "record 0: its length"),
        (lambda data: bytes([data[0] ^ 1]) + data[1:], "record 0: its length does not match its CRC-32C"),
        (lambda data: data[:40] + bytes([data[40] ^ 1]) + data[41:], "record 0: its data does not match its CRC-32C"),
        (lambda data: b"\x1f\x8b" + data[2:], "is compressed with gzip"),
        (lambda data: framed(b"\x0a\xff\x01"), "record 0: is not a tf.train.Example"),
        (lambda data: framed(b"\x0f"), "record 0: is not a tf.train.Example: wire type 7"),
        (lambda data: b"", "no column for"),
    ],
)
def test_damage(tmp_path: Path, change: Any, expected: str) -> None:
    data = framed(*[detection(f"{n}.jpg", [[8, 12, 32, 24]], image__object__class__text=[b"cat"]) for n in range(2)])
    put(tmp_path / "train.tfrecord", change(data))
    with pytest.raises(FormatError, match=expected):
        drain(read(tmp_path))


def test_lists_of_different_lengths(tmp_path: Path) -> None:
    records = [detection("a.jpg", [[8, 12, 32, 24]], image__object__class__text=[b"cat"] * n) for n in (1, 2)]
    put(tmp_path / "train.tfrecord", framed(*records))
    kept, findings = drain(read(tmp_path))
    assert len(kept) == 1 and [finding.code for finding in findings] == ["row-uneven"]


VALUES = st.one_of(
    st.lists(st.text().map(str.encode), min_size=2),
    st.lists(st.binary().map(lambda data: b"\xff" + data), min_size=2),
    st.lists(st.floats(width=32, allow_nan=False), min_size=2),
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=2),
)


@settings(deadline=None)
@given(st.dictionaries(st.text("abc/", min_size=1), VALUES, min_size=1))
def test_any_features(tmp_path_factory: pytest.TempPathFactory, features: dict[str, list[Any]]) -> None:
    message = example(**features)
    path = put(tmp_path_factory.mktemp("any") / "a.tfrecord", framed(message))
    records = TfRecords(path)
    (batch,) = records.batches(records.schema.names, 10)
    text = {
        name: [v.encode() if isinstance(v, str) else v for v in values] for name, (values,) in batch.to_pydict().items()
    }
    assert text == features


def test_a_label_map_in_other_spellings(tmp_path: Path) -> None:
    path = put(tmp_path / "a.pbtxt", "item{id:1,name:\"it's\"}\nitem {\n\tname: 'b c'\n\tid: 2 # comment\n}")
    assert label_map(path) == {1: "it's", 2: "b c"}


def test_an_archive_of_it_gives_the_same(tmp_path: Path) -> None:
    put(
        tmp_path / "set/train.tfrecord",
        framed(detection("a.jpg", [[8, 12, 32, 24]], image__object__class__text=[b"cat"])),
    )
    ingest(read(tmp_path / "set"), tmp_path / "plain")
    assert run("ingest", "auto", pack(tmp_path / "set", "tgz"), "--out", tmp_path / "out").exit_code == 0
    assert facts(tmp_path / "out") == facts(tmp_path / "plain")

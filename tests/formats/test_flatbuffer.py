"""DLFS FlatBuffers. The other side of each comparison is the `flatbuffers` package with accessors written here."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
from flatbuffers import number_types as kinds
from flatbuffers.table import Table
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataforge.errors import ConfigError, FormatError
from dataforge.formats.flatbuffer import dlfs_pack, read, write
from dataforge.ingest.run import ingest
from dataforge.record import Record, Source
from dataforge.shards.reader import Shards
from tests.cli.test_bad_input import refused, run
from tests.formats.sets import drain, picture, put
from tests.formats.suite import CLASS_IDS, CLASSES, FormatSuite, awkward

SLOTS = {  # as the schema has them
    "Annotation": {"bbox": 0, "cat_id": 1, "id": 2, "image_id": 3, "area": 4},
    "Category": {"name": 0, "id": 1, "examples": 2, "num_images": 3, "num_anns": 4},
    "Example": {"file_name": 0, "id": 1, "annotations": 2, "image": 3, "width": 4, "height": 5, "idx": 6},
}
NUMBERS = {"cat_id": kinds.Uint16Flags, "area": kinds.Float32Flags}
CATEGORIES = [{"name": "cat", "id": 3}, {"name": "dog", "id": 17}]


# ---- a writer: dicts to bytes, absent keys to absent slots


def build(examples: list[dict[str, Any]], categories: list[dict[str, Any]] = CATEGORIES, slots: int = 7) -> bytes:
    """`slots`: how many an Example's vtable has; an older writer's has fewer."""
    builder = flatbuffers.Builder(64)
    lists = {
        "categories": [table(builder, "Category", category) for category in categories],
        "examples": [table(builder, "Example", example, slots) for example in examples],
    }
    vectors = {name: vector(builder, places) for name, places in lists.items()}
    builder.StartObject(3)
    builder.PrependUOffsetTRelativeSlot(1, vectors["examples"], 0)
    builder.PrependUOffsetTRelativeSlot(2, vectors["categories"], 0)
    builder.Finish(builder.EndObject())
    return bytes(builder.Output())


def table(builder: flatbuffers.Builder, name: str, facts: dict[str, Any], slots: int | None = None) -> int:
    made: dict[str, int] = {}
    for key, value in facts.items():
        if isinstance(value, str):
            made[key] = builder.CreateString(value)
        elif isinstance(value, bytes):
            made[key] = builder.CreateByteVector(value)
        elif key == "annotations":
            made[key] = vector(builder, [table(builder, "Annotation", annotation) for annotation in value])
        elif key == "examples":
            made[key] = builder.CreateNumpyVector(np.array(value, np.uint64))
    builder.StartObject(slots or len(SLOTS[name]))
    for key, value in facts.items():
        slot = SLOTS[name][key]
        if key in made:
            builder.PrependUOffsetTRelativeSlot(slot, made[key], 0)
        elif key == "bbox":
            x1, y1, x2, y2 = value
            builder.Prep(4, 16)
            for number in (x2, y2, x1, y1):  # backwards, as it builds: y1 comes first in the file
                builder.PrependFloat32(number)
            builder.PrependStructSlot(slot, builder.Offset(), 0)
        else:
            flags = kinds.Uint16Flags if name == "Category" and key == "id" else NUMBERS.get(key, kinds.Uint64Flags)
            builder.PrependSlot(flags, slot, value, 0)
    return builder.EndObject()


def vector(builder: flatbuffers.Builder, places: list[int]) -> int:
    builder.StartVector(4, len(places), 4)
    for place in reversed(places):
        builder.PrependUOffsetTRelative(place)
    return builder.EndVector()


def box(x1: float, y1: float, x2: float, y2: float, cat_id: int = 3, **more: object) -> dict[str, Any]:
    return {"bbox": (x1, y1, x2, y2), "cat_id": cat_id, **more}


def example(n: int, *boxes: dict[str, Any], **more: Any) -> dict[str, Any]:
    annotations = [{"id": 100 * n + i, "image_id": 10 + n, **one} for i, one in enumerate(boxes, 1)]
    return {"file_name": f"{n}.jpg", "id": 10 + n, "annotations": annotations, "idx": n, **more}


# ---- a reader: bytes to dicts


def parse(data: bytes) -> dict[str, list[dict[str, Any]]]:
    root = Table(data, flatbuffers.encode.Get(flatbuffers.packer.uoffset, data, 0))
    return {
        "examples": [facts("Example", one) for one in members(root, 1)],
        "categories": [facts("Category", one) for one in members(root, 2)],
    }


def members(root: Table, slot: int) -> list[Table]:
    place = root.Offset(4 + 2 * slot)
    first = root.Vector(place)
    return [Table(root.Bytes, root.Indirect(first + 4 * n)) for n in range(root.VectorLen(place))]


def facts(name: str, one: Table) -> dict[str, Any]:
    """And see that numbers are where C++ may read them: places are multiples of their sizes."""
    assert one.Pos % 4 == 0
    found: dict[str, Any] = {}
    for key, slot in SLOTS[name].items():
        place = one.Offset(4 + 2 * slot)
        if not place:
            continue
        if key in ("name", "file_name"):
            text = one.String(place + one.Pos)
            start = one.Vector(place)
            assert start % 4 == 0 and one.Bytes[start + len(text)] == 0, "it ends with a NUL"
            found[key] = text.decode()
        elif key == "annotations":
            found[key] = [facts("Annotation", annotation) for annotation in members(one, slot)]
        elif key == "image":
            found[key] = one.GetVectorAsNumpy(kinds.Uint8Flags, place).tobytes()
        elif key == "examples":
            assert one.Vector(place) % 8 == 0
            found[key] = one.GetVectorAsNumpy(kinds.Uint64Flags, place).tolist()
        elif key == "bbox":
            assert (place + one.Pos) % 4 == 0
            y1, x1, y2, x2 = (one.Get(kinds.Float32Flags, place + one.Pos + 4 * n) for n in range(4))
            found[key] = (x1, y1, x2, y2)
        else:
            flags = kinds.Uint16Flags if name == "Category" and key == "id" else NUMBERS.get(key, kinds.Uint64Flags)
            assert (place + one.Pos) % flags.bytewidth == 0
            found[key] = one.Get(flags, place + one.Pos)
    return found


# ---- the tests


class TestFlatbufferRoundTrip(FormatSuite):
    name = "flatbuffer"

    def test_another_reader_finds_the_same(self, tmp_path: Path) -> None:
        records = awkward(("train",))
        data = (self.write([*records], tmp_path / "set") / "train.db").read_bytes()
        found = parse(data)
        assert [(c["id"], c["name"]) for c in found["categories"]] == list(zip(CLASS_IDS, CLASSES, strict=True))
        labels = [Counter(record.labels.tolist()) for record in records]
        for label, category in enumerate(found["categories"]):
            assert category["examples"] == [idx for idx, counts in enumerate(labels) if counts[label]]
            assert category["num_images"] == len(category["examples"])
            assert category["num_anns"] == sum(counts[label] for counts in labels)
        numbers = []
        for idx, (one, record) in enumerate(zip(found["examples"], records, strict=True)):
            assert (one["idx"], one["id"], one["file_name"], one["image"]) == (idx, record.id, record.key, record.image)
            assert (one["height"], one["width"]) == (record.height, record.width)
            assert [a["bbox"] for a in one["annotations"]] == [tuple(b) for b in record.boxes.tolist()]
            assert [a["cat_id"] for a in one["annotations"]] == [CLASS_IDS[label] for label in record.labels]
            assert record.areas is not None
            assert [a["area"] for a in one["annotations"]] == record.areas.tolist()
            assert {a["image_id"] for a in one["annotations"]} <= {record.id}
            numbers += [a["id"] for a in one["annotations"]]
        assert numbers == list(range(1, len(numbers) + 1))

    def test_numbers_that_are_missing_or_taken_are_given(self, tmp_path: Path) -> None:
        one, two, three, four = awkward(("train",))[:4]
        records = [replace(one, id=-1), replace(two, id=7), replace(three, id=7), replace(four, id=0)]
        file = self.write([*records], tmp_path / "set") / "train.db"
        assert [found["id"] for found in parse(file.read_bytes())["examples"]] == [8, 7, 9, 0]
        assert [record.id for record in drain(read(file))[0]] == [8, 7, 9, 0]

    def test_classes_are_sorted_by_their_numbers(self, tmp_path: Path) -> None:
        record = awkward(("train",))[0]
        write(Source(("b", "a"), iter([replace(record, labels=record.labels % 2)]), (9, 4)), tmp_path / "set")
        source = read(tmp_path / "set")
        assert (source.classes, source.class_ids) == (("a", "b"), (4, 9))
        assert drain(source)[0][0].labels.tolist() == (1 - record.labels % 2).tolist()
        assert [c["id"] for c in parse((tmp_path / "set/train.db").read_bytes())["categories"]] == [4, 9]

    @pytest.mark.parametrize(
        ("change", "class_ids", "reason"),
        [
            ({}, (0, 1, 2, 3, 1 << 16), "class 'never used', number 65536: expected a Unicode name, and 0 to 65535"),
            ({"split": ".x"}, (), r"split '\.x': cannot be a file's name"),
            ({"split": "../x"}, (), r"split '\.\./x': cannot be a file's name"),
            ({"image": Path("no/such.jpg")}, (), r"no/such\.jpg: cannot be read: No such file"),
            ({"key": "\udfff.jpg"}, (), "not Unicode"),
        ],
    )
    def test_what_cannot_be_written(
        self, tmp_path: Path, change: dict[str, Any], class_ids: tuple[int, ...], reason: str
    ) -> None:
        with pytest.raises(FormatError, match=reason):
            record = replace(awkward(("train",))[0], **change)
            write(Source(CLASSES, iter([record]), class_ids), tmp_path / "set")
        with pytest.raises(FormatError, match=r"class '\\ud800', number 0: expected a Unicode name"):
            write(Source(("\ud800",), iter([])), tmp_path / "set")
        assert not list(tmp_path.rglob("*.*"))

    def test_more_than_a_flatbuffer_holds(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        records = [*awkward(("train",))[:2]]
        images = sum(len(record.image) for record in records if isinstance(record.image, bytes))
        self.write([*records], tmp_path / "fits")
        whole = (tmp_path / "fits/train.db").stat().st_size
        for most in (images - 100, images + 100, whole - 1):
            monkeypatch.setattr(dlfs_pack, "LIMIT", most)
            with pytest.raises(FormatError, match=rf"train\.db: .* pass {most} bytes .*where a FlatBuffer ends"):
                self.write([*records], tmp_path / f"{most}")
            assert not list((tmp_path / f"{most}").iterdir())
        monkeypatch.setattr(dlfs_pack, "LIMIT", whole)
        self.write([*records], tmp_path / "just")


def test_a_file_of_another_writer(tmp_path: Path) -> None:
    two, three = picture(1, 40, 50), picture(2)
    examples = [
        example(1, box(1, 2, 30.5, 40, area=7.25), box(5, 6, 7, 8, 17, area=0.0), width=64, height=48),
        example(2, box(1, 2, 3, 4), image=two, width=50, height=40),
        example(3, file_name="sub dir/ä b.c.jpg", image=b""),
    ]
    put(tmp_path / "in/val.db", build(examples))
    put(tmp_path / "pictures/1.jpg", picture())
    put(tmp_path / "pictures/2.jpg", b"the embedded one wins")
    put(tmp_path / "pictures/sub dir/ä b.c.jpg", three)
    source = read(tmp_path / "in", images=tmp_path / "pictures")
    assert (source.classes, source.class_ids, source.total) == (("cat", "dog"), (3, 17), 3)
    records, findings = drain(source)
    assert not findings
    assert [(r.key, r.split, r.id, r.height, r.width) for r in records] == [
        ("1.jpg", "val", 11, 48, 64),
        ("2.jpg", "val", 12, 40, 50),
        ("sub dir/ä b.c.jpg", "val", 13, 0, 0),
    ]
    one, other, empty = records
    assert one.boxes.tolist() == [[1, 2, 30.5, 40], [5, 6, 7, 8]] and one.boxes.dtype == np.float32
    assert one.labels.tolist() == [0, 1] and one.labels.dtype == np.int32
    assert one.areas is not None and one.areas[0] == 7.25 and np.isnan(one.areas[1])  # 0 is absent in this schema
    assert other.image == two and other.areas is None and empty.boxes.shape == (0, 4)
    ingest(read(tmp_path / "in", images=tmp_path / "pictures"), tmp_path / "out")
    shards = Shards(tmp_path / "out")
    assert [bytes(shards.blob(n)) for n in range(3)] == [picture(), two, three]
    assert shards.table.height.tolist() == [48, 40, 48] and shards.table.areas[:3].tolist() == [7.25, 4, 4]


def test_an_older_writers_file(tmp_path: Path) -> None:
    examples = [{"file_name": f"{n}.jpg", "id": 10 + n, "annotations": [box(1, 2, 3, 4)]} for n in range(3)]
    put(tmp_path / "train.db", build(examples, slots=3))
    for n in range(3):
        put(tmp_path / f"{n}.jpg", picture(n))
    records, findings = drain(read(tmp_path / "train.db"))
    assert [r.image for r in records] == [tmp_path / f"{n}.jpg" for n in range(3)]
    assert {(r.height, r.width, r.areas) for r in records} == {(0, 0, None)}
    assert [f.code for f in findings] == ["image-id", "annotation-twice", "idx-order"]
    assert {f.action for f in findings} == {"noted"}


def test_what_is_wrong_in_a_file_is_listed(tmp_path: Path) -> None:
    examples = [
        example(0, box(1, 1, 2, 2, 5), box(1, 1, 3, 3), {"cat_id": 3}, box(1, 1, 4, 4, image_id=99)),
        example(1, box(1, 1, 5, 5, id=2), id=10),
        example(2, file_name="../out.jpg"),
        example(3, file_name="/etc/x.jpg"),
        {"id": 1 << 63, "idx": 3},
        example(5, file_name="ä.jpg", idx=4),
    ]
    data = build(examples, [{**CATEGORIES[0], "num_images": 2, "num_anns": 5}]).replace(
        "ä.jpg".encode(), b"\xff\xff.jpg"
    )
    records, findings = drain(read(put(tmp_path / "a.db", data)))
    assert [(r.key, r.id, r.boxes[:, 2].tolist()) for r in records] == [
        ("0.jpg", -1, [3, 4]),
        ("1.jpg", -1, [5]),
        ("\udcff\udcff.jpg", 15, []),
    ]
    assert [(f.action, f.code, f.key) for f in findings] == [
        ("noted", "image-id", "0.jpg"),
        ("noted", "image-id-twice", ""),
        ("noted", "annotation-twice", ""),
        ("noted", "idx-order", ""),
        ("noted", "category-counts", "cat"),
        ("refused", "unknown-class", "0.jpg"),
        ("refused", "box-missing", "0.jpg"),
        ("refused", "image-path", "../out.jpg"),
        ("refused", "image-missing", "/etc/x.jpg"),
        ("refused", "image-path", ""),
    ]
    assert [f.box for f in findings] == [None] * 5 + [0, 2] + [None] * 3
    assert [f.value for f in findings[:5]] == [
        "2 annotations; the first has image_id 99",
        "1 ids; the first is 10",
        "1 ids; the first is 2",
        "Example 4 has idx 3",
        "1 categories; id 3 states num_images 2, num_anns 5",
    ]


def test_splits_are_joined_by_class_name(tmp_path: Path) -> None:
    put(tmp_path / "train.db", build([example(0, box(1, 1, 2, 2, 17))]))
    others = [{"name": "dog", "id": 1}, {"name": "bee", "id": 2}]
    put(tmp_path / "val.db", build([example(1, box(1, 1, 2, 2, 1), box(1, 1, 2, 2, 2))], others))
    put(tmp_path / "._val.db", b"\0")
    source = read(tmp_path)
    records, findings = drain(source)
    assert (source.classes, source.class_ids) == (("bee", "cat", "dog"), (2, 3, 17))
    assert [(r.split, r.labels.tolist()) for r in records] == [("train", [2]), ("val", [2, 0])]
    assert [f.value for f in findings[:2]] == ["lacks: bee", "lacks: cat; other numbers: dog (1)"]
    assert [r.split for r in drain(read(tmp_path, split=("val",)))[0]] == ["val"]
    with pytest.raises(ConfigError, match="unknown split 'test'; known: train, val"):
        read(tmp_path, split=("test",))
    with pytest.raises(ConfigError, match="--images nowhere: does not exist"):
        read(tmp_path, images=Path("nowhere"))


def test_files_that_are_none(tmp_path: Path) -> None:
    for name, data, reason in (
        ("empty", b"", "0 bytes; expected a DLFS FlatBuffer"),
        ("short", b"\x04\0\0\0\0\0\0\0", "8 bytes; expected"),
        ("text", b"x1,y1,x2,y2,class\r\n" * 9, "Dataset 0: begins at byte 2032939384; expected it within"),
        ("sqlite", b"SQLite format 3\0" + bytes(4096), "Is the format sqlite"),
        ("zeros", bytes(4096), "Dataset 0: vtable's size 0"),
        ("none", build([], []), "categories is empty"),
        ("twice", build([], [{"name": "a", "id": 1}, {"name": "b", "id": 1}]), "id 1 is given twice, to 'a' and 'b'"),
        ("unnamed", build([], [{"id": 1}]), "Category id 1 has no name"),
    ):
        path = put(tmp_path / name / "train.db", data)
        for root in (path, path.parent):
            with pytest.raises(FormatError, match=reason) as caught:
                read(root)
            assert str(path) in str(caught.value)
    for name, reason in (("nowhere", "does not exist"), ("pictures", r"no \.db file found; expected a DLFS")):
        put(tmp_path / "pictures/a.jpg", b"")
        with pytest.raises(FormatError, match=reason):
            read(tmp_path / name)


# ---- hostile files


def some(tmp_path: Path) -> dict[str, bytes]:
    """Good files of both writers, small enough that a flipped byte often hits a distance."""
    boxes = [box(1, 2, 30, 40, area=5.5), box(3, 4, 5, 6, 17, area=2.0)]
    examples = [example(n, *boxes[: n % 3], image=bytes(9 * n), width=64, height=48) for n in range(4)]
    records = [
        Record(f"{n}.jpg", "train", bytes(5 * n), 48, 64, np.ones((n, 4), np.float32), np.arange(n, dtype=np.int32),
               np.zeros(n, np.uint8), id=n)
        for n in range(4)
    ]  # fmt: skip
    write(Source(CLASSES, iter(records), CLASS_IDS), tmp_path / "good")
    return {"theirs": build(examples), "ours": (tmp_path / "good/train.db").read_bytes()}


def outcome(path: Path, data: bytes) -> str:
    """Read all of it: "read", or the start of the clear error. Anything else raises."""
    path.write_bytes(data)
    try:
        records, findings = drain(read(path))
    except FormatError as error:
        assert str(error).startswith(f"{path}: ")
        return "refused"
    for record in records:
        assert len(record.boxes) == len(record.labels) == len(record.flags)
        assert len(record.boxes) * 4 <= len(data) and (not len(record.labels) or record.labels.min() >= 0)
        assert isinstance(record.image, Path) or len(record.image) <= len(data)
    assert len(records) + len(findings) <= len(data)
    return "read"


def test_cut_files(tmp_path: Path) -> None:
    for name, data in some(tmp_path).items():
        found = Counter(outcome(tmp_path / "cut.db", data[:length]) for length in range(len(data) - 8))
        assert found["read"] == 0, name  # what is last in a file is needed


def test_flipped_bytes_give_records_or_a_clear_error(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for data in some(tmp_path).values():
        found: Counter[str] = Counter()
        for place in range(len(data)):
            for value in (255, int(rng.integers(256))):
                found[outcome(tmp_path / "flipped.db", data[:place] + bytes([value]) + data[place + 1 :])] += 1
        assert found["read"] > 100 and found["refused"] > 100


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 1 << 20), st.sampled_from([1, 2, 4, 8]), st.binary(min_size=8, max_size=8)),
                min_size=1, max_size=6), st.booleans(), st.integers(0, 64))  # fmt: skip
def test_overwritten_words(tmp_path: Path, changes: list[tuple[int, int, bytes]], ours: bool, cut: int) -> None:
    (tmp_path / "good").exists() and (tmp_path / "good/train.db").unlink()
    data = bytearray(some(tmp_path)["ours" if ours else "theirs"])
    for place, width, value in changes:
        place = place % len(data) // width * width
        data[place : place + width] = value[:width]
    outcome(tmp_path / "hostile.db", bytes(data[: len(data) - cut]))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 40), min_size=6, max_size=30))
def test_small_numbers_only(tmp_path: Path, words: list[int]) -> None:
    """Tables, vtables and vectors within each other: nearly all distances lead somewhere."""
    outcome(tmp_path / "hostile.db", np.array(words, "<u2").tobytes())


@pytest.mark.parametrize(
    ("times", "reason"),
    [
        (
            (1000, 1000),
            "Example: annotations is 4000000 bytes in 1000 tables together; expected at most the file's",
        ),
        ((1, 9000), "Annotation: their size is 216000 bytes in 9000 tables together"),
    ],
)
def test_parts_that_are_shared(tmp_path: Path, times: tuple[int, int], reason: str) -> None:
    """A thousand examples with one list of a thousand annotations would be a million boxes in 20 KB."""
    builder = flatbuffers.Builder(64)
    shared = vector(builder, [table(builder, "Annotation", {"bbox": (1, 2, 3, 4), "cat_id": 3})] * times[1])
    examples = []
    for _ in range(times[0]):
        builder.StartObject(7)
        builder.PrependUOffsetTRelativeSlot(2, shared, 0)
        examples.append(builder.EndObject())
    lists = [vector(builder, examples), vector(builder, [table(builder, "Category", CATEGORIES[0])])]
    builder.StartObject(3)
    for slot, place in enumerate(lists, 1):
        builder.PrependUOffsetTRelativeSlot(slot, place, 0)
    builder.Finish(builder.EndObject())
    path = put(tmp_path / "a.db", bytes(builder.Output()))
    with pytest.raises(FormatError, match=reason):
        read(path)


def test_through_the_command(tmp_path: Path) -> None:
    data = build([example(0, box(1, 2, 30, 40)), example(1, image=picture(1))])
    put(tmp_path / "in/train.db", data[:-30])
    put(tmp_path / "pictures/0.jpg", picture())
    arguments = ("flatbuffer", tmp_path / "in", "--images", tmp_path / "pictures")
    assert f"{tmp_path / 'in/train.db'}: " in refused(tmp_path / "out", *arguments)
    put(tmp_path / "in/train.db", data)
    result = run(*arguments, "--out", tmp_path / "out", "--json")
    assert result.exit_code == 0, result.output
    shards = Shards(tmp_path / "out")
    assert [bytes(shards.blob(n)) for n in range(2)] == [picture(), picture(1)]
    assert shards.table.boxes.tolist() == [[1, 2, 30, 40]]


def test_nothing_but_the_splits_is_left_in_the_folder(tmp_path: Path) -> None:
    write(Source(CLASSES, iter(awkward(("train",))[:2])), tmp_path / "set")
    assert [path.name for path in (tmp_path / "set").iterdir()] == ["train.db"]

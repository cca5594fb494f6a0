"""Shards go out as annotated images and come back the same; and shards are proved against what they were made from."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from subprocess import run as start
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from dataforge.cli.main import main
from dataforge.errors import ConfigError, DataError, FormatError
from dataforge.formats import FORMATS, holds, reader, writer
from dataforge.formats.voc import writer as voc_writer
from dataforge.ingest.prove import first_difference
from dataforge.ingest.run import ingest
from dataforge.record import CROWD, Record, Source
from dataforge.shards.as_source import source_of
from dataforge.shards.reader import Shards
from dataforge.transform.bake import Form, bake
from dataforge.transform.export import export
from tests import tiny
from tests.formats.sets import box, coco, drain, picture, put, voc_object, voc_xml


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(main, [*map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result


def same(one: Shards, other: Shards, key: Callable[[str, str], str] = lambda key, split: key) -> None:
    """Equal, split by split; records are found by picture and by what `key` makes of their names."""
    assert one.index["unions"] == other.index["unions"] and one.index["splits"].keys() == other.index["splits"].keys()
    for split in one.index["splits"]:
        rows = [{(key(s.table.key[i], split), bytes(s.blob(i))): i for i in s.splits[split]} for s in (one, other)]
        assert rows[0].keys() == rows[1].keys() and len(rows[0]) == len(one.splits[split])
        for name, i in rows[0].items():
            j = rows[1][name]
            a, b = (s.table.take(np.array([n])) for s, n in ((one, i), (other, j)))
            np.testing.assert_array_equal(a.boxes, b.boxes)
            assert [one.classes[n] for n in a.labels] == [other.classes[n] for n in b.labels]
            np.testing.assert_array_equal(a.flags, b.flags)


@pytest.fixture
def joined(tmp_path: Path) -> Path:
    """VOC shards, splits "train" and "val" and their union."""
    for n, name in enumerate("abc"):
        put(tmp_path / f"voc/JPEGImages/{name}.jpg", picture(n))
        objects = voc_object("cat", [1, 1, 10, 10 + n], "<difficult>1</difficult>") + voc_object("dog", [2, 3, 4, 5])
        put(tmp_path / f"voc/Annotations/{name}.xml", voc_xml(f"{name}.jpg", objects))
    for name, text in {"train": "a\nb", "val": "c", "trainval": "a\nb\nc"}.items():
        put(tmp_path / f"voc/ImageSets/Main/{name}.txt", text)
    ingest(reader("voc")(tmp_path / "voc"), tmp_path / "shards")
    return tmp_path / "shards"


def test_a_source_of_shards_gives_all_that_they_hold(tiny_shards: Path, tmp_path: Path) -> None:
    shards = Shards(tiny_shards)
    source = source_of(shards)
    assert (source.classes, source.class_ids, source.total) == (tiny.CLASSES, tiny.CLASS_IDS, len(shards))
    summary = ingest(source, tmp_path / "again", source_name="tiny")
    assert {action for action, _ in summary.findings} <= {"noted"}
    again = Shards(tmp_path / "again")
    same(shards, again)
    assert again.index == shards.index  # and so all the tables' checksums


def test_unions_go_with_their_parts(joined: Path) -> None:
    shards = Shards(joined)
    assert source_of(shards).unions == {"trainval": ("train", "val")}
    assert source_of(shards, ("trainval",)).unions == {"trainval": ("train", "val")}
    part = source_of(shards, ("val",))
    assert part.unions == {} and part.total == 1
    assert [record.key for record in drain(part)[0]] == ["JPEGImages/c.jpg"]
    with pytest.raises(ConfigError, match="unknown split 'test'; known: train, trainval, val"):
        source_of(shards, ("test",))


def test_what_a_format_cannot_hold_is_counted(tiny_shards: Path, tmp_path: Path) -> None:
    crowds = int((Shards(tiny_shards).table.flags == CROWD).sum())
    result = run("export", tiny_shards, "--format", "voc", "--out", tmp_path / "voc")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines() == [
        f"20 images, {len(Shards(tiny_shards).table.boxes)} boxes written to {tmp_path / 'voc'} (voc)",
        f"crowd flags: {crowds} cannot be held by voc",
        "image numbers: 20 cannot be held by voc",
        "class numbers: 3 cannot be held by voc",
    ]
    result = run("export", tiny_shards, "--format", "coco", "--out", tmp_path / "coco", "--split", "val", "--json")
    facts = json.loads(result.stdout)
    assert facts["lost"] == {} and facts["images"] == 10 and facts["out"] == str(tmp_path / "coco")
    assert run("ingest", "coco", tmp_path / "coco", "--out", tmp_path / "back").exit_code == 0
    back = Shards(tmp_path / "back")
    assert list(back.splits) == ["val"]
    np.testing.assert_array_equal(back.table.boxes, Shards(tiny_shards, "val").table.boxes)
    np.testing.assert_array_equal(back.table.areas, Shards(tiny_shards, "val").table.areas)


def test_unused_classes_areas_and_unions_are_counted(tmp_path: Path, joined: Path) -> None:
    record = replace(tiny.records()[1], areas=np.ones(3, np.float32), flags=np.zeros(3, np.uint8))
    ingest(Source((*tiny.CLASSES, "none"), iter([record])), tmp_path / "one")
    assert export(Shards(tmp_path / "one"), "voc", tmp_path / "out").lost == {"areas": 3, "ids": 1, "classes": 1}
    assert export(Shards(joined), "yolo", tmp_path / "yolo").lost == {"difficult": 3, "unions": 1}


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_that_can_be_written_says_what_it_holds(name: str) -> None:
    try:
        writer(name)
    except ConfigError:
        return
    assert isinstance(holds(name), frozenset)


def test_a_format_without_write(tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "readable", SimpleNamespace(read=None))  # type: ignore[arg-type]
    monkeypatch.setitem(FORMATS, "readable", "readable")
    result = run("export", tiny_shards, "--format", "readable", "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "error: format 'readable' can be read, but not written; can be written: bdd100k, coco" in result.stderr
    result = run("export", tiny_shards, "--format", "vocc", "--out", tmp_path / "out")
    assert result.exit_code == 2 and "unknown format 'vocc'; known: bdd100k, coco" in result.stderr
    assert not (tmp_path / "out").exists()


def test_folders_that_are_taken_stay_as_they_are(joined: Path, tmp_path: Path) -> None:
    put(tmp_path / "mine/notes.txt", "mine")
    for out, reason in (("mine", "is not empty"), ("mine/notes.txt", "is not empty"), ("shards/x", "lies within")):
        result = run("export", joined, "--format", "coco", "--out", tmp_path / out)
        assert result.exit_code == 2 and reason in result.stderr, result.stderr
    assert (tmp_path / "mine/notes.txt").read_text() == "mine" and not (joined / "x").exists()


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), FormatError("odd"), OSError(28, "No space left on device")])
def test_half_an_export_is_removed(
    joined: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, there: bool
) -> None:
    out, put_text = tmp_path / "out", voc_writer.put_text

    def fail(path: Path, data: bytes) -> None:
        if path.name == "c.xml":
            assert (path.parents[1] / "JPEGImages/c.jpg").exists() and not (out / "JPEGImages").exists()
            raise error
        put_text(path, data)

    monkeypatch.setattr(voc_writer, "put_text", fail)
    if there:
        out.mkdir()
    result = run("export", joined, "--format", "voc", "--out", out)
    if isinstance(error, KeyboardInterrupt):
        assert result.exit_code == 130 and result.stderr == "interrupted; nothing was written\n"
    else:
        assert result.exit_code == 2 and result.stderr.startswith("error: ")
    assert out.exists() == there and not (there and any(out.iterdir()))
    assert not list(tmp_path.glob(".*"))
    monkeypatch.undo()
    assert run("export", joined, "--format", "voc", "--out", out).exit_code == 0


@pytest.mark.parametrize("name", ["voc", "labelme"])
def test_a_killed_export_leaves_nothing_that_reads_as_a_set(joined: Path, tmp_path: Path, name: str) -> None:
    code = "import os, sys\nfrom pathlib import Path\nfrom dataforge.shards.reader import Shards\n"
    code += "from dataforge.transform.export import export\n"
    code += f"export(Shards(sys.argv[1]), {name!r}, Path(sys.argv[2]), progress=lambda n: n == 2 and os._exit(9))"
    out = tmp_path / "out"
    done = start([sys.executable, "-c", code, str(joined), str(out)], check=False)
    assert done.returncode == 9 and not out.exists() and list(tmp_path.glob(".out.unfinished/part/*"))
    assert run("export", joined, "--format", name, "--out", out).exit_code == 0
    assert run("export", joined, "--format", name, "--out", tmp_path / "whole").exit_code == 0
    names = [sorted(file.relative_to(root) for file in root.rglob("*")) for root in (out, tmp_path / "whole")]
    assert names[0] == names[1] and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("name", ["coco", "voc", "yolo"])
def test_a_full_disk(joined: Path, tmp_path: Path, name: str) -> None:
    code = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))\n"
    code += "from dataforge.cli.main import main\nmain()"
    arguments = ["export", joined, "--format", name, "--out", tmp_path / "out"]
    done = start([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "\nerror: " in f"\n{done.stderr}" and "cannot be written" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_damaged_image_is_not_exported(joined: Path, tmp_path: Path) -> None:
    store = joined / "val/00000/blobs.mdb"
    data = bytearray(store.read_bytes())
    at = data.rindex(picture(2)[100:200])
    data[at] ^= 1
    store.write_bytes(data)
    with pytest.raises(DataError, match="not those that were ingested"):
        export(Shards(joined), "coco", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("raw", [False, True])
def test_a_caches_pictures_are_not_published_as_originals(joined: Path, tmp_path: Path, raw: bool) -> None:
    cache, out = tmp_path / "cache", tmp_path / "out"
    bake(Shards(joined), cache, Form(shapes=((24, 32),), raw=True) if raw else Form(side=24))
    for command in ("split", "merge"):
        done = run(command, cache, "--out", out)
        assert done.exit_code == 2 and f"take what it was baked from, {joined.resolve()}" in done.stderr
        assert not (out / "index.json").exists()
    done = run("export", cache, "--format", "coco", "--out", out / "coco")
    assert done.exit_code == 2 and f"take what it was baked from, {joined.resolve()}" in done.stderr
    done = run("export", cache, "--format", "coco", "--out", out / "coco", "--allow-cache")
    if raw:
        assert done.exit_code == 2 and "raw pixels" in done.stderr
        return
    assert done.exit_code == 0
    ingest(reader("coco")(out / "coco"), tmp_path / "again")
    again, baked = Shards(tmp_path / "again"), Shards(cache)
    assert again.table.height.tolist() == baked.table.height.tolist() == [24] * 3
    np.testing.assert_allclose(again.table.boxes, baked.table.boxes, atol=1e-3)


def test_a_box_over_all_of_an_image_is_written_as_each_format_has_it(tmp_path: Path) -> None:
    """Known texts, so that a reader and a writer that are wrong together are seen."""
    from pycocotools.coco import COCO

    coco(tmp_path / "in", {"a.jpg": picture()}, [box(10, [0, 0, 64, 48], 17), box(10, [16, 12, 32, 24], iscrowd=1)])
    ingest(reader("coco")(tmp_path / "in"), tmp_path / "shards")
    for name in ("coco", "voc", "yolo"):
        export(Shards(tmp_path / "shards"), name, tmp_path / name)
    truth = COCO(str(tmp_path / "coco/annotations/instances_train.json"))
    rows = truth.loadAnns(truth.getAnnIds(imgIds=[10]))
    facts = [(row["bbox"], row["category_id"], row["iscrowd"], row["area"]) for row in rows]
    assert facts == [([0, 0, 64, 48], 17, 0, 3072), ([16, 12, 32, 24], 3, 1, 768)]
    text = (tmp_path / "voc/Annotations/a.xml").read_text()
    assert "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>64</xmax><ymax>48</ymax></bndbox>" in text
    assert "<bndbox><xmin>17</xmin><ymin>13</ymin><xmax>48</xmax><ymax>36</ymax></bndbox>" in text
    labels = (tmp_path / "yolo/labels/train/a.txt").read_text()
    assert labels == "1 0.5 0.5 1.0 1.0\n0 0.5 0.5 0.5 0.5\n"


@pytest.mark.parametrize("folder", ["bccd", "coco_mini", "coco128_yolo"])
def test_real_sets_come_back(shared_data: Path, tmp_path: Path, folder: str) -> None:
    """Out and in again, in the set's own format; and the shards are proved against both folders."""
    own = {"bccd": "voc", "coco_mini": "coco", "coco128_yolo": "yolo"}[folder]
    assert run("ingest", own, shared_data / folder, "--out", tmp_path / "one").exit_code == 0
    result = run("verify", tmp_path / "one", "--source", f"{own}:{shared_data / folder}")
    assert result.exit_code == 0 and "the same as in" in result.stdout, result.stderr
    result = run("export", tmp_path / "one", "--format", own, "--out", tmp_path / "set")
    assert result.exit_code == 0 and "flags: " not in result.stdout, result.stderr
    assert run("ingest", own, tmp_path / "set", "--out", tmp_path / "two").exit_code == 0

    def plain(key: str, split: str) -> str:
        return key.removeprefix("images/").removeprefix(f"{split}/") if own == "yolo" else key

    one, two = Shards(tmp_path / "one"), Shards(tmp_path / "two")
    same(one, two, plain)
    np.testing.assert_array_equal(*(np.sort(s.table.areas) for s in (one, two)))
    if own == "coco":
        assert first_difference(one, source_of(two)) is None


@pytest.mark.parametrize("name", ["coco", "voc", "yolo"])
def test_a_real_set_goes_through_other_formats(shared_data: Path, tmp_path: Path, name: str) -> None:
    """COCO's, but for its crowd flags and classes that no box has."""
    source = reader("coco")(shared_data / "coco_mini")
    calm = (replace(r, flags=r.flags & 0) for r in source.records if isinstance(r, Record))
    ingest(replace(source, records=calm), tmp_path / "one")
    export(Shards(tmp_path / "one"), name, tmp_path / "set")
    ingest(reader(name)(tmp_path / "set"), tmp_path / "two")
    same(Shards(tmp_path / "one"), Shards(tmp_path / "two"), lambda key, split: Path(key).name)


def sample(root: Path) -> dict[str, Any]:
    """A COCO set that ingest has to mend: boxes over the edge and outside, a size before rotation. Its JSON."""
    pictures = {"a.jpg": picture(0), "b.jpg": picture(1), "sub/c.jpg": picture(2), "turned.jpg": picture(3)}
    pictures["turned.jpg"] = tiny.encode(tiny.pixels(48, 64), orientation=6)
    boxes = [[1, 1, 5, 5], [60, 1, 9, 5], [70, 1, 5, 5], [2, 3, 4.5, 5.25]]
    rows = [box(10, bbox, area=20.5) for bbox in boxes] + [box(11, [3, 3, 9, 9], 17), box(13, [1, 2, 3, 4])]
    coco(root, pictures, rows)
    return json.loads((root / "annotations/instances_train.json").read_text())


def test_shards_are_proved_against_a_source_that_had_to_be_mended(tmp_path: Path) -> None:
    sample(tmp_path / "in")
    assert "box-clipped" in run("ingest", "coco", tmp_path / "in", "--out", tmp_path / "out").stdout
    result = run("verify", tmp_path / "out", "--source", f"coco:{tmp_path / 'in'}")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"4 images, 5 boxes: the same as in coco:{tmp_path / 'in'}\n"
    result = run("verify", tmp_path / "out", "--source", f"coco:{tmp_path / 'in'}", "--json")
    assert json.loads(result.stdout) == {"images": 4, "difference": None}


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "box": (
        lambda f: f["annotations"][3].update(bbox=[2, 3, 4.5, 5.5]),
        "(a.jpg): box 2: the shards have [2.0, 3.0, 6.5, 8.25], the source [2.0, 3.0, 6.5, 8.5]",
    ),
    "class": (
        lambda f: f["annotations"][4].update(category_id=3),
        "(b.jpg): class of box 0: the shards have 'dog', the source 'cat'",
    ),
    "flag": (
        lambda f: f["annotations"][4].update(iscrowd=1),
        "(b.jpg): flags of box 0: the shards have 0, the source 1",
    ),
    "area": (
        lambda f: f["annotations"][0].update(area=20.25),
        "(a.jpg): area of box 0: the shards have 20.5, the source 20.25",
    ),
    "one box less": (lambda f: f["annotations"].pop(), "(turned.jpg): boxes: the shards have 1, the source 0"),
    "id": (lambda f: f["images"][2].update(id=99), "(sub/c.jpg): id: the shards have 12, the source 99"),
    "key": (
        lambda f: f["images"].reverse(),
        "record 0 (a.jpg): key: the shards have 'a.jpg', the source 'turned.jpg'",
    ),
    "one image less": (
        lambda f: f["images"].pop(2),
        "(sub/c.jpg): key: the shards have 'sub/c.jpg', the source 'turned.jpg'",
    ),
    "the last image": (
        lambda f: f["images"].pop(),
        "split train: images: the shards have 4, such as 'turned.jpg', the source 3",
    ),
    "one image more": (
        lambda f: f["images"].append({"id": 77, "file_name": "d.jpg", "height": 48, "width": 64}),
        "split train: images: the shards have 4, the source 'd.jpg' too",
    ),
    "class name": (
        lambda f: f["categories"][0].update(name="car"),
        "classes: the shards have ('cat', 'dog'), the source ('car', 'dog')",
    ),
    "class id": (
        lambda f: (f["categories"][1].update(id=18), f["annotations"][4].update(category_id=18)),
        "class_ids: the shards have (3, 17), the source (3, 18)",
    ),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_the_first_difference_is_named(tmp_path: Path, kind: str) -> None:
    facts = sample(tmp_path / "in")
    ingest(reader("coco")(tmp_path / "in"), tmp_path / "out")
    put(tmp_path / "in/train/d.jpg", picture(9))
    change, expected = CHANGES[kind]
    change(facts)
    put(tmp_path / "in/annotations/instances_train.json", json.dumps(facts))
    result = run("verify", tmp_path / "out", "--source", f"coco:{tmp_path / 'in'}")
    assert result.exit_code == 1 and expected in result.stderr and len(result.stderr.splitlines()) == 1
    result = run("verify", tmp_path / "out", "--source", f"coco:{tmp_path / 'in'}", "--json")
    assert result.exit_code == 1 and set(json.loads(result.stdout)["difference"]) == {
        "place", "field", "shards", "source"
    }  # fmt: skip


def test_other_pixels_and_other_unions_are_named(joined: Path, tmp_path: Path) -> None:
    def found() -> str:
        return run("verify", joined, "--source", f"voc:{tmp_path / 'voc'}").stderr

    put(tmp_path / "voc/ImageSets/Main/trainval.txt", "a\nb")
    assert "unions: the shards have {'trainval': ['train', 'val']}, the source {}" in found()
    put(tmp_path / "voc/ImageSets/Main/trainval.txt", "a\nb\nc")
    assert found() == ""
    data = picture(0)
    put(tmp_path / "voc/JPEGImages/a.jpg", data + b"\0")
    assert f"(JPEGImages/a.jpg): image: the shards have {len(data)} bytes" in found()


def test_verify_takes_what_the_format_takes(joined: Path, tmp_path: Path) -> None:
    source = f"voc:{tmp_path / 'voc'}"
    result = run("verify", joined, "--source", source, "--voc-offset", 0)
    assert result.exit_code == 1 and "box 0: the shards have [0.0, 0.0," in result.stderr
    assert "does not take it" in run("verify", joined, "--source", source, "--annotations", "x.json").stderr
    assert "needs --source" in run("verify", joined, "--voc-offset", 0).stderr
    assert "expected FORMAT:ROOT" in run("verify", joined, "--source", "voc").stderr
    assert "unknown format" in run("verify", joined, "--source", "vocc:x").stderr

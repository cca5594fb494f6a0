"""`Shards`, and `dataforge info` and `dataforge verify` through the command."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner, Result

from dataforge.cli.main import main
from dataforge.errors import ShardError
from dataforge.images.header import probe
from dataforge.shards.index import read_index, write_index
from dataforge.shards.reader import Shards
from dataforge.shards.table import SCHEMA, read_tables
from dataforge.shards.writer import ShardWriter
from tests import tiny


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result


@pytest.fixture
def copy(tiny_shards: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_shards, tmp_path / "copy")


def test_pickles_as_its_path(tiny_shards: Path) -> None:
    shards = Shards(tiny_shards, "train")
    shards.blob(0), shards.table  # opened things do not travel
    data = pickle.dumps(shards)
    assert len(data) < 500
    again = pickle.loads(data)
    assert again.split == "train" and again.blob(3) == shards.blob(3)


@pytest.mark.parametrize("i", [-1, 10, 1 << 40])
def test_records_that_are_not_there(tiny_shards: Path, i: int) -> None:
    with pytest.raises(IndexError):
        Shards(tiny_shards, "train").blob(i)


def test_threads_share_it(tiny_shards: Path) -> None:
    shards, wrong = Shards(tiny_shards), []
    expected = [bytes(Shards(tiny_shards).blob(i)) for i in range(len(shards))]

    def work() -> None:
        for i in np.random.default_rng().permutation(len(shards)).tolist() * 20:
            if shards.blob(i) != expected[i]:
                wrong.append(i)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_info_counts_what_was_written(tiny_shards: Path) -> None:
    facts = json.loads(run("info", tiny_shards, "--json").stdout)
    records = tiny.records()
    labels = np.concatenate([record.labels for record in records])
    flags = np.concatenate([record.flags for record in records])
    split = {
        "images": 10,
        "boxes": len(labels),
        "empty": 1,
        "per_class": {name: int((labels == i).sum()) for i, name in enumerate(tiny.CLASSES)},
        "crowd": int((flags == 1).sum()),
        "difficult": int((flags == 2).sum()),
        "truncated": int((flags == 4).sum()),
    }
    assert facts["splits"] == {"train": split, "val": split}
    assert (facts["images"], facts["boxes"], facts["format_version"]) == (20, 2 * len(labels), 1)
    assert (facts["classes"], facts["store"], facts["codec"]) == (list(tiny.CLASSES), "lmdb", "keep")
    assert facts["bytes"] == 2 * sum(len(image) for image in tiny.images().values())
    assert facts["boxes_per_image"][2] == 300
    text = run("info", tiny_shards).stdout
    assert "20 images" in text and re.search(rf"traffic light +{split['per_class']['traffic light']} ", text)


def test_info_of_an_empty_set(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "s", ()) as writer:
        writer.publish()
    facts = json.loads(run("info", tmp_path / "s", "--json").stdout)
    assert (facts["images"], facts["boxes"], facts["splits"]) == (0, 0, {})
    assert run("info", tmp_path / "s").exit_code == run("verify", tmp_path / "s").exit_code == 0


def test_verify_finds_nothing_in_a_good_set(tiny_shards: Path) -> None:
    result = run("verify", tiny_shards)
    assert result.exit_code == 0 and result.stdout == "20 images checked, 0 faults\n"
    assert json.loads(run("verify", tiny_shards, "--json").stdout) == {"images": 20, "faults": []}


def faults(path: Path) -> list[str]:
    """What verify says, the same with and without --json."""
    plain, machine = run("verify", path), run("verify", path, "--json")
    assert plain.exit_code == machine.exit_code == 1
    found = [f"{fault['place']}: {fault['reason']}" for fault in json.loads(machine.stdout)["faults"]]
    assert plain.stderr.splitlines() == found and found
    return found


def flip(file: Path, at: int) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 0x80
    file.write_bytes(data)


def test_a_flipped_byte_in_an_image(copy: Path) -> None:
    file = copy / "val/00000/blobs.mdb"
    flip(file, file.read_bytes().index(tiny.images()["c.png"]) + 100)
    assert faults(copy) == [
        f"{copy}/val/00000 record 5 (c.png): the image's bytes are not those that were ingested "
        "(size or CRC-32 differs)"
    ]


def test_a_flipped_byte_in_a_table(copy: Path) -> None:
    file = copy / "train/00000/table.arrow"
    flip(file, file.read_bytes().index(tiny.records()[0].boxes.tobytes()) + 3)
    assert faults(copy) == [f"{file}: checksum is not the one in index.json"]
    with pytest.raises(ShardError, match=r"train/00000/table.arrow: is damaged: its checksum is not the one in index"):
        len(Shards(copy).table)


@pytest.mark.parametrize(
    ("remove", "expected"),
    [
        ("val/00000/blobs.mdb", r"val/00000 record 3 \(cmyk.jpg\): .*blobs.mdb: cannot be read"),
        ("val/00000/table.arrow", r"val/00000/table.arrow: is missing"),
        ("val/00000", r"val/00000/table.arrow: is missing"),
    ],
)
def test_a_deleted_part(copy: Path, remove: str, expected: str) -> None:
    if (copy / remove).is_dir():
        shutil.rmtree(copy / remove)
    else:
        (copy / remove).unlink()
    assert any(re.search(expected, fault) for fault in faults(copy))
    assert run("info", copy).exit_code == 2 * ("blobs" not in remove)


def test_a_store_that_is_cut_short(copy: Path) -> None:
    file = copy / "train/00000/blobs.mdb"
    os.truncate(file, file.stat().st_size // 2)
    assert re.search(r"train/00000 record 0 \(a.jpg\): .*blobs.mdb: is cut short, \d+ of \d+ bytes", faults(copy)[0])


def rewrite(file: Path, change: Callable[[list[dict]], None]) -> None:
    """Change a table's rows, and make its checksum in the index right again."""
    import zlib

    with pa.memory_map(str(file)) as source, pa.ipc.open_file(source) as reader:
        rows = reader.read_all().to_pylist()
    change(rows)
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
        writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=SCHEMA))
    index = read_index(file.parents[2])
    index["splits"][file.parents[1].name][0]["table_crc"] = zlib.crc32(file.read_bytes())
    write_index(file.parents[2], index)


def test_a_table_that_says_other_things_than_the_images(copy: Path) -> None:
    def change(rows: list[dict]) -> None:
        rows[0]["width"] += 1
        rows[1]["objects"][0]["label"] = 3
        rows[2]["objects"][1]["box"] = [1, 2, 1, 5]
        rows[3]["objects"][0]["box"] = [0, 0, 67, 5]
        rows[4]["orientation"] = 1
        rows[5]["size"] += 1
        rows[7]["objects"][0]["box"][0] = float("nan")

    rewrite(copy / "train/00000/table.arrow", change)
    at = f"{copy}/train/00000 record"
    expected = [
        f"{at} 0 (a.jpg): decodes to 64x48, the table says 65x48",
        f"{at} 1 (sub dir/b.jpg): label 3 names no class",
        f"{at} 2 (grey.jpg): box [1.0, 2.0, 1.0, 5.0] is not inside 70x40 with an area",
        f"{at} 3 (cmyk.jpg): box [0.0, 0.0, 67.0, 5.0] is not inside 66x52 with an area",
        f"{at} 4 (rotated.jpg): decodes to 72x44, the table says 44x72",
        f"{at} 5 (c.png): the image's bytes are not those that were ingested (size or CRC-32 differs)",
    ]
    found = faults(copy)
    assert found[:-1] == expected
    assert found[-1].startswith(f"{at} 7 (deep.png): box [nan")


def test_an_image_that_cannot_be_decoded_though_its_checksum_is_right(tmp_path: Path) -> None:
    torn = tiny.encode(tiny.pixels(48, 64))[:-200] + b"\xff\xd9"
    record = tiny.records()[0]
    with ShardWriter(tmp_path / "s", tiny.CLASSES) as writer:
        writer.add(record, torn, probe(torn))
        writer.publish()
    assert faults(tmp_path / "s")[0].startswith(f"{tmp_path}/s/train/00000 record 0 (a.jpg): cannot be decoded")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"format_version": 2}, "format_version is 2; this dataforge reads 1"),
        ({"format_version": None}, "format_version is None"),
        ({"splits": None}, "lacks splits"),
        ({"store": "tape"}, "unknown store 'tape'; known: lmdb"),
        ({"classes": ["a", 3, "b"]}, "Expected `str`, got `int` - at `$.classes[1]`"),
        ({"class_ids": [1]}, "has 3 classes, but 1 class_ids"),
        ({"splits": {"train": [{"path": "../x", "images": 1, "boxes": 1, "bytes": 1, "table_crc": 1}]}}, "path '../x'"),
        ({"splits": {"train": [{"path": "train/00000", "images": -1}]}}, "`int` >= 0 - at `$.splits[...][0].images`"),
        ({"codec": "raw"}, "codec is 'raw'; expected keep"),
    ],
)
def test_an_index_that_is_wrong(copy: Path, change: dict[str, object], expected: str) -> None:
    index = json.loads((copy / "index.json").read_text()) | change
    write_index(copy, {key: value for key, value in index.items() if value is not None or key == "format_version"})
    result = run("verify", copy)
    assert result.exit_code == 2 and expected in result.stderr and result.stderr.startswith("error: ")


def test_an_index_without_a_source(copy: Path) -> None:
    write_index(copy, {key: value for key, value in read_index(copy).items() if key not in ("source", "index_crc")})
    assert Shards(copy).info()["source"] == "" and run("info", copy).exit_code == 0


def test_an_index_with_half_a_character(copy: Path) -> None:
    index = {key: value for key, value in read_index(copy).items() if key != "index_crc"}
    (copy / "index.json").write_text(json.dumps({**index, "\ud800": 1}))
    result = run("info", copy)
    assert result.exit_code == 2 and "index.json" in result.stderr and "surrogates not allowed" in result.stderr


def test_an_index_without_checksum_is_read(copy: Path) -> None:
    """As those that were written before 2026-11-26 are."""
    index = read_index(copy)
    del index["index_crc"]
    (copy / "index.json").write_text(json.dumps(index))
    assert Shards(copy).info()["index_crc"] is None and "index.json has no checksum" in run("info", copy).stdout
    assert run("verify", copy).stdout == "20 images checked, 0 faults; index.json has no checksum\n"


@pytest.mark.parametrize("change", [{"classes": ["cat", "cow", "traffic light"]}, {"class_ids": [3, 17, 91]}])
def test_a_changed_index_does_not_have_its_checksum(copy: Path, change: dict[str, object]) -> None:
    index = read_index(copy)
    (copy / "index.json").write_text(json.dumps(index))  # another layout of the same contents
    assert Shards(copy).classes == tiny.CLASSES
    (copy / "index.json").write_text(json.dumps(index | change))
    for command in ("info", "verify"):
        assert "index.json: is damaged or was edited" in run(command, copy).stderr


def test_an_index_that_is_no_json(copy: Path) -> None:
    (copy / "index.json").write_text('{"format_version": 1,')
    result = run("info", copy)
    assert result.exit_code == 2 and "index.json: not JSON" in result.stderr


def test_an_index_that_counts_other_than_the_tables(copy: Path) -> None:
    index = read_index(copy)
    index["splits"]["train"][0]["images"] += 1
    write_index(copy, index)
    with pytest.raises(ShardError, match=r"tables hold 20 records, index\.json says 21"):
        len(Shards(copy).table)
    assert any("tables hold 20 records" in fault for fault in faults(copy))


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_folders_that_hold_no_shards(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    for command in ("info", "verify"):
        result = run(command, tmp_path / name)
        assert result.exit_code == 2
        assert re.fullmatch(
            rf"error: {tmp_path}/{name}: .*; expected a folder written by `dataforge ingest`\n", result.stderr
        )


def test_reading_a_table_leaves_no_writable_view(tiny_shards: Path) -> None:
    table = read_tables([tiny_shards / "train/00000/table.arrow"])
    with pytest.raises(ValueError, match="read-only"):
        table.boxes[0] = 0

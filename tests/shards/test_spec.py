"""`dataforge/shards/README.md` says what the code does."""

from __future__ import annotations

import json
import re
import struct
import zlib
from pathlib import Path

import pyarrow as pa
import pytest

import dataforge.shards
from dataforge.formats.coco import read
from dataforge.images import synth
from dataforge.ingest.run import ingest
from dataforge.shards.as_source import source_of
from dataforge.shards.cache_origin import SCHEMA as ORIGIN
from dataforge.shards.index import CODECS, FORMAT_VERSION, INDEX, LINK, REPORT
from dataforge.shards.reader import Shards
from dataforge.shards.stores.registry import BLOBS, store
from dataforge.shards.table import OBJECT, SCHEMA
from dataforge.shards.writer import SHARD_BYTES
from dataforge.transform.bake import Form, bake

TEXT = (Path(dataforge.shards.__file__).parent / "README.md").read_text("utf-8")


def tables(heading: str) -> list[list[list[str]]]:
    """The cells of each table below a heading, backticks off."""
    section = re.split(r"^## ", TEXT.partition(f"## {heading}\n")[2], maxsplit=1, flags=re.M)[0]
    bodies = re.findall(r"^\|-.*\n((?:\|.*\n)+)", section, re.M)
    return [
        [[cell.strip().strip("`") for cell in line.split("|")[1:-1]] for line in body.splitlines()] for body in bodies
    ]


def rows(heading: str) -> list[list[str]]:
    """The rows of all tables below a heading."""
    return [row for table in tables(heading) for row in table]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("spec")
    synth.write(root / "pictures", images=20)
    ingest(read(root / "pictures"), root / "shards", source_name="coco")
    return root / "shards"


def test_the_version() -> None:
    assert TEXT.startswith(f"# Shards on disk, format version {FORMAT_VERSION}\n")


def test_the_index(made: Path) -> None:
    index = json.loads((made / INDEX).read_text())
    assert [row[0] for row in rows("`index.json`")] == list(index)
    example = json.loads(re.search(r"```json\n(.*?)```", TEXT, re.S)[1])  # type: ignore[index]
    for shown in (example, index):
        for shards in shown["splits"].values():
            for shard in shards:
                assert shard.keys() == {"path", "images", "boxes", "bytes", "table_crc"}
                del shard["bytes"], shard["table_crc"]  # another release of a codec may write other bytes
        del shown["index_crc"]
    assert example == index
    assert Shards(made).fingerprint == f"{zlib.crc32((made / INDEX).read_bytes()):08x}"


def test_the_columns() -> None:
    kinds = {"string": pa.string(), "list of struct": pa.list_(OBJECT), "4 x float32": pa.list_(pa.float32(), 4)}
    kinds |= {name: getattr(pa, name)() for name in ("int64", "int32", "uint8", "uint32", "float32")}
    stated = [(name, kinds[kind]) for name, kind, _ in rows("`table.arrow`")]
    columns = [(field.name, field.type) for field in [*SCHEMA, *OBJECT]]
    assert stated == columns


def test_the_files(made: Path) -> None:
    found = {path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file()}
    shards = {f"{split}/00000/{name}" for split in ("train", "val") for name in ("table.arrow", "blobs.mdb")}
    assert found == {INDEX, REPORT} | shards
    assert SHARD_BYTES == 1 << 30
    stores = next(row[1] for row in rows("`index.json`") if row[0] == "store")
    assert set(re.findall(r"`(\w+)`", "`" + stores + "`")) == {*BLOBS, LINK}


def test_stores_and_their_files(tmp_path: Path) -> None:
    from dataforge.shards.stores.memmap import MAGIC
    from dataforge.shards.stores.zarr import CHUNK, SHARD

    for name in BLOBS:
        (tmp_path / name).mkdir()
        blobs = store(name).create(tmp_path / name)
        blobs.append(bytes(5))
        blobs.close()
    found = {name: {file.name for file in (tmp_path / name).iterdir()} for name in BLOBS}
    assert found.pop("rows") == {"5", "meta.json"} and "## `<shape>/`\n" in TEXT
    assert found == {"lmdb": {"blobs.mdb"}, "memmap": {"blobs.bin"}, "zarr": {"blobs.zarr"}}
    assert all(f"## `{name}`\n" in TEXT for files in found.values() for name in files)
    assert f"`{MAGIC.decode()[:-1]}\\n`" in TEXT
    assert f"chunks of {CHUNK >> 10} KiB and shards of {SHARD >> 20} MiB" in TEXT


def test_caches(made: Path, tmp_path: Path) -> None:
    bake(Shards(made), tmp_path / "cache", Form(shapes=((32, 48),), raw=True))
    index = json.loads((tmp_path / "cache" / INDEX).read_text())
    plain, (codecs, keys, columns) = json.loads((made / INDEX).read_text()), tables("Caches")
    assert set(index) == {*plain, "baked"}
    assert [row[0] for row in codecs] == [codec for codec in CODECS if codec != "keep"]
    assert [row[0] for row in keys] == list(index["baked"])
    stated = next(row[1] for row in keys if row[0] == "form")
    assert re.findall(r"`(\w+)`", stated + "`") == list(index["baked"]["form"])
    kinds = {"int32": pa.int32(), "6 x float64": pa.list_(pa.float64(), 6)}
    assert [(name, kinds[kind]) for name, kind, _ in columns] == [(field.name, field.type) for field in ORIGIN]
    assert zlib.crc32((tmp_path / "cache/origin.arrow").read_bytes()) == index["baked"]["origin_crc"]


def test_linked_shards(made: Path, tmp_path: Path) -> None:
    ingest(source_of(Shards(made)), tmp_path / "linked", store_name=LINK)
    plain, index = (json.loads((path / INDEX).read_text()) for path in (made, tmp_path / "linked"))
    assert set(index) == {*plain, "parents"} and index["store"] == LINK
    assert [{row[0] for row in rows("Linked shards")}] == [set(parent) for parent in index["parents"]]
    links = store("memmap").open(tmp_path / "linked/val/00000")
    assert [struct.unpack("<QQ", link) for link in map(links.__getitem__, range(4))] == [(0, 16 + n) for n in range(4)]


def test_the_table_is_one_uncompressed_batch_without_nulls(made: Path) -> None:
    with pa.memory_map(str(made / "train/00000/table.arrow")) as file, pa.ipc.open_file(file) as reader:
        assert reader.num_record_batches == 1
        before = pa.total_allocated_bytes()
        batch = reader.get_batch(0)
        assert pa.total_allocated_bytes() == before  # compressed columns would have been unpacked
        assert all(column.null_count == 0 for column in batch.columns)

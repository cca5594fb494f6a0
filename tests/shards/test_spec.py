"""`dataforge/shards/README.md` says what the code does."""

from __future__ import annotations

import json
import re
import zlib
from pathlib import Path

import pyarrow as pa
import pytest

import dataforge.shards
from dataforge import synth
from dataforge.formats.coco import read
from dataforge.ingest import ingest
from dataforge.shards import BLOBS, FORMAT_VERSION, INDEX, REPORT
from dataforge.shards.reader import Shards
from dataforge.shards.table import OBJECT, SCHEMA
from dataforge.shards.writer import SHARD_BYTES

TEXT = (Path(dataforge.shards.__file__).parent / "README.md").read_text("utf-8")


def rows(heading: str) -> list[list[str]]:
    """The cells of the tables below a heading, backticks off."""
    section = re.split(r"^## ", TEXT.partition(f"## {heading}\n")[2], maxsplit=1, flags=re.M)[0]
    bodies = re.findall(r"^\|-.*\n((?:\|.*\n)+)", section, re.M)
    lines = "".join(bodies).splitlines()
    return [[cell.strip().strip("`") for cell in line.split("|")[1:-1]] for line in lines]


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
    assert SHARD_BYTES == 1 << 30 and set(BLOBS) == {"lmdb"}


def test_the_table_is_one_uncompressed_batch_without_nulls(made: Path) -> None:
    with pa.memory_map(str(made / "train/00000/table.arrow")) as file, pa.ipc.open_file(file) as reader:
        assert reader.num_record_batches == 1
        before = pa.total_allocated_bytes()
        batch = reader.get_batch(0)
        assert pa.total_allocated_bytes() == before  # compressed columns would have been unpacked
        assert all(column.null_count == 0 for column in batch.columns)

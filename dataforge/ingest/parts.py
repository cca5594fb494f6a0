"""The parts of an ingest, each written by a process or machine of its own, as one set."""

from __future__ import annotations

import heapq
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import msgspec

from dataforge.cloud.path import RemotePath, located
from dataforge.cloud.upload import staged
from dataforge.errors import ConfigError, ShardError
from dataforge.files import reading
from dataforge.ingest.journal import file_sizes
from dataforge.ingest.limits import Limits
from dataforge.ingest.report import Summary, open_report
from dataforge.record import Finding
from dataforge.shards.index import INDEX, JOURNAL, PART, POLYGONS_FILE, REPORT, read_index
from dataforge.shards.judged import FILE as JUDGED_FILE
from dataforge.shards.writer import ShardWriter

CRCS = {"table.arrow": "table_crc", POLYGONS_FILE: "polygons_crc", JUDGED_FILE: "judged_crc"}


class _Options(msgspec.Struct):
    shard_bytes: int
    decode_check: bool
    max_bad: int
    max_bad_boxes: int | None


class _Facts(msgspec.Struct):
    """What `part.json` states besides an index, see shards/README.md."""

    number: tuple[int, int]
    options: _Options
    made: dict[str, Any]
    firsts: dict[str, int]
    records: int
    records_crc: int
    sizes: dict[str, int]


@dataclass(frozen=True)
class _Part:
    path: Path
    index: dict[str, Any]
    facts: _Facts

    def rows(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield (split, row of the index) of each shard."""
        for split, rows in self.index["splits"].items():
            for row in rows:
                yield split, row

    def settings(self) -> dict[str, Any]:
        """Return what must be the same in all parts, by names for messages."""
        given = {name: value for name, value in self.index.items() if name not in ("splits", "part", "index_crc")}
        records = f"{self.facts.records} records with checksum {self.facts.records_crc:08x}"
        version = self.facts.made.get("dataforge")
        number = {"number of parts": self.facts.number[1], "version of dataforge": version}
        return (
            number | given | msgspec.structs.asdict(self.facts.options) | {"annotations and sizes of images": records}
        )

    def check(self) -> None:
        """Raise a ShardError unless all files have the sizes, and all tables the checksums, that were written."""
        with reading(self.path, ShardError):
            sizes = {name: n for name, n in file_sizes(self.path).items() if name not in (PART, JOURNAL)}
        wrong = sorted(set(sizes.items()) ^ set(self.facts.sizes.items()))
        if wrong:
            raise ShardError(f"{self.path / wrong[0][0]}: is missing, cut or new since the part was written")
        for _, row in self.rows():
            for name, key in CRCS.items():
                file = self.path / row["path"] / name
                with reading(file, ShardError):
                    if key in row and zlib.crc32(file.read_bytes()) != row[key]:
                        raise ShardError(f"{file}: is damaged: its checksum is not the one in {PART}")

    def findings(self) -> Iterator[tuple[int, Finding]]:
        """Yield (number of the item in the source, finding) for each line of the report but the last."""
        file = self.path / REPORT
        try:
            with reading(file, ShardError), open(file, encoding="utf-8", errors="surrogateescape") as lines:
                for facts in map(json.loads, lines):
                    if "item" in facts:
                        yield facts.pop("item"), Finding.from_facts(facts)
        except (ValueError, TypeError) as error:
            raise ShardError(f"{file}: is damaged: {error}") from None


def merge_parts(folders: Sequence[Path], out: Path) -> Summary:
    """Publish the parts of an ingest as the set that one process would have written, the same in every byte.

    Only the last line of the report states that there were parts. Files are linked if `out` is on the same disk, else
    copied; the parts stay as they are.

    Args:
        folders: those that `ingest(..., part=(i, n))` wrote, in any order.
        out: as for `ingest`.

    Raises:
        ConfigError: parts are missing, given twice, or of different ingests. ShardError: one is unfinished, damaged, or
            `out` cannot be written. IngestError: the parts together refused more than allowed, or nothing is left.
    """
    out = located(out)
    parts = sorted(map(_read, folders), key=lambda part: part.facts.number)
    _check_set(parts)
    for part in parts:
        part.check()
    first, summary = parts[0], Summary(out)
    index, options = first.index, first.facts.options
    with (
        staged(out, INDEX, REPORT) as (folder, send),
        ShardWriter(
            folder,
            index["classes"],
            index["class_ids"],
            index["unions"],
            store_name=index["store"],
            source=index["source"],
            depth=index.get("depth", "scale"),
            frequencies=index.get("frequencies"),
            ancestors=index.get("ancestors"),
            send=send,
        ) as writer,
    ):
        with open_report(folder / REPORT) as write:
            for _, finding in heapq.merge(*(part.findings() for part in parts), key=itemgetter(0)):
                summary.count(finding)
                write(finding.facts())
            shards = [(part.path, split, row) for part in parts for split, row in part.rows()]
            summary.images = sum(row["images"] for _, _, row in shards)
            summary.boxes = sum(row["boxes"] for _, _, row in shards)
            write(summary.facts() | {"made": _made(first, out)})
        Limits(options.max_bad, options.max_bad_boxes).check(summary)
        for split in sorted({split for _, split, _ in shards}, key=lambda split: _first(parts, split)):
            rows = [(int(Path(row["path"]).name), path, row) for path, name, row in shards if name == split]
            for _, path, row in sorted(rows, key=itemgetter(0)):
                writer.adopt(split, row, path / row["path"])
        writer.publish()
    return summary


def _read(folder: Path) -> _Part:
    if isinstance(folder, RemotePath):
        raise ConfigError(f"{folder}: is at a URL; expected the folder of a part")
    index = read_index(folder, PART)
    try:
        facts = msgspec.convert(index.get("part"), _Facts)
    except msgspec.ValidationError as error:
        raise ShardError(f"{folder / PART}: {error}") from None
    if facts.firsts.keys() != index["splits"].keys():
        raise ShardError(f"{folder / PART}: splits {list(index['splits'])}, but firsts of {list(facts.firsts)}")
    return _Part(folder, index, facts)


def _check_set(parts: Sequence[_Part]) -> None:
    """Raise a ConfigError unless these are all parts of one ingest."""
    first = parts[0]
    expected = first.settings()
    for part in parts[1:]:
        settings = part.settings()
        for name in expected | settings:
            ours, theirs = settings.get(name), expected.get(name)
            if ours != theirs:
                raise ConfigError(
                    f"{part.path}: {name}: {ours}, but {theirs} in {first.path}; expected the parts of one ingest"
                )
    by_number: dict[int, Path] = {}
    for part in parts:
        number = part.facts.number[0]
        if number in by_number:
            raise ConfigError(f"{part.path}: is part {number}, as {by_number[number]} is; expected each part once")
        by_number[number] = part.path
    of = first.facts.number[1]
    missing = [str(n) for n in range(1, of + 1) if n not in by_number]
    if missing:
        listed = ", ".join(missing[:20]) + (f" and {len(missing) - 20} more" if len(missing) > 20 else "")
        raise ConfigError(f"of {of} parts, these are missing: {listed}; run `dataforge ingest --part I/{of}` for each")


def _first(parts: Sequence[_Part], split: str) -> int:
    """Return the number of the first accepted item of a split, by which the index orders splits."""
    return min(part.facts.firsts[split] for part in parts if split in part.facts.firsts)


def _made(part: _Part, out: Path) -> dict[str, Any]:
    """Return how the set was made: as its first part, but for what only a part has."""
    made = part.facts.made
    if isinstance(given := made.get("given"), dict):
        kept = {name: value for name, value in given.items() if name not in ("part", "resume", "as_json")}
        made = made | {"given": kept | {"out": str(out.absolute())}}
    return made | {"parts": part.facts.number[1]}

"""Journal of an unfinished ingest: its closed shards and the records in them."""

from __future__ import annotations

import json
import os
import zlib
from collections import Counter
from pathlib import Path
from typing import IO, Any

from numpy.typing import NDArray

from dataforge.errors import ShardError
from dataforge.files import reading, writing
from dataforge.record import Finding, Record
from dataforge.shards.index import JOURNAL, PART
from dataforge.shards.judged import read_judged
from dataforge.shards.stores.registry import store
from dataforge.shards.table import read_tables


class Journal:
    """`resume.jsonl`: the settings of the ingest, then one line per closed shard. It exists only while unfinished.

    A line contains the shard's row of the index, the sizes of its files, a checksum of each record that the source
    yielded for it (including refused ones), and the findings in them, by position in the line; and, last, "crc": the
    CRC-32 of this line without it, continued from the line before. Journals of before 2026-11-26 lack sizes and "crc".

    Args:
        out: the folder, which the caller has locked.
        begun: settings that must be the same on resuming: classes, options, ...
        resume: continue from the existing lines instead of starting anew.

    Raises:
        ShardError: the settings differ, or a shard does not match the journal.
    """

    def __init__(self, out: Path, begun: dict[str, Any], *, resume: bool) -> None:
        self._out, self._begun = out, begun
        self._file: IO[bytes] | None = None
        self.shards: dict[str, list[dict[str, Any]]] = {}
        self._sums: dict[str, list[int]] = {}
        self._found: dict[str, dict[int, list[Finding]]] = {}
        self._done: Counter[str] = Counter()
        self._new: dict[str, tuple[list[int], dict[int, list[Finding]]]] = {}
        self._crc, self._summed = 0, False  # of the lines so far; whether they state it
        self._whole = self._read() if resume else 0
        if resume:
            with writing(out, ShardError):
                (out / PART).unlink(missing_ok=True)  # not complete until it has been checked again

    def _read(self) -> int:
        """Read the existing lines, and return how many bytes of them are complete."""
        path, whole = self._out / JOURNAL, 0
        if not path.exists():
            return 0
        with reading(path, ShardError):
            lines = path.read_bytes().splitlines(keepends=True)
        for n, line in enumerate(lines):
            if not line.endswith(b"\n"):  # interrupted while it was written
                break
            try:
                facts = json.loads(line)
                stated = facts.pop("crc", None)
                self._summed = stated is not None if n == 0 else self._summed
                self._crc = _crc(facts, self._crc)
                if self._summed and stated != self._crc:
                    raise ValueError("its checksum differs")
                facts |= {"depth": facts.get("depth", "scale")} if n == 0 else {}  # of journals before it existed
                self._check_begun(facts) if n == 0 else self._add(facts)
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                raise ShardError(f"{path}: line {n + 1} is damaged ({error}); {self._afresh()}") from None
            whole += len(line)
        return whole if self.shards else 0

    def _check_begun(self, facts: dict[str, Any]) -> None:
        for name, value in json.loads(json.dumps(self._begun)).items():
            if facts.get(name) != value:
                raise ShardError(
                    f"{self._out}: was begun with {name} {facts.get(name)!r}, now it is {value!r}; {self._afresh()}"
                )

    def _add(self, line: dict[str, Any]) -> None:
        row = line["shard"]
        split = row["path"].rpartition("/")[0]
        folder = self._out / row["path"]
        try:
            table = read_tables([folder / "table.arrow"], [row["table_crc"]], [row.get("polygons_crc")])
            _ = table.polygons  # are checked too
            read_judged([folder], [row["images"]], [row.get("judged_crc")], len(self._begun["classes"]))
            blobs = store(self._begun["store"]).open(folder, trust=False)
            sound = len(blobs) == len(table) == row["images"] and line.get("sizes") in (None, file_sizes(folder))
            sound = sound and all(zlib.crc32(blobs[i]) == crc for i, crc in enumerate(table.crc.tolist()))
        except ShardError as error:
            raise ShardError(f"{error}; {self._afresh()}") from None
        if not sound:
            raise ShardError(f"{folder}: is not the shard that was written; {self._afresh()}")
        self.shards.setdefault(split, []).append(row)
        sums = self._sums.setdefault(split, [])
        for n, findings in line["findings"].items():
            self._found.setdefault(split, {})[len(sums) + int(n)] = list(map(Finding.from_facts, findings))
        sums += line["records"]

    def passed(self, record: Record) -> list[Finding] | None:
        """Return the findings in a record that a closed shard accounts for; None for a record still to be processed.

        Raises:
            ShardError: the record differs from the one in the journal.
        """
        n, sums = self._done[record.split], self._sums.get(record.split, ())
        if n >= len(sums):
            return None
        self._done[record.split] += 1
        if sums[n] not in (checksum(record), _checksum_before(record)):
            raise ShardError(
                f"{self._out}: split {record.split}, record {n} ({record.key!r}): its annotation, or its image's size "
                f"or time, is not what it was when the ingest was interrupted; {self._afresh()}"
            )
        return self._found.get(record.split, {}).get(n, [])

    def check_end(self) -> None:
        """Check that the source yielded every record that the closed shards account for.

        Raises:
            ShardError: it has fewer records than before.
        """
        for split, sums in self._sums.items():
            if self._done[split] < len(sums):
                raise ShardError(
                    f"{self._out}: split {split}: the source has {self._done[split]} records, where {len(sums)} had "
                    f"been written when the ingest was interrupted; {self._afresh()}"
                )

    def note(self, split: str, summed: int, of_record: list[Finding]) -> None:
        """Note that a record was processed. It counts once its shard is closed."""
        sums, findings = self._new.setdefault(split, ([], {}))
        if of_record:
            findings[len(sums)] = of_record
        sums.append(summed)

    def close_shard(self, row: dict[str, Any]) -> None:
        """Record that a shard is on disk, with all records of its split since the previous one.

        Raises:
            ShardError: it cannot be written.
        """
        sums, noted = self._new.pop(row["path"].rpartition("/")[0])
        findings = {str(n): [finding.facts() for finding in of_record] for n, of_record in noted.items()}
        sizes = file_sizes(self._out / row["path"])
        facts = {"shard": row, "sizes": sizes, "records": sums, "findings": findings}
        with writing(self._out / JOURNAL, ShardError):
            if self._file is None:
                self._file = open(self._out / JOURNAL, "r+b" if self._whole else "wb")  # noqa: SIM115
                self._file.truncate(self._whole)
                self._file.seek(self._whole)
                if not self._whole:
                    self._crc, self._summed = 0, True
                    self._file.write(self._line(self._begun))
            self._file.write(self._line(facts))
            self._file.flush()
            os.fsync(self._file.fileno())

    def _line(self, facts: dict[str, Any]) -> bytes:
        """Return a line of the journal, with its checksum unless the journal has none."""
        self._crc = _crc(facts, self._crc)
        return json.dumps({**facts, "crc": self._crc} if self._summed else facts).encode() + b"\n"

    def _afresh(self) -> str:
        """Return how to start again. A complete part has to be removed first."""
        first = "remove the folder and " if (self._out / PART).exists() else ""
        return f"{first}run it without --resume to start again"

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def _crc(facts: dict[str, Any], before: int) -> int:
    return zlib.crc32(json.dumps(facts).encode(), before)


def file_sizes(folder: Path) -> dict[str, int]:
    """Return the size of each file of a shard."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): file.stat().st_size for file in files}


def checksum(record: Record) -> int:
    """Return the CRC-32 of all data of a record, and of its image: the bytes, or the file's path, size and time.

    The path is made absolute, so that the same folder may be given in a different way.
    """
    facts = (record.key, record.id, record.height, record.width)
    path = os.path.abspath(record.image) if isinstance(record.image, Path) else ""  # noqa: PTH100  (links stay)
    return _checksum(record, facts, _image(record, path))


def _checksum_before(record: Record) -> int:
    """Return the checksum as in journals of dataforge 0.1.0: with the paths as they were given."""
    facts = (record.key, record.id, record.height, record.width, record.origin)
    return _checksum(record, facts, _image(record, str(record.image)))


def checksum_anywhere(record: Record, size: int) -> int:
    """Return the CRC-32 of the data of a record on any machine: of its image only the size in bytes."""
    return _checksum(record, (record.split, record.key, record.id, record.height, record.width), (size,))


def _image(record: Record, path: str) -> tuple[object, ...]:
    if not isinstance(record.image, Path):
        return (zlib.crc32(record.image),)
    try:
        stat = record.image.stat()
    except (OSError, ValueError):
        return (path,)
    return path, stat.st_size, stat.st_mtime_ns


def _checksum(record: Record, facts: tuple[object, ...], image: tuple[object, ...]) -> int:
    areas = record.areas
    facts = (*facts, areas is None, *image)
    polygons = record.polygons
    columns: list[NDArray[Any] | None] = [record.boxes, record.labels, record.flags, areas, record.judged]
    columns += [] if polygons is None else [polygons.points, polygons.rings, polygons.boxes]
    text = repr(facts).encode("utf-8", "backslashreplace")
    return zlib.crc32(b"".join([text, *(column.tobytes() for column in columns if column is not None)]))

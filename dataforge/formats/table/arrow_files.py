"""Readers of CSV, TSV, JSON lines, Parquet, Arrow, Feather, TFRecord and WebDataset files as Arrow rows."""

from __future__ import annotations

import codecs
import csv
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dataforge.archives.path import ArchivePath
from dataforge.errors import FormatError
from dataforge.files import mapped
from dataforge.formats.table import cells
from dataforge.formats.table.cells import NUMBER
from dataforge.formats.table.samples import TAR, Samples
from dataforge.formats.table.tfrecord import TfRecords
from dataforge.record import Finding

CSV = (".csv", ".tsv", ".txt")
JSON_LINES = (".jsonl", ".ndjson")
PARQUET = (".parquet",)
ARROW = (".arrow", ".feather")
TFRECORD = (".tfrecord", ".tfrecords", ".tfrec", ".record")
SUFFIXES = (*CSV[:2], *JSON_LINES, *PARQUET, *ARROW, *TFRECORD, *TAR)
NESTED = ("objects", "annotations")  # columns that may be JSON
RETINANET = ["path", "x1", "y1", "x2", "y2", "class"]

Rows = tuple[Any, NDArray[np.int64]]  # a pyarrow Table or RecordBatch, and its 1-based row numbers in the file


@dataclass(frozen=True)
class ArrowFile:
    """Attributes:
    schema: the columns.
    rows: (column paths, rows per batch, a list to which broken rows are appended) -> batches of the file.
    folder: the folder of its pictures, if they are in the file; members: files in it that were read.
    """

    path: Path
    schema: pa.Schema
    rows: Callable[[list[str], int, list[Finding]], Iterator[Rows]]
    folder: Path | None = None
    members: tuple[Path, ...] = ()


def suffix_of(path: Path) -> str:
    """Return the suffix of a table: `.record` also for `train.record-00000-of-00010`."""
    return re.sub(r"-\d{5}-of-\d{5}$", "", path.suffix.lower())


def open_file(path: Path) -> ArrowFile:
    """Open a file according to its suffix and read its schema. Use this and its result inside `reading`.

    Raises:
        FormatError: the suffix is not known, the file is empty, or a column name is duplicated.
    """
    suffix = suffix_of(path)
    kinds = (
        (CSV, _csv),
        (JSON_LINES, _json),
        (PARQUET, _parquet),
        (ARROW, _arrow),
        (TFRECORD, _tfrecord),
        (TAR, _samples),
    )
    for suffixes, opened in kinds:
        if suffix in suffixes:
            return opened(path)
    known = ", ".join(suffix for suffixes, _ in kinds for suffix in suffixes)
    raise FormatError(f"{path}: suffix {suffix!r}; expected a table, one of {known}")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Convert Arrow, text and file errors inside the context to a `FormatError` for this file.

    Raises:
        FormatError: the file cannot be read, is truncated, or does not match its suffix.
    """
    try:
        yield
    except (pa.ArrowException, OSError, csv.Error, UnicodeDecodeError) as error:
        text = _not_text(path) if path.suffix.lower() in (*CSV, *JSON_LINES) else ""
        reason = text or f"cannot be read as {path.suffix[1:].lower()}: {getattr(error, 'strerror', None) or error}"
        raise FormatError(f"{path}: {reason}") from None


def _not_text(path: Path) -> str:
    """Return a message with the first position in a text file that is not UTF-8, or ""."""
    number = 0
    try:
        with path.open("rb") as file:
            for line in file:
                number += 1
                line.decode()
    except UnicodeDecodeError as error:
        return f"not UTF-8 text: byte {error.object[error.start]:#04x} in line {number}"
    except OSError:
        pass
    return ""


def _csv(path: Path) -> ArrowFile:
    with path.open(encoding="utf-8", newline="") as text:  # pyarrow fails on a broken row that is not UTF-8
        while text.read(1 << 20):
            pass
    first = 0  # 0-based line number of the first row
    with path.open("rb") as file:
        for line in file:
            head = line.decode("utf-8-sig").strip("\r\n")
            if head.strip():
                break
            first += 1
        else:
            raise FormatError(f"{path}: the file is empty; expected a table")
    delimiter = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=head.count)
    names = [name.strip() for name in next(csv.reader([head], delimiter=delimiter))]
    numbers = pa.array(names[1:5], pa.string())
    if len(names) == 6 and pc.match_substring_regex(numbers, f"^$|{NUMBER}").to_numpy(zero_copy_only=False).all():
        names = RETINANET  # the file has no header
    else:
        first += 1
    _each_once(path, names)
    schema = pa.schema([(name, pa.string()) for name in names])

    def rows(columns: list[str], size: int, findings: list[Finding]) -> Iterator[Rows]:
        broken: list[int] = []

        def note(row: Any) -> str:
            broken.append(row.number)
            text = row.text if len(row.text) <= 60 else row.text[:57] + "..."
            hint = "; decimal commas?" if row.actual_columns > row.expected_columns else ""
            reason = f"{row.actual_columns} columns, expected {row.expected_columns}{hint}; left out"
            findings.append(Finding("refused", "line-broken", str(path), "", f"row {row.number}: {text}", reason))
            return "skip"

        table = pyarrow.csv.read_csv(
            path.open("rb") if isinstance(path, ArchivePath) else path,
            pyarrow.csv.ReadOptions(use_threads=False, column_names=names, skip_rows=first),
            pyarrow.csv.ParseOptions(delimiter=delimiter, invalid_row_handler=note),
            pyarrow.csv.ConvertOptions(column_types=schema, include_columns=columns, strings_can_be_null=False),
        )
        count = len(table) + len(broken)
        yield table, np.setdiff1d(np.arange(first + 1, first + 1 + count), np.array(broken, np.int64))

    table = ArrowFile(path, schema, rows)
    for name in NESTED:
        table = _nested(table, name) if name in names else table
    return table


def _nested(file: ArrowFile, name: str) -> ArrowFile:
    """Return a CSV file with a column of JSON text as nested values: Hugging Face's imagefolder with metadata.csv."""
    ((table, numbers),) = file.rows([name], 0, [])
    texts = cells.texts(table.column(0).combine_chunks()).to_pylist()
    if not next(filter(None, texts), "").startswith(("{", "[")):
        return file
    lines = []
    for number, text in zip(numbers.tolist(), texts, strict=True):
        try:
            lines.append(json.dumps({name: json.loads(text)} if text else {}).encode())
        except ValueError as error:
            shown = text if len(text) <= 60 else text[:57] + "..."
            raise FormatError(f"{file.path}: row {number}: {name}: {shown}; expected JSON: {error}") from None
    data = b"\n".join(lines)
    column = pyarrow.json.read_json(pa.BufferReader(data), pyarrow.json.ReadOptions(block_size=len(data))).column(name)
    schema = file.schema.set(file.schema.get_field_index(name), pa.field(name, column.type))

    def rows(columns: list[str], size: int, findings: list[Finding]) -> Iterator[Rows]:
        tops = dict.fromkeys(name if _names(name, path) else path for path in columns)
        for table, numbers in file.rows([*tops], size, findings):
            place = table.schema.get_field_index(name)
            yield (table if place < 0 else table.set_column(place, name, column)), numbers

    return ArrowFile(file.path, schema, rows)


def _json(path: Path) -> ArrowFile:
    with path.open("rb") as file:
        if file.read(3) != codecs.BOM_UTF8:
            file.seek(0)
        # one block, because a row must not exceed a block, and types are inferred per block
        block = min(max(path.stat().st_size, 1), (1 << 31) - 1)
        table = pyarrow.json.read_json(file, pyarrow.json.ReadOptions(block_size=block))
    table.validate(full=True)
    return ArrowFile(path, table.schema, lambda columns, size, findings: _numbered(iter(table.to_batches(size))))


def _parquet(path: Path) -> ArrowFile:
    where = pa.BufferReader(pa.py_buffer(mapped(path))) if isinstance(path, ArchivePath) else path
    with pq.ParquetFile(where) as file:
        schema = file.schema_arrow
    _each_once(path, schema.names)

    def rows(columns: list[str], size: int, findings: list[Finding]) -> Iterator[Rows]:
        # the fields of a struct are read separately; a list of structs is read as a whole
        whole = {name for name in schema.names if not pa.types.is_struct(schema.field(name).type)}
        wanted = [max((n for n in whole if _names(n, path)), key=len, default=path) for path in columns]
        with pq.ParquetFile(where, pre_buffer=False, buffer_size=1 << 20) as file:
            for batch, numbers in _numbered(file.iter_batches(batch_size=size, columns=wanted, use_threads=False)):
                batch.validate(full=True)
                yield batch, numbers

    return ArrowFile(path, schema, rows)


def _arrow(path: Path) -> ArrowFile:
    def batches() -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
        data = pa.py_buffer(mapped(path))
        try:
            file = pa.ipc.open_file(data)
        except pa.ArrowInvalid:
            stream = pa.ipc.open_stream(data)  # the format written by Hugging Face's save_to_disk
            return stream.schema, iter(stream)
        return file.schema, (file.get_batch(n) for n in range(file.num_record_batches))

    schema, _ = batches()
    _each_once(path, schema.names)

    def rows(columns: list[str], size: int, findings: list[Finding]) -> Iterator[Rows]:
        tops = [name for name in schema.names if any(_names(name, path) for path in columns)]
        done = 0
        for whole in batches()[1]:
            batch = whole.select(tops)
            batch.validate(full=True)  # offsets in a mapped file are untrusted
            for part, numbers in _numbered(batch.slice(n, size) for n in range(0, batch.num_rows, size)):
                yield part, numbers + done
            done += batch.num_rows

    return ArrowFile(path, schema, rows)


def _tfrecord(path: Path) -> ArrowFile:
    records = TfRecords(path)
    return ArrowFile(path, records.schema, lambda columns, size, _: _numbered(records.batches(columns, size)))


def _samples(path: Path) -> ArrowFile:
    samples = Samples(path)

    def rows(columns: list[str], size: int, findings: list[Finding]) -> Iterator[Rows]:
        findings += samples.findings
        return _numbered(iter(samples.table.to_batches(size)))

    return ArrowFile(path, samples.table.schema, rows, samples.folder, tuple(samples.members))


def _names(top: str, path: str) -> bool:
    return path == top or path.startswith(top + ".")


def _numbered(batches: Iterator[pa.RecordBatch]) -> Iterator[Rows]:
    start = 1
    for batch in batches:
        yield batch, np.arange(start, start + batch.num_rows)
        start += batch.num_rows


def _each_once(path: Path, names: list[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise FormatError(f"{path}: column {name!r} is given twice; columns found: {', '.join(names)}")
        seen.add(name)

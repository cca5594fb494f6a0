"""WebDataset tars as Arrow rows: the members of one name up to its first dot are a sample.

The layout is that of https://github.com/webdataset/webdataset, which does not say how boxes are stored. Read here are
pictures with a `.json`, a row as of JSON lines, or with a `.txt` of YOLO's lines: class cx cy w h, in fractions.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.json

from dataforge.archives.path import ArchivePath, opened
from dataforge.errors import FormatError
from dataforge.files import files_below, read_text, reading
from dataforge.formats.leftovers import leftovers
from dataforge.formats.pictures import is_picture
from dataforge.record import Finding

TAR = (".tar",)
FRACTIONS = {"dataforge": json.dumps({"unit": "unit"})}  # of the schema: what the numbers of `.txt` are


@dataclass
class Sample:
    picture: Path | None = None
    others: dict[str, Path] = field(default_factory=dict)  # by suffix


class Samples:
    """The samples of a tar.

    Attributes:
        folder: the tar as a folder.
        members: the files that were read, apart from pictures.
        table: a row per sample with a picture: the values of its annotation, and `file_name`.
        findings: samples without an annotation, and files that are not read.

    Raises:
        FormatError: the tar or an annotation cannot be read, or no sample has one.
    """

    def __init__(self, path: Path, limit: int | None = None) -> None:
        self.folder = opened(path)
        samples: dict[str, Sample] = {}
        for file in files_below(self.folder, bool):
            stem, _, suffix = file.name.partition(".")
            sample = samples.setdefault((file.parent / stem).relative_to(self.folder).as_posix(), Sample())
            if is_picture(file.name) and sample.picture is None:
                sample.picture = file
            else:
                sample.others[suffix.lower()] = file
        whole = {key: sample for key, sample in samples.items() if sample.picture}
        kind = next((kind for kind in ("json", "txt") if any(kind in one.others for one in whole.values())), "")
        if not kind:
            raise FormatError(f"{path}: no picture has a .json or .txt file beside it; expected a WebDataset of boxes")
        self.members: list[Path] = []
        self.findings: list[Finding] = []
        lines = list(islice(self._lines(whole, kind), limit))
        data = pa.py_buffer(b"\n".join(lines))
        options = pyarrow.json.ReadOptions(block_size=max(data.size, 1))
        self.table = pyarrow.json.read_json(pa.BufferReader(data), options)
        if kind == "txt":
            self.table = self.table.replace_schema_metadata(FRACTIONS)
        if limit is None and not isinstance(path, ArchivePath):  # else the whole folder is accounted for
            used = {*self.members, *(sample.picture for sample in whole.values() if sample.picture)}
            self.findings += leftovers(self.folder, set(map(os.path.abspath, used)))

    def _lines(self, samples: dict[str, Sample], kind: str) -> Iterator[bytes]:
        for sample in samples.values():
            assert sample.picture is not None
            name = sample.picture.relative_to(self.folder).as_posix()
            row: Any = {}
            if kind in sample.others:
                self.members.append(sample.others[kind])
                row = (_json if kind == "json" else _lines_of_boxes)(sample.others[kind])
            else:
                reason = "no label file; taken as an empty image"
                self.findings.append(Finding("noted", "no-label", str(sample.picture), name, "", reason, "image"))
            yield msgspec.json.encode({**row, "file_name": name})


def _json(path: Path) -> dict[str, Any]:
    try:
        with reading(path):
            row = msgspec.json.decode(path.read_bytes())
    except msgspec.MsgspecError as error:
        raise FormatError(f"{path}: not JSON: {error}") from None
    if not isinstance(row, dict):
        raise FormatError(f'{path}: expected an object such as {{"objects": {{"bbox": [...], "category": [...]}}}}')
    return row


def _lines_of_boxes(path: Path) -> dict[str, Any]:
    names = ("class", "cx", "cy", "w", "h")
    row: dict[str, Any] = {name: [] for name in names}
    for number, line in enumerate(read_text(path).splitlines(), 1):
        try:
            if line.strip():
                label, *numbers = line.split()
                for name, value in zip(names, (int(label), *map(float, numbers)), strict=True):
                    row[name].append(value)
        except ValueError:
            raise FormatError(f"{path}: line {number}: {line!r}: expected class cx cy w h, in fractions") from None
    return row

"""Which format a folder is in: each has one cheap look at it. Only names and the first bytes of files are read."""

from __future__ import annotations

import codecs
import os
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from dataforge.errors import FormatError
from dataforge.files import check_root
from dataforge.formats import FORMATS

HEAD = 1 << 16  # bytes of a file that are looked at
FILES, DEEP = 50, 3  # so many files of a kind, and folders so far down


class Look(NamedTuple):
    """`sniff(root)` says what it saw, "" where the root is not in this format; `wants` is what it looks for."""

    sniff: Callable[[Path], str]
    wants: str


def detect(root: Path) -> tuple[str, str]:
    """The format of a folder or a file, and what was seen of it.

    Raises:
        FormatError: there is nothing, or no format fits, or several do.
    """
    if not root.is_file():
        check_root(root, "a folder of annotated images")
    seen = {name: look.sniff(root) for name, look in LOOKS.items() if name in FORMATS}
    fitting = {name: saw for name, saw in seen.items() if saw}
    if not fitting:
        looked = "".join(f"\n  {name}: {LOOKS[name].wants}" for name in seen)
        raise FormatError(f"{root}: no format fits; looked for{looked}")
    if len(fitting) > 1:
        saw = "".join(f"\n  dataforge ingest {name} {shlex.quote(str(root))}    {saw}" for name, saw in fitting.items())
        raise FormatError(f"{root}: {' and '.join(fitting)} fit; say which{saw}")
    return next(iter(fitting.items()))


def _some(root: Path, *suffixes: str) -> Iterator[Path]:
    """The first few files below a folder with one of these suffixes, or the file itself."""
    if root.is_file():
        if root.name.lower().endswith(suffixes):
            yield root
        return
    count = 0
    for place, folders, names in os.walk(root):
        deep = len(Path(place).relative_to(root).parts) >= DEEP
        folders[:] = [] if deep else sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.lower().endswith(suffixes) and not name.startswith("."):
                yield Path(place, name)
                count += 1
                if count == FILES:
                    return


def _head(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(HEAD).removeprefix(codecs.BOM_UTF8).lstrip()
    except OSError:
        return b""


def _first(root: Path, pattern: bytes, *suffixes: str, unless: bytes = rb"(?!)") -> str:
    """The first of some files whose head fits a pattern: its name below the root, "" where none does."""
    for path in _some(root, *suffixes):
        head = _head(path)
        if re.search(pattern, head) and not re.search(unless, head):
            return path.name if path == root else path.relative_to(root).as_posix()
    return ""


def _says(name: str, what: str) -> str:
    return f"{name}: {what}" if name else ""


def _coco(root: Path) -> str:
    pattern = rb'(?s)\A\{.*"(images|annotations|categories)"\s*:\s*\['
    return _says(_first(root, pattern, ".json", unless=rb'"shapes"\s*:\s*\['), "COCO's images, annotations, categories")


def _labelme(root: Path) -> str:
    return _says(_first(root, rb'(?s)\A\{.*"shapes"\s*:\s*\[', ".json"), "LabelMe's shapes")


def _matlab(root: Path) -> str:
    pattern = rb'\A\[?\s*\{\s*"(Var1|imageFilename)"\s*:'
    return _says(_first(root, pattern, ".json"), "ImageLabeler's rows of Var1 and classes")


def _lists(root: Path) -> str:
    for path in sorted(root.glob("?*_images.json")) if root.is_dir() else ():
        other = path.with_name(path.name.removesuffix("_images.json") + "_objects.json")
        if other.is_file() and (root / "label_map.json").is_file():
            return f"{path.name}, {other.name} and label_map.json"
    return ""


def _voc(root: Path) -> str:
    name = _first(root, rb"<annotation[\s>]", ".xml")
    lists = next(root.glob("ImageSets/Main/*.txt"), None) if root.is_dir() else None
    return _says(name, "VOC's <annotation>" + (f", and {lists.relative_to(root).as_posix()}" if lists else ""))


def _cvat(root: Path) -> str:
    return _says(_first(root, rb"<annotations[\s>]", ".xml"), "CVAT's <annotations>")


def _yolo(root: Path) -> str:
    pattern = rb"(?m)^(train|val|names)\s*:"
    if root.is_file():
        return _says(_first(root, pattern, ".yaml", ".yml"), "YOLO's train, val, names")
    for path in sorted(path for path in root.iterdir() if path.suffix in (".yaml", ".yml")):
        if re.search(pattern, _head(path)):
            return f"{path.name}: YOLO's train, val, names"
    for name in ("classes.txt", "obj.names"):
        place = next((place for place in (root, root / "labels") if (place / name).is_file()), None)
        label = _first(root, rb"\A\d+( +[-+.\deE]+){4}", ".txt") if place else ""
        if label:
            return f"{name}, and {label}: YOLO's class cx cy w h"
    return ""


def _database(root: Path, sqlite: bool) -> str:
    for path in [root] if root.is_file() else sorted(path for path in root.iterdir() if path.is_file()):
        if path.suffix.lower() in (".db", ".sqlite", ".sqlite3"):
            is_sqlite = _head(path).startswith(b"SQLite format 3\0")
            if is_sqlite == sqlite and (sqlite or path.suffix.lower() == ".db"):
                return f"{path.name}: {'SQLite' if sqlite else 'a database that is not SQLite'}"
    return ""


def _table(root: Path) -> str:
    words = rb"(?i)\A[^\n]*(xmin|x_min|x1\b|bbox|bounding|objects)"
    without_header = rb"\A[^,\n]+,([-\d.]*,){4}"  # keras-retinanet's: path,x1,y1,x2,y2,class
    text = _first(root, words + b"|" + without_header, ".csv", ".tsv", ".jsonl", ".ndjson")
    return _says(
        text or _first(root, rb"\A(PAR1|ARROW1|\xff{4})", ".parquet", ".arrow", ".feather"), "a table of boxes"
    )


LOOKS = {
    "coco": Look(_coco, "a JSON file with images, annotations, categories"),
    "cvat": Look(_cvat, "an XML file with <annotations>"),
    "flatbuffer": Look(lambda root: _database(root, sqlite=False), "a .db file that is not SQLite"),
    "labelme": Look(_labelme, "a JSON file with shapes"),
    "lists": Look(_lists, "TRAIN_images.json, TRAIN_objects.json and label_map.json"),
    "matlab": Look(_matlab, "a JSON file with rows of Var1 and a key for each class"),
    "sqlite": Look(lambda root: _database(root, sqlite=True), "a SQLite database"),
    "table": Look(_table, "a CSV or JSONL file with xmin or bbox, or a Parquet or Arrow file"),
    "voc": Look(_voc, "an XML file with <annotation>"),
    "yolo": Look(_yolo, "data.yaml with train, val, names; or classes.txt and label files"),
}

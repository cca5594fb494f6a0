"""Format detection with each format's `sniff`. Only the names and the first bytes of files are read."""

from __future__ import annotations

import codecs
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from dataforge.errors import FormatError
from dataforge.files import check_root
from dataforge.formats import FORMATS
from dataforge.registry import load

HEAD = 1 << 16  # bytes read per file
FILES, DEEP = 50, 3  # maximum number of files per kind, and folder depth


def detect(root: Path) -> tuple[str, str]:
    """Return the format of a folder or a file, and the evidence for it.

    Raises:
        FormatError: the path is missing or empty, no format fits, or several do.
    """
    if not root.is_file():
        check_root(root, "a folder of annotated images")
    formats = {name: load("format", name, FORMATS) for name in FORMATS}
    fitting = {name: what for name, module in formats.items() if (what := module.sniff(root))}
    if not fitting:
        wanted = "".join(f"\n  {name}: {module.LOOKS_FOR}" for name, module in formats.items())
        raise FormatError(f"{root}: no format fits; looked for{wanted}")
    if len(fitting) > 1:
        path = shlex.quote(str(root))
        choices = "".join(f"\n  dataforge ingest {name} {path}    {what}" for name, what in fitting.items())
        raise FormatError(f"{root}: {' and '.join(fitting)} fit; say which{choices}")
    return next(iter(fitting.items()))


def first_files(root: Path, *suffixes: str) -> Iterator[Path]:
    """Yield the first few files below a folder with one of these suffixes, or the file itself."""
    if root.is_file():
        if root.name.lower().endswith(suffixes):
            yield root
        return
    count = 0
    for folder, folders, names in os.walk(root):
        deep = len(Path(folder).relative_to(root).parts) >= DEEP
        folders[:] = [] if deep else sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.lower().endswith(suffixes) and not name.startswith("."):
                yield Path(folder, name)
                count += 1
                if count == FILES:
                    return


def head(path: Path) -> bytes:
    """Return a file's first bytes without byte order mark and leading blanks; empty if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(HEAD).removeprefix(codecs.BOM_UTF8).lstrip()
    except OSError:
        return b""


def matching(root: Path, pattern: bytes, *suffixes: str, unless: bytes = rb"(?!)") -> str:
    """Return the name, below the root, of the first file whose head matches `pattern` but not `unless`, or ""."""
    for path in first_files(root, *suffixes):
        data = head(path)
        if re.search(pattern, data) and not re.search(unless, data):
            return path.name if path == root else path.relative_to(root).as_posix()
    return ""


def seen(name: str, what: str) -> str:
    """Return the result of `sniff`: a file's name and its content in words, or "" without a file."""
    return f"{name}: {what}" if name else ""


def database(root: Path, *suffixes: str, is_sqlite: bool) -> str:
    """Return the name of the first file with one of these suffixes that is (or is not) a SQLite database, or ""."""
    for path in [root] if root.is_file() else sorted(path for path in root.iterdir() if path.is_file()):
        if path.suffix.lower() in suffixes and head(path).startswith(b"SQLite format 3\0") == is_sqlite:
            return path.name
    return ""

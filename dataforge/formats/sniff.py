"""Find out the format of a folder by each format's `sniff`. Only names and the first bytes of files are read."""

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

HEAD = 1 << 16  # bytes of a file that are looked at
FILES, DEEP = 50, 3  # how many files of a kind, and how many folders down


def detect(root: Path) -> tuple[str, str]:
    """The format of a folder or a file, and what was seen of it.

    Raises:
        FormatError: there is nothing, or no format fits, or several do.
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
    """The first few files below a folder with one of these suffixes, or the file itself."""
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
    """A file's first bytes without a byte order mark and blanks; nothing where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(HEAD).removeprefix(codecs.BOM_UTF8).lstrip()
    except OSError:
        return b""


def matching(root: Path, pattern: bytes, *suffixes: str, unless: bytes = rb"(?!)") -> str:
    """The name, below the root, of the first file whose head has a pattern and not another; "" where none has."""
    for path in first_files(root, *suffixes):
        data = head(path)
        if re.search(pattern, data) and not re.search(unless, data):
            return path.name if path == root else path.relative_to(root).as_posix()
    return ""


def seen(name: str, what: str) -> str:
    """`sniff`'s answer: a file's name and what it holds, "" without a file."""
    return f"{name}: {what}" if name else ""


def database(root: Path, *suffixes: str, is_sqlite: bool) -> str:
    """The name of the first file with one of these suffixes that is, or is not, a SQLite database; "" without one."""
    for path in [root] if root.is_file() else sorted(path for path in root.iterdir() if path.is_file()):
        if path.suffix.lower() in suffixes and head(path).startswith(b"SQLite format 3\0") == is_sqlite:
            return path.name
    return ""

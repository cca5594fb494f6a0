"""Versions of an overlay by name: `DIR@v3`, `DIR@clean` where "clean" is a tag, and `DIR` for the newest."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from dataforge.cloud.path import RemotePath
from dataforge.errors import unknown
from dataforge.files import flush, reading, writing
from dataforge.overlay.edits import Edits
from dataforge.overlay.journal import JOURNAL, OverlayError, now, read, who

TAGS = "tags"
_NUMBER = re.compile(r"v(\d{1,15})")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class Version:
    """An overlay as it was after some of its edits.

    Attributes:
        header: the journal's first line; edits: those up to the version.
        lines: of the journal, up to the newest.
    """

    folder: Path
    lines: list[dict[str, Any]]
    edits: Edits

    @property
    def header(self) -> dict[str, Any]:
        return self.lines[0]


def split(path: Path) -> tuple[Path, str]:
    """Split DIR@NAME at its last "@", unless it is the name of a folder; NAME is "" without one."""
    folder, at, name = path.name.rpartition("@")
    return (path.with_name(folder), name) if at and folder and name and not path.is_dir() else (path, "")


def is_version(path: Path) -> bool:
    """Return True if a path is that of an overlay, or of a version of one. Overlays lie on a disk."""
    return not isinstance(path, RemotePath) and (split(path)[0] / JOURNAL).is_file()


def open_version(path: Path) -> Version:
    """Open an overlay at the version that DIR@NAME names; DIR alone is the newest.

    Raises:
        OverlayError: it is no overlay, damaged, or has no such version. ConfigError: it has no such tag.
    """
    folder, name = split(path)
    lines, _ = read(folder)
    if not lines:
        raise OverlayError(f"{folder}: was not finished when it was made; expected a journal with a first line")
    try:
        return Version(folder, lines, Edits(lines, _number(folder, name)))
    except OverlayError as error:
        raise OverlayError(f"{folder}: {error}") from None


def _number(folder: Path, name: str) -> int | None:
    if not name:
        return None
    if number := _NUMBER.fullmatch(name):
        return int(number[1])
    known = tags(folder)
    if name not in known:
        raise unknown("tag or version", name, [*known, "v1, v2, ..."])
    return int(known[name]["version"])


def tags(folder: Path) -> dict[str, dict[str, Any]]:
    """Return name -> `version`, `who` and `when` of each tag, the oldest version first.

    Raises:
        OverlayError: a tag cannot be read.
    """
    found = {}
    for path in (folder / TAGS).glob("[!.]*"):
        with reading(path, OverlayError):
            data = path.read_bytes()
        try:
            found[path.name] = msgspec.json.decode(data, type=dict[str, Any])
            int(found[path.name]["version"])
        except (msgspec.DecodeError, KeyError, TypeError, ValueError):
            raise OverlayError(f"{path}: is damaged; expected version, who and when") from None
    return dict(sorted(found.items(), key=lambda item: (item[1]["version"], item[0])))


def tag(path: Path, name: str) -> int:
    """Name the version that DIR or DIR@NAME is, and return its number. A tag is never changed.

    Raises:
        OverlayError: there is such a tag already, the name is none, or it cannot be written.
    """
    if not _NAME.fullmatch(name) or _NUMBER.fullmatch(name):
        raise OverlayError(f"tag {name!r}: expected letters, digits, '.', '_' and '-', other than v and a number")
    version = open_version(path)
    file = version.folder / TAGS / name
    if file.exists():
        raise OverlayError(f"{version.folder}: tag {name!r} is version {tags(version.folder)[name]['version']} already")
    facts = {"version": version.edits.version, "who": who(), "when": now()}
    with writing(file, OverlayError):
        file.parent.mkdir(exist_ok=True)
        temporary = file.with_name(f".{name}")
        temporary.write_bytes(msgspec.json.encode(facts) + b"\n")
        flush(temporary)
        os.replace(temporary, file)
        flush(file.parent)
        flush(version.folder)
    return version.edits.version

"""Comparison of the files below a folder with those that a reader used, so that nothing is passed over in silence."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from dataforge.errors import counted
from dataforge.files import files_below, walk
from dataforge.formats.pictures import is_picture
from dataforge.record import Finding, Record, Source

REPORT = "ingest.jsonl"  # is in every shard folder; one may be below the root
EXAMPLES = 3  # names shown per finding
# not part of any set: texts about it, and files that tools leave behind
_ASIDE = re.compile(r"(?i)^((readme|licen[cs]e|copying|citation)\b.*|.*\.(md|cache))$")


def account(source: Source, root: Path) -> Source:
    """Return the source with findings at its end that name the files below `root` that it did not use.

    A file is used if it is the image or the `origin` of a record, the file of a finding, or one of `source.files`.
    Others are noted, by the first folder below `root` and by suffix: `picture-unread` and `file-unread`; a folder
    without any files, such as a split that was not copied, is `folder-empty`.

    Args:
        root: the folder that was read. Nothing is added for a single file.
    """
    if not root.is_dir():
        return source

    def records() -> Iterator[Record | Finding]:
        used = set(map(os.path.abspath, source.files))
        for item in source.records:
            if isinstance(item, Record) and isinstance(item.image, Path):
                used.add(os.path.abspath(item.image))  # noqa: PTH100  (links stay)
            used.add(os.path.abspath(item.origin if isinstance(item, Record) else item.file))  # noqa: PTH100
            yield item
        yield from leftovers(root, used)

    return replace(source, records=records())


def leftovers(root: Path, used: set[str]) -> Iterator[Finding]:
    """Yield the findings of `account`.

    Args:
        used: absolute paths.
    """
    unread: dict[tuple[Path, str], list[str]] = {}
    files = files_below(root, lambda name: not _ASIDE.match(name))
    shards = {path.parent for path in files if path.name == REPORT}
    for path in files:
        if shards and not shards.isdisjoint(path.parents):
            continue
        if os.path.abspath(path) not in used:  # noqa: PTH100
            below = path.relative_to(root)
            if any(map(_ASIDE.match, below.parts[:-1])):
                continue
            folder = root / below.parts[0] if len(below.parts) > 1 else root
            unread.setdefault((folder, path.suffix.lower()), []).append(path.relative_to(folder).as_posix())
    for (folder, suffix), names in sorted(unread.items()):
        listed = ", ".join(names[:EXAMPLES]) + (", ..." if len(names) > EXAMPLES else "")
        code, reason = (
            ("picture-unread", "no annotation that was read names them")
            if is_picture("x" + suffix)
            else ("file-unread", "no part of the set as this format reads it")
        )
        value = f"{counted(len(names), 'file')} {suffix or 'without suffix'}: {listed}"
        yield Finding("noted", code, str(folder), "", value, f"{reason}; not read", "set")
    for place, folders, held in walk(root):
        folders[:] = sorted(name for name in folders if not _ASIDE.match(name)) if REPORT not in held else []
        if not folders and not held:
            yield Finding("noted", "folder-empty", str(place), "", "", "the folder has no files", "set")
        folders[:] = [name for name in folders if not (place / name).is_symlink()]

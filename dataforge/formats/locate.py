"""Where the pictures are that an annotation file names, by its own paths or by those of another machine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from dataforge.formats.layout import exists, files_below, inside, is_picture
from dataforge.record import Finding


def locate(
    names: Iterable[str], folders: Sequence[Path], below: Path, origin: Path, *, anywhere: bool = False
) -> tuple[dict[str, tuple[str, Path]], list[Finding]]:
    """Find the pictures that an annotation file names.

    A relative name is taken below that one of `folders` that holds most of them, else below another. An absolute one,
    of another machine mostly, is looked for by its last part below `below`; of several pictures the one that shares
    most of the path is meant. `anywhere` does so with relative names that are not there too: else a picture that is
    missing in one split could be taken from another.

    Returns:
        name -> (key, file), and the findings: a refused one for each name that is not in there.
    """
    names = list(dict.fromkeys(names))
    relative = {name: inside(name) for name in names}
    sample = [name for name in relative.values() if name][:50]
    places = [*folders, below]
    places.sort(key=lambda place: -sum(exists(place / name) for name in sample))
    found: dict[str, tuple[str, Path]] = {}
    for name, key in relative.items():
        path = next((place / key for place in places if exists(place / key)), None) if key else None
        if key and path:
            found[name] = (key, path)
    known: dict[str, list[PurePosixPath]] = {}
    if len(found) < len(names):
        for path in files_below(below, is_picture):
            known.setdefault(path.name, []).append(PurePosixPath(path.relative_to(below).as_posix()))
    wrong: list[tuple[str, str, str]] = []
    guessed: dict[str, str] = {}
    for name in names:
        parts = name.replace("\\", "/").split("/")
        if name in found:
            continue
        if ".." in parts or "\0" in name or not parts[-1]:
            wrong.append(("image-path", name, "expected a path below the image folder; left out"))
            continue
        same = known.get(parts[-1], ()) if anywhere or relative[name] is None else ()
        shared = {path: _common_end(parts, path.parts) for path in same}
        best = [path for path, count in shared.items() if count == max(shared.values())]
        if not best:
            wrong.append(("image-missing", name, f"no such picture below {below}; left out"))
        elif len(best) > 1:
            reason = f"may be {best[0]} or {best[1]} below {below}; left out"
            wrong.append(("image-ambiguous", name, reason))
        else:
            guessed[name] = str(best[0])
    taken = Counter(guessed.values()) + Counter(str(path.relative_to(below)) for _, path in found.values() if known)
    for name, key in guessed.items():
        if taken[key] > 1:
            wrong.append(("image-ambiguous", name, f"{key} below {below} has another such name too; left out"))
        else:
            found[name] = (key, below / key)
    findings = [Finding("refused", code, str(origin), name, "", reason, "image") for code, name, reason in wrong]
    count = sum(taken[key] == 1 for key in guessed.values())
    if count:
        reason = f"are not where the file says; found by their names below {below}"
        findings.append(Finding("noted", "images-by-name", str(origin), "", f"{count} images", reason, "set"))
    return found, findings


def _common_end(one: Sequence[str], other: Sequence[str]) -> int:
    """How many last parts two paths share."""
    same = [a == b for a, b in zip(reversed(one), reversed(other), strict=False)]
    return [*same, False].index(False)

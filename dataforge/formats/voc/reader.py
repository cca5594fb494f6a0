"""Pascal VOC XML (host.robots.ox.ac.uk/pascal/VOC): one file per image; boxes are 1-based and inclusive."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, combinations
from pathlib import Path

from dataforge.errors import ConfigError, FormatError, counted
from dataforge.files import check_root, globbed, inside
from dataforge.formats.annotated import Annotated, records_of
from dataforge.formats.json_files import uncollected
from dataforge.formats.pictures import Index, key_of
from dataforge.formats.voc.files import (
    EXPECTED,
    SplitFiles,
    files_of_lists,
    find_unions,
    from_folders,
    named_picture,
    orphans,
    picture_of,
    read_lists,
)
from dataforge.formats.voc.parser import Parser
from dataforge.record import Finding, Record, Source, pick_splits


def read(
    root: Path, *, split: tuple[str, ...] | None = None, voc_offset: int = 1, allow_outside: bool = False
) -> Source:
    """Read a VOC folder. Classes are the sorted names of all XML files, independent of the selected splits.

    Args:
        split: read only these splits.
        voc_offset: 1 turns VOC's 1-based inclusive corners into edges, `(xmin - 1, ymin - 1, xmax, ymax)`; 0 keeps
            them unchanged.
        allow_outside: allow a `<filename>` outside the folder: absolute, or with `..`.

    Raises:
        FormatError: no layout fits. ConfigError: no such split, or no such offset.
    """
    if voc_offset not in (0, 1):
        raise ConfigError(f"--voc-offset {voc_offset}: expected 1 or 0")
    check_root(root, EXPECTED)
    findings: list[Finding] = []
    files = files_of_lists(root)
    known = {*files.xml, *files.pictures} if files else set()
    listed, main = read_lists(root, known, findings)
    if listed and files is None:
        raise FormatError(
            f"{main}: lists are there, but no one folder of XML files and of pictures; expected {EXPECTED}"
        )
    splits = {name: replace(files, ids=ids) for name, ids in listed.items()} if files and listed else from_folders(root)
    chosen = pick_splits(split, splits)
    unions = find_unions({name: set(splits[name].ids) for name in chosen}) if listed else {}
    stored = [name for name in chosen if name not in unions]
    for one, other in combinations(stored, 2) if listed else ():
        common = len({*splits[one].ids} & {*splits[other].ids})
        if common:
            reason = "images are in both splits; stored in both"
            value = f"{one} and {other}: {common}"
            findings.append(Finding("noted", "splits-overlap", str(main), "", value, reason, "set"))
    parser = Parser(voc_offset)
    with uncollected():
        each = (path for xml in {id(one.xml): one.xml for one in splits.values()}.values() for path in xml.in_order())
        parsed = {str(path): parser.parse(path) for path in each}
    classes = tuple(sorted({name for item in parsed.values() for name in item.names}))
    if not classes and len(parser.broken) == len(parsed):
        raise FormatError(next(iter(parser.broken.values()), f"{root}: no XML files; expected {EXPECTED}"))
    index: Index = {}  # the images below the root, among which absolute paths of other machines are sought
    if listed:
        findings += orphans(root, splits, main, _named_otherwise(root, splits, parsed, allow_outside, index))
    if parser.zeros:
        taken = {path for name in stored for i in splits[name].ids for path in splits[name].xml.texts(i)}
        zeros = sum(count for path, count in parser.zeros.items() if path in taken)
        if zeros:
            reason = "xmin or ymin is 0, but VOC counts from 1; if these are not VOC's, try --voc-offset 0"
            findings.append(Finding("noted", "touches-zero", str(root), "", counted(zeros, "box"), reason, "set"))

    label_of = {name: label for label, name in enumerate(classes)}

    def records() -> Iterator[Record | Finding]:
        yield from findings
        for name in stored:
            apart = _named_apart(splits[name], parsed)
            how = (parsed, parser.broken, apart, main if listed else None, allow_outside, index)
            items = (_item(root, name, i, splits[name], *how) for i in splits[name].ids)
            yield from records_of(chain.from_iterable(items), label_of)

    total = sum(len(splits[name].ids) for name in stored)
    lists = globbed(main, "*.txt") if main != root else (root / f"{name}.txt" for name in listed)
    return Source(classes, records(), unions=unions, total=total, files=[*lists])


def _named_otherwise(
    root: Path, splits: dict[str, SplitFiles], parsed: dict[str, Annotated], allow_outside: bool, index: Index
) -> set[Path]:
    """Return the images of listed XML files that have other names than these."""
    pairs = ((files, i) for files in splits.values() for i in files.ids if i in files.xml and i not in files.pictures)
    names = ((files, i, parsed[files.xml.texts(i)[0]].name) for files, i in pairs)
    found = (picture_of(i, name, files, root, allow_outside, index) for files, i, name in names)
    return {picture for picture in found if picture}


def _named_apart(files: SplitFiles, parsed: dict[str, Annotated]) -> dict[str, Path]:
    """Return, by id, the images that XML files name although another one has the file's own name."""
    apart = {}
    for i in files.xml:
        filename = parsed[files.xml.texts(i)[0]].name
        names = files.pictures.names(i)
        if filename in names:
            continue
        other = named_picture(filename, files) if names and filename else None
        if other and other.name not in names:
            apart[i] = other
    return apart


def _item(
    root: Path,
    split: str,
    i: str,
    files: SplitFiles,
    parsed: dict[str, Annotated],
    broken: dict[str, str],
    apart: dict[str, Path],
    lists: Path | None,
    allow_outside: bool,
    index: Index,
) -> Iterator[Finding | tuple[str, str, Path, Annotated]]:
    """Yield an image for `records_of`, or the finding why it is left out."""
    origin = next(iter(files.xml.texts(i)), None)
    item = parsed[origin] if origin else Annotated("", root)
    file = origin or str(lists / f"{split}.txt" if lists else root)
    picture = picture_of(i, item.name, files, root, allow_outside, index)
    key = key_of(picture, root) if picture else ""
    other = apart.get(i)
    if other and other.relative_to(files.folder).with_suffix("").as_posix() in files.xml:
        reason = "another image, which has a file of its own; the image of this file's name is taken"
        yield Finding("noted", "filename-differs", file, key, item.name, reason, "image")
        other = None
    rival = origin is None and picture in apart.values()
    if origin in broken or picture is None or (lists and origin is None) or other or rival:
        if origin in broken:
            code, value, reason = "annotation-broken", "", broken[origin].removeprefix(f"{file}: ")
        elif other or rival:
            code, value = "image-ambiguous", item.name
            reason = (
                f"may be of {picture} or {other}; left out" if other else "a file of another name names it; left out"
            )
        elif lists and origin is None:
            code, value, reason = "annotation-missing", i, "is listed, but has no XML file"
        else:
            hint = " (others need --allow-outside)" if inside(item.name or i) is None else ""
            code, value, reason = "image-missing", item.name or i, f"no picture has this name{hint}; left out"
        yield Finding("refused", code, file, key, value, reason, "image")
        return
    if origin is None:
        yield Finding("noted", "no-annotation", str(picture), key, "", "no XML file; taken as an empty image", "image")
    yield split, key, picture, item

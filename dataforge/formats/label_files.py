"""Sets of pictures in one folder and label files of the same names in another: a line a box, which a format parses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from dataforge.errors import FormatError
from dataforge.files import alike, check_root, circles, files_below, globbed, is_absent, is_hidden, read_text
from dataforge.formats.pictures import is_picture
from dataforge.formats.voc.files import find_unions, overlaps
from dataforge.record import Finding, Record, Source, as_boxes, pick_splits


@dataclass(frozen=True)
class Layout:
    """What differs between such formats.

    Attributes:
        folders: names of the folders of pictures and of label files, the usual ones first.
        parse: a line to its class, its edges x1, y1, x2, y2 in pixels and its flag; None if it is broken.
        line, expected: what `parse` and the reader expect, for messages.
        split_of: the split that a folder's name states, "" if it states none.
        classes: all classes by number; by default those in use, sorted.
    """

    folders: tuple[tuple[str, str], ...]
    parse: Callable[[str], tuple[str, list[float], int] | None]
    line: str
    expected: str
    split_of: Callable[[str], str] = lambda name: ""
    classes: tuple[str, ...] = ()


@dataclass
class _Labels:
    names: list[str] = field(default_factory=list)
    boxes: list[list[float]] = field(default_factory=list)
    flags: list[int] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    broken: str = ""


def read_labels(root: Path, split: tuple[str, ...] | None, layout: Layout) -> Source:
    """Read a set. Classes are those of all label files, independent of the selected splits.

    Splits are folders such as `training`, or the lists of names in `ImageSets/<split>.txt`. A folder of images without
    a folder of labels, such as `testing`, is left out.

    Args:
        split: read only these splits.

    Raises:
        FormatError: no layout fits. ConfigError: no such split.
    """
    check_root(root, layout.expected)
    findings: list[Finding] = []
    pairs = _pairs(root, layout)
    pictures: dict[str, Sequence[Path]] = {name: files_below(images, is_picture) for name, (images, _) in pairs.items()}
    lists = globbed(root, "ImageSets/*.txt") if len(pairs) == 1 else []
    files = {
        str(labels / alike(path.relative_to(labels).as_posix())): path
        for _, labels in pairs.values()
        for path in files_below(labels, lambda name: name.lower().endswith(".txt"))
    }
    label_of = {}
    for name, (images, labels) in pairs.items():
        for path in pictures[name]:
            file = labels / path.relative_to(images).with_suffix(".txt")
            label_of[path] = files.get(str(labels / alike(file.relative_to(labels).as_posix())), file)
    orphans = {path for path in files.values() if "ImageSets" not in path.relative_to(root).parts}
    for path in sorted(orphans - {*label_of.values()}):
        reason = "a label file without an image; left out"
        findings.append(Finding("refused", "label-orphan", str(path), "", "", reason, "set"))
    if lists:
        ((images, _),) = pairs.values()
        pictures = _listed(lists, images, next(iter(pictures.values())), findings)
    chosen = pick_splits(split, pictures)
    unions = find_unions({name: set(map(str, pictures[name])) for name in chosen}) if lists else {}
    stored = [name for name in chosen if name not in unions]
    findings += overlaps({name: set(map(str, pictures[name])) for name in stored}, root)
    parsed = {path: _parse(path, layout) for path in sorted({*label_of.values()}) if not is_absent(path)}
    if not parsed:
        raise FormatError(f"{root}: no label files found; expected {layout.expected}")
    classes = layout.classes or tuple(sorted({name for labels in parsed.values() for name in labels.names}))

    def records() -> Iterator[Record | Finding]:
        yield from findings
        for name in stored:
            for path in pictures[name]:
                yield from _record(root, name, path, label_of[path], parsed, classes)

    total = sum(len(pictures[name]) for name in stored)
    return Source(classes, records(), unions=unions, total=total, files=lists)


def _pairs(root: Path, layout: Layout) -> dict[str, tuple[Path, Path]]:
    """Return the folders of images and of labels by split."""
    folders = sorted(
        path for path in root.iterdir() if path.is_dir() and not circles(path) and not is_hidden(path.name)
    )
    pairs = {}
    own = layout.split_of(root.absolute().name) or "train"
    for split, folder in ((own, root), *((layout.split_of(path.name) or path.name, path) for path in folders)):
        for images, labels in layout.folders:
            if (folder / images).is_dir() and (folder / labels).is_dir() and split not in pairs:
                pairs[split] = (folder / images, folder / labels)
    return pairs or {own: (root, root)}


def _listed(
    lists: list[Path], images: Path, pictures: Sequence[Path], findings: list[Finding]
) -> dict[str, Sequence[Path]]:
    """Return the pictures that each list names by their paths without suffix; names of no picture are refused."""
    by_id = {path.relative_to(images).with_suffix("").as_posix(): path for path in pictures}
    splits: dict[str, Sequence[Path]] = {}
    for file in lists:
        names = dict.fromkeys(line.strip() for line in read_text(file).splitlines() if line.strip())
        splits[file.stem] = [by_id[name] for name in names if name in by_id]
        for name in names:
            if name not in by_id:
                reason = f"no such picture below {images}; left out"
                findings.append(Finding("refused", "image-missing", str(file), name, "", reason, "image"))
    return splits


def _record(
    root: Path, split: str, path: Path, file: Path, parsed: dict[Path, _Labels], classes: tuple[str, ...]
) -> Iterator[Record | Finding]:
    key = path.relative_to(root).as_posix()
    labels = parsed.get(file, _Labels())
    if labels.broken:
        reason = labels.broken.removeprefix(f"{file}: ")
        yield Finding("refused", "label-broken", str(file), key, "", reason, "image")
        return
    if file not in parsed:
        yield Finding("noted", "no-label", str(path), key, "", "no label file; taken as an empty image", "image")
    yield from (replace(finding, key=key) for finding in labels.findings)
    yield Record(
        key=key,
        split=split,
        image=path,
        height=0,
        width=0,
        boxes=as_boxes(labels.boxes),
        labels=np.array([classes.index(name) for name in labels.names], np.int32),
        flags=np.array(labels.flags, np.uint8),
        origin=str(file if file in parsed else path),
    )


def _parse(path: Path, layout: Layout) -> _Labels:
    """Read one label file. An error that makes the whole file unusable is stored in `broken`."""
    try:
        text = read_text(path)
    except FormatError as error:
        return _Labels(broken=str(error))
    labels = _Labels()
    lines = [(n, line.strip()) for n, line in enumerate(text.splitlines(), 1) if line.strip()]
    for box, (n, line) in enumerate(lines):
        parsed = layout.parse(line)
        if parsed is None:
            value = f"line {n}: {line if len(line) <= 60 else line[:57] + '...'}"
            reason = f"expected {layout.line}; left out"
            labels.findings.append(Finding("refused", "line-broken", str(path), "", value, reason, box=box))
            continue
        name, edges, flag = parsed
        labels.names.append(name)
        labels.boxes.append(edges)
        labels.flags.append(flag)
    return labels

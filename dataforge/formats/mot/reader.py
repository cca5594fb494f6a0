"""Reader of MOTChallenge's ground truth.

Lines (motchallenge.net/instructions, and MOT16's paper, 1603.00831): frame, id, left, top, width, height, flag, class,
visibility; "all frame numbers, target IDs and bounding boxes are 1-based". Ten columns (2015) have no class.
"""

from __future__ import annotations

import configparser
from collections.abc import Iterator
from pathlib import Path

from dataforge.errors import FormatError
from dataforge.files import check_root, exists, files_below, inside, read_text
from dataforge.formats.annotated import Annotated, by_split, source, xywh
from dataforge.formats.mot import is_truth
from dataforge.formats.pictures import is_picture
from dataforge.formats.splits import WORD
from dataforge.record import CROWD, Source

EXPECTED = "MOTChallenge's <sequence>/gt/gt.txt with <sequence>/img1/, there or in train/"
CLASSES = ("pedestrian", "person on vehicle", "car", "bicycle", "motorbike", "non motorized vehicle", "static person",
           "distractor", "occluder", "occluder on the ground", "occluder full", "reflection", "crowd")  # fmt: skip
COLUMNS = (9, 10)  # since 2016, and of 2015


def read(root: Path, *, split: tuple[str, ...] | None = None) -> Source:
    """Read all frames of sequences; those that no line names are empty images.

    Frames are the numbers in the names of pictures, else their places in the order of names. Classes are those of
    gt/labels.txt (CVAT), else MOTChallenge's, by their numbers. Splits are folders such as `train`.

    Args:
        split: read only these splits.

    Raises:
        FormatError: no sequence, or a line is broken. ConfigError: no such split.
    """
    check_root(root, EXPECTED)
    truths = [path for path in files_below(root, lambda name: name == "gt.txt") if is_truth(path)]
    if not truths:
        raise FormatError(f"{root}: no gt/gt.txt found; expected {EXPECTED}")
    about = [path for truth in truths for path in (truth.with_name("labels.txt"), truth.parents[1] / "seqinfo.ini")]
    items = [(_split(path, root), item) for path in truths for item in _sequence(root, path)]
    return source(root, by_split(items), split, None, False, classes=_classes(truths), files=[*truths, *about])


def _split(path: Path, root: Path) -> str:
    folders = [root.absolute().name, *path.relative_to(root).parts[:-2]]
    return next(filter(WORD.fullmatch, reversed(folders)), "train")


def _names(path: Path) -> tuple[str, ...]:
    file = path.with_name("labels.txt")
    return tuple(line.strip() for line in read_text(file).splitlines() if line.strip()) if exists(file) else CLASSES


def _classes(truths: list[Path]) -> list[str]:
    return list(dict.fromkeys(name for path in truths for name in _names(path)))


def _sequence(root: Path, path: Path) -> Iterator[Annotated]:
    folder = _frames(path.parents[1])
    pictures = files_below(folder, is_picture)
    numbered = all(one.stem.isdecimal() and int(one.stem) for one in pictures)  # frames are counted from 1
    frames = {int(one.stem) if numbered else n: one for n, one in enumerate(pictures, 1)}
    items = {n: Annotated(one.relative_to(root).as_posix(), path) for n, one in frames.items()}
    names = _names(path)
    for number, line in enumerate(read_text(path).splitlines(), 1):
        fields = line.split(",")
        try:
            frame, _, left, top, width, height, flag = map(float, fields[:7])
            if len(fields) not in COLUMNS or flag not in (0, 1):  # decimal commas make ten columns of nine
                raise ValueError
            label = int(float(fields[7])) if len(fields) == COLUMNS[0] else 1
            item, name = items[int(frame)], names[label - 1] if 0 < label <= len(names) else None
        except (ValueError, OverflowError, KeyError):
            if line.strip():
                reason = f"expected frame (of {len(items)} in {folder}), id, left, top, width, height, flag, class"
                raise FormatError(f"{path}: line {number}: {line[:60]!r}; {reason}") from None
            continue
        item.add(name, xywh(left - 1, top - 1, width, height), 0 if flag else CROWD)
    yield from items.values()


def _frames(sequence: Path) -> Path:
    """Return the folder of a sequence's frames: that of seqinfo.ini, else img1, else the sequence's own."""
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read(sequence / "seqinfo.ini", "utf-8")
        name = parser.get("Sequence", "imDir", fallback="img1")
    except (configparser.Error, UnicodeDecodeError) as error:
        raise FormatError(f"{sequence / 'seqinfo.ini'}: cannot be read: {error}") from None
    if inside(name) is None:
        raise FormatError(f"{sequence / 'seqinfo.ini'}: imDir={name}: expected a folder of the sequence")
    return next((folder for folder in (sequence / name, sequence / "img1") if folder.is_dir()), sequence)

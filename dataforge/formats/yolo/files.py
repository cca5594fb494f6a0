"""Location of a YOLO set's images, and its class names: by its YAML, or by its folders alone."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from dataforge.errors import FormatError
from dataforge.files import (
    circles,
    exists,
    files_below,
    globbed,
    inside,
    is_hidden,
    read_bytes,
    read_text,
    reading,
)
from dataforge.formats.pictures import below_its_own, is_picture, key_of, locate
from dataforge.formats.yolo import LIST, NAME_FILES
from dataforge.formats.yolo.labels import label_folder
from dataforge.formats.yolo.loader import TextLoader
from dataforge.record import Finding

EXPECTED = (
    "data.yaml (train, val, test, names); Darknet's obj.data or lists train.txt, valid.txt; "
    "images/<split>/ with labels/<split>/; <split>/images/ with <split>/labels/; <split>/ with both; "
    "the last four with the names in classes.txt, obj.names or _darknet.labels"
)
SHARED = {".", "images", "labels"}  # folders that may hold several splits
SPLITS = ("train", "val", "test")
NOTHING = ("", "~", "null", "Null", "NULL", "None")
NO_SPLITS = ("classes", "names", "backup", "results", "labels")  # keys that name no list of pictures


@dataclass(frozen=True)
class YoloSet:
    """Location of the splits' images: folders, or text files with one path per line. Keys are relative to `base`.

    Attributes:
        files: the files with class names, splits and lists of images.
        keypoints: the number of keypoints that follow each box, and of numbers for each; None if polygons are meant.
    """

    base: Path
    splits: dict[str, list[Path]]
    names: dict[int, str]
    origin: Path
    files: list[Path] = field(default_factory=list)
    keypoints: tuple[int, int] | None = None


def find(root: Path, wanted: tuple[str, ...] | None, findings: list[Finding], allow_outside: bool) -> YoloSet:
    """Find the images, labels and class names of a folder, a YAML file or Darknet's obj.data.

    Args:
        wanted: the requested splits.
        findings: irregularities are appended to it.
        allow_outside: allow paths in the YAML outside its folder.

    Raises:
        FormatError: no layout fits, or the YAML is wrong.
    """
    file = root if root.is_file() else _yaml_file(root)
    if file and file.suffix.lower() != ".data":
        return _from_yaml(file, wanted, findings, allow_outside)
    if file := file or next(iter(globbed(root, "*.data", "data/*.data")), None):
        return _from_darknet(file, wanted, findings)
    return _from_folders(root)


def _is_needed(split: str, wanted: tuple[str, ...] | None) -> bool:
    """Return True if it is an error that a split is named and not there: if it is selected, or with no selection, for
    all but `test`."""
    return any(split.startswith(name) for name in wanted) if wanted else split != "test"


def _missing(file: Path, split: str, value: str, reason: str, wanted: tuple[str, ...] | None) -> Finding:
    """Return the finding about a split that is named and not there.

    Raises:
        FormatError: the split is needed.
    """
    if _is_needed(split, wanted):
        raise FormatError(f"{file}: {split}: {value}: {reason}; --split selects other splits")
    return Finding("noted", "split-missing", str(file), "", f"{split}: {value}", f"{reason}; left out", "set")


def leads_out(path: Path, folder: Path) -> bool:
    return inside(os.path.relpath(path, folder) + "/x") is None


def _yaml_file(root: Path) -> Path | None:
    files = [path for path in globbed(root, "*") if path.suffix.lower() in (".yaml", ".yml") and path.is_file()]
    for name in ("data", "dataset"):
        for path in files:
            if path.stem == name:
                return path
    if len(files) > 1:
        names = ", ".join(path.name for path in files)
        raise FormatError(f"{root}: several YAML files ({names}); give the one that is meant as ROOT")
    return files[0] if files else None


def _from_yaml(file: Path, wanted: tuple[str, ...] | None, findings: list[Finding], allow_outside: bool) -> YoloSet:
    try:
        facts: Any = yaml.load(read_text(file), Loader=TextLoader)
    except (yaml.YAMLError, RecursionError) as error:
        raise FormatError(f"{file}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(facts, dict):
        raise FormatError(f"{file}: expected the keys train, val, test and names")
    home = file.parent
    base, hint = home / str(facts.get("path", "")).replace("\\", "/"), ""
    if not allow_outside and leads_out(base, home):
        hint = f"; path: {facts['path']}: leads out of {home}, which needs --allow-outside"
    base = base if exists(base) and not hint else home
    splits: dict[str, list[Path]] = {}
    others = facts.get("splits")  # not part of YOLO: `write` adds it if splits have names other than these three
    own = []  # CVAT's subsets
    for key in (key for key, value in facts.items() if key not in (*SPLITS, *NO_SPLITS) and value == f"{key}.txt"):
        lists = [place / f"{key}.txt" for place in (base, home)]
        if any(map(_lists_pictures, lists)):
            own.append(key)
        elif not isinstance(others, dict) and not any(map(exists, lists)):
            reason = f"does not exist (looked for {lists[0]}); left out, if it is a list of pictures"
            findings.append(Finding("noted", "split-missing", str(file), "", f"{key}: {key}.txt", reason, "set"))
    for name in others if isinstance(others, dict) else (*SPLITS, *own):
        entries = (others if isinstance(others, dict) else facts).get(name, "")
        entries = entries if isinstance(entries, list) else [entries]
        for entry in entries:
            if not isinstance(entry, str):
                raise FormatError(f"{file}: {name}: {entry!r}; expected a folder, a text file, or a list of them")
            if entry in NOTHING:
                continue
            name_here = entry.replace("\\", "/")
            places = [base / name_here, home / name_here]
            if name_here.startswith("../"):
                places.append(home / name_here.lstrip("./"))  # Roboflow writes ../train/images and means train/images
            elif not exists(base / name_here):  # of another machine, or from the folder above: Roboflow's set-1/train
                moved = posixpath.normpath(_below(name_here, base))
                places += [] if moved in SHARED else [base / moved]
            path = next(
                (
                    candidate
                    for candidate in places
                    if exists(candidate) and (allow_outside or not leads_out(candidate, home))
                ),
                None,
            )
            if path is None and any(map(exists, places)):
                raise FormatError(f"{file}: {name}: {entry}: leads out of {home}, which needs --allow-outside")
            if path is not None:
                splits.setdefault(name, []).append(path)
            else:
                reason = f"does not exist (looked for {places[0]}){hint}"
                findings.append(_missing(file, name, entry, reason, wanted))
    if not splits:
        raise FormatError(f"{file}: names no images; expected at least one of the keys train, val, test")
    lists = [path for paths in splits.values() for path in paths if path.is_file()]
    names, name_files = (_names(file, facts["names"]), []) if "names" in facts else _name_file(base)
    count = facts.get("nc")
    if count is not None and count != str(len(names)):
        reason = f"names holds {len(names)}; names are what counts"
        findings.append(Finding("noted", "class-count", str(file), "", f"nc: {count}", reason, "set"))
    return YoloSet(base, splits, names, file, [file, *name_files, *lists], _keypoints(file, facts.get("kpt_shape")))


def _keypoints(file: Path, shape: Any) -> tuple[int, int] | None:
    if shape is None:
        return None
    if not isinstance(shape, list) or len(shape) != 2 or not all(str(n).isdecimal() for n in shape):
        raise FormatError(f"{file}: kpt_shape: {shape!r}; expected [number of keypoints, numbers for each]")
    return int(shape[0]), int(shape[1])


def _from_darknet(file: Path, wanted: tuple[str, ...] | None, findings: list[Finding]) -> YoloSet:
    """Read obj.data: lines of `train = data/train.txt`, `valid = ...`, `names = data/obj.names`."""
    base = file.parent
    facts: dict[str, str] = {}
    for line in read_text(file).splitlines():
        key, equals, value = (part.strip() for part in line.partition("="))
        if equals and not key.startswith("#"):
            facts[key] = value
    splits = {}
    for name, value in facts.items():
        if name not in NO_SPLITS and value.endswith((".txt", ".list")):
            path = base / _below(value, base)
            if exists(path):
                splits[name] = [path]
            else:
                findings.append(_missing(file, name, value, f"does not exist (looked for {path})", wanted))
    if not splits:
        raise FormatError(f"{file}: names no images; expected at least one of train = train.txt, valid = valid.txt")
    path = base / _below(facts.get("names", "obj.names"), base)
    names, name_files = _name_file(path if exists(path) else base)
    return YoloSet(base, splits, names, file, [file, *name_files, *(path for [path] in splits.values())])


def _below(name: str, base: Path) -> str:
    """Return a path that Darknet's files give, without the leading folders that `base` does not have.

    They are relative to the folder where Darknet was started, such as `data/train.txt`, or absolute.
    """
    parts = below_its_own(name.strip().replace("\\", "/")).split("/")
    while len(parts) > 1 and not (exists(base / parts[0]) and (base / parts[0]).is_dir()):
        del parts[0]
    return "/".join(parts)


def _names(file: Path, names: Any) -> dict[int, str]:
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict):
        raise FormatError(f"{file}: names: {names!r}; expected a list of names, or a table of number: name")
    dense = {}
    for key, name in names.items():
        if not isinstance(name, str) or not str(key).isdecimal():
            raise FormatError(f"{file}: names: {key}: {name!r}; expected a number and a name")
        dense[int(key)] = name
    return dense


def _name_file(root: Path, *others: Path) -> tuple[dict[int, str], list[Path]]:
    """Read the class names of a file, or of a folder's file; return them with that file.

    Args:
        others: folders whose files are read, all of them, if `root` has none: LabelImg writes one beside each label.

    Raises:
        FormatError: there are none, or those of `others` differ.
    """
    own = [root] if root.is_file() else [folder / name for folder in (root, root / "labels") for name in NAME_FILES]
    path = next(filter(_lines, [*own, *(folder / name for folder in others for name in NAME_FILES)]), None)
    if path is None:
        raise FormatError(
            f"{root}: no class names; expected names in data.yaml, or one a line in {' or '.join(NAME_FILES)}"
        )
    lines = _lines(path)
    beside = [folder / path.name for folder in dict.fromkeys(others)]
    same = [path] if path in own else [other for other in beside if _lines(other)]
    if different := [other for other in same if _lines(other) != lines]:
        raise FormatError(f"{different[0]}: other class names than in {path}; expected the same in both")
    return dict(enumerate(lines)), same


def _lines(path: Path) -> list[str]:
    """Return the lines of a file without blanks at their ends; none if there is no such file."""
    return [line.strip() for line in read_text(path).rstrip().splitlines()] if path.is_file() else []


def _from_folders(root: Path) -> YoloSet:
    images = root / "images"
    splits = {folder.name: [folder] for folder in _subfolders(images) if _is_split(folder)}
    if not splits:
        nested = [folder for folder in _subfolders(root) if (folder / "images").is_dir()]
        splits = {folder.name: [folder / "images"] for folder in nested}
    lists = {path.stem: [path] for path in globbed(root, "*.txt") if _is_list(path)}
    if lists and splits.keys() <= lists.keys():
        splits = lists
    if not splits:  # pictures and label files side by side
        inner = [folder for folder in _subfolders(root) if LIST.fullmatch(folder.name)]
        counts = {folder: len(files_below(folder, is_picture)) for folder in inner}
        if sum(counts.values()) == len(files_below(root, is_picture)):
            splits = {folder.name: [folder] for folder, count in counts.items() if count}
    if not splits:
        flat = images if images.is_dir() else root
        if not files_below(flat, is_picture):
            raise FormatError(f"{root}: no images found; expected {EXPECTED}")
        splits = {"train": [flat]}
    folders = [path for [path] in splits.values() if path.is_dir()]
    beside = [place for path in folders for place in (label_folder(path, root), path, path.parent)]
    names, name_files = _name_file(root, *beside)
    return YoloSet(root, splits, names, root, [*name_files, *(path for [path] in splits.values() if path.is_file())])


def _is_list(path: Path) -> bool:
    """Return True for a text file that has the name of a split and lists pictures."""
    return bool(LIST.fullmatch(path.stem)) and _lists_pictures(path)


def _lists_pictures(path: Path) -> bool:
    """Return True for a file whose lines are paths of pictures, in UTF-8 or not."""
    with reading(path):
        text = read_bytes(path).decode(errors="replace") if exists(path) and path.is_file() else ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return bool(lines) and all(map(is_picture, lines))


def _is_split(folder: Path) -> bool:
    return bool(LIST.fullmatch(folder.name) or files_below(folder, is_picture))


def _subfolders(folder: Path) -> list[Path]:
    folders = folder.iterdir() if folder.is_dir() else ()
    return sorted(path for path in folders if not is_hidden(path.name) and path.is_dir() and not circles(path))


def images_of(
    dataset: YoloSet, split: str, wanted: tuple[str, ...] | None, findings: list[Finding], allow_outside: bool
) -> list[str]:
    """Return the paths of a split's images without duplicates, as text.

    Raises:
        FormatError: there are none, although the split is needed.
    """
    images: dict[str, None] = {}
    refused = False
    home = dataset.origin if dataset.origin.is_dir() else dataset.origin.parent
    for place in dataset.splits[split]:
        if place.is_dir():
            paths: Iterable[str] = files_below(type(place)(os.path.normpath(place)), is_picture).texts()
        else:
            lines = [line.strip().replace("\\", "/") for line in read_text(place).splitlines() if line.strip()]
            names = [line if inside(line) is None else _near(line, dataset.base, place.parent) for line in lines]
            # a path is relative to the set, or to the list
            pictures, wrong = locate(names, [dataset.base, place.parent], home, place, allow_outside=allow_outside)
            found = (pictures[name][1] for name in names if name in pictures)
            paths = (str(type(path)(os.path.normpath(path))) for path in found)
            findings += wrong
            refused = refused or any(finding.action == "refused" for finding in wrong)
        for path in paths:
            if path in images:
                key = key_of(path, dataset.base)
                findings.append(Finding("noted", "listed-twice", str(place), key, split, "taken once", "set"))
            images[path] = None
    if not images and not refused:
        value = ", ".join(map(str, dataset.splits[split]))
        findings.append(_missing(dataset.origin, split, value, "has no pictures", wanted))
    return list(images)


def _near(name: str, base: Path, folder: Path) -> str:
    """Return a relative path of a list without the leading folders that neither the set nor the list's folder has."""
    first = folder / name.split("/")[0]
    return name if exists(first) and first.is_dir() else _below(name, base)

"""Location of a YOLO set's images and labels, and its class names: by its YAML, or by its folders alone."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dataforge.errors import FormatError
from dataforge.files import circles, exists, files_below, inside, read_text
from dataforge.formats.pictures import NOT_BELOW, below_its_own, is_picture
from dataforge.record import Finding

EXPECTED = (
    "data.yaml (train, val, test, names); images/<split>/ with labels/<split>/; <split>/images/ with <split>/labels/; "
    "the last two with the names in classes.txt or obj.names"
)
SPLITS = ("train", "val", "test")
NAME_FILES = ("classes.txt", "obj.names")
NOTHING = ("", "~", "null", "Null", "NULL", "None")


@dataclass(frozen=True)
class YoloSet:
    """Location of the splits' images: folders, or text files with one path per line. Keys are relative to `base`."""

    base: Path
    splits: dict[str, list[Path]]
    names: dict[int, str]
    origin: Path


def find(root: Path, wanted: tuple[str, ...] | None, findings: list[Finding], allow_outside: bool) -> YoloSet:
    """Find the images, labels and class names of a folder or a YAML file.

    Args:
        wanted: the requested splits.
        findings: irregularities are appended to it.
        allow_outside: allow paths in the YAML outside its folder.

    Raises:
        FormatError: no layout fits, or the YAML is wrong.
    """
    file = root if root.is_file() else _yaml_file(root)
    return _from_yaml(file, wanted, findings, allow_outside) if file else _from_folders(root)


def leads_out(path: Path, folder: Path) -> bool:
    return inside(os.path.relpath(path, folder) + "/x") is None


def _yaml_file(root: Path) -> Path | None:
    files = sorted(path for path in root.iterdir() if path.suffix in (".yaml", ".yml") and path.is_file())
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
        # the base loader keeps every scalar as text: a class named `no` or `007` is unchanged
        facts: Any = yaml.load(read_text(file), Loader=yaml.BaseLoader)
    except yaml.YAMLError as error:
        raise FormatError(f"{file}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(facts, dict):
        raise FormatError(f"{file}: expected the keys train, val, test and names")
    home = file.parent
    base, hint = home / str(facts.get("path", "")), ""
    if not allow_outside and leads_out(base, home):
        hint = f"; path: {facts['path']}: leads out of {home}, which needs --allow-outside"
    base = base if exists(base) and not hint else home
    splits: dict[str, list[Path]] = {}
    others = facts.get("splits")  # not part of YOLO: `write` adds it if splits have names other than these three
    for name in others if isinstance(others, dict) else SPLITS:
        entries = (others if isinstance(others, dict) else facts).get(name, "")
        entries = entries if isinstance(entries, list) else [entries]
        for entry in entries:
            if not isinstance(entry, str):
                raise FormatError(f"{file}: {name}: {entry!r}; expected a folder, a text file, or a list of them")
            if entry in NOTHING:
                continue
            # Roboflow writes ../train/images and means train/images
            places = (
                base / entry,
                home / entry,
                home / entry.lstrip("./") if entry.startswith("../") else home / entry,
            )
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
            elif name == "test" and "test" not in (wanted or ()):
                reason = "does not exist; the split is left out"
                findings.append(Finding("noted", "split-missing", str(file), "", f"{name}: {entry}", reason, "set"))
            else:
                raise FormatError(f"{file}: {name}: {entry}: does not exist (looked for {places[0]}){hint}")
    if not splits:
        raise FormatError(f"{file}: names no images; expected at least one of the keys train, val, test")
    names = _names(file, facts["names"]) if "names" in facts else _name_file(base)
    count = facts.get("nc")
    if count is not None and count != str(len(names)):
        reason = f"names holds {len(names)}; names are what counts"
        findings.append(Finding("noted", "class-count", str(file), "", f"nc: {count}", reason, "set"))
    return YoloSet(base, splits, names, file)


def _names(file: Path, names: Any) -> dict[int, str]:
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names:
        raise FormatError(f"{file}: names: {names!r}; expected a list of names, or a table of number: name")
    dense = {}
    for key, name in names.items():
        if not isinstance(name, str) or not str(key).isdecimal():
            raise FormatError(f"{file}: names: {key}: {name!r}; expected a number and a name")
        dense[int(key)] = name
    return dense


def _name_file(root: Path) -> dict[int, str]:
    for path in [folder / name for folder in (root, root / "labels") for name in NAME_FILES]:
        if path.is_file():
            lines = [line.strip() for line in read_text(path).rstrip().splitlines()]
            if lines:
                return dict(enumerate(lines))
    raise FormatError(
        f"{root}: no class names; expected names in data.yaml, or one a line in {' or '.join(NAME_FILES)}"
    )


def _from_folders(root: Path) -> YoloSet:
    images = root / "images"
    splits = {folder.name: [folder] for folder in _subfolders(images) if files_below(folder, is_picture)}
    if not splits:
        nested = [folder for folder in _subfolders(root) if (folder / "images").is_dir()]
        splits = {folder.name: [folder / "images"] for folder in nested}
    if not splits:
        flat = images if images.is_dir() else root
        if not files_below(flat, is_picture):
            raise FormatError(f"{root}: no images found; expected {EXPECTED}")
        splits = {"train": [flat]}
    return YoloSet(root, splits, _name_file(root), root)


def _subfolders(folder: Path) -> list[Path]:
    folders = folder.iterdir() if folder.is_dir() else ()
    return sorted(path for path in folders if path.is_dir() and not circles(path))


def key_of(path: Path, base: Path) -> str:
    return below_its_own(Path(os.path.relpath(path, base)).as_posix())


def images_of(dataset: YoloSet, split: str, findings: list[Finding], allow_outside: bool) -> list[Path]:
    """Return a split's images without duplicates."""
    images: dict[Path, None] = {}
    home = dataset.origin if dataset.origin.is_dir() else dataset.origin.parent
    for place in dataset.splits[split]:
        if place.is_dir():
            paths = files_below(place, is_picture)
        else:
            lines = [line.strip().replace("\\", "/") for line in read_text(place).splitlines()]
            # a path is relative to the set, or to the list
            paths = []
            for line in filter(None, lines):
                tries = [folder / line for folder in (dataset.base, place.parent)]
                tries = [path for path in tries if allow_outside or not leads_out(path, home)]
                if tries:
                    paths.append(next(filter(exists, tries), tries[0]))
                else:
                    findings.append(Finding("refused", "image-path", str(place), line, split, NOT_BELOW, "image"))
        for path in map(Path, map(os.path.normpath, paths)):
            if path in images:
                key = key_of(path, dataset.base)
                findings.append(Finding("noted", "listed-twice", str(place), key, split, "taken once", "set"))
            images[path] = None
    return list(images)


def label_folder(folder: Path, base: Path) -> Path:
    """Replace the last `images` in the path by `labels`, preferably below `base`; else labels are beside the images."""
    swapped = []
    for start, parts in ((base, Path(os.path.relpath(folder, base)).parts), (Path(), folder.parts)):
        if "images" in parts:
            last = len(parts) - 1 - parts[::-1].index("images")
            swapped.append(Path(os.path.normpath(Path(start, *parts[:last], "labels", *parts[last + 1 :]))))
    beside = not swapped or next(folder.glob("*.txt"), None) is not None
    return next((labels for labels in swapped if labels.is_dir()), folder if beside else swapped[0])


def orphans(folders: dict[Path, Path]) -> list[Finding]:
    """Report labels without an image in the image folder. Lists may omit images, so they are not considered."""
    findings = []
    stems: dict[Path, set[str]] = {}
    for folder, labels in folders.items():
        if folder.is_dir():
            stems.setdefault(labels, set()).update(p.stem for p in folder.iterdir() if is_picture(p.name))
    for labels, known in stems.items():
        for path in sorted(labels.glob("*.txt")):
            if path.stem not in known and path.name not in NAME_FILES and path.stem not in SPLITS:
                reason = "a label file without an image; left out"
                findings.append(Finding("refused", "label-orphan", str(path), "", "", reason, "set"))
    return findings

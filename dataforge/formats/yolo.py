"""YOLO text labels: `class cx cy w h`, or `class x1 y1 x2 y2 x3 y3 ...`, as fractions of the upright image's size."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import yaml

from dataforge.errors import FormatError, ImageError
from dataforge.formats.layout import (
    as_boxes,
    check_root,
    exists,
    files_below,
    inside,
    is_picture,
    new_folder,
    pick_splits,
    picture_name,
    put_picture,
    put_text,
    read_text,
)
from dataforge.image import probe
from dataforge.record import Boxes, Finding, Record, Source

EXPECTED = (
    "data.yaml (train, val, test, names); images/<split>/ with labels/<split>/; <split>/images/ with <split>/labels/; "
    "the last two with the names in classes.txt or obj.names"
)
SPLITS = ("train", "val", "test")
HOLDS = frozenset({"splits", "classes"})
PLACES = range(6, 16)  # decimal places tried, from what most tools write
NAME_FILES = ("classes.txt", "obj.names")
NOTHING = ("", "~", "null", "Null", "NULL", "None")


@dataclass(frozen=True)
class _Set:
    """Where the splits' images are: folders, or text files with a path a line."""

    base: Path
    splits: dict[str, list[Path]]
    names: dict[int, str]
    origin: Path


def read(root: Path, *, split: tuple[str, ...] | None = None) -> Source:
    """Read a YOLO set.

    Args:
        root: its folder, or its YAML file.
        split: take these only.

    Raises:
        FormatError: no layout fits, or the YAML is wrong. ConfigError: no such split.
    """
    found: list[Finding] = []
    if not root.is_file():
        check_root(root, EXPECTED)
    file = root if root.is_file() else _yaml_file(root)
    layout = _from_yaml(file, split, found) if file else _from_folders(root)
    classes = tuple(dict.fromkeys(layout.names[i] for i in sorted(layout.names)))
    if len(classes) < len(layout.names):
        reason = "a name is given to several ids; taken for one class"
        found.append(Finding("noted", "class-twice", str(layout.origin), "names", "", reason, "set"))
    label_of = {i: classes.index(name) for i, name in layout.names.items()}
    class_ids = tuple(min(i for i, label in label_of.items() if label == n) for n in range(len(classes)))
    chosen = pick_splits(split, layout.splits)
    images: dict[str, list[Path]] = {}
    for name in chosen:
        images[name] = _images(layout, name, found)
    folders = {path.parent: _label_folder(path.parent, layout.base) for paths in images.values() for path in paths}
    if not any(next(folder.glob("*.txt"), None) for folder in set(folders.values())):
        looked = ", ".join(sorted({str(folder) for folder in folders.values()})[:3]) or "no image folder"
        raise FormatError(f"{root}: no label files found (looked in {looked}); expected {EXPECTED}")
    found += _orphans(folders)

    def records() -> Iterator[Record | Finding]:
        yield from found
        for name in chosen:
            for path in images[name]:
                yield from _record(name, path, folders[path.parent] / (path.stem + ".txt"), layout.base, label_of)

    return Source(classes, records(), class_ids, total=sum(map(len, images.values())))


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


def _from_yaml(file: Path, wanted: tuple[str, ...] | None, found: list[Finding]) -> _Set:
    try:
        # the base loader keeps every scalar as text: a class called `no` or `007` stays what it is
        facts: Any = yaml.load(read_text(file), Loader=yaml.BaseLoader)
    except yaml.YAMLError as error:
        raise FormatError(f"{file}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(facts, dict):
        raise FormatError(f"{file}: expected the keys train, val, test and names")
    home = file.parent
    base = home / str(facts.get("path", ""))
    base = base if exists(base) else home
    splits: dict[str, list[Path]] = {}
    others = facts.get("splits")  # not YOLO's own: `write` adds it where splits have other names than these three
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
            place = next((place for place in places if exists(place)), None)
            if place is not None:
                splits.setdefault(name, []).append(place)
            elif name == "test" and not any("test".startswith(one) for one in wanted or ()):
                reason = "does not exist; the split is left out"
                found.append(Finding("noted", "split-missing", str(file), name, entry, reason, "set"))
            else:
                raise FormatError(f"{file}: {name}: {entry}: does not exist (looked for {places[0]})")
    if not splits:
        raise FormatError(f"{file}: names no images; expected at least one of the keys train, val, test")
    names = _names(file, facts["names"]) if "names" in facts else _name_file(base)
    count = facts.get("nc")
    if count is not None and count != str(len(names)):
        reason = f"names holds {len(names)}; names are what counts"
        found.append(Finding("noted", "class-count", str(file), "nc", str(count), reason, "set"))
    return _Set(base, splits, names, file)


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


def _from_folders(root: Path) -> _Set:
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
    return _Set(root, splits, _name_file(root), root)


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def _images(layout: _Set, split: str, found: list[Finding]) -> list[Path]:
    """A split's images, each once."""
    images: dict[Path, None] = {}
    for place in layout.splits[split]:
        if place.is_dir():
            paths = files_below(place, is_picture)
        else:
            lines = [line.strip() for line in read_text(place).splitlines()]
            # a path is relative to the set, or to the list
            tries = [(layout.base / line, place.parent / line) for line in lines if line]
            paths = [next((path for path in pair if exists(path)), pair[0]) for pair in tries]
        for path in map(Path, map(os.path.normpath, paths)):
            if path in images:
                key = _key(path, layout.base)
                found.append(Finding("noted", "listed-twice", str(place), key, split, "taken once", "set"))
            images[path] = None
    return list(images)


def _key(path: Path, base: Path) -> str:
    return Path(os.path.relpath(path, base)).as_posix()


def _label_folder(folder: Path, base: Path) -> Path:
    """The last `images` in the path becomes `labels`, below the set if it can; else labels lie beside the images."""
    swapped = []
    for start, parts in ((base, Path(os.path.relpath(folder, base)).parts), (Path(), folder.parts)):
        if "images" in parts:
            last = len(parts) - 1 - parts[::-1].index("images")
            swapped.append(Path(os.path.normpath(Path(start, *parts[:last], "labels", *parts[last + 1 :]))))
    beside = not swapped or next(folder.glob("*.txt"), None) is not None
    return next((labels for labels in swapped if labels.is_dir()), folder if beside else swapped[0])


def _orphans(folders: dict[Path, Path]) -> list[Finding]:
    """Labels without an image beside them. Lists may leave images out, so it is the folder that counts."""
    found = []
    stems: dict[Path, set[str]] = {}
    for folder, labels in folders.items():
        if folder.is_dir():
            stems.setdefault(labels, set()).update(p.stem for p in folder.iterdir() if is_picture(p.name))
    for labels, known in stems.items():
        for path in sorted(labels.glob("*.txt")):
            if path.stem not in known and path.name not in NAME_FILES and path.stem not in SPLITS:
                reason = "a label file without an image; left out"
                found.append(Finding("refused", "label-orphan", str(path), path.stem, "", reason, "set"))
    return found


def _record(split: str, path: Path, labels: Path, base: Path, label_of: dict[int, int]) -> Iterator[Record | Finding]:
    key = _key(path, base)
    height = width = 0
    numbers: list[int] = []
    boxes = np.zeros((0, 4), np.float32)
    try:
        info = probe(path.read_bytes())
        height, width = info.height, info.width
    except (OSError, ValueError, ImageError):
        pass  # ingest opens it too, and says what is wrong
    else:
        if exists(labels):
            try:
                text = read_text(labels)
            except FormatError as error:
                reason = str(error).removeprefix(f"{labels}: ")
                yield Finding("refused", "label-broken", str(labels), key, "", reason, "image")
                return
            cxcywh_unit: list[list[float]] = []
            for n, line in enumerate(text.splitlines(), 1):
                fields = line.split()
                if not fields:
                    continue
                parsed = _line(fields, label_of)
                if isinstance(parsed, tuple):
                    numbers.append(parsed[0])
                    cxcywh_unit.append(parsed[1])
                else:
                    value = line if len(line) <= 60 else line[:57] + "..."
                    code = "unknown-class" if parsed.startswith("the class") else "line-broken"
                    yield Finding("refused", code, str(labels), f"{key} line {n}", value, parsed + "; left out")
            boxes = _pixels(cxcywh_unit, height, width)
        else:
            yield Finding("noted", "no-label", str(path), key, "", "no label file; taken as an empty image", "image")
    yield Record(
        key=key,
        split=split,
        image=path,
        height=height,
        width=width,
        boxes=boxes,
        labels=np.array(numbers, np.int32),
        flags=np.zeros(len(numbers), np.uint8),
        origin=str(labels if exists(labels) else path),
    )


def _line(fields: list[str], label_of: dict[int, int]) -> tuple[int, list[float]] | str:
    """A line's label and its box as `cxcywh_unit`, or what is wrong with it."""
    try:
        number, *values = (float(one) for one in fields)
    except ValueError:
        return "expected numbers only"
    if number not in label_of:
        return "the class is not in names"
    if any(abs(value) > 2 for value in values):
        return "expected fractions of the image's size, 0..1"
    if len(values) == 4:
        return label_of[int(number)], values
    if len(values) >= 6 and len(values) % 2 == 0:
        left, right, top, bottom = min(values[::2]), max(values[::2]), min(values[1::2]), max(values[1::2])
        return label_of[int(number)], [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]
    return f"{len(fields)} numbers; expected class cx cy w h, or class and at least 3 points"


def _pixels(cxcywh_unit: list[list[float]] | np.ndarray, height: int, width: int) -> Boxes:
    unit = np.asarray(cxcywh_unit, np.float64).reshape(-1, 4)
    with np.errstate(all="ignore"):
        corners = np.concatenate([unit[:, :2] - unit[:, 2:] / 2, unit[:, :2] + unit[:, 2:] / 2], 1)
        return as_boxes(corners * (width, height, width, height))


def write(source: Source, root: Path) -> None:
    """Write `images/<split>/<key>`, `labels/<split>/*.txt` and `data.yaml`.

    Boxes come back bit for bit (but for corners nearer to the edge than 1e-6 pixels, which are kept to 1e-9). Of two
    pictures that differ in their suffix alone, the second one gets its suffix twice, since labels go by the name before
    the suffix; a key without a picture's suffix gets one. No flags, areas, image or class numbers can be held. Splits
    that are not called train, val or test are named below `splits` in `data.yaml`; the first one whose name starts with
    one of these three stands for it too.

    Raises:
        FormatError: `root` is not empty, something cannot be written, there are no images, or one has no size.
    """
    new_folder(root)
    splits: dict[str, str] = {}
    taken: set[str] = set()
    for item in source.records:
        if isinstance(item, Finding):
            continue
        name = picture_name(item)
        if not is_picture(name) or min(item.height, item.width) <= 0:
            size = f"{item.width}x{item.height}"
            raise FormatError(f"{item.key!r} ({size}): YOLO cannot hold it; expected a picture's name and its size")
        name = (inside(name) or name).removeprefix("images/").removeprefix(f"{item.split}/")
        folder = f"images/{item.split}"
        while _label_path(f"{folder}/{name}") in taken:
            name += PurePosixPath(name).suffix
        put_picture(replace(item, key=name), root / folder)
        labels = _label_path(f"{folder}/{name}")
        taken.add(labels)
        splits[item.split] = folder
        rows = zip(item.labels.tolist(), _unit(item.boxes, item.height, item.width).tolist(), strict=True)
        lines = [" ".join([str(label), *map(repr, cxcywh_unit)]) + "\n" for label, cxcywh_unit in rows]
        put_text(root / labels, "".join(lines).encode())
    if not splits:
        raise FormatError(f"{root}: there are no images to write")
    facts: dict[str, Any] = {}
    for name in SPLITS:
        fitting = [folder for split, folder in splits.items() if split.startswith(name)]
        if fitting:
            facts[name] = splits.get(name, fitting[0])
    if not splits.keys() <= set(SPLITS):
        facts["splits"] = splits
    facts["names"] = dict(enumerate(source.classes))
    text = yaml.safe_dump(facts, sort_keys=False, allow_unicode=True)
    put_text(root / "data.yaml", text.encode())


def _label_path(picture: str) -> str:
    """Where the labels of `images/...` are looked for: the last folder called `images` becomes `labels`."""
    *folders, name = picture.split("/")
    last = len(folders) - 1 - folders[::-1].index("images")
    folders[last] = "labels"
    return "/".join([*folders, str(PurePosixPath(name).with_suffix(".txt"))])


def _unit(boxes: Boxes, height: int, width: int) -> np.ndarray:
    """(n, 4) `cxcywh_unit`, with as few places as `_pixels` needs to give the boxes back."""
    size = np.array([width, height], np.float64)
    low, span = boxes[:, :2] / size, (boxes[:, 2:].astype(np.float64) - boxes[:, :2]) / size
    found = np.concatenate([low + span / 2, span], 1)
    open_ = np.ones(low.shape, bool)
    for places in PLACES:
        if not open_.any():
            break
        short = np.round(span, places)
        unit = np.concatenate([np.round(low + short / 2, places), short], 1)
        fits = open_ & (_pixels(unit, height, width) == boxes).reshape(-1, 2, 2).all(1)
        found[np.tile(fits, 2)] = unit[np.tile(fits, 2)]
        open_ &= ~fits
    return found

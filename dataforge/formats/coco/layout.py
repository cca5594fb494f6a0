"""The JSON files and the pictures' folders of a COCO data set, by split."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from dataforge.errors import FormatError
from dataforge.files import globbed
from dataforge.formats.coco import is_coco, is_inner
from dataforge.formats.splits import NO_SPLIT, split_word

ROBOFLOW = "_annotations.coco.json"
EXPECTED = (
    "annotations/instances_<split>.json with <split>/, images/<split>/, images/ or data/; <split>/<name>.json or "
    "<split>/annotations/<name>.json beside its pictures; or one JSON file (--annotations FILE --images DIR)"
)
# files that COCO's sets have beside those of boxes
SIBLINGS = ("person_keypoints_", "captions_", "stuff_", "panoptic_", "image_info_")
PICTURES = ("data", "images")  # folders of pictures in a split's folder: FiftyOne's and others'


class SplitFiles(NamedTuple):
    path: Path
    folders: list[Path]  # candidate folders of its images, likeliest first


def split_name(path: Path, root: Path) -> str:
    """Return what a file's name, or its folder's, says about its split; "train" if nothing."""
    return (
        _clue(path, root) or (path.parent.name if split_word(path.parent.name) == path.parent.name else "") or "train"
    )


def _clue(path: Path, root: Path) -> str:
    found = re.fullmatch(r"(?:instances|person_keypoints)_(.+)", path.stem)
    if found:
        return found[1]
    is_folder = (root / path.stem).is_dir() or (root / "images" / path.stem).is_dir()
    return path.stem if is_folder and path.stem.lower() not in NO_SPLIT else split_word(path.stem)


def folders(root: Path, name: str, path: Path) -> list[Path]:
    places = (root / name, root / "images" / name, *(root / sub for sub in PICTURES), path.parent, root)
    return [place for place in places if place.is_dir()]


def discover(root: Path) -> dict[str, SplitFiles]:
    found: dict[str, SplitFiles] = {}
    if not globbed(root, f"*/{ROBOFLOW}"):
        for folder in (root / "annotations", root):
            files = json_files(folder)
            if files:
                names = _by_split(root, folder, files)
                return {name: SplitFiles(path, folders(root, name, path)) for name, path in names.items()}
    for folder in (path for path in globbed(root, "*") if path.is_dir()):
        files = [folder / ROBOFLOW] if (folder / ROBOFLOW).is_file() else json_files(folder)
        files = files or (json_files(folder / "annotations") if is_inner(folder / "annotations") else [])
        files = [path for path in files if path.name == ROBOFLOW or is_coco(path)]
        if len(files) > 1:
            raise _several(folder, files)
        if files:
            places = [place for place in (*(folder / sub for sub in PICTURES), folder) if place.is_dir()]
            found[folder.name] = SplitFiles(files[0], places)
    if not found:
        raise FormatError(f"{root}: no COCO annotations found; expected {EXPECTED}")
    return found


def json_files(folder: Path) -> list[Path]:
    return [path for path in globbed(folder, "*") if path.suffix.lower() == ".json" and path.is_file()]


def _by_split(root: Path, folder: Path, files: list[Path]) -> dict[str, Path]:
    """Return the files of boxes of one folder by split: `instances*.json` if there are any.

    Raises:
        FormatError: there are several, and their names do not tell the splits.
    """
    boxes = [path for path in files if re.match(r"instances(?![a-z0-9])", path.name)]
    boxes = boxes or [path for path in files if not path.name.startswith(SIBLINGS)] or files
    if len(boxes) == 1:
        return {split_name(boxes[0], root): boxes[0]}
    named: dict[str, list[Path]] = {}
    for path in boxes:
        named.setdefault(_clue(path, root), []).append(path)
    unclear = [path for path in named.pop("", []) if is_coco(path)]
    if unclear or not named or max(map(len, named.values())) > 1:
        if len(unclear) == 1 and not named:
            return {split_name(unclear[0], root): unclear[0]}
        raise _several(folder, boxes)
    return {name: paths[0] for name, paths in sorted(named.items())}


def _several(folder: Path, files: list[Path]) -> FormatError:
    names = ", ".join(file.name for file in files)
    return FormatError(
        f"{folder}: several JSON files ({names}), and no telling their splits; "
        "say which with --annotations FILE --images DIR"
    )

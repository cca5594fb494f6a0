"""Location of the label files of a YOLO set's images."""

from __future__ import annotations

import os
from pathlib import Path

from dataforge.files import alike, is_hidden, listed
from dataforge.formats.pictures import is_picture
from dataforge.formats.yolo import LIST, NAME_FILES
from dataforge.record import Finding


def label_folder(folder: Path, base: Path) -> Path:
    """Replace the last `images` in the path by `labels`, preferably below `base`; else labels are beside the images."""
    swapped = []
    for start, parts in ((base, Path(os.path.relpath(folder, base)).parts), (type(base)(), folder.parts)):
        if "images" in parts:
            last = len(parts) - 1 - parts[::-1].index("images")
            swapped.append(type(base)(os.path.normpath(start.joinpath(*parts[:last], "labels", *parts[last + 1 :]))))
    existing = next((labels for labels in swapped if labels.is_dir()), None)
    return existing or (folder if not swapped or labels_in(folder) else swapped[0])


def labels_in(folder: Path) -> list[str]:
    """Return the names of the label files in a folder; none if there is no such folder."""
    names = listed(folder)[1] if folder.is_dir() else ()
    return [name for name in names if name[-4:].lower() == ".txt" and not is_hidden(name)]


def twins(names: list[str]) -> dict[str, str]:
    """Return the names of label files other than `a.txt` by what is `alike`: `A.TXT`, other letters, `a.jpg.txt`."""
    return {
        alike(name): name
        for name in names
        if not (name.isascii() and name[-4:] == ".txt") or ("." in name[:-4] and is_picture(name[:-4]))
    }


def twin(picture: str, others: dict[str, str]) -> str | None:
    """Return the name of a picture's label file among `twins`, which is read if there is no `a.txt`."""
    names = (picture[: picture.rindex(".")] + ".txt", picture + ".txt") if others else ()
    return next((others[alike(name)] for name in names if alike(name) in others), None)


def orphans(folders: dict[Path, Path], names_in: dict[Path, list[str]]) -> list[Finding]:
    """Report labels that no image in the image folder has. Lists may omit images, so they are not considered.

    Args:
        folders: the folder of labels of each folder of images; names_in: of each, its `labels_in`.
    """
    findings = []
    pictures: dict[Path, list[str]] = {}
    for folder, labels in folders.items():
        if folder.is_dir():
            pictures.setdefault(labels, []).extend(filter(is_picture, listed(folder)[1]))
    for labels, known in pictures.items():
        names, others = {*names_in[labels]}, twins(names_in[labels])
        plain = ((picture, picture[: picture.rindex(".")] + ".txt") for picture in known)
        used = {name if name in names else twin(picture, others) for picture, name in plain}
        for name in names_in[labels]:
            if name not in used and name not in NAME_FILES and not LIST.fullmatch(name[:-4]):
                reason = "a label file without an image; left out"
                findings.append(Finding("refused", "label-orphan", str(labels / name), "", "", reason, "set"))
    return findings

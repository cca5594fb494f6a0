"""Names of splits in the names of files and folders."""

from __future__ import annotations

import re
from pathlib import Path

WORD = re.compile(
    r"(?<![a-z0-9])(train|trainval|val|valid|validation|test|dev|minival|eval)(_?(19|20)\d\d|\d*)(?![a-z0-9])", re.I
)
NO_SPLIT = (  # common names of folders
    *("annotations", "annotation", "labels", "json", "images", "data", "dataset"),
    *("vott-json-export", "vott-csv-export", "manifests"),  # of VoTT and Ground Truth
)


def split_word(name: str) -> str:
    """Return the split that a file's name, without its suffix, contains as a word: "val" for `lvis_v1_val`; "" if none.

    "train2017" is such a word; "trainer" is none. A name with several, such as `train_val`, is taken as a whole.
    """
    words = [match[0] for match in WORD.finditer(name)]
    return name if len(set(words)) > 1 else words[0] if words else ""


def split_of(path: Path) -> str:
    """Return the split that the name of an annotation file contains, or that one of its folders has; else "train"."""
    folders = [folder.name for folder in list(path.absolute().parents)[:3]]
    return split_word(path.stem) or next(filter(WORD.fullmatch, folders), "train")

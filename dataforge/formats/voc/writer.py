"""Write Pascal VOC XML."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path, PurePosixPath
from xml.sax.saxutils import escape

import numpy as np

from dataforge.errors import FormatError
from dataforge.files import inside, new_folder, put_text
from dataforge.formats.decimals import decimals
from dataforge.formats.pictures import is_picture, picture_name, put_picture
from dataforge.formats.voc.parser import CORNERS
from dataforge.formats.xml_files import is_legal
from dataforge.record import DIFFICULT, TRUNCATED, Finding, Record, Source


def write(source: Source, root: Path) -> None:
    """Write `JPEGImages/<key>`, `Annotations/*.xml` and `ImageSets/Main/<split>.txt`.

    Corners are 1-based decimals, as in VOC, and are restored bit for bit (except those closer than 1e-6 pixels to the
    edge). A key that two splits share is placed in a folder with the split's name in one of them. Of two images that
    differ only in their suffix, the second one's XML file is named after its full name. A key without an image suffix
    gets one. Crowd flags, areas, image and class numbers and unused classes are not stored.

    Raises:
        FormatError: `root` is not empty, something cannot be written, there are no images, or the lists or XML
            cannot represent a name.
    """
    new_folder(root)
    for name in source.classes:
        if not name or name != name.strip() or not is_legal(name):
            raise FormatError(f"{root}: class {name!r}: XML cannot hold it; expected text without blanks around it")
    names = [escape(name, {"\r": "&#13;"}) for name in source.classes]
    lists: dict[str, list[str]] = {}
    pictures: set[str] = set()
    ids: dict[str, str] = {}
    for item in source.records:
        if isinstance(item, Finding):
            continue
        name = picture_name(item)
        name = (inside(name) or name).removeprefix("JPEGImages/")
        while name in pictures:
            name = f"{item.split}/{name}"
        i = _new_id(name, ids)
        put_picture(replace(item, key=name), root / "JPEGImages")
        put_text(root / "Annotations" / f"{i}.xml", _xml(item, name, names).encode())
        pictures.add(name)
        ids[i] = name
        lists.setdefault(item.split, []).append(i)
    if not lists:
        raise FormatError(f"{root}: there are no images to write")
    for union, parts in source.unions.items():
        here = [part for part in parts if part in lists]
        if len(here) > 1:  # a list equal to that of one split would be read as a second copy of it
            lists[union] = [i for part in here for i in lists[part]]
    for split, lines in lists.items():
        put_text(root / "ImageSets" / "Main" / f"{split}.txt", "".join(f"{line}\n" for line in lines).encode())


def _new_id(name: str, ids: dict[str, str]) -> str:
    """Return the id of an image: its name without the suffix, or its full name if that id is taken."""
    i = str(PurePosixPath(name).with_suffix("")) if is_picture(name) else ""
    if not i or i.strip().splitlines() != [i] or not is_legal(name):
        raise FormatError(f"{name!r}: VOC cannot hold it; expected a picture's name, and no blanks around it")
    if i in ids and ids[i] != i and name not in ids:
        i = name
    if i in ids:
        raise FormatError(f"{name!r}: VOC cannot hold it beside {ids[i]!r}")
    return i


def _xml(record: Record, name: str, names: list[str]) -> str:
    corners = np.concatenate([decimals(record.boxes[:, :2], -1.0), decimals(record.boxes[:, 2:])], 1)
    rows = zip(record.labels.tolist(), record.flags.tolist(), corners.tolist(), strict=True)
    lines = [
        "<annotation>",
        f"  <filename>{escape(name)}</filename>",
        f"  <size><width>{record.width}</width><height>{record.height}</height></size>",
    ]
    for label, flag, box in rows:
        tags = "".join(f"<{tag}>{repr(v).removesuffix('.0')}</{tag}>" for tag, v in zip(CORNERS, box, strict=True))
        difficult, truncated = int(flag & DIFFICULT > 0), int(flag & TRUNCATED > 0)
        lines += [
            "  <object>",
            f"    <name>{names[label]}</name>",
            f"    <truncated>{truncated}</truncated>",
            f"    <difficult>{difficult}</difficult>",
            f"    <bndbox>{tags}</bndbox>",
            "  </object>",
        ]
    return "\n".join([*lines, "</annotation>", ""])

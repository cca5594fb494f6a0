"""Write KITTI's 2D boxes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path, PurePosixPath

from dataforge.errors import FormatError
from dataforge.files import inside, new_folder, put_text
from dataforge.formats.kitti.reader import FOLDERS, REGION
from dataforge.formats.pictures import is_picture, picture_name, put_picture
from dataforge.record import TRUNCATED, Finding, Source

UNKNOWN = "-1 -1 -1 -1000 -1000 -1000 -10"  # height, width, length, place and rotation, as KITTI states for DontCare


def write(source: Source, root: Path) -> None:
    """Write `<split>/image_2/<key>` and `<split>/label_2/*.txt`.

    Boxes keep their float32 values; occlusion and 3D values are unknown. Of two images that differ only in their
    suffix, the second one gets its suffix twice. Flags other than truncated, areas, image and class numbers and unused
    classes are not stored.

    Raises:
        FormatError: `root` is not empty, something cannot be written, a class cannot be held, or there are no images.
    """
    new_folder(root)
    for name in source.classes:
        if name == REGION or not name or name != " ".join(name.split()) or _is_number(name.split()[-1]):
            raise FormatError(
                f"class {name!r}: cannot be held; expected words that do not end in a number, not {REGION}"
            )
    taken: set[str] = set()
    for item in source.records:
        if isinstance(item, Finding):
            continue
        name = picture_name(item)
        if not is_picture(name):
            raise FormatError(f"{item.key!r}: KITTI cannot hold it; expected a picture's name")
        images, labels = (f"{item.split}/{folder}" for folder in FOLDERS[0])
        name = (inside(name) or name).removeprefix(f"{images}/")
        while (file := f"{labels}/{PurePosixPath(name).with_suffix('.txt')}") in taken:
            name += PurePosixPath(name).suffix
        put_picture(replace(item, key=name), root / images)
        taken.add(file)
        lines = [
            f"{source.classes[label]} {1 if flag & TRUNCATED else 0:.2f} 3 -10 {' '.join(map(repr, box))} {UNKNOWN}\n"
            for label, flag, box in zip(item.labels.tolist(), item.flags.tolist(), item.boxes.tolist(), strict=True)
        ]
        put_text(root / file, "".join(lines).encode())
    if not taken:
        raise FormatError(f"{root}: there are no images to write")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True

"""Write CVAT's images XML."""

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from dataforge.files import new_folder, writing
from dataforge.formats.pictures import put_picture
from dataforge.formats.written import single_rings
from dataforge.formats.xml_files import check_legal
from dataforge.record import FLAGS, Record, Source

RETURN = {"\r": "&#13;"}


def write(source: Source, root: Path) -> None:
    """Write `annotations.xml`, and the images as `images/<split>/<key>`.

    Boxes and polygons of one ring keep their float32 values; crowd, difficult and truncated are written as attributes.
    Areas, image ids and class numbers are not stored.

    Raises:
        FormatError: `root` is not new, cannot be written, or a name contains a character that XML does not allow.
    """
    new_folder(root)
    path = root / "annotations.xml"
    attributes = "".join(
        f"<attribute><name>{name}</name><mutable>False</mutable><input_type>checkbox</input_type>"
        f"<default_value>false</default_value><values>false</values></attribute>"
        for name in FLAGS
    )
    labels = "".join(
        f"<label><name>{escape(check_legal(name, path), RETURN)}</name><attributes>{attributes}</attributes></label>\n"
        for name in source.classes
    )
    with writing(path), open(path, "w", encoding="utf-8", newline="") as file:
        file.write('<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n')
        file.write(f"<meta><task><labels>\n{labels}</labels></task></meta>\n")
        number = 0
        for record in source.records:
            if isinstance(record, Record):
                put_picture(record, root / "images" / record.split)
                file.write(_element(record, number, source.classes, path))
                number += 1
        file.write("</annotations>\n")


def _element(record: Record, number: int, classes: tuple[str, ...], path: Path) -> str:
    key, subset = (quoteattr(check_legal(text, path)) for text in (record.key, record.split))
    lines = [f'<image id="{number}" name={key} subset={subset} width="{record.width}" height="{record.height}">']
    for (x1, y1, x2, y2), label, flag, ring in zip(
        record.boxes.astype(np.float64).tolist(),
        record.labels.tolist(),
        record.flags.tolist(),
        single_rings(record),
        strict=True,
    ):
        marks = "".join(
            f'<attribute name="{name}">{"true" if flag & bit else "false"}</attribute>' for name, bit in FLAGS.items()
        )
        tag, corners = "box", f'xtl="{x1!r}" ytl="{y1!r}" xbr="{x2!r}" ybr="{y2!r}"'
        if ring is not None:
            points = ";".join(f"{x!r},{y!r}" for x, y in zip(ring[0::2], ring[1::2], strict=True))
            tag, corners = "polygon", f'points="{points}"'
        lines.append(f'<{tag} label={quoteattr(classes[label])} occluded="0" {corners} z_order="0">{marks}</{tag}>')
    return "\n".join([*lines, "</image>\n"])

"""Sets of small pictures with five boxes each, in the formats that `label_files` reads."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

BOXES, WIDE, HIGH = 5, 64, 48
CLASSES = ("cat", "dog", "owl", "cow")


def unit(n: int, box: int) -> tuple[float, float, float, float]:
    """The corners of a box, in fractions."""
    x, y = (n % 7 + box) / 20, (n % 5 + box) / 16
    return x, y, x + 0.25, y + 0.125


def make_yolo(root: Path, images: int, picture: bytes) -> None:
    for name in ("images/train", "labels/train"):
        (root / name).mkdir(parents=True)
    (root / "data.yaml").write_text(f"path: .\ntrain: images/train\nnames: {json.dumps([*CLASSES])}\n")
    for n in range(images):
        (root / f"images/train/{n:06d}.jpg").write_bytes(picture)
        corners = (unit(n, box) for box in range(BOXES))
        lines = (f"{n % 4} {x1 + 0.125:.6f} {y1 + 0.0625:.6f} 0.25 0.125\n" for x1, y1, _, _ in corners)
        (root / f"labels/train/{n:06d}.txt").write_text("".join(lines))


def make_voc(root: Path, images: int, picture: bytes) -> None:
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / name).mkdir(parents=True)
    (root / "ImageSets/Main/train.txt").write_text("".join(f"{n:06d}\n" for n in range(images)))
    for n in range(images):
        (root / f"JPEGImages/{n:06d}.jpg").write_bytes(picture)
        parts = []
        for x1, y1, x2, y2 in (unit(n, box) for box in range(BOXES)):
            corners = zip(
                ("xmin", "ymin", "xmax", "ymax"), (x1 * WIDE + 1, y1 * HIGH + 1, x2 * WIDE, y2 * HIGH), strict=True
            )
            bndbox = "".join(f"<{name}>{int(value)}</{name}>" for name, value in corners)
            parts.append(
                f"<object><name>{CLASSES[n % 4]}</name><pose>Left</pose><truncated>0</truncated>"
                f"<difficult>0</difficult><bndbox>{bndbox}</bndbox></object>"
            )
        (root / f"Annotations/{n:06d}.xml").write_text(
            f"<annotation><folder>VOC</folder><filename>{n:06d}.jpg</filename><size><width>{WIDE}</width><height>{HIGH}"
            f"</height><depth>3</depth></size><segmented>0</segmented>{''.join(parts)}</annotation>"
        )


def make_labelme(root: Path, images: int, picture: bytes) -> None:
    root.mkdir()
    for n in range(images):
        (root / f"{n:06d}.jpg").write_bytes(picture)
        shapes = []
        for x1, y1, x2, y2 in (unit(n, box) for box in range(BOXES)):
            points = [[x1 * WIDE, y1 * HIGH], [x2 * WIDE, y2 * HIGH]]
            shapes.append({"label": CLASSES[n % 4], "points": points, "shape_type": "rectangle", "flags": {}})
        facts: dict[str, Any] = {
            "version": "5.4.1",
            "flags": {},
            "shapes": shapes,
            "imagePath": f"{n:06d}.jpg",
            "imageData": None,
        }
        (root / f"{n:06d}.json").write_text(json.dumps({**facts, "imageHeight": HIGH, "imageWidth": WIDE}, indent=2))


def make_ultralytics(root: Path, images: int, picture: bytes) -> None:
    (root / "images").mkdir(parents=True)
    with open(root / "set.ndjson", "w") as file:
        names = dict(enumerate(CLASSES))
        file.write(json.dumps({"type": "dataset", "task": "detect", "name": "set", "class_names": names}) + "\n")
        for n in range(images):
            (root / f"images/{n:06d}.jpg").write_bytes(picture)
            boxes = [
                [n % 4, x1 + 0.125, y1 + 0.0625, 0.25, 0.125] for x1, y1, _, _ in (unit(n, b) for b in range(BOXES))
            ]
            facts = {"type": "image", "file": f"{n:06d}.jpg", "width": WIDE, "height": HIGH, "split": "train"}
            file.write(json.dumps({**facts, "annotations": {"boxes": boxes}}) + "\n")


def make_labelbox(root: Path, images: int, picture: bytes) -> None:
    (root / "images").mkdir(parents=True)
    with open(root / "export.ndjson", "w") as file:
        for n in range(images):
            name = f"{n:06d}.jpg"
            (root / "images" / name).write_bytes(picture)
            objects = []
            for x1, y1, x2, y2 in (unit(n, box) for box in range(BOXES)):
                box = {"top": y1 * HIGH, "left": x1 * WIDE, "height": (y2 - y1) * HIGH, "width": (x2 - x1) * WIDE}
                kind = {"annotation_kind": "ImageBoundingBox", "classifications": [], "feature_id": f"clf98gj9{n:08d}"}
                objects.append({**kind, "name": CLASSES[n % 4], "value": CLASSES[n % 4], "bounding_box": box})
            label = {"label_kind": "Default", "version": "1.0.0", "id": f"{n}", "label_details": {"reviews": []}}
            label["annotations"] = {"objects": objects, "classifications": [], "relationships": []}
            facts = {
                "id": f"clf6j9{n:08d}",
                "external_id": name,
                "global_key": name,
                "row_data": f"https://host/{name}",
            }
            media = {"width": WIDE, "height": HIGH, "mime_type": "image/jpeg"}
            projects = {"clf6": {"name": "Pets", "labels": [label], "project_details": {"ontology_id": "c"}}}
            file.write(json.dumps({"data_row": facts, "media_attributes": media, "projects": projects}) + "\n")


def make_table(root: Path, images: int, picture: bytes) -> None:
    import google_crc32c

    def sized(tag: int, data: bytes) -> bytes:
        length = len(data)
        return bytes([tag << 3 | 2, *([length] if length < 128 else [length & 127 | 128, length >> 7])]) + data

    def feature(name: str, kind: int, data: bytes) -> bytes:
        return sized(1, sized(1, name.encode()) + sized(2, sized(kind, data)))

    def masked(data: bytes) -> bytes:
        crc = google_crc32c.value(data)
        return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)

    root.mkdir()
    with open(root / "train.tfrecord", "wb") as file:
        for n in range(images):
            parts = [feature("image/encoded", 1, sized(1, picture))]
            parts += [feature("image/filename", 1, sized(1, f"{n:06d}.jpg".encode()))]
            parts += [
                feature(f"image/{name}", 3, sized(1, bytes([side])))
                for name, side in (("height", HIGH), ("width", WIDE))
            ]
            corners = list(zip(*(unit(n, box) for box in range(BOXES)), strict=True))
            for name, values in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True):
                parts.append(feature(f"image/object/bbox/{name}", 2, sized(1, struct.pack(f"<{BOXES}f", *values))))
            text = b"".join(sized(1, CLASSES[n % 4].encode()) for _ in range(BOXES))
            parts += [
                feature("image/object/class/text", 1, text),
                feature("image/object/class/label", 3, sized(1, bytes([1 + n % 4] * BOXES))),
            ]
            data = sized(1, b"".join(parts))
            head = struct.pack("<Q", len(data))
            file.write(head + masked(head) + data + masked(data))


MAKERS: dict[str, Callable[[Path, int, bytes], None]] = {
    "yolo": make_yolo,
    "voc": make_voc,
    "labelme": make_labelme,
    "labelbox": make_labelbox,
    "ultralytics": make_ultralytics,
    "table": make_table,
}

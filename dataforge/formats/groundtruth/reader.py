"""Reader of SageMaker Ground Truth's output manifests of bounding boxes.

Lines: docs.aws.amazon.com/sagemaker/latest/dg/sms-data-output.html#sms-output-box; boxes are left, top, width and
height in pixels, class numbers have their names in the `class-map` of the line's metadata.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from dataforge.errors import ConfigError, FormatError
from dataforge.formats.annotated import Annotated, files_of, source, xywh
from dataforge.formats.groundtruth import SUFFIXES, is_manifest
from dataforge.formats.json_files import decode, read_lines
from dataforge.formats.pictures import as_size, path_of
from dataforge.record import Finding, Source

EXPECTED = "Ground Truth's manifest: lines of source-ref, a label attribute, and its metadata of object detection"
TYPE = "groundtruth/object-detection"


class Box(msgspec.Struct, gc=False):
    class_id: int
    left: float | None = None
    top: float | None = None
    width: float | None = None
    height: float | None = None


class Size(msgspec.Struct):
    width: float | None = None
    height: float | None = None


class Label(msgspec.Struct):
    annotations: list[Box]
    image_size: list[Size] = []


class Metadata(msgspec.Struct):
    type: str = ""
    class_map: dict[str, str] = msgspec.field(name="class-map", default_factory=dict)


def read(
    root: Path,
    *,
    split: tuple[str, ...] | None = None,
    images: Path | None = None,
    attribute: str | None = None,
    allow_outside: bool = False,
) -> Source:
    """Read boxes. Classes are the sorted names in use. Images are sought by the ends of their URIs.

    Args:
        root: a folder of manifests, or one file.
        split: read only these splits.
        images: the folder with the images; by default they are searched below `root`.
        attribute: the label attribute that is read, if lines have several of object detection.
        allow_outside: allow names outside the folder: absolute, or with `..`.

    Raises:
        FormatError: no such files, or a line is not Ground Truth's. ConfigError: no such split, several attributes.
    """
    splits = files_of(root, is_manifest, EXPECTED, *SUFFIXES)
    parts = {name: (item for path in paths for item in _items(path, attribute)) for name, paths in splits.items()}
    files = [path for paths in splits.values() for path in paths]
    return source(root, parts, split, images, allow_outside, files=files)


def _items(path: Path, attribute: str | None) -> Iterator[Annotated | Finding]:
    labels, metadata, text = msgspec.json.Decoder(Label), msgspec.json.Decoder(Metadata), msgspec.json.Decoder(str)
    for number, line in read_lines(path, dict[str, msgspec.Raw], EXPECTED):
        where = f"{path}: line {number}"
        if "source-ref" not in line:
            raise FormatError(f"{where}: no source-ref; expected {EXPECTED}")
        item = Annotated(path_of(decode(bytes(line["source-ref"]), text, f"{where}: source-ref", EXPECTED)), path)
        about = {
            key.removesuffix("-metadata"): decode(bytes(raw), metadata, f"{where}: {key}", EXPECTED)
            for key, raw in line.items()
            if key.endswith("-metadata")
        }
        fitting = [key for key, one in about.items() if one.type == TYPE and key in line and attribute in (None, key)]
        if len(fitting) > 1:
            raise ConfigError(f"{where}: labels {', '.join(fitting)}; say which with --attribute")
        if not fitting:
            yield Finding("noted", "not-annotated", str(path), item.name, "", f"no label of {TYPE}; left out", "image")
            continue
        label = decode(bytes(line[fitting[0]]), labels, f"{where}: {fitting[0]}", EXPECTED)
        if label.image_size:
            item.width, item.height = as_size(label.image_size[0].width), as_size(label.image_size[0].height)
        names = about[fitting[0]].class_map
        for box in label.annotations:
            item.add(names.get(str(box.class_id)), xywh(box.left, box.top, box.width, box.height))
        yield item

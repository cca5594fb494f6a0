"""Writer of Croissant metadata for Parquet files as `table` writes them."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from dataforge.files import new_folder, put_text
from dataforge.formats import table
from dataforge.record import Source

SPEC = "http://mlcommons.org/croissant/1.0"
TERMS = """citeAs column conformsTo dataBiases dataCollection extract field fileObject fileProperty fileSet format
includes isLiveDataset jsonPath key md5 parentField path personalSensitiveInformation recordSet references regex
repeated replace samplingRate separator source subField transform"""
CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    **{term: f"cr:{term}" for term in TERMS.split()},
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "isEnumeration": "cr:isEnumeration",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
}
FIELDS: dict[str, tuple[list[str], str, str, str]] = {  # name -> types, column, path in it, description
    "image": (["sc:ImageObject"], "image", "bytes", "the encoded image"),
    "file_name": (["sc:Text"], "image", "path", "the name of the image, unique in the file"),
    "image_id": (["sc:Integer"], "image_id", "", "the source's number of the image, or -1"),
    "width": (["sc:Integer"], "width", "", "in pixels"),
    "height": (["sc:Integer"], "height", "", "in pixels"),
    "bbox": (["sc:Float", "cr:BoundingBox"], "objects", "bbox", "x, y, width, height in pixels, for each object"),
    "category": (["sc:Integer"], "objects", "category", "the class of each object, a number of `classes`"),
}


def write(source: Source, root: Path) -> None:
    """Write `data/<split>.parquet`, as `table` does, and `croissant.json`, which describes them.

    Raises:
        FormatError: as `table`'s `write`.
    """
    new_folder(root)
    table.write(source, root / "data")
    files = {path.stem: path for path in sorted((root / "data").glob("*.parquet"))}
    # an @id has no whitespace
    ids = {split: split if re.fullmatch(r"[\w.-]+", split) else f"split-{n}" for n, split in enumerate(files)}
    facts = {
        "@context": dict(sorted(CONTEXT.items())),
        "@type": "sc:Dataset",
        "name": "dataset",
        "description": "Images with boxes, exported by dataforge.",
        "conformsTo": SPEC,
        "distribution": [_file(id, files[split]) for split, id in ids.items()],
        "recordSet": [_classes(source.classes)] * bool(source.classes) + [_records(*names) for names in ids.items()],
    }
    put_text(root / "croissant.json", json.dumps(facts, indent=1, ensure_ascii=False).encode())


def _file(id: str, path: Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        "@type": "cr:FileObject",
        "@id": f"{id}.parquet",
        "name": path.name,
        "contentUrl": f"data/{path.name}",
        "contentSize": f"{path.stat().st_size} B",
        "encodingFormat": "application/x-parquet",
        "sha256": digest,
    }


def _classes(names: tuple[str, ...]) -> dict[str, Any]:
    fields = [
        {"@type": "cr:Field", "@id": "classes/id", "name": "id", "dataType": "sc:Integer"},
        {"@type": "cr:Field", "@id": "classes/name", "name": "name", "dataType": ["sc:Text", "sc:name"]},
    ]
    data = [{"classes/id": n, "classes/name": name} for n, name in enumerate(names)]
    head = {"@type": "cr:RecordSet", "@id": "classes", "name": "classes", "dataType": "sc:Enumeration"}
    return {**head, "key": {"@id": "classes/id"}, "field": fields, "data": data}


def _records(split: str, id: str) -> dict[str, Any]:
    fields = []
    for field, (types, column, inner, description) in FIELDS.items():
        source: dict[str, Any] = {"fileObject": {"@id": f"{id}.parquet"}, "extract": {"column": column}}
        if inner:
            source["transform"] = {"jsonPath": inner}
        if field == "bbox":
            source["format"] = "XYWH"
        facts: dict[str, Any] = {"@type": "cr:Field", "@id": f"images-{id}/{field}", "name": field}
        facts |= {"description": description, "dataType": types if len(types) > 1 else types[0], "source": source}
        if column == "objects":
            facts["repeated"] = True
        fields.append(facts)
    return {"@type": "cr:RecordSet", "@id": f"images-{id}", "name": f"images of {split}", "field": fields}

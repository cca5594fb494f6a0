"""Writer of Parquet files in Hugging Face's convention."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dataforge.errors import FormatError
from dataforge.files import inside, new_folder
from dataforge.record import Finding, Record, Source

GROUP_BYTES = 16 << 20  # size of a written row group


def write(source: Source, root: Path) -> None:
    """Write `<split>.parquet` files in Hugging Face's convention: one row per image, with its bytes embedded.

    Columns: image{bytes, path}, image_id, width, height, objects{bbox, category, area, flags}; bbox is x, y, width,
    height in pixels, float64, so that the float32 corners are preserved exactly, as are all fields of a record.

    Raises:
        FormatError: `root` is not empty, a key is not a path below a folder, or something cannot be read or written.
    """
    new_folder(root)
    schema = _schema(source)
    writers: dict[str, pq.ParquetWriter] = {}
    waiting: dict[str, list[dict[str, Any]]] = {}
    weight: dict[str, int] = {}

    def flush(split: str) -> None:
        writers[split].write_table(pa.Table.from_pylist(waiting[split], schema))
        waiting[split], weight[split] = [], 0

    try:
        for record in source.records:
            if isinstance(record, Finding):
                continue
            if inside(record.key) != record.key:
                raise FormatError(f"{record.origin}: {record.key!r}: expected a key that is a path below a folder")
            split = record.split
            if split not in writers:
                options: dict[str, Any] = {"compression": "none", "use_dictionary": False, "write_statistics": False}
                writers[split] = pq.ParquetWriter(root / f"{split}.parquet", schema, **options)
                waiting[split], weight[split] = [], 0
            data = record.image.read_bytes() if isinstance(record.image, Path) else record.image
            waiting[split].append(_row(record, data))
            weight[split] += len(data)
            if weight[split] > GROUP_BYTES or len(waiting[split]) >= 1000:
                flush(split)
        for split in writers:
            flush(split)
            writers[split].close()
    except BaseException as error:
        for split, writer in writers.items():
            writer.close()
            (root / f"{split}.parquet").unlink(missing_ok=True)  # once closed, an incomplete file would look complete
        if isinstance(error, OSError | pa.ArrowException):
            reason = getattr(error, "strerror", None) or error
            raise FormatError(f"{root}: cannot be written: {reason}") from None
        raise


def _row(record: Record, data: bytes) -> dict[str, Any]:
    xyxy = record.boxes.astype(np.float64)
    xywh = np.concatenate([xyxy[:, :2], xyxy[:, 2:] - xyxy[:, :2]], 1)
    return {
        "image": {"bytes": data, "path": record.key},
        "image_id": record.id,
        "width": record.width,
        "height": record.height,
        "objects": {
            "bbox": xywh.tolist(),
            "category": record.labels.tolist(),
            "area": [None] * len(xyxy) if record.areas is None else record.areas.tolist(),
            "flags": record.flags.tolist(),
        },
    }


def _schema(source: Source) -> pa.Schema:
    def listed(inner: Any) -> dict[str, Any]:
        return {"feature": inner, "_type": "Sequence"}

    def value(kind: str) -> dict[str, Any]:
        return {"dtype": kind, "_type": "Value"}

    objects = {
        "bbox": (pa.list_(pa.list_(pa.float64())), listed(listed(value("float64")))),
        "category": (pa.list_(pa.int64()), listed({"names": list(source.classes), "_type": "ClassLabel"})),
        "area": (pa.list_(pa.float32()), listed(value("float32"))),
        "flags": (pa.list_(pa.uint8()), listed(value("uint8"))),
    }
    features: dict[str, Any] = {
        "image": {"_type": "Image"},
        **{name: value("int64") for name in ("image_id", "width", "height")},
        "objects": {name: feature for name, (_, feature) in objects.items()},
    }
    fields = [
        pa.field("image", pa.struct({"bytes": pa.binary(), "path": pa.string()})),
        *(pa.field(name, pa.int64()) for name in ("image_id", "width", "height")),
        pa.field("objects", pa.struct({name: kind for name, (kind, _) in objects.items()})),
    ]
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    facts = {"boxes": "xywh", "unit": "pixel"} | (
        {"class_ids": list(map(int, source.class_ids))} if source.class_ids else {}
    )
    metadata["dataforge"] = json.dumps(facts)
    return pa.schema(fields, metadata)

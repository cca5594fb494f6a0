"""A summary of the contents of shards."""

from __future__ import annotations

from typing import Any

import numpy as np

from dataforge.record import CROWD, DIFFICULT, TRUNCATED
from dataforge.shards.index import CHECKSUM


def summary(shards: Any) -> dict[str, Any]:
    """Return what `Shards.info` does; the file of `Shards` imports this one."""
    table, baked = shards.table, shards.index.get("baked")
    counts = np.diff(table.offsets)

    def describe(rows: np.ndarray) -> dict[str, Any]:
        objects = table.take(rows)
        per_class = np.bincount(objects.labels, minlength=len(shards.classes))
        return {
            "images": len(rows),
            "boxes": len(objects.labels),
            "empty": int((counts[rows] == 0).sum()),
            "per_class": dict(zip(shards.classes, per_class.tolist(), strict=True)),
            "crowd": int((objects.flags & CROWD > 0).sum()),
            "difficult": int((objects.flags & DIFFICULT > 0).sum()),
            "truncated": int((objects.flags & TRUNCATED > 0).sum()),
        }

    def spread(values: np.ndarray) -> list[int]:
        return np.percentile(values, [0, 50, 100]).astype(int).tolist() if len(values) else [0, 0, 0]

    return {
        "format_version": shards.index["format_version"],
        "source": shards.index["source"],
        "classes": list(shards.classes),
        "images": len(table),
        "boxes": len(table.boxes),
        "splits": {name: describe(rows) for name, rows in shards.splits.items()},
        "unions": shards.index["unions"],
        "height": spread(table.height),
        "width": spread(table.width),
        "boxes_per_image": spread(counts),
        "store": shards.index["store"],
        "codec": shards.codec,
        "baked": baked and {**baked, "parent_is_there": shards.parent_is_there},
        "bytes": int(table.size.sum()),
        "fingerprint": shards.fingerprint,
        "parents": [str(parent) for parent in shards.parents],
        "index_crc": shards.index.get(CHECKSUM),
    }

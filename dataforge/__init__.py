"""Annotated images in any format, to shards, to batches. `Shards` and `Loader` are what most users need."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
__all__ = ["Batch", "DataforgeError", "Loader", "ShardWriter", "Shards"]

_HOMES = {
    "Batch": "dataforge.loading.batch",
    "DataforgeError": "dataforge.errors",
    "Loader": "dataforge.loading.loader",
    "Shards": "dataforge.shards.reader",
    "ShardWriter": "dataforge.shards.writer",
}


def __getattr__(name: str) -> Any:
    # on first use, so that `import dataforge` and `dataforge --help` do not import torch
    if name not in _HOMES:
        raise AttributeError(f"module 'dataforge' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)

"""Annotated images in any format, to shards, to batches. `Shards` and `Loader` are what most users need."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what editors and type checkers see
    from dataforge.errors import DataforgeError as DataforgeError
    from dataforge.loading.batch import Batch as Batch
    from dataforge.loading.loader import Loader as Loader
    from dataforge.shards.reader import Shards as Shards
    from dataforge.shards.writer import ShardWriter as ShardWriter

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
    try:
        return getattr(import_module(_HOMES[name]), name)
    except ModuleNotFoundError as error:
        from dataforge.errors import without_extra

        raise ModuleNotFoundError(without_extra(error) or error.msg, name=error.name) from None


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})

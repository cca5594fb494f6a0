"""Registries: plain dicts of names and what they stand for, each imported when it is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from dataforge.errors import unknown


def load(kind: str, name: str, registry: Mapping[str, str]) -> Any:
    """Import what a registry holds under a name.

    Args:
        kind: what the name should name, in words ("format", "store"), for the message.
        registry: name -> "module" or "module:attribute".

    Raises:
        ConfigError: the registry does not hold the name; the message lists those that it does.
    """
    if name not in registry:
        raise unknown(kind, name, registry)
    module, _, attribute = registry[name].partition(":")
    loaded = importlib.import_module(module)
    return getattr(loaded, attribute) if attribute else loaded

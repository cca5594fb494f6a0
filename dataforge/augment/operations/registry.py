"""The operations by name, and the values that each takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, get_type_hints

from dataforge.augment.operations import crops, geometry, kornia, mix, settings
from dataforge.augment.operations.photo import COLOUR, CURVES, DAMAGE, ERASE
from dataforge.errors import unknown

Recipe = Sequence[dict[str, Any]]

GEOMETRY: dict[str, Callable[..., Any]] = {
    "flip": geometry.flip,
    "vflip": geometry.vflip,
    "rotate90": geometry.rotate90,
    "rotate": geometry.rotate,
    "shear": geometry.shear,
    "scale": geometry.scale,
    "translate": geometry.translate,
    "perspective": geometry.perspective,
    "crop": geometry.crop,
    "jitter": geometry.jitter,
    "expand": geometry.expand,
    "iou_crop": crops.iou_crop,
    "aspect_limit": crops.aspect_limit,
}
PHOTO = DAMAGE | COLOUR | CURVES | ERASE
P = {"flip": 0.5, "vflip": 0.5, "expand": 0.5}  # what `p` is by default; 1 for all others
SETTINGS: dict[str, Callable[..., Any]] = {
    "keep": settings.keep,
    "fill": settings.fill,
    "normalise": settings.normalise,
}
OPERATIONS = {"moves": GEOMETRY, "combines": mix.MIXERS, "colours": PHOTO, "settings": SETTINGS}


@cache  # asked for each batch
def values_of(name: str) -> Mapping[str, tuple[Any, tuple[float, float] | None]]:
    """The values that an operation takes: name -> default, and lowest and highest where they are bounded.

    Raises:
        ConfigError: no such operation.
    """
    if name.startswith(kornia.PREFIX):
        return kornia.values_of(name)
    known = {key: function for group in OPERATIONS.values() for key, function in group.items()}
    if name not in known:
        raise unknown("augmentation", name, [*known, f"{kornia.PREFIX}NAME"])
    types = get_type_hints(known[name], include_extras=True)
    taken: dict[str, tuple[Any, tuple[float, float] | None]] = {}
    for key, value in inspect.signature(known[name]).parameters.items():
        if value.kind is value.KEYWORD_ONLY:
            taken[key] = (value.default, getattr(types[key], "__metadata__", None))
    if name not in SETTINGS:
        taken["p"] = (P.get(name, 1.0), (0, 1))
    return taken


def setting(steps: Recipe, name: str) -> dict[str, Any]:
    """The values of one of `SETTINGS` in a recipe: the last one's, with the defaults for what is not given."""
    given = [step for step in steps if step["op"] == name]
    defaults = {key: default for key, (default, _) in values_of(name).items()}
    return defaults | {key: value for key, value in (given[-1] if given else {}).items() if key != "op"}

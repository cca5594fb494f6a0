"""Recipes: flat lists of `{"op": name, **values}`, by name, from a TOML file, or from the user; checked when read."""

from __future__ import annotations

import inspect
import tomllib
from pathlib import Path
from typing import Any

from dataforge.augment.operations import kornia
from dataforge.augment.operations.registry import OPERATIONS, Recipe, values_of
from dataforge.errors import ConfigError, unknown
from dataforge.files import reading

_COLOURS: Recipe = (
    {"op": "brightness", "strength": 0.4},
    {"op": "contrast", "strength": 0.3},
    {"op": "saturation", "strength": 0.5},
    {"op": "hue", "strength": 0.03},
)
RECIPES: dict[str, Recipe] = {
    "none": (),
    "flip": ({"op": "flip"},),
    "ssd": (
        {"op": "expand"},
        {"op": "iou_crop"},
        {"op": "flip"},
        {"op": "brightness", "strength": 0.5, "p": 0.5},
        {"op": "contrast", "strength": 0.5, "p": 0.5},
        {"op": "saturation", "strength": 0.5, "p": 0.5},
        {"op": "hue", "strength": 0.07, "p": 0.5},
        {"op": "fill", "red": 124, "green": 116, "blue": 104},
        {"op": "keep", "centre": True, "visible": 0.0},
    ),
    "yolo": (
        {"op": "flip"},
        {"op": "scale", "low": 0.6, "high": 1.6},
        {"op": "translate", "fraction": 0.2},
        *_COLOURS,
    ),
    "lsj": ({"op": "flip"}, {"op": "jitter"}),
    "strong": (
        {"op": "mosaic", "p": 0.5},
        {"op": "mixup", "p": 0.1},
        {"op": "flip"},
        {"op": "rotate", "degrees": 5.0},
        {"op": "shear", "degrees": 2.0},
        {"op": "perspective", "strength": 0.05, "p": 0.3},
        {"op": "scale", "low": 0.6, "high": 1.6},
        {"op": "translate", "fraction": 0.2},
        *_COLOURS,
        {"op": "grey", "p": 0.05},
        {"op": "gamma", "p": 0.2},
        {"op": "blur", "p": 0.1},
        {"op": "noise", "p": 0.1},
        {"op": "jpeg", "p": 0.1},
        {"op": "erase", "p": 0.1},
    ),
}


def recipe(augment: str | Path | Recipe | None) -> Recipe:
    """Return a checked recipe, by name, from a TOML file (`steps = [{ op = "flip" }, ...]`), or from a list of steps.

    Raises:
        ConfigError: unknown name, operation or value, or a file that cannot be read.
    """
    if augment is None:
        return ()
    where = ""
    if isinstance(augment, str | Path):
        if str(augment) in RECIPES:
            return RECIPES[str(augment)]
        if not str(augment).endswith(".toml"):
            raise unknown("augmentation recipe", str(augment), [*RECIPES, "FILE.toml"])
        where, augment = f"{augment}: ", _read(Path(augment))
    for step in augment:
        try:
            _check(step)
        except ConfigError as error:
            raise ConfigError(f"{where}{error}") from None
    return tuple(dict(step) for step in augment)


def _read(path: Path) -> Recipe:
    try:
        with reading(path, ConfigError):
            content = tomllib.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    steps = content.get("steps")
    if set(content) != {"steps"} or not isinstance(steps, list):
        keys = ", ".join(map(repr, content)) or "nothing"
        raise ConfigError(f"{path}: holds {keys}; expected one list, 'steps', of {{ op = NAME, ... }}")
    return steps


def _check(step: Any) -> None:
    if not isinstance(step, dict) or not isinstance(step.get("op"), str):
        raise ConfigError(f"augmentation step {step!r}; expected {{ op = NAME, ... }}")
    name = step["op"]
    known = values_of(name)
    for key, value in step.items():
        if key == "op":
            continue
        if key not in known:
            raise ConfigError(f"augmentation {name!r}: unknown value {key!r}; known: {', '.join(known) or 'none'}")
        if name.startswith(kornia.PREFIX) and key != "p":
            continue
        default, bounds = known[key]
        if not _alike(value, default):
            kind = {bool: "true or false", tuple: "3 numbers"}.get(type(default), "a number")
            raise ConfigError(f"augmentation {name!r}: {key} is {value!r}; expected {kind}")
        if bounds and not bounds[0] <= value <= bounds[1]:
            raise ConfigError(f"augmentation {name!r}: {key} is {value!r}; expected {bounds[0]} to {bounds[1]}")
    if name.startswith(kornia.PREFIX):
        kornia.module(step)
        return
    low, high = (step.get(key, known.get(key, [None])[0]) for key in ("low", "high"))
    if low is not None and high is not None and low > high:
        raise ConfigError(f"augmentation {name!r}: low is {low!r} and high {high!r}; expected low to be the smaller")


def _alike(value: Any, default: Any) -> bool:
    if isinstance(default, tuple):
        return isinstance(value, list | tuple) and len(value) == len(default) and all(_alike(v, 0.0) for v in value)
    if isinstance(value, bool) or isinstance(default, bool):
        return type(value) is type(default)
    return isinstance(value, int | float)


def _shown(default: Any) -> str:
    return str(default).lower() if isinstance(default, bool) else f"{default:.3g}"


def table() -> str:
    """Return all operations as Markdown tables: name, values with defaults and bounds, description."""
    lines = []
    for title, group in OPERATIONS.items():
        lines += [f"| {title} | values | |", "|---|---|---|"]
        for name, function in group.items():
            values = [
                f"`{key}` {list(default) if isinstance(default, tuple) else _shown(default)}"
                + (f" ({bounds[0]}..{bounds[1]})" if bounds else "")
                for key, (default, bounds) in values_of(name).items()
            ]
            says = " ".join((inspect.getdoc(function) or "").split("\n\n")[0].split())
            lines.append(f"| `{name}` | {', '.join(values)} | {says} |")
        lines.append("")
    return "\n".join(lines)

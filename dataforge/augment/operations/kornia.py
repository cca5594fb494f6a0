"""kornia's intensity augmentations as operations: `{"op": "kornia.RandomMotionBlur", "kernel_size": 5, "p": 0.3}`.

kornia is imported once a recipe has such a step, and not before. Its geometric augmentations are refused: what moves
pixels must move boxes by the same matrix, and that is `geometry`'s.
"""

from __future__ import annotations

import inspect
from typing import Any

from dataforge.errors import ConfigError, first_line, unknown

PREFIX = "kornia."
REFUSED = {
    "Normalize": "it leaves 0..1; use 'normalise'",
    "Denormalize": "it leaves 0..1; use 'normalise'",
    "RandomDissolving": "it needs the weights of a diffusion model",
}
_OURS = {"self", "p", "same_on_batch", "keepdim"}  # `p` is drawn by `parameters.chosen`
_DEFAULTS: dict[str, dict[str, Any]] = {  # where kornia has none: those of its own examples
    "RandomMotionBlur": {"kernel_size": 3, "angle": 35.0, "direction": 0.5},
    "RandomGaussianBlur": {"kernel_size": (3, 3), "sigma": (0.1, 2.0)},
}
_modules: dict[str, Any] = {}


def names() -> list[str]:
    """The classes of `kornia.augmentation` that can be operations, without the prefix."""
    return sorted(_classes().keys() - REFUSED.keys())


def _classes() -> dict[str, Any]:
    import kornia.augmentation as augmentation

    parent = augmentation.IntensityAugmentationBase2D
    return {
        name: kind
        for name, kind in vars(augmentation).items()
        if isinstance(kind, type) and issubclass(kind, parent) and kind is not parent
    }


def values_of(name: str) -> dict[str, tuple[Any, tuple[float, float] | None]]:
    """The keywords that an operation takes, as `registry.values_of`: kornia's own, with kornia's defaults.

    Raises:
        ConfigError: kornia has no such augmentation, or it cannot be an operation.
    """
    import kornia.augmentation as augmentation

    bare = name.removeprefix(PREFIX)
    kind = _classes().get(bare)
    if bare in REFUSED:
        raise ConfigError(f"augmentation {name!r} is not supported: {REFUSED[bare]}")
    if kind is None:
        if isinstance(getattr(augmentation, bare, None), type):
            raise ConfigError(
                f"augmentation {name!r} is not supported: only kornia's intensity augmentations are. "
                "To move pixels with their boxes use 'rotate' and the like, to combine images 'mosaic' or 'mixup'"
            )
        raise unknown("augmentation", name, [PREFIX + known for known in names()])
    values: dict[str, tuple[Any, tuple[float, float] | None]] = {
        key: (_DEFAULTS.get(bare, {}).get(key, value.default), None) for key, value in _keywords(kind).items()
    }
    return values | {"p": (inspect.signature(kind).parameters["p"].default, (0, 1))}


def _keywords(kind: Any) -> dict[str, inspect.Parameter]:
    return {key: value for key, value in inspect.signature(kind.__init__).parameters.items() if key not in _OURS}


def module(step: dict[str, Any]) -> Any:
    """kornia's module for a recipe's step; the same one for equal steps.

    Raises:
        ConfigError: kornia refuses a value.
    """
    key = repr(step)
    if key not in _modules:
        name = step["op"].removeprefix(PREFIX)
        kind = _classes()[name]
        keywords = _keywords(kind)
        given = _DEFAULTS.get(name, {}) | {key: value for key, value in step.items() if key in keywords}
        try:
            given = {key: _as_declared(value, keywords[key]) for key, value in given.items()}
            _modules[key] = kind(**given, p=1.0)
        except Exception as error:  # kornia raises what it likes
            raise ConfigError(f"augmentation {step['op']!r}: {given}; kornia: {first_line(error)}") from None
    return _modules[key]


def _as_declared(value: Any, parameter: inspect.Parameter) -> Any:
    """A list, as TOML has it, as the tuple or tensor that kornia asks for."""
    declared = str(parameter.annotation).lower()
    if not isinstance(value, list) or ("list" in declared and "tuple" not in declared):
        return value
    if "tuple" not in declared and "tensor" in declared:
        import torch

        return torch.tensor(value, dtype=torch.float32)
    return tuple(value)

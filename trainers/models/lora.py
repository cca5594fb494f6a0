"""Low-rank adapters (Hu et al., "LoRA", arXiv 2106.09685) on a vision transformer's attention and MLPs, by PEFT.

A layer W gets a trainable addition (alpha / r) B A; B is initialised to 0, so that the outputs are unchanged at first.
"""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor, nn

from dataforge.errors import ConfigError

TARGETS = r"blocks\.\d+\.(attn\.(qkv|proj)|mlp\.(fc1|fc2))"
_MARK = ".lora_"


def settings(text: str) -> tuple[int, float]:
    """Parse rank and alpha from text such as "r=8,alpha=16".

    Raises:
        ConfigError: the text has another form, or r is below 1.
    """
    found = re.fullmatch(r"r=(\d+),alpha=(\d+(?:\.\d+)?)", text.replace(" ", ""))
    if not found or int(found[1]) < 1:
        raise ConfigError(f"lora is {text!r}; expected such as r=8,alpha=16")
    return int(found[1]), float(found[2])


def inject(backbone: nn.Module, text: str) -> None:
    """Add adapters to a backbone and freeze its other weights.

    Args:
        text: as in `settings`.

    Raises:
        ConfigError: PEFT is not installed, the text is wrong, or the backbone is not a vision transformer.
    """
    rank, alpha = settings(text)
    if not any(re.fullmatch(TARGETS, name) for name, _ in backbone.named_modules()):
        raise ConfigError("train is 'lora', but the backbone has no attention blocks to adapt; expected neck or all")
    try:
        import peft
    except ImportError:
        raise ConfigError(
            "lora needs the package peft, which is not installed; pip install 'dataforge-detection[lora]'"
        ) from None
    config = peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=TARGETS)  # type: ignore[arg-type]
    peft.inject_adapter_in_model(config, backbone)
    for name, weight in backbone.named_parameters():
        weight.requires_grad_(_MARK in name)


def adapters(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the adapters' tensors of a state dict, by name."""
    return {name: tensor for name, tensor in state.items() if _MARK in name}


def merge(model: nn.Module) -> None:
    """Merge adapters into their layers, which become plain layers.

    Raises:
        ConfigError: there are no adapters.
    """
    layers: list[tuple[str, Any]] = [(n, x) for n, x in model.named_modules() if hasattr(x, "get_base_layer")]
    if not layers:
        raise ConfigError("has no LoRA adapters to merge; expected a model of --train lora")
    for name, layer in layers:
        layer.merge(safe_merge=True)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer.get_base_layer())

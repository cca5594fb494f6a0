"""Pretrained weights for backbones, from files of several libraries and from timm."""

from __future__ import annotations

import errno
import pickle
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import huggingface_hub
import safetensors
import safetensors.torch
import timm
import torch
from torch import Tensor, nn

from dataforge.errors import ConfigError, first_line, out_of_memory
from trainers.models import darknet_files
from trainers.models.backbones import Backbone, Timm, build, timm_model

_KINDS = ("weight", "bias", "running_mean", "running_var")
_HUB_FILES = ("model.safetensors", "pytorch_model.bin")
_PATIENCE = 5.0  # seconds that the hub has to answer; timm itself tries for about 50
_SUFFIXES = (".pth", ".pt", ".bin", ".safetensors", ".weights")


def load(backbone: Backbone, source: str) -> str:
    """Load pretrained weights.

    A state dict (alone, or under "state_dict" or "model") whose names match, regardless of a prefix, is loaded by
    name. One with other names is loaded by order if every tensor has the shape of ours at the same position; the rest
    (a classifier) is not used.

    Args:
        source: a file (.pth, .pt, .bin, .safetensors, or Darknet's .weights for darknet19); "true" for timm's own
            default weights, or the tag of others ("ra2_in1k"), which timm downloads.

    Returns:
        A description of what was loaded.

    Raises:
        ConfigError: the file is missing, unreadable or does not match; the message names the first tensor that differs.
    """
    path = Path(source)
    if is_file(source):
        if path.suffix == ".weights":
            return darknet_files.load_backbone(backbone, path)
        net = backbone.net if isinstance(backbone, Timm) else backbone
        return f"{path}: {_load_state(net, read_state(path), str(path))}"
    if not isinstance(backbone, Timm):
        raise ConfigError(f"pretrained = {source!r}: {backbone.name} has no weights to download; expected a file")
    name = tagged(backbone.name, source)
    net = timm_model(name, pretrained=True)
    state = net.state_dict()
    backbone.net.load_state_dict({own: state[own] for own in backbone.net.state_dict()})
    backbone.mean.copy_(torch.tensor(net.pretrained_cfg["mean"]).view(-1, 1, 1))
    backbone.std.copy_(torch.tensor(net.pretrained_cfg["std"]).view(-1, 1, 1))
    return f"timm's {name}"


def tagged(model: str, source: str) -> str:
    """Return timm's name of a model with the weights of a source: "true" or a tag.

    Raises:
        ConfigError: timm has no such tag; the message lists the others.
    """
    if source == "true":
        return model
    name = f"{model.partition('.')[0]}.{source}"
    known = timm.list_pretrained(f"{model.partition('.')[0]}.*")
    if name not in known:
        tags = ", ".join(one.partition(".")[2] for one in known) or "none"
        raise ConfigError(
            f"pretrained = {source!r}: expected a file, true, or a tag that timm has for this model ({tags}); empty "
            "for random weights"
        )
    return name


def fits(name: str, path: Path) -> bool:
    """Return whether a file has the weights of a backbone."""
    try:
        load(build(name, strides=(16,)), str(path))
    except ConfigError:
        return False
    return True


def obtainable(name: str) -> bool:
    """Return whether timm's own weights of a model are in its cache, or the hub that has them answers."""
    settings = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    if settings is None or not settings.hf_hub_id:
        return False
    cached = (huggingface_hub.try_to_load_from_cache(settings.hf_hub_id, file) for file in _HUB_FILES)
    if any(isinstance(file, str) for file in cached):
        return True
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return False
    hub = urllib.request.Request(huggingface_hub.constants.ENDPOINT, method="HEAD")
    try:
        urllib.request.urlopen(hub, timeout=_PATIENCE).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def frozen_norm(config: Any) -> bool:
    """Return whether a new run freezes batch norms: where asked for, and where there are pretrained statistics.

    Without these, frozen norms would not normalise, and timm's residual blocks, whose last norm has initial weights of
    0, would remain the identity.
    """
    return bool(config.frozen_norm and config.pretrained)


def is_file(source: str) -> bool:
    """Return whether a source of weights names a file, existing or not, rather than "true" or a tag."""
    return Path(source).suffix in _SUFFIXES or "/" in source or Path(source).exists()


def read_state(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a state dict in a file, alone or under "state_dict" or "model".

    Raises:
        ConfigError: the file is missing, cannot be read, or contains no tensors.
    """
    try:
        if path.suffix == ".safetensors":
            state: Any = safetensors.torch.load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file (pretrained)") from None
    except Exception as error:
        raise ConfigError(f"{path}: cannot be read as weights: {unreadable(error)}") from None
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not any(isinstance(value, Tensor) for value in state.values()):
        raise ConfigError(
            f"{path}: holds no state dict; expected names and tensors, or these under state_dict or model"
        )
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


def unreadable(error: Exception) -> str:
    """Say in one line why torch or safetensors cannot load a file. A damaged one makes them raise errors of many kinds.

    torch's own texts explain its zip reader, or advise to load what may run code.
    """
    if out_of_memory(error):
        return f"out of memory: {first_line(error)}"
    if isinstance(error, safetensors.SafetensorError) or (isinstance(error, OSError) and error.errno != errno.EINVAL):
        return first_line(error)  # torch seeks before the start of a short file, which is EINVAL
    if isinstance(error, pickle.UnpicklingError):
        return "expected tensors and plain values alone, such as a state dict or a checkpoint"
    return "the file is damaged or incomplete, or was not saved by torch"


def _counters_out(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Remove batch norm's counters, which old files lack and which have no effect."""
    return {name: value for name, value in state.items() if value.ndim or value.is_floating_point()}


def _load_state(net: nn.Module, state: dict[str, Tensor], path: str) -> str:
    ours, theirs = _counters_out(net.state_dict()), _counters_out(state)
    prefixes = {name[: -len(own)] for own in list(ours)[:1] for name in theirs if name.endswith(own)}
    prefix = max(sorted(prefixes), key=lambda start: sum(start + own in theirs for own in ours), default="")
    same = [prefix + own for own in ours if prefix + own in theirs]
    how = "by name" if len(same) == len(ours) else "by order"
    names = same if how == "by name" else list(theirs)
    matched = f"{len(same)} of {len(ours)} names match"
    for i, (own, tensor) in enumerate(ours.items()):
        if i >= len(names):
            raise ConfigError(f"{path}: ends before {own}: {len(theirs)} tensors, expected {len(ours)} ({matched})")
        given, kind = theirs[names[i]], names[i].rpartition(".")[2]
        moved = kind in _KINDS and not own.endswith(kind)  # batch norm's four have one shape
        if given.shape != tensor.shape or moved:
            raise ConfigError(
                f"{path}: tensor {i}, {names[i]} {tuple(given.shape)}, does not fit {own} {tuple(tensor.shape)}"
                f" ({matched})"
            )
    net.load_state_dict({own: theirs[name] for own, name in zip(ours, names, strict=False)}, strict=False)
    left = [name for name in theirs if name not in set(names[: len(ours)])]
    rest = f"; left over: {', '.join(left[:4])}{', ...' if len(left) > 4 else ''} ({len(left)})" if left else ""
    return f"{len(ours)} tensors loaded {how}{rest}"

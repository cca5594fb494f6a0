"""FSDP2: a detector's weights, gradients and optimizer state divided among the processes, and put together again.

Checkpoints hold whole tensors, with the names and numbers of one process: any number of processes continues from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from trainers.models.vit_backbone import PlainViT

# `broadcast_from_rank0` sends memory as it lies: tensors in channels_last, as in checkpoints, arrive in disorder
WHOLE = StateDictOptions(full_state_dict=True)
ON_RANK_0 = StateDictOptions(full_state_dict=True, cpu_offload=True)
FROM_RANK_0 = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)


def divide(model: nn.Module, device: torch.device) -> None:
    """Divide the parameters of a detector among all processes, in place; all ranks must call it."""
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    backbone = getattr(model, "backbone", None)
    for block in backbone.blocks if isinstance(backbone, PlainViT) else ():
        for name in ("attn", "mlp"):  # `run_block` calls these, not the block
            fully_shard(block.get_submodule(name), mesh=mesh)
    fully_shard(model, mesh=mesh)


def gather(model: nn.Module, whole: nn.Module) -> None:
    """Load a divided detector's weights into a whole one; all ranks must call it.

    Tensors that are not divided, such as the statistics of batch norm, are rank 0's, as with DDP.
    """
    set_model_state_dict(whole, get_model_state_dict(model, options=ON_RANK_0), options=FROM_RANK_0)


def state_dict(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return the whole "model" and "optimizer" on rank 0, and nothing on others; all ranks must call it."""
    weights, moments = get_state_dict(model, optimizer, options=ON_RANK_0)
    numbers = {name: number for number, name in enumerate(_names(model, optimizer))}
    return {"model": weights, "optimizer": _renamed(moments, numbers)} if weights else {}


def load(model: nn.Module, weights: Mapping[str, Any]) -> None:
    """Load whole weights, which each rank has, into a divided detector; all ranks must call it."""
    set_model_state_dict(model, dict(weights), options=WHOLE)


def load_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Load the whole state of an optimizer, which each rank has; all ranks must call it."""
    if not state["state"]:  # SGD without momentum, which the function does not take
        optimizer.load_state_dict(dict(state))
        return
    names = dict(enumerate(_names(model, optimizer)))
    set_optimizer_state_dict(model, optimizer, _renamed(state, names), options=WHOLE)


def _names(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
    """Return the names of an optimizer's parameters by their numbers in its own `state_dict`."""
    names = {weight: name for name, weight in model.named_parameters()}
    return [names[weight] for group in optimizer.param_groups for weight in group["params"]]


def _renamed(state: Mapping[str, Any], keys: Mapping[Any, Any]) -> dict[str, Any]:
    """Return an optimizer's state with other keys of its parameters: the functions above have names for them."""
    groups = [{**group, "params": [keys[key] for key in group["params"]]} for group in state["param_groups"]]
    return {"state": {keys[key]: values for key, values in state["state"].items()}, "param_groups": groups}

"""FSDP2: a detector's weights, gradients and optimizer state divided among the processes, and put together again.

Checkpoints hold whole tensors, with the names and numbers of one process: any number of processes continues from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from trainers.models.vit_backbone import PlainViT


def divide(model: nn.Module, device: torch.device) -> None:
    """Divide the parameters of a detector among all processes, in place; all ranks must call it."""
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    backbone = getattr(model, "backbone", None)
    for block in backbone.blocks if isinstance(backbone, PlainViT) else ():
        for name in ("attn", "mlp"):  # `run_block` calls these, not the block
            fully_shard(block.get_submodule(name), mesh=mesh)
    fully_shard(model, mesh=mesh)


def whole(value: Any, everywhere: bool = False) -> Any:
    """Return a state with whole tensors in place of divided ones; all ranks must call it.

    Args:
        everywhere: also on other ranks than 0, which otherwise get None for each. Tensors that are not divided, such as
            the statistics of batch norm, are then rank 0's, as with DDP.
    """
    if isinstance(value, DTensor):
        full = value.full_tensor()
        return full.cpu() if everywhere or dist.get_rank() == 0 else None
    if isinstance(value, Mapping):
        return {name: whole(part, everywhere) for name, part in value.items()}
    if everywhere and isinstance(value, Tensor):
        value = value.clone()
        dist.broadcast(value, 0)
    return value


def load(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load whole weights into a divided detector."""
    own = model.state_dict()
    model.load_state_dict({name: _divided(tensor, own[name]) for name, tensor in state.items()})


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Load the whole state of an optimizer into that of divided parameters."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    moments = {
        number: {name: _divided(value, weights[number]) for name, value in values.items()}
        for number, values in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": moments})


def _divided(value: Any, like: Tensor) -> Any:
    """Return this rank's part of a tensor of a parameter's shape; others, such as a count of steps, as they are."""
    if not isinstance(like, DTensor) or value.shape != like.shape:
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)

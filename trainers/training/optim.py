"""Learning rate schedule, parameter groups of the optimizer, and the average of the weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from trainers.config import Config
from trainers.models.backbones import Backbone


def learning_rate(config: Config, step: int, passed: float) -> float:
    """Return the learning rate of a step (0, 1, ...). It is a pure function, without state to save.

    Args:
        passed: the fractional number of epochs before it: 2.5 in the middle of the third.
    """
    rate = config.lr
    if config.warmup_steps:
        rate *= min(1.0, (step + 1) / config.warmup_steps)
    if config.schedule == "step":
        rate *= 0.1 ** sum(passed >= milestone for milestone in config.milestones)
    elif config.schedule == "cosine":
        rate *= 0.01 + 0.99 * (1 + math.cos(math.pi * passed / config.epochs)) / 2
    return rate


def make_optimizer(config: Config, model: nn.Module) -> torch.optim.Optimizer:
    """Return SGD or AdamW; tensors of one dimension (biases, norms) get no weight decay.

    A group's learning rate is multiplied by its "factor": `bias_lr` for the biases of convolutions and linear layers,
    and in the backbone `layer_decay` to the power of the units that remain to its end (Bao et al., "BEiT", arXiv
    2106.08254, appendix; unit by unit, the last one has the power 1).
    """
    factors: dict[Tensor, float] = dict.fromkeys(model.parameters(), 1.0)
    backbone = getattr(model, "backbone", None)
    units = backbone.units() if isinstance(backbone, Backbone) else []
    for left, unit in enumerate(reversed(units), 1):
        for weight in unit.parameters():
            factors[weight] = config.layer_decay**left
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear) and layer.bias is not None:
            factors[layer.bias] *= config.bias_lr
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for tensor, factor in factors.items():
        if tensor.requires_grad:
            decay = config.weight_decay if tensor.ndim > 1 else 0.0
            groups.setdefault((decay, factor), []).append(tensor)
    settings = [
        {"params": weights, "weight_decay": decay, "factor": factor} for (decay, factor), weights in groups.items()
    ]
    if config.optimizer == "sgd":
        return torch.optim.SGD(settings, lr=config.lr, momentum=config.momentum)
    return torch.optim.AdamW(settings, lr=config.lr, betas=(config.momentum, 0.999))


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all groups, each multiplied by its factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Update the moving average of weights and buffers; the decay grows from 0, so that early steps are forgotten."""
    decay *= 1 - math.exp(-(step + 1) / 500)
    pairs = list(zip(_local(average), _local(model), strict=True))
    moving = [pair for pair in pairs if pair[0].is_floating_point()]
    torch._foreach_lerp_([mean for mean, _ in moving], [value for _, value in moving], 1 - decay)
    for mean, value in pairs:
        if not mean.is_floating_point():
            mean.copy_(value)


def _local(model: nn.Module) -> list[Tensor]:
    """Return weights and buffers; of those that FSDP2 divides, this rank's part."""
    return [getattr(tensor, "to_local", lambda tensor=tensor: tensor)() for tensor in model.state_dict().values()]

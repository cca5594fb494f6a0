"""Take a training step of the smallest detector, on the CPU and on a device: a part of `dataforge doctor`.

The last line of the output is a JSON object.
"""

from __future__ import annotations

import copy
import json
import math
from typing import Any

import click
import torch
from torch import Tensor

from dataforge.command import command
from dataforge.loading.batch import Batch
from trainers import distributed, registry
from trainers.config import Config
from trainers.models.detector import Detector
from trainers.training import precision
from trainers.training.data import make_loaders
from trainers.training.learner import Learner

DETECTOR = "dense"
SMALLEST = 1e-12  # scale of a difference


def compare(shards: str, device: str) -> dict[str, Any]:
    """Take the same training step on the CPU and on a device.

    Returns:
        "loss": the CPU's; "gaps": the device's largest difference from the CPU by name of an output, relative to the
        range of the CPU's values, or of a loss, relative to the CPU's; "amp": what `--amp auto` chooses on the CPU,
        and why.

    Raises:
        ConfigError: the device cannot be used. DataError: a loss is not finite.
    """
    kind = registry.detector_class(DETECTOR)
    config = registry.config_class(DETECTOR)(shards=shards, val_split="", batch_size=4, augment="none")
    loader, _ = make_loaders(config, kind, 0, 1, torch.device("cpu"))
    batch = next(iter(loader))
    torch.manual_seed(0)
    model = kind(**kind.configure(config, loader.shards))
    cpu, other = (_step(config, copy.deepcopy(model), batch, distributed.device_of(name)) for name in ("cpu", device))
    gaps = {name: _gap(cpu[name], other[name]) for name in cpu}
    return {"loss": cpu["loss"].item(), "gaps": gaps, "amp": precision.resolved("auto", torch.device("cpu"))[1]}


def _step(config: Config, model: Detector, batch: Batch, device: torch.device) -> dict[str, Tensor]:
    """Return outputs and losses on the CPU by name."""
    learner, batch = Learner(config, model, device), batch.to(device)
    with torch.no_grad():
        raw = learner.model(batch.images)
    losses = learner.gradients(batch)
    learner.update(config.lr, 0)
    outputs = {"maps": raw.maps[0], "logits": raw.logits, "offsets": raw.offsets}
    return {name: value.cpu() for name, value in outputs.items()} | {k: torch.tensor(v) for k, v in losses.items()}


def _gap(cpu: Tensor, other: Tensor) -> float:
    scale = cpu.max() - cpu.min() if cpu.dim() else cpu.abs()
    return float((other - cpu).abs().nan_to_num(nan=math.inf, posinf=math.inf).max() / scale.clamp(min=SMALLEST))


@command()
@click.option("--shards", required=True)
@click.option("--device", default="cpu", show_default=True, help="Device to compare with the CPU.")
def main(shards: str, device: str) -> None:
    """Compare the first batch's outputs and losses on a device with the CPU's."""
    click.echo(json.dumps(compare(shards, device)))


if __name__ == "__main__":
    main(prog_name="python -m trainers.doctor")

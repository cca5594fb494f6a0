"""Count what a training step of an included configuration takes, to estimate its time and memory on a GPU.

    python bench/expected.py ssd_voc yolov2_voc faster_rcnn_voc --results bench/results/DATE.jsonl

Counts the floating-point operations of forward and backward pass for one image with 20 classes, and the bytes that the
forward pass keeps for the backward pass; nothing is timed, and no GPU is used.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from dataforge.bench.measure import record_rows
from trainers import registry
from trainers.config import included, read_toml
from trainers.models import convolution
from trainers.training.auto_batch import batch_of

CLASSES, PLACES = 20, 8


class Shards:
    """What `Detector.configure` reads of a set."""

    classes = ("class",) * CLASSES


def rows(name: str) -> Iterator[dict[str, Any]]:
    """Yield the rows of a configuration."""
    convolution._LEAST_TILES = sys.maxsize  # a GPU does not use the convolution with fewer multiplications
    detector = name.rpartition("_")[0]
    kind = registry.config_class(detector)
    config = kind(**read_toml(kind, included(name)), shards="voc")
    model = registry.detector_class(detector)
    network = model(**model.configure(config, Shards())).train()  # type: ignore[arg-type]
    batch = batch_of(1, (config.size[0], config.size[1]), PLACES, CLASSES, torch.device("cpu"))
    kept: dict[int, int] = {}
    own = {weight.untyped_storage().data_ptr() for weight in network.parameters()}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with FlopCounterMode(display=False) as counter:
        with saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = torch.stack(list(network.loss(network(batch.images), batch).values())).sum()
        loss.backward()
    weights = sum(weight.numel() for weight in network.parameters())
    common = {"runs": 1, "data": f"{name}, 1 image of {config.size[0]}x{config.size[1]}, counted on a CPU"}
    yield {"name": f"{name}, step", "value": round(counter.get_total_flops() / 1e9, 1), "unit": "GFLOP/image", **common}
    yield {"name": f"{name}, kept", "value": round(sum(kept.values()) / 2**20, 1), "unit": "MiB/image", **common}
    yield {"name": f"{name}, weights", "value": round(weights / 1e6, 1), "unit": "M", **common}


@click.command()
@click.argument("names", nargs=-1, required=True)
@click.option("--results", type=click.Path(path_type=Path), help="Rows are added to this file.")
def main(names: tuple[str, ...], results: Path | None) -> None:
    """Count for the configurations NAMES."""
    for name in names:
        lines = list(rows(name))
        record_rows(lines, results)
        for line in lines:
            click.echo(f"{line['name']}: {line['value']} {line['unit']}")


if __name__ == "__main__":
    main()

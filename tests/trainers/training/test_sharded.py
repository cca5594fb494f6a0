"""Weights that two processes have divided among themselves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import Tensor, nn

from dataforge.loading.batch import Batch
from tests.trainers import runs
from tests.trainers.suite import make_batch
from trainers.training.learner import Learner


class Norm(nn.Sequential):
    """A convolution and a batch norm, trained on unlike images by the processes."""

    def loss(self, raw: Tensor, batch: Batch) -> dict[str, Tensor]:
        return {"square": raw.square().mean()}


def train(rank: int, folder: str) -> None:
    store = dist.FileStore(f"{folder}/store", 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    torch.manual_seed(0)
    given = {"fsdp": True, "amp": "none", "ema": 0.9, "optimizer": "sgd", "momentum": 0.0}
    config = runs.config("vit", Path(folder), Path(folder), **given)
    learner = Learner(config, Norm(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)), torch.device("cpu"), 2)  # type: ignore[arg-type]
    torch.manual_seed(rank)
    for step in range(3):
        learner.gather()
        learner.gradients(make_batch(torch.rand(2, 3, 8, 8) * (1 + rank), [[], []]))
        assert learner.gathered is None, "it needs memory during the step"
        learner.update(0.01, step)
    own = [buffer.clone() for buffer in learner.average.buffers()]
    learner.gather()
    torch.save([own, learner.judged.state_dict()], f"{folder}/{rank}.pt")
    states = [learner.state_dict()]
    dist.broadcast_object_list(states)
    own = [weight.to_local().detach() for weight in learner.model.parameters()]  # type: ignore[operator]
    before = [weight.clone() for weight in own]
    for weight in own:
        weight.zero_()
    learner.load_state_dict(states[0], learner.judged.state_dict())
    assert all(map(torch.equal, own, before)) and any(weight.any() for weight in own)
    dist.destroy_process_group()


@pytest.mark.slow
def test_all_processes_evaluate_the_same_network(tmp_path: Path) -> None:
    """With the statistics of the first, as with DDP; and continue with them, also if the optimizer has no state."""
    torch.multiprocessing.spawn(train, (str(tmp_path),), 2)
    (first, one), (second, other) = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert not torch.equal(first[1], second[1])
    assert all(torch.equal(other[name], tensor) for name, tensor in one.items())
    assert torch.equal(one["1.running_var"], first[1])

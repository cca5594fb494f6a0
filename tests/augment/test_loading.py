"""Recipes through the loader: the same pictures from either executor, and a module of the user's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from dataforge.augment.recipes import RECIPES
from dataforge.loading.loader import Loader
from tests import tiny

SIZE = (72, 96)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.shards(tmp_path_factory.mktemp("loading") / "shards", repeat=2, splits=("train",))


@pytest.mark.parametrize("augment", [*sorted(RECIPES), "everything"])
def test_both_executors_give_the_same_batches(shards: Path, augment: Any) -> None:
    steps = augment
    if augment == "everything":
        names = ["perspective", "rotate", "gamma", "equalise", "blur", "noise", "jpeg", "erase"]
        fill = {"op": "fill", "red": 20, "green": 40, "blue": 60}
        steps = [*({"op": name, "p": 0.7} for name in names), fill, {"op": "normalise"}]
    ours, theirs = (Loader(shards, batch_size=6, size=SIZE, augment=steps, seed=2, threads=2) for _ in range(2))
    theirs.collate.on_cpu = False  # the whole-batch executor, here on the CPU
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.boxes, b.boxes)
        assert (a.labels == b.labels).all() and (a.flags == b.flags).all()
        error = (a.images.float() - b.images.float()).abs() / (1 if a.images.is_floating_point() else 255)
        assert error.mean() < (0.05 if augment == "everything" else 0.01)
        assert (error > 0.1).float().mean() < 0.08  # a curve's steps, and borders


def test_a_module_of_one_s_own(shards: Path) -> None:
    class Noise(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images + torch.randn_like(images)

    def batches(transform: Any, first: int = 0, epoch: int = 0) -> list[torch.Tensor]:
        loader = Loader(shards, batch_size=7, size=SIZE, augment="flip", threads=2, transform=transform)
        loader.set_epoch(epoch)
        loader._first = first
        return [batch.images.clone() for batch in loader]

    before = torch.random.get_rng_state()
    plain, noisy = batches(None), batches(Noise())
    assert torch.equal(before, torch.random.get_rng_state())  # the caller's own numbers are left alone
    grain = torch.cat([(n - p).flatten() for n, p in zip(noisy, plain, strict=True)])
    assert 0.98 < grain.std() < 1.02
    assert torch.equal(batches(Noise(), first=1)[0], noisy[1])  # the same after going on
    assert not torch.equal(batches(Noise(), epoch=1)[0] - batches(None, epoch=1)[0], noisy[0] - plain[0])

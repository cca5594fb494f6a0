"""Painting makes the host wait for nothing that the GPU does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from dataforge import Loader
from dataforge.augment import recipes
from dataforge.augment.executors import device
from dataforge.augment.layout import lay_out
from tests.augment.test_executors import Table, sources

RECIPES = {name: name for name in recipes.RECIPES} | {"curve": [{"op": "erase"}, {"op": "gamma"}, {"op": "normalise"}]}


class Watch(TorchDispatchMode):
    """Refuses what would make the host wait: reading a value, or copying from memory that is not page-locked."""

    def __init__(self, pinned: list[torch.Tensor]) -> None:
        super().__init__()
        self.pinned, self.copies = pinned, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = func.overloadpacket.__name__, kwargs or {}
        assert name not in ("_local_scalar_dense", "nonzero", "masked_select", "_linalg_check_errors"), name
        there = [a.device.type for a in args if isinstance(a, torch.Tensor)]
        if name == "_to_copy" and there == ["cpu"] and torch.device(kwargs.get("device", "cpu")).type == "cuda":
            assert kwargs.get("non_blocking"), "a copy that is waited for"
            assert any(args[0] is tensor for tensor in self.pinned), "a copy from memory that is not page-locked"
            self.copies += 1
        assert name != "copy_" or there[0] == there[1], "a copy that is waited for"
        return func(*args, **kwargs)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("way", ["torch", "kernel"])
def test_painting_waits_for_nothing(recipe: str, way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's fake tensors can be on a GPU that is not there: all that torch would do is seen."""
    table, shape, kernels = Table(), (32, 48), None
    layout = lay_out(recipes.recipe(RECIPES[recipe]), np.arange(6), table, shape, seed=3)
    canvas, matrix = sources(layout, table)
    if way == "kernel":
        pytest.importorskip("triton")
        from dataforge.augment.executors import kernels

        monkeypatch.setattr(kernels, "_warp", {(4, 6): lambda *args, **kwargs: None})  # 2 x 2 tiles, 6 pictures
    monkeypatch.setattr(device, "fused", lambda place: kernels)
    with FakeTensorMode(allow_non_fake_inputs=True):
        pinned: list[torch.Tensor] = []
        monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor)
        with Watch(pinned) as watch:
            fake = torch.empty(canvas.shape, dtype=torch.uint8, device="cuda:0")
            images = device.paint(fake, matrix, layout, shape)
    assert images.device.type == "cuda" and images.shape == (6, 3, *shape)
    assert watch.copies > 0


def test_the_watch_sees_what_waits() -> None:
    with FakeTensorMode(allow_non_fake_inputs=True), Watch([]):
        fake = torch.empty(3, device="cuda:0")
        for waiting in (lambda: fake.new_tensor([1.0]), lambda: fake.sum().item(), lambda: fake[fake > 0]):
            with pytest.raises((AssertionError, DynamicOutputShapeException)):
                waiting()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("recipe", recipes.RECIPES)
def test_nor_does_the_loader_on_a_gpu(tiny_shards: Path, recipe: str) -> None:
    loader = Loader(tiny_shards, batch_size=4, size=(64, 96), augment=recipe, device="cuda")
    list(loader)  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        assert len(list(loader)) == len(loader)
    finally:
        torch.cuda.set_sync_debug_mode("default")

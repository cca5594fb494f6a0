"""The fused kernel against plain torch: on a GPU where there is one, else in Triton's interpreter."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dataforge import augment as aug
from dataforge.augment import device
from tests import tiny

pytest.importorskip("triton")
PLACE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(scope="module")
def kernels() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        if PLACE == "cpu":
            patch.setenv("TRITON_INTERPRET", "1")
            patch.delitem(sys.modules, "dataforge.augment.kernels", raising=False)
        yield importlib.import_module("dataforge.augment.kernels")
        sys.modules.pop("dataforge.augment.kernels", None)


def inputs(steps: Any, out: tuple[int, int], n: int = 5) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    p = aug.parameters(aug.recipe(steps), np.arange(n), np.full(n, 50), np.full(n, 70), out, seed=4)
    canvas = torch.from_numpy(np.stack([tiny.pixels(50, 70, i) for i in range(n)])).permute(0, 3, 1, 2)
    colour = None if p.colour is None else torch.from_numpy(p.colour).float().to(PLACE)
    return canvas.to(PLACE), torch.from_numpy(p.matrix).float().to(PLACE), colour


@pytest.mark.parametrize(
    "steps",
    [
        "yolo",
        [{"op": "rotate", "degrees": 90}, {"op": "gain"}],
        [{"op": "perspective", "p": 1.0, "strength": 0.3}, {"op": "expand"}],
        [{"op": "translate", "fraction": 1.0}],
    ],
    ids=["yolo", "rotate", "perspective", "outside"],
)
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_it_is_what_torch_does(kernels: Any, steps: Any, layout: torch.memory_format) -> None:
    out = (33, 41)
    canvas, matrix, colour = inputs(steps, out)
    canvas = canvas.contiguous(memory_format=layout)
    found = kernels.warp(canvas, matrix, out, colour, memory_format=layout)
    expected = device.render(canvas, matrix, out)
    if colour is not None:
        expected = device.tint(expected, colour)
    assert found.is_contiguous(memory_format=layout)
    # positions are rounded by float32, which a step between two pixels of 1 / 10 of full brightness shows
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=0)


def test_taps_are_a_larger_picture_averaged(kernels: Any) -> None:
    out = (12, 16)
    canvas, matrix, _ = inputs([{"op": "rotate", "degrees": 20}], out)
    larger = torch.diag(torch.tensor([3.0, 3.0, 1.0], device=PLACE)) @ matrix
    expected = F.avg_pool2d(device.render(canvas, larger, (36, 48)), 3)
    torch.testing.assert_close(kernels.warp(canvas, matrix, out, taps=3), expected, atol=2e-4, rtol=0)


def test_normalisation_fill_and_type(kernels: Any) -> None:
    out, mean, std = (24, 24), (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
    canvas, matrix, colour = inputs("yolo", out)
    plain = device.tint(device.render(canvas, matrix, out, (10, 200, 30)), colour)
    shape = (3, 1, 1)
    expected = (plain - torch.tensor(mean, device=PLACE).view(shape)) / torch.tensor(std, device=PLACE).view(shape)
    found = kernels.warp(canvas, matrix, out, colour, fill=(10, 200, 30), mean=mean, std=std, dtype=torch.bfloat16)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, atol=2e-2, rtol=1e-2)


def test_an_empty_batch(kernels: Any) -> None:
    canvas, matrix, _ = inputs("flip", (8, 8), 1)
    assert kernels.warp(canvas[:0], matrix[:0], (8, 8)).shape == (0, 3, 8, 8)

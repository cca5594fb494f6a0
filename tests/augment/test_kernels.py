"""The fused kernel against plain torch: on a GPU where there is one, else in Triton's interpreter."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from dataforge.augment.executors import device
from dataforge.augment.layout import lay_out
from dataforge.augment.operations import geometry
from dataforge.augment.parameters import parameters
from dataforge.augment.recipes import RECIPES, recipe
from tests import tiny
from tests.augment.test_executors import Table, sources

pytest.importorskip("triton")
PLACE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
GREY = torch.full((3,), float(geometry.FILL), device=PLACE)


def fresh() -> Any:
    sys.modules.pop("dataforge.augment.executors.kernels", None)
    return importlib.import_module("dataforge.augment.executors.kernels")


@pytest.fixture(scope="module")
def kernels() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        if PLACE.type == "cpu":
            patch.setenv("TRITON_INTERPRET", "1")
        yield fresh()
    sys.modules.pop("dataforge.augment.executors.kernels", None)


def inputs(steps: Any, out: tuple[int, int], n: int = 3) -> tuple[torch.Tensor, np.ndarray, np.ndarray | None]:
    """Canvas, output pixels to canvas pixels, and colour matrices."""
    p = parameters(recipe(steps), np.arange(n), np.full(n, 50), np.full(n, 70), out, seed=4)
    canvas = torch.from_numpy(np.stack([tiny.pixels(50, 70, i) for i in range(n)])).permute(0, 3, 1, 2)
    return canvas.to(PLACE), np.linalg.inv(p.matrix), p.colour


def rendered(canvas: torch.Tensor, back: np.ndarray, out: tuple[int, int], fill: torch.Tensor = GREY) -> torch.Tensor:
    return device.render(canvas, device.send(back, PLACE), out, fill)


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
    out = (13, 71)
    canvas, back, colour = inputs(steps, out)
    canvas = canvas.contiguous(memory_format=layout)
    found = kernels.warp(canvas, back, out, colour, memory_format=layout)
    expected = rendered(canvas, back, out)
    if colour is not None:
        expected = device.tint(expected, device.send(colour, PLACE))
    assert found.is_contiguous(memory_format=layout)
    # positions are rounded by float32, which a step between two pixels of 1 / 10 of full brightness shows
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=0)


def test_taps_are_a_larger_picture_averaged(kernels: Any) -> None:
    out = (12, 16)
    canvas, back, _ = inputs([{"op": "rotate", "degrees": 20}], out)
    expected = F.avg_pool2d(rendered(canvas, back @ np.diag([1 / 3, 1 / 3, 1]), (36, 48)), 3)
    torch.testing.assert_close(kernels.warp(canvas, back, out, taps=3), expected, atol=2e-4, rtol=0)


def test_normalisation_fill_and_type(kernels: Any) -> None:
    out, mean, std = (16, 64), (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
    canvas, back, colour = inputs("yolo", out)
    fill = torch.tensor([10.0, 200, 30], device=PLACE)
    plain = device.tint(rendered(canvas, back, out, fill), device.send(colour, PLACE))
    shape = (3, 1, 1)
    expected = (plain - torch.tensor(mean, device=PLACE).view(shape)) / torch.tensor(std, device=PLACE).view(shape)
    found = kernels.warp(canvas, back, out, colour, fill=(10, 200, 30), mean=mean, std=std, dtype=torch.bfloat16)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, atol=2e-2, rtol=1e-2)


def test_an_empty_batch(kernels: Any) -> None:
    canvas, back, _ = inputs("flip", (8, 8), 1)
    assert kernels.warp(canvas[:0], back[:0], (8, 8)).shape == (0, 3, 8, 8)


FILL = {"op": "fill", "red": 20, "green": 40, "blue": 60}
CURVED = [*({"op": name, "p": 0.7} for name in ("perspective", "rotate", "gamma", "solarize", "erase")), FILL]


@pytest.mark.parametrize(
    "steps",
    [*sorted(RECIPES), [{"op": "mixup"}], CURVED, [*CURVED, {"op": "normalise"}]],
    ids=lambda s: s if isinstance(s, str) else f"{len(s)} steps",
)
def test_pictures_are_the_same_by_the_kernel_as_by_torch(
    kernels: Any, steps: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, n = (24, 66), 4
    layout = lay_out(recipe(steps), np.arange(n), Table(), out, seed=3)
    p = layout.parameters
    canvas, matrix = sources(layout, Table())
    canvas, calls = canvas.to(PLACE), []

    class Counted:
        @staticmethod
        def warp(*args: Any, **kwargs: Any) -> torch.Tensor:
            calls.append(1)
            return kernels.warp(*args, **kwargs)  # type: ignore[no-any-return]

    for dtype in (torch.float32, torch.uint8) if p.mean is None else (torch.float32,):
        with monkeypatch.context() as patch:
            patch.setattr(device, "fused", lambda place: None)
            expected = device.paint(canvas, matrix, layout, out, dtype)
            patch.setattr(device, "fused", lambda place: Counted)
            found = device.paint(canvas, matrix, layout, out, dtype)
        for images in (found, expected):
            assert images.dtype == dtype and images.shape == (n, 3, *out)
            assert images.is_contiguous(memory_format=torch.channels_last)
        error = (found.float() - expected.float()).abs() / (255 if dtype == torch.uint8 else 1)
        if p.curve is not None:  # a table's steps turn a rounding into a jump
            assert (error > 0.005).float().mean() < 0.01
        elif dtype == torch.uint8:
            assert error.max() < 1.01 / 255 and (error > 0).float().mean() < 0.02
        else:
            assert error.max() < 5e-4
    assert bool(calls) == (len(layout.parts.record) == n), "it paints all but what is put together of several"


class Hopper:
    """What Triton asks of a driver before it compiles, as if an H100 were there."""

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


@pytest.mark.parametrize(("dtype", "side"), [(torch.float32, 1), (torch.bfloat16, 32), (torch.uint8, 50)])
def test_every_launch_compiles_for_hopper_without_one(
    dtype: torch.dtype, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to the launch itself, all is done as on the GPU: sizes of 1 and multiples of 16 become constants, too."""
    from triton.backends import backends
    from triton.runtime import driver

    if "nvidia" not in backends:
        pytest.skip("this build of Triton has no backend for NVIDIA's GPUs")
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    kernels, made = fresh(), []
    sys.modules.pop("dataforge.augment.executors.kernels")
    compile_only = kernels._warp.warmup

    class Launch:
        def __getitem__(self, grid: Any) -> Any:
            return lambda *args, **options: made.append(compile_only(*args, grid=grid, **options))

    monkeypatch.setattr(kernels, "_warp", Launch())
    monkeypatch.setattr(driver, "_active", Hopper())
    canvas, back = torch.zeros((2, 3, side, side), dtype=torch.uint8), np.eye(3)[None].repeat(2, 0)
    kernels.warp(canvas, back, (side, side), dtype=dtype)
    back[1, 2, 0] = 0.01
    curve, erase = np.zeros((2, 256), np.uint8), np.zeros((2, 4))
    scale = {"mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2)}
    channels = {"memory_format": torch.contiguous_format}
    kernels.warp(canvas, back, (side, side), None, curve, erase, dtype=dtype, **scale, **channels)
    assert len(made) == 2
    for kernel in made:
        assert kernel.asm["cubin"][:4] == b"\x7fELF" and ".target sm_90" in kernel.asm["ptx"]

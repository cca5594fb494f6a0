"""Region pooling in ONNX is that of PyTorch, for any number of images, and of regions on a level."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from trainers.exporting import onnx_file
from trainers.models.pooling import POOLERS, pool

onnx: Any = pytest.importorskip("onnx", reason="onnx is not installed")
onnxruntime: Any = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytest.importorskip("onnxscript", reason="onnxscript is not installed")

LEVELS = {"pool": 2, "align": 2, "crop": 1, "deform": 1}  # two take longer, and are the same for all


class Pooled(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.pooler, self.strides = POOLERS[name](5, 7), (8, 16)[: LEVELS[name]]
        for weight in self.pooler.parameters():  # a new deformable pooler moves nothing
            nn.init.normal_(weight)

    def forward(self, fine: Tensor, coarse: Tensor, boxes: Tensor) -> Tensor:
        pooled, row = pool(self.pooler, (fine, coarse)[: len(self.strides)], self.strides, boxes)
        return pooled[row]


def inputs(count: int, seed: int, side: float) -> tuple[Tensor, Tensor, Tensor]:
    """Two maps, and regions of up to `side` pixels: some at the far border, some empty or larger than the image."""
    draw = torch.Generator().manual_seed(seed)
    limit = torch.tensor([101.0, 64])
    points = torch.rand(count, 20, 2, 2, generator=draw) * limit.clamp(max=side)
    boxes = torch.cat([points.amin(2), points.amax(2)], -1)
    boxes[:, 0] = torch.cat([limit, limit])
    boxes[:, 1] = 0
    boxes[:, 2, 2:] = boxes[:, 2, :2] + 0.01
    if side > 100:
        boxes[:, 3] = torch.tensor([0, 0, *limit])
        boxes[:, 4] = torch.tensor([-500, -400, 900, 900])
    maps = (torch.randn(count, 5, *size, generator=draw) for size in ((8, 13), (4, 7)))
    return *maps, boxes  # type: ignore[return-value]


@pytest.mark.parametrize("name", POOLERS)
def test_pooling_is_the_same(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, file = Pooled(name).eval(), tmp_path / "pooled.onnx"
    batch = torch.export.Dim("batch")
    shapes = ({0: batch}, {0: batch}, {0: batch})
    with torch.no_grad(), onnx_file.quiet():
        program = torch.export.export(module, inputs(2, 0, 200), dynamic_shapes=shapes, strict=False)
        torch.onnx.export(
            program, f=file, opset_version=20, custom_translation_table=onnx_file.translations(), verbose=False
        )
    kinds = {node.op_type for node in onnx.load(file).graph.node}
    assert "GridSample" not in kinds and kinds & {"RoiAlign", "MaxRoiPool"}
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    known = {given.name for given in session.get_inputs()}
    for count, side in ((1, 200.0), (3, 200.0), (2, 30.0)):  # with small regions alone, a level has none
        given = inputs(count, count, side)
        with torch.no_grad():
            expected = module(*given)
        named = zip(("fine", "coarse", "boxes"), given, strict=True)
        [actual] = session.run(None, {key: value.numpy() for key, value in named if key in known})
        assert actual.shape == (count, given[2].shape[1], 5, 7, 7) and expected.std() > 0.1
        np.testing.assert_allclose(actual, expected, atol=1e-3 if name != "deform" else 5e-3)  # its large offsets

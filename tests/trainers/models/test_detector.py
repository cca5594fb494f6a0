"""What was found in the network's input, mapped home to the source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from dataforge.augment.operations.geometry import fit_matrix
from dataforge.loading.loader import Loader
from trainers.models.detector import Detections


def found(boxes: Tensor) -> Detections:
    return Detections(boxes, torch.ones(boxes.shape[:2]), torch.zeros(boxes.shape[:2], dtype=torch.long))


RECIPES: dict[str, list[dict[str, Any]]] = {
    "none": [],
    "flip": [{"op": "flip", "p": 1.0}],
    "turned": [{"op": "rotate", "degrees": 40}, {"op": "shear"}],
    "perspective": [{"op": "perspective", "strength": 0.2}, {"op": "expand", "high": 2, "p": 1.0}],
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_batch_maps_home(tiny_shards: Path, name: str) -> None:
    loader = Loader(tiny_shards, batch_size=4, size=(480, 640), augment=RECIPES[name], threads=1)
    seen = 0
    for batch in loader:
        for k, record in enumerate(batch.index.tolist()):
            truth = torch.from_numpy(loader.shards.table.take(np.array([record])).boxes)
            if not len(truth):
                continue
            corners = truth[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
            moved = torch.cat([corners, torch.ones_like(corners[..., :1])], -1).double() @ batch.affine[k].double().T
            assert (moved[..., 2] > 0).all()
            moved = (moved[..., :2] / moved[..., 2:]).float()
            points = moved.reshape(1, -1, 2).repeat(1, 1, 2)  # boxes without an area
            back = found(points).to_source(batch.affine[k : k + 1]).boxes[0]
            torch.testing.assert_close(back[:, :2], corners.reshape(-1, 2), atol=1e-2, rtol=0)
            torch.testing.assert_close(back[:, :2], back[:, 2:], atol=0, rtol=0)

            hull = torch.cat([moved.amin(1), moved.amax(1)], 1)
            inside = (hull[:, :2] >= 0).all(1) & (hull[:, 2:] <= torch.tensor([640, 480])).all(1)
            boxes = batch.boxes[k, : len(truth)]
            torch.testing.assert_close(boxes[inside], hull[inside], atol=1e-2, rtol=0)
            home = found(boxes[None]).to_source(batch.affine[k : k + 1]).boxes[0][inside]
            assert (home[:, :2] <= truth[inside, :2] + 1e-2).all() and (home[:, 2:] >= truth[inside, 2:] - 1e-2).all()
            if name in ("none", "flip"):
                torch.testing.assert_close(home, truth[inside], atol=1e-2, rtol=0)
            seen += int(inside.sum())
    assert seen > 10


def test_on_a_device_without_float64_the_cpu_computes() -> None:
    with FakeTensorMode():  # MPS on any machine: shapes, types and devices alone
        boxes, scores, matrix = (torch.zeros(shape, device="mps") for shape in ((2, 5, 4), (2, 5), (2, 3, 3)))
        labels = torch.zeros(2, 5, dtype=torch.int64, device="mps")
        home = Detections(boxes, scores, labels).to_source(matrix)
    assert [(each.device.type, len(each)) for each in (home.boxes, home.scores, home.labels)] == [("cpu", 2)] * 3


def test_behind_the_horizon_nothing_is_infinite() -> None:
    matrix = torch.tensor([[[1.0, 0, 0], [0, 1, 0], [0.01, 0, 1]]])  # x has its limit at 100
    boxes = found(torch.tensor([[[50.0, 10, 150, 20], [100.0, 0, 100, 5]]])).to_source(matrix).boxes
    assert torch.isfinite(boxes).all() and (boxes[..., 2:] >= boxes[..., :2]).all()


@given(
    st.integers(1, 5000), st.integers(1, 5000), st.integers(32, 1280), st.integers(32, 1280), st.sampled_from([0, 1])
)
def test_a_fitted_image_is_itself_again(height: int, width: int, h: int, w: int, stretch: int) -> None:
    matrix = fit_matrix(height, width, (h, w), ("letterbox", "stretch")[stretch])
    x, y = (np.array([0, width]), np.array([0, height]))
    box = np.array([*(matrix @ [x[0], y[0], 1])[:2], *(matrix @ [x[1], y[1], 1])[:2]])
    home = found(torch.from_numpy(box).float()[None, None]).to_source(torch.from_numpy(matrix).float()[None])
    scale = max(height, width) / max(h, w) + max(height, width)
    np.testing.assert_allclose(home.boxes[0, 0], [0, 0, width, height], atol=1e-2 + 2e-6 * scale)

"""A .pt2 file needs torch alone: NMS is written as torch's own operators."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from trainers.exporting import torch_file
from trainers.models import boxes as geometry


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7])
@pytest.mark.parametrize("seed", range(5))
def test_the_mask_is_that_of_nms(seed: int, threshold: float) -> None:
    """Of a crowd of boxes, some of them the same, some empty, and padding."""
    draw = torch.Generator().manual_seed(seed)
    low = torch.randint(0, 60, (3, 120, 2), generator=draw).float()
    boxes = torch.cat([low, low + torch.randint(0, 30, (3, 120, 2), generator=draw)], 2)
    labels = torch.randint(-1, 3, (3, 120), generator=draw)
    expected = geometry.suppress(boxes, labels, torch.tensor(threshold), 3)
    assert torch.equal(torch_file.suppress(boxes, labels, torch.tensor(threshold), 3), expected)
    assert 0 < expected.sum() < (labels >= 0).sum()


class Pixels(nn.Module):
    """Each pixel is a box."""

    def forward(self, images: Tensor, conf: Tensor, iou: Tensor, top: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, y, side = images.flatten(1, 2).float().unbind(2)
        labels = torch.where(side / 255 >= conf, 0, -1)
        boxes = torch.stack([x, y, x + side, y + side], 2)
        return geometry.nms(boxes, side / 255, labels, threshold=iou, top=40, classes=1)


def test_a_file_with_nms_runs_without_this_package(tmp_path: Path) -> None:
    facts = {"input": [6, 8], "size": [6, 8], "batch": "any", "conf": 0.1, "iou": 0.1, "top": 40}
    torch_file.save(Pixels(), facts, tmp_path / "pixels.pt2")
    images = torch.randint(0, 256, (1, 6, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    given = (images, torch.tensor(0.1), torch.tensor(0.1), torch.tensor(40))
    expected = Pixels()(*given)
    assert 1 < (expected[2] >= 0).sum() < 40
    torch.save((given, expected), tmp_path / "values.pt")
    code = (
        "import sys, torch\ngiven, expected = torch.load('values.pt')\n"
        "answers = torch.export.load('pixels.pt2').module()(*given)\n"
        "assert all(torch.equal(*pair) for pair in zip(answers, expected, strict=True))\n"
        "assert not {'trainers', 'torchvision'} & sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

"""The inference path as a module: the loader's pixels, in eager mode and as an ONNX graph."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dataforge.augment.executors.cpu import warp
from dataforge.augment.operations.geometry import fit_matrix
from dataforge.augment.preprocess import Preprocess
from dataforge.images.decode import decode
from dataforge.loading.loader import Loader
from tests import tiny
from tests.trainers import fake
from trainers.models.detector import Detections
from trainers.results.evaluation import run

SIZES = [(64, 96), (150, 90), (300, 320), (33, 500), (1, 1), (7, 1), (901, 640), (1200, 1601), (96, 64)]


def batch_of(pixels: np.ndarray) -> Tensor:
    """(1, 3, h, w)."""
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None]


def check(preprocess: Preprocess, pixels: np.ndarray) -> None:
    """The graph's operations, run as they are, give what the CPU's path gives, to single grey levels where it shrinks,
    and exactly where an image is enlarged.
    """
    images, affine = preprocess._graph(batch_of(pixels))
    fitted, matrix = preprocess(batch_of(pixels))
    assert images.shape == fitted.shape == (1, 3, *preprocess.size) and images.dtype == fitted.dtype == torch.uint8
    torch.testing.assert_close(affine, matrix, rtol=1e-6, atol=1e-6)
    difference = (images.int() - fitted.int()).abs().numpy() / 255
    shrinks = max(affine[0, 0, 0], affine[0, 1, 1]) <= 1
    assert difference.mean() < 1e-4 and difference.max() <= 1 / 255
    assert shrinks or not difference.any()


@pytest.mark.parametrize("fit", ["letterbox", "stretch"])
@pytest.mark.parametrize("out", [(96, 128), (224, 160), (320, 320)])
def test_drawn_pictures_of_any_size_are_what_the_warp_gives(out: tuple[int, int], fit: str) -> None:
    for height, width in SIZES:
        pixels = tiny.pixels(height, width)
        check(Preprocess(out, fit), pixels)
        matrix = fit_matrix(height, width, out, fit)
        images, affine = Preprocess(out, fit)(batch_of(pixels))
        np.testing.assert_allclose(affine[0], matrix, rtol=1e-6)
        np.testing.assert_array_equal(images[0].permute(1, 2, 0), warp(pixels, matrix, out))


@pytest.mark.parametrize("fit", ["letterbox", "stretch"])
def test_photographs_are_what_the_warp_gives(shared_data: Path, fit: str) -> None:
    files = sorted(shared_data.glob("coco_mini/val2017/*.jpg"))[:12]
    assert len(files) == 12
    for out in ((416, 416), (320, 320), (224, 352), (640, 640)):
        for file in files:
            check(Preprocess(out, fit), decode(file.read_bytes()))


@pytest.mark.parametrize("size", [(225, 305), (252, 292), (211, 309), (204, 287), (1234, 777)])
def test_centres_are_counted_in_single_precision(size: tuple[int, int]) -> None:
    """cv2.resize does so; in double precision its weights, in 1/2048, differ here and there by one."""
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    fitted, _ = Preprocess((96, 128))(batch_of(pixels))
    assert fitted.equal(Preprocess((96, 128))._graph(batch_of(pixels))[0])


def test_one_colour_stays_and_the_rest_is_fill() -> None:
    preprocess, grey = Preprocess((64, 128)), torch.full((2, 3, 200, 100), 37, dtype=torch.uint8)
    for images, affine in (preprocess(grey), preprocess._graph(grey)):
        assert images.shape == (2, 3, 64, 128) and affine.shape == (2, 3, 3)
        assert (images[..., 48:80] == 37).all() and (images[..., :48] == 114).all() and (images[..., 80:] == 114).all()


@pytest.mark.parametrize("fit", ["letterbox", "stretch"])
def test_it_detects_what_evaluation_detects(fit: str, tmp_path: Path) -> None:
    detector, preprocess = fake.Painted(), Preprocess((224, 160), fit)
    loader = Loader(fake.shards(tmp_path / "shards"), "val", 5, (224, 160), fit=fit, shuffle=False)
    evaluated = run(detector, loader, "cpu")
    for i, name in enumerate(fake.PICTURES):
        images, affine = preprocess(batch_of(decode(fake.encoded(name))))
        found = detector.decode(detector(images)).to_source(affine)
        height, width, _ = fake.PICTURES[name]
        mine = found.boxes[0][found.labels[0] >= 0].numpy().clip(0, [width, height] * 2)
        np.testing.assert_allclose(mine, evaluated.boxes[evaluated.image == i], atol=1e-3)


class Whole(torch.nn.Module):
    """An image of any size to boxes in its own pixels."""

    def __init__(self, fit: str) -> None:
        super().__init__()
        self.preprocess = Preprocess((96, 128), fit)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        fitted, affine = self.preprocess(images)
        boxes = torch.tensor([[[8.0, 16, 64, 80]]])
        home = Detections(boxes, boxes[..., 0], boxes[..., 0]).to_source(affine[:1])
        return fitted, affine, home.boxes


@pytest.mark.parametrize("fit", ["letterbox", "stretch"])
def test_the_graph_takes_any_size(fit: str, tmp_path: Path) -> None:
    onnxruntime: Any = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed")
    module, file = Whole(fit), tmp_path / "whole.onnx"
    dim = torch.export.Dim
    shapes = {"images": {0: dim("batch"), 2: dim("height"), 3: dim("width")}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own
        example = (torch.zeros(2, 3, 150, 211, dtype=torch.uint8),)
        torch.onnx.export(module, example, file, dynamo=True, dynamic_shapes=shapes, verbose=False)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    for height, width in [(150, 211), *SIZES]:
        images = batch_of(tiny.pixels(height, width)).repeat(1 + height % 2, 1, 1, 1)
        theirs = session.run(None, {session.get_inputs()[0].name: images.numpy()})
        fitted, affine, boxes = module(images)
        plain, _ = module.preprocess._graph(images)
        difference = np.abs(plain.numpy().astype(int) - theirs[0])
        assert difference.max() <= 1 and difference.mean() < 1e-2, (height, width)
        difference = np.abs(fitted.numpy().astype(int) - theirs[0])
        assert difference.max() <= 1 and difference.mean() < 1e-4 * 255, (height, width)
        np.testing.assert_allclose(affine, theirs[1], rtol=1e-5, atol=1e-4)
        np.testing.assert_allclose(boxes, theirs[2], rtol=1e-4, atol=1e-3)

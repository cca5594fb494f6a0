from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

from dataforge.errors import ConfigError
from trainers import checkpoint, darknet
from trainers.models import backbones, darknet_files
from trainers.models.boxes import nms
from trainers.yolov2 import YOLOv2

needs_reader = pytest.mark.skipif(
    not hasattr(cv2.dnn, "readNetFromDarknet"), reason="this OpenCV reads no Darknet files"
)


def randomised(model: YOLOv2, seed: int = 0) -> YOLOv2:
    """Weights that keep signals alive, and batch norm statistics that are not the identity."""
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, a=0.1)
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            nn.init.normal_(module.running_mean, 0, 0.3)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.3)
    return model.eval()


@pytest.fixture
def model() -> YOLOv2:
    return randomised(YOLOv2(3, width=0.125))


def by_cell(tensor: Tensor, anchors: int) -> np.ndarray:
    """(1, A*h*w, ...) -> (h*w*A, ...), OpenCV's order."""
    return tensor[0].view(anchors, -1, *tensor.shape[2:]).transpose(0, 1).flatten(0, 1).numpy()


@needs_reader
@pytest.mark.parametrize(
    ("width", "passthrough", "classes", "size"),
    [(1.0, True, 20, (64, 96)), (0.25, True, 4, (160, 96)), (0.25, False, 1, (96, 96))],
)
def test_forward_decode_and_nms_are_opencvs(
    tmp_path: Path, width: float, passthrough: bool, classes: int, size: tuple[int, int]
) -> None:
    model = randomised(YOLOv2(classes, width=width, passthrough=passthrough))
    weights, cfg = tmp_path / "net.weights", tmp_path / "net.cfg"
    darknet.save_weights(model, weights)
    darknet.write_cfg(model, cfg, size, thresh=1e-7)
    net = cv2.dnn.readNetFromDarknet(str(cfg), str(weights))
    image = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(1))
    net.setInput(image.numpy())
    last = [name for name in net.getLayerNames() if name.startswith("conv_")][-1]
    their_raw, their_rows = net.forward([last, "detection_out"])

    with torch.no_grad():
        raw = model(image)
        boxes, objectness, chances = model.predictions(raw)
    np.testing.assert_allclose(raw.numpy(), their_raw, rtol=1e-4, atol=1e-4)
    assert raw.std() > 0.1, "a dead network would agree with anything"

    rows = their_rows.reshape(-1, 5 + classes)
    found = by_cell(boxes, 5) / [size[1], size[0], size[1], size[0]]
    np.testing.assert_allclose((found[:, :2] + found[:, 2:]) / 2, rows[:, :2], atol=1e-4)
    np.testing.assert_allclose(found[:, 2:] - found[:, :2], rows[:, 2:4], rtol=1e-4)
    np.testing.assert_allclose(by_cell(objectness, 5), rows[:, 4], atol=1e-4)

    # OpenCV suppresses within each class at 0.4 and sets what goes to 0
    scores = (objectness.unsqueeze(-1) * chances).flatten(1)
    places = torch.arange(scores.shape[1]) // classes
    labels = (torch.arange(scores.shape[1]) % classes).unsqueeze(0)
    _, kept, kept_labels = nms(boxes[:, places], scores, labels, threshold=0.4, top=scores.shape[1], classes=classes)
    for label in range(classes):
        theirs = np.sort(rows[:, 5 + label][rows[:, 5 + label] > 0])
        ours = np.sort(kept[kept_labels == label].numpy())
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert (rows[:, 5:] == 0).any() and (rows[:, 5:] > 0).any()


def test_round_trip_is_bit_exact(model: YOLOv2, tmp_path: Path) -> None:
    model.seen.fill_(12_345_678_901)
    darknet.save_weights(model, tmp_path / "a.weights")
    other = randomised(YOLOv2(3, width=0.125), seed=1)
    assert "all 23 convolutions" in darknet.load_weights(other, tmp_path / "a.weights")
    for (name, ours), theirs in zip(model.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name
    darknet.save_weights(other, tmp_path / "b.weights")
    assert (tmp_path / "a.weights").read_bytes() == (tmp_path / "b.weights").read_bytes()
    head = struct.unpack("<3iQ", (tmp_path / "a.weights").read_bytes()[:20])
    assert head == (0, 2, 0, 12_345_678_901)


def test_old_headers_have_a_short_counter(model: YOLOv2, tmp_path: Path) -> None:
    darknet.save_weights(model, tmp_path / "a.weights")
    body = (tmp_path / "a.weights").read_bytes()[20:]
    (tmp_path / "old.weights").write_bytes(struct.pack("<3iI", 0, 1, 0, 640) + body)
    other = YOLOv2(3, width=0.125)
    assert "640 images seen" in darknet.load_weights(other, tmp_path / "old.weights")
    assert torch.equal(other.predict.weight, model.predict.weight) and int(other.seen) == 640


def test_the_order_in_the_file_is_darknets(tmp_path: Path) -> None:
    """First layer: biases, scales, means, variances, weights; last layer: biases, weights."""
    model = randomised(YOLOv2(3, width=0.125))
    darknet.save_weights(model, tmp_path / "a.weights")
    values = np.fromfile(tmp_path / "a.weights", "<f4", offset=20)
    first = next(module for module in model.modules() if isinstance(module, nn.BatchNorm2d))
    assert first.running_mean is not None and first.running_var is not None
    parts = [first.bias, first.weight, first.running_mean, first.running_var]
    np.testing.assert_array_equal(values[: 4 * len(first.bias)], torch.cat(parts).detach().numpy())
    last = torch.cat([model.predict.bias, model.predict.weight.flatten()]).detach().numpy()
    np.testing.assert_array_equal(values[-len(last) :], last)


def test_a_file_of_the_backbone_alone(model: YOLOv2, tmp_path: Path) -> None:
    whole, part = tmp_path / "whole.weights", tmp_path / "darknet19.conv.23"
    darknet.save_weights(model, whole)
    count = sum(tensor.numel() for layer in darknet_files.layers_of(model.backbone) for tensor in layer)
    part.write_bytes(whole.read_bytes()[: 20 + 4 * count])
    other = YOLOv2(3, width=0.125)
    before = other.head[0][0].weight.clone()  # type: ignore[index]
    assert "the first 18 of 23 convolutions" in darknet.load_weights(other, part)
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        for ours, theirs in zip(model.backbone(images), other.eval().backbone(images), strict=True):
            assert torch.equal(ours, theirs)
    assert torch.equal(before, other.head[0][0].weight) and int(other.seen) == 0  # type: ignore[index]

    for path, rest in ((whole, "left over"), (part, "0 left over")):
        backbone = backbones.build("darknet19", 0.125)
        assert rest in darknet_files.load_backbone(backbone, path)
        assert torch.equal(backbone.eval()(images)[1], model.backbone(images)[1])


def test_wrong_files(model: YOLOv2, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.weights", tmp_path / "bad.weights"
    darknet.save_weights(model, good)
    data = good.read_bytes()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    values = (len(data) - 20) // 4
    for content, reason in (
        (data[:-4], f"{values - 1:,} values.*inside convolution 23; expected {values:,}"),
        (data + bytes(8), f"{values + 2:,} values, more than the model has; expected {values:,}"),
        (data[:30], "header"),
        (data[:40], "inside convolution 1;"),
        (data[:-1], "float32"),
        (b"", "header"),
    ):
        bad.write_bytes(content)
        with pytest.raises(ConfigError, match=reason):
            darknet.load_weights(model, bad)
    with pytest.raises(ConfigError, match="cannot be read"):
        darknet.load_weights(model, tmp_path / "none.weights")
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    wider = YOLOv2(3, width=0.25)
    with pytest.raises(ConfigError, match="values"):
        darknet.load_weights(wider, good)
    other = YOLOv2(3, backbone="mobilenetv3_small_050", width=0.125)
    for act in (darknet.load_weights, darknet.save_weights):
        with pytest.raises(ConfigError, match="mobilenetv3_small_050"):
            act(other, good)
    with pytest.raises(ConfigError, match="darknet19 alone"):
        darknet.write_cfg(other, tmp_path / "x.cfg", (64, 64))


def test_a_real_files_header(shared_data: Path) -> None:
    path = shared_data.parent / "weights/yolo_fastest_darknet/yolo-fastest-1.1.weights"
    if not path.is_file():
        pytest.skip("no Darknet file beside the data")
    _, values = darknet_files.read_values(path)
    assert len(values) == 346_062 and np.isfinite(values).all()


def test_the_command_line_takes_weights_in_and_out(tmp_path: Path) -> None:
    model = YOLOv2(2, anchors=[(1.0, 2.0), (3.0, 4.0)])
    darknet.save_weights(model, tmp_path / "in.weights")
    (tmp_path / "two.names").write_text("cat\ndog\n")
    run = CliRunner().invoke
    names, out = ["--names", str(tmp_path / "two.names")], ["--out", str(tmp_path / "in.pt")]
    done = run(darknet.main, ["import", str(tmp_path / "in.weights"), *names, *out, "--anchors", "1,2,3,4"])
    assert done.exit_code == 0, done.output
    loaded, facts = checkpoint.load_detector(tmp_path / "in.pt")
    assert facts["classes"] == ["cat", "dog"] and torch.equal(loaded.anchors, model.anchors)  # type: ignore[arg-type]
    done = run(darknet.main, ["export", str(tmp_path / "in.pt"), "--out", str(tmp_path / "back")])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "back/yolov2.weights").read_bytes() == (tmp_path / "in.weights").read_bytes()
    assert (tmp_path / "back/yolov2.names").read_text() == "cat\ndog\n"
    wrong = run(darknet.main, ["import", str(tmp_path / "in.weights"), *names, *out])
    assert wrong.exit_code == 2 and "values" in wrong.stderr and "Traceback" not in wrong.output

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor, nn

from dataforge import Shards
from dataforge.errors import ConfigError
from tests.trainers.suite import make_batch
from trainers import darknet, registry
from trainers.models import backbones, pretrained
from trainers.yolov2 import YOLOv2

SPREAD = [
    "convnext_atto",
    "cs3darknet_s",
    "edgenext_xx_small",
    "ghostnet_050",
    "mobilenetv3_small_050",
    "regnetx_002",
    "resnet18",
    "tf_efficientnet_lite0",
    "vgg11",
]
# each detector's options, and the size of image
SMALL: dict[str, tuple[dict[str, Any], tuple[int, int]]] = {
    "dense": ({"levels": 3, "width": 8, "depth": 1}, (64, 96)),
    "faster_rcnn": ({"regions": 16, "width": 8}, (64, 96)),
    "ssd": ({"size": [288, 290]}, (288, 290)),
    "vit": ({"train": "all", "width": 8, "depth": 1}, (64, 96)),
    "yolov2": ({"width": 0.125, "anchors": "voc"}, (64, 96)),
}


@pytest.mark.parametrize("name", ["darknet19", *SPREAD])
def test_maps_have_strides_16_and_32(name: str) -> None:
    backbone = backbones.build(name, 0.125)
    assert backbone.training
    fine, coarse = backbone(torch.rand(2, 3, 96, 64))
    assert fine.shape == (2, backbone.channels[0], 6, 4)
    assert coarse.shape == (2, backbone.channels[1], 3, 2)


@pytest.mark.parametrize("name", SPREAD)
@pytest.mark.parametrize(
    "detector", [pytest.param(x, marks=() if x == "yolov2" else pytest.mark.slow) for x in registry.DETECTORS]
)
def test_every_detector_trains_on_it(detector: str, name: str, tiny_shards: Path) -> None:
    torch.manual_seed(0)
    options, size = SMALL[detector]
    config = registry.config_class(detector)(**options, backbone=name)
    kind = registry.detector_class(detector)
    model = kind(**kind.configure(config, Shards(tiny_shards)))
    batch = make_batch(torch.randint(0, 256, (2, 3, *size), dtype=torch.uint8), [[(8, 6, 50, 60, 1)], []])
    losses = model.loss(model(batch.images), batch)
    assert all(value > 0 for value in losses.values()) and all(value.isfinite() for value in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    for weight_name, weight in model.named_parameters():
        assert weight.grad is not None, f"nothing uses {weight_name}"
        assert weight.grad.isfinite().all(), weight_name


def test_timm_models_get_their_own_normalisation() -> None:
    for name in ("resnet18", "tf_efficientnet_lite0"):
        backbone = backbones.build(name).eval()
        assert isinstance(backbone, backbones.Timm)
        mean, std = (torch.tensor(timm.get_pretrained_cfg(name).to_dict()[key]) for key in ("mean", "std"))
        images = torch.rand(1, 3, 64, 64)
        with torch.no_grad():
            expected = backbone.net((images - mean.view(3, 1, 1)) / std.view(3, 1, 1))
            torch.testing.assert_close(backbone(images)[1], expected[-1])
        assert {"mean", "std"} < backbone.state_dict().keys()


def test_darknet19_takes_plain_pixels_and_widths_are_multiples_of_8() -> None:
    backbone = backbones.build("darknet19", 0.3)
    assert not list(backbone.buffers(recurse=False))
    assert all(m.out_channels % 8 == 0 for m in backbone.modules() if isinstance(m, nn.Conv2d))
    assert backbones.build("darknet19").channels == (512, 1024)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("resnet81", "unknown backbone 'resnet81'.*close: resnet18"),
        ("no such model at all", "expected darknet19, vgg16 or a model of timm"),
        ("resnet18.nosuch", "nosuch"),
        ("vit_tiny_patch16_224", r"strides \[16, 16, 16\]; expected 16, 32"),
        ("swin_tiny_patch4_window7_224", "cannot take a 64x96 image"),
    ],
)
def test_unfit_backbones(name: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        backbones.build(name)


@pytest.fixture(scope="module")
def trained() -> dict[str, Tensor]:
    """A whole classifier's state, none of it as a fresh model has it."""
    torch.manual_seed(0)
    state = timm.create_model("mobilenetv3_small_050", num_classes=7).state_dict()
    return {name: torch.rand_like(value) + 0.5 if value.is_floating_point() else value for name, value in state.items()}


def same(backbone: backbones.Backbone, trained: dict[str, Tensor]) -> bool:
    assert isinstance(backbone, backbones.Timm)
    own = backbone.net.state_dict()
    return all(torch.equal(own[name], trained[name]) for name in own if "num_batches" not in name)


@pytest.mark.parametrize("form", ["plain", "state_dict", "model", "prefix", "safetensors", "no counters", "foreign"])
def test_state_dicts_load_in_every_form(trained: dict[str, Tensor], tmp_path: Path, form: str) -> None:
    path, state, how = tmp_path / "weights.pth", dict(trained), "by name; left over: conv_head.weight"
    content: Any = state
    if form in ("state_dict", "model"):
        content = {form: state, "epoch": 3}
    elif form == "prefix":
        content = {f"module.encoder.{name}": value for name, value in reversed(list(state.items()))}
        content["other.weight"] = torch.ones(2)
        how = "by name"
    elif form == "no counters":
        content = {name: value for name, value in state.items() if "num_batches" not in name}
    elif form == "foreign":
        content = {f"layer{i}.{name.rpartition('.')[2]}": value for i, (name, value) in enumerate(state.items())}
        how = "by order; left over"
    if form == "safetensors":
        path = path.with_suffix(".safetensors")
        safetensors.torch.save_file(state, path)
        how = "by name"
    else:
        torch.save(content, path)
    backbone = backbones.build("mobilenetv3_small_050")
    assert not same(backbone, trained)
    assert how in pretrained.load(backbone, str(path))
    assert same(backbone, trained)


def test_our_own_checkpoints_backbone_loads(tmp_path: Path) -> None:
    model = YOLOv2(3, width=0.125)
    torch.save({"detector": "yolov2", "model": model.state_dict()}, tmp_path / "best.pt")
    backbone = backbones.build("darknet19", 0.125)
    assert "by name" in pretrained.load(backbone, str(tmp_path / "best.pt"))
    assert all(torch.equal(value, model.backbone.state_dict()[name]) for name, value in backbone.state_dict().items())
    darknet.save_weights(model, tmp_path / "net.weights")
    assert "all 18 convolutions" in pretrained.load(backbone, str(tmp_path / "net.weights"))


def test_state_dicts_that_do_not_fit(trained: dict[str, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    backbone = backbones.build("mobilenetv3_small_050")
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    first = next(iter(trained))
    cases: list[tuple[object, str]] = [
        ({**trained, first: torch.ones(3, 3)}, rf"tensor 0, {first} \(3, 3\), does not fit {first} \(16, 3, 3, 3\)"),
        ({f"x{i}": v for i, v in enumerate(list(trained.values())[:20])}, "ends before"),
        ({"a": {"b": 1}}, "holds no state dict"),
        (torch.ones(3), "holds no state dict"),
    ]
    names = [name for name in trained if "num_batches" not in name]
    swapped = {f"{i}.{name.rpartition('.')[2]}": trained[name] for i, name in enumerate(names)}
    order = list(swapped)
    order[3], order[4] = order[4], order[3]  # the first batch norm's mean and variance
    cases.append(({name: swapped[name] for name in order}, "running_var.*does not fit bn1.running_mean"))
    for content, reason in cases:
        torch.save(content, path)
        with pytest.raises(ConfigError, match=reason):
            pretrained.load(backbone, str(path))
    path.write_bytes(b"not weights")
    with pytest.raises(ConfigError, match="cannot be read as weights: expected tensors and plain values alone"):
        pretrained.load(backbone, str(path))
    with pytest.raises(ConfigError, match="no such file"):
        pretrained.load(backbone, str(tmp_path / "absent.pth"))
    with pytest.raises(ConfigError, match="darknet19 alone"):
        pretrained.load(backbone, str(tmp_path / "yolov2.weights"))
    assert all(torch.equal(before[name], value) for name, value in backbone.state_dict().items())


def test_timms_own_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = backbones.build("mobilenetv3_small_050")
    real, asked = timm.create_model, []

    def offline(name: str, *, pretrained: bool, **options: Any) -> Any:
        asked.append((name, pretrained))
        if pretrained and len(asked) > 1:
            raise OSError("no route to host")
        return real(name, pretrained=False, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    assert pretrained.load(backbone, "true") == "timm's mobilenetv3_small_050"
    with pytest.raises(ConfigError, match=r"'false': expected a file, true, or a tag .*\(lamb_in1k\); empty for"):
        pretrained.load(backbone, "false")
    with pytest.raises(ConfigError, match=r"pretrained weights cannot be had: no route to host"):
        pretrained.load(backbone, "lamb_in1k")
    assert asked == [("mobilenetv3_small_050", True), ("mobilenetv3_small_050.lamb_in1k", True)]
    with pytest.raises(ConfigError, match="expected a file"):
        pretrained.load(backbones.build("darknet19", 0.125), "true")


@pytest.fixture(scope="module")
def lite0(shared_data: Path) -> Path:
    path = shared_data.parent / "weights/efficientnet_lite0/efficientnet-lite0-57934424.pth"
    if not path.is_file():
        pytest.skip("no EfficientNet-Lite0 weights beside the data")
    return path


def classify(name: str, weights: Path, photos: Path) -> tuple[Tensor, float]:
    """Class probabilities of the photos' centres, and how far batch norm's statistics are from those in the file."""
    model = timm.create_model(name).eval()
    state = torch.load(weights, weights_only=True)
    model.load_state_dict(dict(zip(model.state_dict(), state.values(), strict=True)))
    squares = []
    for path in sorted(photos.glob("*.jpg")):
        pixels = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)  # type: ignore[arg-type]
        side = min(pixels.shape[:2])
        y, x = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
        squares.append(cv2.resize(pixels[y : y + side, x : x + side], (224, 224), interpolation=cv2.INTER_AREA))
    images = torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2).float() / 255
    shifts: list[Tensor] = []

    def measure(norm: nn.Module, inputs: tuple[Tensor], _: Tensor) -> None:
        assert isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None and norm.running_var is not None
        shifts.append(((inputs[0].mean((0, 2, 3)) - norm.running_mean).square() / (norm.running_var + 1e-3)).mean())

    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(measure)
    with torch.no_grad():
        chances = model((images - 0.5) / 0.5).softmax(1)
    return chances, float(torch.stack(shifts).mean())


def test_the_lite0_weights_are_tf_efficientnet_lite0s(lite0: Path, shared_data: Path) -> None:
    """The shapes fit both of timm's variants; they differ in padding and in normalisation, and only one is right."""
    photos = shared_data / "formats/toy_voc10/images"
    (right, small), (wrong, large) = (classify(prefix + "efficientnet_lite0", lite0, photos) for prefix in ("tf_", ""))
    cats = slice(281, 286)  # tabby, tiger cat, Persian, Siamese, Egyptian
    assert int(((right.argmax(1) >= 281) & (right.argmax(1) <= 285)).sum()) >= 6, "of 12 photos, 10 annotated as cats"
    assert right[:, cats].sum(1).mean() > wrong[:, cats].sum(1).mean()
    assert small < 0.9 * large
    assert timm.get_pretrained_cfg("tf_efficientnet_lite0").mean == (0.5, 0.5, 0.5)


def test_the_lite0_weights_load_by_order(lite0: Path) -> None:
    backbone = backbones.build("tf_efficientnet_lite0").eval()
    report = pretrained.load(backbone, str(lite0))
    assert "240 tensors loaded by order; left over: _conv_head.weight" in report and "(7)" in report
    state = torch.load(lite0, weights_only=True)
    whole = timm.create_model("tf_efficientnet_lite0").eval()
    whole.load_state_dict(dict(zip(whole.state_dict(), state.values(), strict=True)))
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        expected = whole.blocks(whole.bn1(whole.conv_stem((images - 0.5) / 0.5)))
        torch.testing.assert_close(backbone(images)[1], expected)


@pytest.mark.parametrize("name", ["darknet19", "resnet18", "tf_efficientnet_lite0"])
def test_frozen_units_stay_as_they_are(name: str) -> None:
    """Neither the optimizer nor batch norm's statistics move them; the rest is trained."""
    backbone = backbones.build(name, 0.125)
    count = len(backbone.units()) // 2
    backbone.freeze(count)
    backbone.train()
    moved = 0
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    loss = sum(found.square().mean() for found in backbone(torch.rand(2, 3, 64, 64)))
    assert isinstance(loss, torch.Tensor)
    loss.backward()
    torch.optim.SGD([p for p in backbone.parameters() if p.grad is not None], 0.1).step()
    frozen = {id(value) for unit in backbone.units()[:count] for value in unit.state_dict(keep_vars=True).values()}
    for key, value in backbone.state_dict(keep_vars=True).items():
        if id(value) in frozen:
            assert torch.equal(value, before[key]), key
        elif key.endswith("weight"):
            assert value.grad is not None, key
            moved += not torch.equal(value, before[key])
    assert moved > 0 and 0 < len(frozen) < len(before)
    with pytest.raises(ConfigError, match=f"freeze is 99; expected 0 to {len(backbone.units())}"):
        backbone.freeze(99)

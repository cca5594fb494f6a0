"""The detector without anchors and NMS."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
import safetensors.torch
import timm
import torch
from click.testing import CliRunner

from dataforge.errors import ConfigError
from dataforge.loading.batch import Batch
from tests.trainers.suite import DetectorSuite, make_batch
from trainers import adapters, checkpoint
from trainers.models.detector import Detector
from trainers.models.feature_pyramid import SimplePyramid
from trainers.training.learner import Learner
from trainers.vit import Head, Raw, ViT, ViTConfig, inside

DOCS = Path(__file__).resolve().parents[2] / "docs"
SMALL: dict[str, Any] = {"classes": 3, "backbone": "test_vit", "width": 16, "depth": 1, "window": 3, "global_blocks": 2}


class TestViT(DetectorSuite):
    """Windows of 3x3 tokens on a map of 4x6: some of them are padded."""

    name = "vit"
    config: ClassVar[dict[str, Any]] = SMALL


class TestMixFFN(DetectorSuite):
    name = "vit"
    config: ClassVar[dict[str, Any]] = {**SMALL, "ffn": "mix", "recompute": True}


class TestFrozen(DetectorSuite):
    name = "vit"
    config: ClassVar[dict[str, Any]] = {**SMALL, "train": "neck", "strides": [8, 16]}
    frozen = ("backbone.",)


class TestConvolutional(DetectorSuite):
    name = "vit"
    config: ClassVar[dict[str, Any]] = {**SMALL, "backbone": "test_efficientnet"}


@pytest.fixture
def batch() -> Batch:
    draw = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (3, 3, 64, 96), generator=draw, dtype=torch.uint8)
    return make_batch(images, DetectorSuite.objects)


def detector(**options: Any) -> ViT:
    torch.manual_seed(0)
    return ViT(**{**SMALL, **options}).eval()


def test_the_default_has_80_to_100_million_weights() -> None:
    config = ViTConfig()
    with torch.device("meta"):
        model = SimplePyramid(768, config.width, config.strides), Head(256, 4, 80, 0.0), Head(256, 4, 4, 0.0)
        net = timm.create_model(config.backbone, num_classes=0)
    weights = sum(weight.numel() for part in (*model, net) for weight in part.parameters())
    assert 80e6 < weights < 100e6


@pytest.mark.parametrize("strides", [(4, 8, 16, 32), (8, 32), (16,)])
def test_levels_have_their_strides(strides: tuple[int, ...]) -> None:
    levels = SimplePyramid(12, 8, strides)(torch.rand(2, 12, 4, 6))
    assert [level.shape for level in levels] == [(2, 8, 64 // stride, 96 // stride) for stride in strides]
    model = detector(strides=strides)
    raw = model(torch.zeros(1, 3, 64, 96))
    rows = [(96 // stride) * (64 // stride) for stride in strides]
    assert raw.boxes.shape == (1, sum(rows), 4) and raw.points.shape == (sum(rows), 2)
    assert raw.points[0].tolist() == [strides[0] / 2] * 2 and raw.points[-1].tolist() == [
        96 - strides[-1] / 2,
        64 - strides[-1] / 2,
    ]
    assert ((raw.boxes[0, :, :2] < raw.points) & (raw.boxes[0, :, 2:] > raw.points)).all()


def test_no_box_is_suppressed() -> None:
    """Two locations that give the same box and class are both found: it is training that has to prevent this."""
    boxes = torch.tensor([[[1.0, 2, 30, 40], [1, 2, 30, 40], [5, 5, 9, 9]]])
    raw = Raw(torch.tensor([[[2.0, -9], [1.0, -9], [-9, 3.0]]]), boxes, torch.zeros(3, 2), torch.full((4,), 64.0))
    found = detector(classes=2).decode(raw, conf=0.1)
    assert found.labels[0, :3].tolist() == [1, 0, 0] and (found.labels[0, 3:] == -1).all()
    torch.testing.assert_close(found.scores[0, :3], torch.tensor([3.0, 2, 1]).sigmoid())


def test_a_crowd_excuses_only_what_lies_in_it(batch: Batch) -> None:
    points = torch.tensor([[2.0, 2.0], [10.0, 2.0], [4.0, 4.0]])
    boxes = torch.tensor([[[0.0, 0, 4, 4], [8, 0, 12, 4]]])
    assert inside(points, boxes, torch.tensor([[True, True]])).tolist() == [[True, True, False]]
    assert inside(points, boxes, torch.tensor([[True, False]])).tolist() == [[True, False, False]]


def test_what_is_frozen_stays(batch: Batch) -> None:
    """A step of everything changes no weight of the backbone, and no statistic of its batch norms."""
    for backbone in ("test_vit", "test_efficientnet"):
        model = detector(train="neck", backbone=backbone, drop_path=0.5)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        learner = Learner(ViTConfig(lr=0.1, ema=0.0, warmup_steps=0), model, torch.device("cpu"))
        learner.gradients(batch)
        learner.update(0.1, 0)
        changed = {name.split(".")[0] for name, tensor in model.state_dict().items() if not tensor.equal(before[name])}
        assert changed == {"pyramid", "classify", "regress", "scale"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"train": "head"}, "train: 'head' is not one of 'neck', 'lora', 'all'"),
        ({"ffn": "swish"}, "ffn: 'swish' is not one of 'mlp', 'mix'"),
        ({"cost": [1.0, 2.0]}, "expected three weights"),
        ({"width": 20}, "width is 20; expected a multiple of 8"),
        ({"drop_path": 1.0}, "drop_path: '1.0' is not a number of at least 0 and below 1"),
        ({"pretrained": ""}, "would stay as it is; pass --pretrained, or --train all"),
    ],
)
def test_wrong_values(tiny_shards: Path, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ViTConfig(**{"shards": str(tiny_shards), **values}).check()
    for strides in ([], [8, 4], [4, 4], [64]):
        with pytest.raises(ConfigError, match="expected some of 4, 8, 16, 32, rising"):
            SimplePyramid(64, 8, strides)


def test_a_teacher_teaches(batch: Batch, tmp_path: Path) -> None:
    """A child that learns from no box at all comes closer to its teacher, whose weights are none of its own."""
    teacher, child = detector(), detector(width=8)
    facts = {"classes": ["a", "b", "c"], "class_ids": [0, 1, 2], "size": [64, 96], "fit": "letterbox"}
    state = {"detector": "vit", "config": SMALL, "model": teacher.state_dict(), **facts}
    checkpoint.save(tmp_path / "t.pt", state)
    config = ViTConfig(teacher=str(tmp_path / "t.pt"), lr=1e-2, ema=0.0)
    with pytest.raises(ConfigError, match=r"is a vit with strides .* and classes a, b, c; expected .* classes a, b"):
        child.prepare(config, ("a", "b"))
    learner = Learner(config, child, torch.device("cpu"))
    names = set(child.state_dict())
    child.prepare(config, ("a", "b", "c"))
    assert set(child.state_dict()) == names and child.teacher
    batch.labels[:] = -1
    rows = []
    for step in range(12):
        rows.append(learner.gradients(batch))
        learner.update(1e-2, step)
    assert {"teacher_cls", "teacher_giou"} < rows[0].keys()
    assert rows[-1]["teacher_giou"] < rows[0]["teacher_giou"]
    assert "teacher_giou" not in child.eval().loss(child(batch.images), batch)


class TestLoRA(DetectorSuite):
    name = "vit"
    config: ClassVar[dict[str, Any]] = {**SMALL, "train": "lora", "lora": "r=2,alpha=4"}

    def test_every_weight_learns(self, detector: Detector, batch: Batch) -> None:
        """B of each adapter is 0 at first, so that A learns from the second step on."""
        learner = Learner(ViTConfig(ema=0.0), detector, torch.device("cpu"))
        for step in range(2):
            learner.gradients(batch)
            grads = {name: weight.grad for name, weight in detector.named_parameters() if weight.requires_grad}
            learner.update(1e-2, step)
        assert all(grad is not None and grad.abs().sum() > 0 for grad in grads.values())
        mine = [name for name in grads if name.startswith("backbone.")]
        assert len(mine) == 6 * 4 * 2 and all(".lora_" in name for name in mine)


@pytest.fixture
def tuned(batch: Batch, tmp_path: Path) -> Path:
    """A checkpoint whose adapters have learnt."""
    pytest.importorskip("peft")
    config = {**SMALL, "train": "lora", "lora": "r=2,alpha=4"}
    model = detector(**config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if ".lora_" in name:
                weight.normal_(std=0.2)
    facts = {"classes": ["a", "b", "c"], "class_ids": [0, 1, 2], "size": [64, 96], "fit": "letterbox"}
    checkpoint.save(tmp_path / "tuned.pt", {"detector": "vit", "config": config, "model": model.state_dict(), **facts})
    return tmp_path / "tuned.pt"


def test_merged_adapters_give_the_same(tuned: Path, batch: Batch) -> None:
    result = CliRunner().invoke(adapters.main, ["merge", str(tuned), str(tuned.with_name("merged.pt"))])
    assert result.exit_code == 0, result.output
    before, _ = checkpoint.load_detector(tuned)
    after, facts = checkpoint.load_detector(tuned.with_name("merged.pt"))
    assert facts["config"]["lora"] == "" and not any("lora" in name for name in after.state_dict())
    plain = detector()
    plain.load_state_dict({**after.state_dict(), **{k: v for k, v in plain.state_dict().items() if "blocks" in k}})
    with torch.no_grad():
        raw, same, other = before(batch.images), after(batch.images), plain(batch.images)
    torch.testing.assert_close(raw.logits, same.logits, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(raw.boxes, same.boxes, rtol=1e-5, atol=1e-3)
    assert not torch.allclose(raw.logits, other.logits, atol=1e-4), "the adapters do nothing"


@pytest.mark.parametrize("heads", [False, True])
def test_adapters_alone_in_a_file(tuned: Path, heads: bool) -> None:
    file, fresh, out = (tuned.with_name(name) for name in ("a.safetensors", "fresh.pt", "out.pt"))
    result = CliRunner().invoke(adapters.main, ["save", str(tuned), str(file), *(["--heads"] if heads else [])])
    assert result.exit_code == 0, result.output
    state = checkpoint.load(tuned)
    wanted = {name for name in state["model"] if ".lora_" in name or (heads and not name.startswith("backbone."))}
    model = ViT(**state["config"])
    checkpoint.save(fresh, {**state, "model": model.state_dict()})
    result = CliRunner().invoke(adapters.main, ["load", str(fresh), str(file), str(out)])
    assert result.exit_code == 0, result.output
    loaded = checkpoint.load(out)["model"]
    for name, tensor in loaded.items():
        expected = state["model"] if name in wanted else model.state_dict()
        assert torch.equal(tensor, expected[name]), name


def test_adapters_that_do_not_fit(tuned: Path, tmp_path: Path) -> None:
    plain, other = tmp_path / "plain.pt", tmp_path / "other.safetensors"
    checkpoint.save(plain, {**checkpoint.load(tuned), "config": SMALL, "model": detector().state_dict()})
    safetensors.torch.save_file({"a": torch.ones(1)}, other)
    for words, message in (
        (["save", plain, tmp_path / "x"], "has no LoRA adapters"),
        (["merge", plain, tmp_path / "x"], "has no LoRA adapters"),
        (["load", plain, other, tmp_path / "x"], "has no LoRA adapters"),
        (["load", tuned, other, tmp_path / "x"], r"lora_A\S* is missing; expected"),
        (["merge", tuned, tmp_path / "none" / "x"], "cannot be written"),
    ):
        result = CliRunner().invoke(adapters.main, list(map(str, words)))
        assert result.exit_code == 2 and re.search(message, result.stderr) and "Traceback" not in result.output, message


@pytest.mark.parametrize("text", ["8", "r=0,alpha=1", "r=8", "r=a,alpha=2"])
def test_wrong_adapters(text: str) -> None:
    with pytest.raises(ConfigError, match="expected such as r=8,alpha=16"):
        detector(lora=text)
    with pytest.raises(ConfigError, match="no attention blocks to adapt"):
        detector(backbone="test_efficientnet", lora="r=8,alpha=16")


@pytest.fixture(scope="module")
def toy() -> ModuleType:
    """The script of docs/vit.md's picture."""
    spec = importlib.util.spec_from_file_location("docs_vit", DOCS / "vit.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_script_draws_its_picture(toy: ModuleType, tmp_path: Path) -> None:
    done = CliRunner().invoke(toy.main, ["--out", str(tmp_path), "--steps", "2", "--every", "1"])
    assert done.exit_code == 0, done.output
    assert done.output.count("class cost") == 2 and (tmp_path / "vit_duplicates.png").stat().st_size > 1000


@pytest.mark.slow
def test_the_class_cost_is_what_removes_duplicates(toy: ModuleType) -> None:
    with_class, without = (points[-1][1] for points in toy.experiment(200, 200).values())
    assert with_class < 1.25 < 2.5 < without

"""What is chosen for a set and a machine where nothing is stated, and the number of images that fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from dataforge.errors import ConfigError
from tests.trainers import runs
from trainers import checkpoint, distributed, registry
from trainers.command import command
from trainers.config import Config, included, read_toml, write_toml
from trainers.models import pretrained
from trainers.training import auto_batch, engine, run
from trainers.training.auto_batch import Cost
from trainers.training.defaults import Summary, choose, epochs_for, size_for

BCCD = Summary(292, 3, 480, 640, (82.0, 103.0, 123.0))
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "obtainable", lambda name: False)


@pytest.mark.parametrize("detector", list(registry.DETECTORS))
def test_on_the_set_that_it_was_measured_on_a_configuration_is_chosen(
    detector: str, twenty: Path, offline: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = registry.config_class(detector)
    expected = kind(**read_toml(kind, included(f"{detector}_bccd")) | {"pretrained": "true", "augment": "flip"})
    monkeypatch.setattr(Summary, "of", lambda shards: replace(BCCD, images=205 if detector == "dense" else 292))
    monkeypatch.setattr(pretrained, "obtainable", lambda name: True)
    given = {"shards": str(twenty), "device": "cpu"}
    chosen = choose(kind(**given), given.keys(), detector)
    free = {"train_split", "val_split", "shards", "device", "defaults", "eval_every"}
    assert {k: v for k, v in vars(chosen).items() if k not in free} == {
        k: v for k, v in vars(expected).items() if k not in free
    }
    chosen.check()


@pytest.mark.parametrize("detector", list(registry.DETECTORS))
def test_what_is_stated_stays(detector: str, twenty: Path, offline: None, capsys: pytest.CaptureFixture[str]) -> None:
    kind = registry.config_class(detector)
    stated = {"shards": str(twenty), "device": "cpu", "epochs": 5, "size": [320, 288], "batch_size": 3, "lr": 0.5}
    chosen = choose(kind(**stated), stated.keys(), detector)
    assert {key: getattr(chosen, key) for key in stated} == stated
    chosen.check()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and "size 320,288" in lines[1] and "batch 3" in lines[1] and "epochs 5" in lines[1]
    assert "expect a much lower mAP" in lines[2] and chosen.pretrained == "" and chosen.freeze == 0
    assert choose(chosen, vars(chosen).keys(), detector) == chosen and not capsys.readouterr().out


@pytest.mark.parametrize("detector", list(registry.DETECTORS))
@pytest.mark.parametrize("has_weights", [False, True])
def test_a_gpu(
    detector: str,
    has_weights: bool,
    twenty: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The choice alone: nothing runs on it."""
    monkeypatch.setattr(distributed, "device_of", lambda name: CUDA)
    monkeypatch.setattr(distributed, "free_memory", lambda device: 2**33)
    monkeypatch.setattr(pretrained, "obtainable", lambda name: has_weights)
    kind = registry.config_class(detector)
    chosen: Any = choose(kind(shards=str(twenty)), {"shards"}, detector)
    chosen.check()
    assert chosen.backbone == ("vit_base_patch16_clip_224" if detector == "vit" else "resnet50")
    assert chosen.amp == "auto" and chosen.epochs == 100 and chosen.pretrained == ("true" if has_weights else "")
    assert has_weights or chosen.freeze == 0
    assert "cuda" in (lines := capsys.readouterr().out) and "not measured on a GPU" in lines


def test_values_of_all_that_is_printed_leave_the_others_chosen(twenty: Path, offline: None) -> None:
    kind = registry.config_class("ssd")
    given: dict[str, Any] = {"shards": str(twenty), "device": "cpu"}
    printed = {"size": [320, 416], "batch_size": 8, "epochs": 5, "augment": "yolo", "backbone": "resnet18"}
    printed |= {"pretrained": "true"}
    chosen: Any = choose(kind(**given, **printed), given.keys() | printed, "ssd")
    expected = replace(choose(kind(**given), given.keys(), "ssd"), **printed, eval_every=1)
    assert chosen == expected and chosen.optimizer != kind().optimizer and chosen.freeze == 0


def test_sizes() -> None:
    assert size_for(BCCD, [320, 416], 1) == [320, 416]
    assert size_for(BCCD, [416, 320], 1) == [320, 416]  # the shape is the images'
    assert size_for(replace(BCCD, height=640, width=480), [352, 480], 257) == [480, 352]
    assert size_for(replace(BCCD, height=64, width=100), [320, 416], 1) == [64, 96]  # not larger than the images
    assert size_for(replace(BCCD, height=64, width=100), [320, 416], 257) == [288, 288]
    height, width = size_for(replace(BCCD, sides=(8.0, 16.0, 20.0)), [320, 416], 1)
    assert 1.9 < height * width / (320 * 416) <= 2.5  # small boxes
    assert size_for(replace(BCCD, height=10, width=4000), [320, 416], 1) == [
        128,
        352,
    ]  # at most three times as long as wide


@pytest.mark.parametrize(
    ("images", "device", "expected"),
    [
        (292, CPU, 18),
        (146, CPU, 36),
        (1, CPU, 72),
        (10**6, CPU, 3),
        (292, CUDA, 100),
        (4000, CUDA, 30),
        (10**6, CUDA, 12),
    ],
)
def test_epochs(images: int, device: torch.device, expected: int) -> None:
    assert epochs_for(images, 18, "ssd_bccd", device) == expected


def test_small_pictures_have_the_small_network(twenty: Path, offline: None, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = registry.config_class("dense")
    given: dict[str, Any] = {"shards": str(twenty), "device": "cpu", "size": [64, 128]}
    assert choose(kind(**given), given.keys(), "dense").backbone == "plain"
    given |= {"pretrained": "weights.pth"}
    assert choose(kind(**given), given.keys(), "dense").backbone == "tf_efficientnet_lite0"


def test_the_backbone_is_the_one_whose_weights_are_given(twenty: Path, tmp_path: Path) -> None:
    from trainers.models.backbones import build

    torch.save(build("resnet18", strides=(16,)).net.state_dict(), tmp_path / "weights.pth")
    kind = registry.config_class("ssd")
    given = {"shards": str(twenty), "device": "cpu", "pretrained": str(tmp_path / "weights.pth")}
    chosen = choose(kind(**given), given.keys(), "ssd")
    assert chosen.backbone == "resnet18" and chosen.freeze == 0  # 5 is of the other backbone
    assert chosen.top_down == 96
    assert choose(kind(**given, backbone="vgg16"), given.keys() | {"backbone"}, "ssd").top_down == 0  # the paper's


def trained(detector: str, *words: object, monkeypatch: pytest.MonkeyPatch) -> tuple[Result, list[Config]]:
    """The result of a command, and the configurations that it would train with."""
    taken = begun(monkeypatch)
    return CliRunner().invoke(command(detector, registry.config_class(detector)), [*map(str, words)]), taken


def begun(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """A list of the configurations with which trainings begin; each ends there, by a `ConfigError`."""
    taken: list[Config] = []

    def start(config: Config, *_: object) -> None:
        taken.append(config)
        raise ConfigError("begun")

    monkeypatch.setattr(engine, "start", start)
    return taken


def test_the_command(twenty: Path, tmp_path: Path, offline: None, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own.toml").write_text("epochs = 7\nsize = 288\n")
    own = ["--shards", twenty, "--device", "cpu", "--config", tmp_path / "own.toml", "--lr", 0.25]
    done, [config] = trained("ssd", *own, monkeypatch=monkeypatch)
    assert len(done.stdout.splitlines()) == 4 and config.backbone == "tf_efficientnet_lite0"  # type: ignore[attr-defined]
    assert (config.epochs, config.size, config.lr) == (7, [288, 288], 0.25)
    for words in (["--defaults", "paper"], ["--config", "ssd_bccd"]):
        splits = ["--train-split", "train", "--val-split", "val"]
        done, [config] = trained("ssd", "--shards", twenty, *splits, *words, monkeypatch=monkeypatch)
        assert len(done.stdout.splitlines()) == (words[0] == "--config") and config.defaults == "paper"
    assert config.epochs == 18


def test_all_processes_train_with_what_rank_0_chooses(
    twenty: Path, offline: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gathered(value: Any) -> list[Any]:
        other = replace(value, pretrained="true", freeze=5) if isinstance(value, Config) else ("bf16", "")
        return [other, value]

    monkeypatch.setattr(distributed, "gathered", gathered)
    _, [config] = trained("ssd", "--shards", twenty, "--device", "cpu", monkeypatch=monkeypatch)
    assert (config.pretrained, config.freeze, config.amp) == ("true", 5, "bf16")  # type: ignore[attr-defined]


def test_a_job_that_starts_again_keeps_the_values_of_its_run(
    twenty: Path, tmp_path: Path, offline: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever would be chosen now, with another network, memory or number of processes."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job")
    kind = registry.config_class("ssd")
    earlier = kind(shards=str(twenty), runs=str(tmp_path), name="run", batch_size=3, size=[320, 288], seed=7)
    (tmp_path / "ssd/run/weights").mkdir(parents=True)
    write_toml(earlier, tmp_path / "ssd/run/args.toml")
    run.begin(tmp_path / "ssd/run", "ssd", {})
    words = ["--shards", twenty, "--runs", tmp_path, "--name", "run", "--auto-batch", "--device", "cpu", "--seed", "7"]
    monkeypatch.setattr(auto_batch, "fitting", lambda *_: 1)
    done, [config] = trained("ssd", *words, monkeypatch=monkeypatch)
    assert config.batch_size == 1 and len(done.stdout.splitlines()) == 4  # before the first checkpoint
    (tmp_path / "ssd/run/weights/last.pt").touch()
    done, [config] = trained("ssd", *words, monkeypatch=monkeypatch)
    assert config == earlier and not done.stdout


@pytest.mark.parametrize(
    ("seconds", "megabytes", "free", "images", "enough", "expected", "reason"),
    [
        ([1, 1.2, 1.5, 1.9, 3.7], [1, 2, 4, 8, 16], 0, 1000, 1, 8, "take twice as long"),
        ([1, 1.2, 1.5, 1.9, 3.7], [1, 2, 4, 8, 16], 9, 1000, 1, 4, "too much memory"),
        ([1, 1.2, 1.5, 1.9, 3.7], [1, 2, 4, 8, 16], 0, 70, 1, 4, "fewer than 16 steps"),
        ([1, 1.2, None], [1, 2, 4], 0, 1000, 1, 2, "need too much memory"),
        ([1, 2, 4, 8], [1, 2, 4, 8], 0, 1000, 4, 4, "take twice as long"),
        ([1], [1], 0, 3, 1, 1, "fewer than 16 steps"),
    ],
)
def test_where_the_batch_ends(
    seconds: Sequence[float],
    megabytes: Sequence[int],
    free: int,
    images: int,
    enough: int,
    expected: int,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(distributed, "free_memory", lambda device: free * 2**20)

    def cost(count: int) -> Cost:
        step = count.bit_length() - 1
        if seconds[step] is None:
            raise ConfigError("out of memory")
        return Cost(seconds[step], megabytes[step] * 2**20)

    count, _, words = auto_batch.largest(cost, images, CPU, enough)
    assert count == expected and reason in words


def test_a_checkpoints_copy_of_the_state_has_room_beside_the_batch(
    twenty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed, "free_memory", lambda device: 1000)
    for copy, expected in ((0, 4), (1, 2)):
        assert auto_batch.largest(lambda count: Cost(1.0, 200 * count, copy), 99, CPU, 99)[0] == expected  # noqa: B023
    costs: list[Cost] = []

    def largest(cost: Callable[[int], Cost], *_: Any) -> tuple[int, Cost, str]:
        costs.append(cost(1))
        return 1, costs[0], ""

    monkeypatch.setattr(auto_batch, "largest", largest)
    folder = engine.train(runs.small(twenty, tmp_path, epochs=1, auto_batch=True), "yolov2")
    assert costs[0].copy == checkpoint.size(checkpoint.load(folder / "weights/last.pt")) > 0


def test_auto_batch_is_written_as_a_number(twenty: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = runs.small(twenty, tmp_path, name="one", epochs=1, auto_batch=True, save_steps=0)
    folder = engine.train(config, "yolov2")
    values = read_toml(type(config), folder / "args.toml")
    assert values["batch_size"] == 1 and values["auto_batch"] is False  # of 20 images, 16 steps
    *lines, left, epoch, _ = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("anchors: ") for line in lines) == 1, "the network is made twice"
    assert any(line.startswith("batch 1: ") for line in lines) and epoch.startswith("epoch 1/1: ")
    assert left == "less than a minute left, without evaluations (estimated from the first steps)"
    with pytest.raises(ConfigError, match="budget is 9; expected 0 with auto_batch"):
        runs.small(twenty, tmp_path, auto_batch=True, budget=9).check()
    with pytest.raises(ConfigError, match="auto_batch is for one process"):
        auto_batch.fitting(config, "yolov2", CPU, 2)


def test_weights_that_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *names: None)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert not pretrained.obtainable("resnet18") and not pretrained.obtainable("darknet19")
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *names: "file")
    assert pretrained.obtainable("resnet18") and not pretrained.obtainable("darknet19")
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *names: None)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://localhost:9")  # nothing listens
    assert not pretrained.obtainable("resnet18")

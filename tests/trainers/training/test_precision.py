"""Mixed precision that is chosen for a device, on a CPU by a measurement."""

from __future__ import annotations

import copy
import os
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import nn

from dataforge.errors import ConfigError
from dataforge.shards.reader import Shards
from tests.trainers import runs
from trainers import registry
from trainers.config import Config
from trainers.training import engine, precision
from trainers.training.learner import Learner

CPU, CUDA, MPS = (torch.device(name) for name in ("cpu", "cuda", "mps"))


@pytest.mark.parametrize(
    ("amp", "factor", "chosen", "words"),
    [
        ("auto", 0.4, "bf16", "amp bf16: a step in bf16 takes about 0.4 times as long as in float32"),
        ("auto", 0.95, "none", "amp none: a step in bf16 takes about 0.95 times"),  # not worth the rounding
        ("auto", 12.6, "none", "amp none: a step in bf16 takes about 13 times"),
        ("bf16", 12.6, "bf16", "warning: amp bf16: a step in bf16 takes about 13 times"),
        ("bf16", 0.4, "bf16", ""),
    ],
)
def test_a_cpu(amp: str, factor: float, chosen: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "cost", lambda kind: factor)
    taken, line = precision.resolved(amp, CPU)
    assert taken == chosen and line.startswith(words) and bool(line) == bool(words)


def test_fp16_on_a_cpu_is_refused_unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "cost", lambda kind: pytest.fail("measured"))
    with pytest.raises(ConfigError, match=r"amp is 'fp16' on cpu.*; pass --amp auto, bf16 or none"):
        precision.resolved("fp16", CPU)


def test_other_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """The choice alone: nothing runs on them."""
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "GPU")
    for is_supported, chosen in ((True, "bf16"), (False, "fp16")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: is_supported)  # noqa: B023
        assert precision.resolved("auto", CUDA)[0] == chosen
        assert precision.resolved("auto", CUDA, fp16=False)[0] == {"fp16": "none"}.get(chosen, chosen)
    assert precision.resolved("auto", MPS)[0] == "none"
    for device in (CPU, CUDA, MPS):
        assert precision.resolved("none", device) == ("none", "")
    assert precision.resolved("bf16", CUDA) == ("bf16", "")


def test_the_measurement() -> None:
    threads = torch.get_num_threads()
    assert 0.01 < precision.cost(torch.bfloat16) < 1000
    assert torch.get_num_threads() == threads


def test_the_measurement_is_of_this_thread_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others on the core made it a matter of luck: 0.3 to 1.4 in one minute on a machine where it is 0.6."""
    steps: list[torch.dtype] = []

    def step(layers: object, images: object, kind: torch.dtype) -> float:
        steps.append(kind)
        return 0.03 if kind == torch.float32 else 0.015

    monkeypatch.setattr(precision, "_step", step)
    assert precision.cost(torch.bfloat16) == pytest.approx(0.5)
    assert steps.count(torch.float32) == steps.count(torch.bfloat16), "as many of both"
    if os.name != "nt":
        started = precision.CLOCK()
        time.sleep(0.2)
        assert precision.CLOCK() - started < 0.1


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 1), (5, 2)])
def test_depthwise_layers_that_learn_compute_in_float32(kernel: int, stride: int) -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(*(nn.Conv2d(8, 8, kernel, stride, groups=8) for _ in range(2)), nn.Conv2d(8, 8, 1))
    layers[0].requires_grad_(False)
    plain = copy.deepcopy(layers)
    precision.exact_depthwise(layers)
    assert [layer.__dict__.get("forward") is None for layer in layers] == [True, False, True]
    x = torch.randn(2, 8, 24, 24)
    assert torch.equal(layers(x), plain(x)), "nothing changes without autocast"
    half = x.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = layers[1](half)
    assert found.dtype == torch.bfloat16 and torch.equal(found, plain[1](half.float()).bfloat16())
    found.float().square().sum().backward()
    rounded = plain[1](half.float())
    rounded.backward(2 * rounded.bfloat16().float())
    for weight, expected in zip(layers[1].parameters(), plain[1].parameters(), strict=True):
        torch.testing.assert_close(weight.grad, expected.grad, rtol=0.01, atol=0.01)


@pytest.mark.parametrize(("amp", "count"), [("none", 0), ("bf16", 16)])
def test_a_training_in_bf16_has_such_layers(tiny_shards: Path, amp: str, count: int) -> None:
    config = runs.config("dense", tiny_shards, Path(), amp=amp, backbone="tf_efficientnet_lite0", channels=3)
    kind = registry.detector_class("dense")
    made = Learner(config, kind(**kind.configure(config, Shards(tiny_shards, "train"))), CPU)
    exact = [part for part in made.model.modules() if "forward" in part.__dict__]
    assert len(exact) == count and not any("forward" in part.__dict__ for part in made.average.modules())


def test_a_run_keeps_what_it_chose(
    twenty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where bf16 turns out to be slower when it is resumed, on another machine, which is warned about."""
    taken: list[Config] = []

    def start(config: Config, *_: object) -> None:
        taken.append(config)
        raise ConfigError("begun")

    monkeypatch.setattr(engine, "start", start)
    for factor in (0.4, 12.0):
        monkeypatch.setattr(precision, "cost", lambda kind: factor)  # noqa: B023
        amp = taken[0].amp if taken else "auto"
        with pytest.raises(ConfigError, match="begun"):
            engine.train(runs.small(twenty, tmp_path, amp=amp), "yolov2")
    assert [config.amp for config in taken] == ["bf16", "bf16"]
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("amp bf16: ") and second.startswith("warning: amp bf16: ")


@pytest.mark.parametrize("world", [1, 2])
def test_fsdp_of_one_process_is_told_and_of_several_takes_no_fp16(
    twenty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], world: int
) -> None:
    monkeypatch.setattr(engine.distributed, "joined", lambda *_: nullcontext((0, world, CPU)))
    monkeypatch.setattr(precision, "resolved", lambda amp, device, fp16: ("none", f"fp16: {fp16}"))
    monkeypatch.setattr(engine, "start", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        engine.train(runs.config("vit", twenty, tmp_path, fsdp=True), "vit")
    words = ["fsdp: has no effect on one process; several are started by torchrun"] if world == 1 else []
    assert capsys.readouterr().out.splitlines() == [*words, f"fp16: {world == 1}"]

"""Mixed precision that is chosen for a device, on a CPU by a measurement."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from dataforge.errors import ConfigError
from tests.trainers import runs
from trainers.config import Config
from trainers.training import engine, precision

CPU, CUDA, MPS = (torch.device(name) for name in ("cpu", "cuda", "mps"))


@pytest.mark.parametrize(
    ("amp", "factor", "chosen", "words"),
    [
        ("auto", 0.4, "bf16", "amp bf16: a step in bf16 takes about 0.4 times as long as in float32"),
        ("auto", 0.95, "none", "amp none: a step in bf16 takes about 0.95 times"),  # not worth the rounding
        ("auto", 12.6, "none", "amp none: a step in bf16 takes about 13 times"),
        ("bf16", 12.6, "bf16", "warning: amp bf16: a step in bf16 takes about 13 times"),
        ("fp16", 12.6, "fp16", "warning: amp fp16: a step in fp16 takes about 13 times"),
        ("bf16", 0.4, "bf16", ""),
    ],
)
def test_a_cpu(amp: str, factor: float, chosen: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "cost", lambda kind: factor)
    taken, line = precision.resolved(amp, CPU)
    assert taken == chosen and line.startswith(words) and bool(line) == bool(words)


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

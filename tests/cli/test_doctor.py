from __future__ import annotations

import copy
import math
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import PIL.features
import pytest
import torch
from click.testing import CliRunner

import trainers.doctor
from dataforge.bench import doctor
from dataforge.bench.doctor import FAILED, MISSING, OK, Check
from dataforge.bench.measure import cpu
from dataforge.cli.main import main
from dataforge.errors import ConfigError, ImageError
from tests.cli.test_json import check as check_schema


def by_name(checks: Iterator[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def raising(error: Exception) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> Any:
        raise error

    return fail


def test_this_machine(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["doctor", "--json", "--dir", str(tmp_path)])
    facts = check_schema("doctor", result.stdout)
    statuses = [check["status"] for check in facts["checks"]]
    assert {status: statuses.count(status) for status in (OK, MISSING, FAILED)} == {
        status: facts[status] for status in (OK, MISSING, FAILED)
    }
    assert result.exit_code == bool(facts[FAILED])
    checks = {check["name"]: check for check in facts["checks"]}
    assert f"disk of {tmp_path}" in checks
    for name in ("numpy", "torch", "CPU", "decode JPEG", "decode PNG", "decode WebP", "loader", "trainer"):
        assert checks[name]["status"] == OK, checks[name]
    assert checks["CPU"]["text"].endswith(cpu())
    assert re.match(r"amp (bf16|none): a step in bf16 takes about ", checks["mixed precision"]["text"])
    no_device = checks["CUDA"]["status"] == checks["MPS"]["status"] == MISSING
    assert checks["devices agree"]["status"] == (MISSING if no_device else OK), checks["devices agree"]


def test_a_module_cv2_of_another_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two packages of OpenCV write the same folder, and metadata names both versions."""
    assert by_name(doctor.versions())["opencv-python-headless"].status == OK
    monkeypatch.setattr("cv2.__version__", "5.0.0")
    check = by_name(doctor.versions())["opencv-python-headless"]
    assert check.status == FAILED and "has put 5.0.0 in the place of 4." in check.text and "pip install" in check.next


@pytest.mark.parametrize(
    ("checks", "code", "line"),
    [
        ([Check("a", OK, "1"), Check("b", MISSING, "none", "get it")], 0, "missing  b: none; next: get it\n"),
        ([Check("a", FAILED, "broken", "mend it"), Check("b", OK, "2")], 1, "failed   a: broken; next: mend it\n"),
    ],
)
def test_lines_and_exit_codes(monkeypatch: pytest.MonkeyPatch, checks: list[Check], code: int, line: str) -> None:
    monkeypatch.setattr(doctor, "checks", lambda folders: iter(checks))
    result = CliRunner().invoke(main, ["doctor"])
    assert (result.exit_code, result.stderr) == (code, "")
    assert line in result.stdout
    assert result.stdout.endswith(f"1 ok, {1 - code} missing, {code} failed\n")
    result = CliRunner().invoke(main, ["doctor", "--json"])
    assert result.exit_code == code
    assert check_schema("doctor", result.stdout)["checks"] == [check._asdict() for check in checks]


@pytest.mark.parametrize(
    ("decode", "text"),
    [
        (raising(ImageError("cannot be decoded: broken")), "cannot be decoded: broken"),
        (raising(OSError("libjpeg.so: not found")), "OSError: libjpeg.so: not found"),
        (lambda data: np.zeros((32, 32, 3), np.uint8), "decoded pixels differ by 60 of 255 on average"),
    ],
)
def test_a_decoder_fails(monkeypatch: pytest.MonkeyPatch, decode: Callable[..., Any], text: str) -> None:
    from dataforge.images import decode as room

    real = room.decode
    monkeypatch.setattr(room, "decode", lambda data: (decode if data[:4] == b"\x89PNG" else real)(data))
    checks = by_name(doctor.decoders())
    assert checks.pop("decode PNG") == ("decode PNG", FAILED, text, "pip install --force-reinstall pillow")
    assert {check.status for check in checks.values()} <= {OK, MISSING}


def test_a_missing_decoder_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pylibjxl", None)
    monkeypatch.setattr(PIL.features, "check", lambda feature: False)
    checks = by_name(doctor.decoders())
    assert {name: check.status for name, check in checks.items()} == {
        "decode JPEG": OK,
        "decode PNG": OK,
        "decode WebP": MISSING,
        "decode AVIF": MISSING,
        "decode JPEG XL": MISSING,
    }
    assert "pylibjxl" in checks["decode JPEG XL"].text


def test_disks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def only(folder: Path) -> Check:
        (check,) = doctor.disks([folder])
        return check

    assert only(tmp_path / "nowhere")[1:3] == (FAILED, "no such folder")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=3 << 30))
    assert only(tmp_path)[1:] == (OK, "3.0 GiB free", "")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1 << 28))
    assert only(tmp_path)[1:3] == (FAILED, "0.25 GiB free; expected at least 1 GiB")
    monkeypatch.setattr(os, "access", lambda folder, mode: False)
    assert only(tmp_path)[1:3] == (FAILED, "the folder cannot be written")


def test_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["numpy>=1", "click>=999", "no-such-package", 'pillow; extra == "seen"']
    lines += ['numpy; extra == "half"', 'no-such-other; extra == "half"', 'torch; extra == "dev"']
    lines += ['pillow<2; extra == "old"', 'no-such-third; python_version < "3"']
    monkeypatch.setattr(metadata, "packages_distributions", lambda: {"dataforge": ["the-name"]})
    monkeypatch.setattr(metadata, "requires", lambda name: lines)
    extras = SimpleNamespace(get_all=lambda key: ["seen", "half", "dev", "old"])
    monkeypatch.setattr(metadata, "metadata", lambda name: extras)
    checks = by_name(doctor.versions())
    assert {name: check.status for name, check in checks.items()} == {
        "python": OK,
        "dataforge": OK,
        "numpy": OK,
        "click": FAILED,
        "no-such-package": FAILED,
        "extra seen": OK,
        "extra half": MISSING,
        "extra old": FAILED,
    }
    assert checks["numpy"].text == np.__version__
    assert checks["click"].next == "pip install 'click>=999'"
    assert checks["extra half"][2:] == ("not installed: no-such-other", "pip install 'the-name[half]'")
    monkeypatch.setattr(metadata, "packages_distributions", dict)
    assert by_name(doctor.versions())["dataforge"].status == MISSING


def test_a_device_computes_wrongly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch, "ones", lambda *size, device: torch.zeros(*size))
    check = by_name(doctor.devices())["MPS"]
    assert check[1:3] == (FAILED, "a product of matrices sums to 0.0; expected 262144")


@pytest.mark.parametrize(("gap", "status"), [(0.0, OK), (doctor.DEVICES_AGREE, OK), (0.5, FAILED), (math.inf, FAILED)])
def test_a_device_differs_from_the_cpu(monkeypatch: pytest.MonkeyPatch, gap: float, status: str) -> None:
    monkeypatch.setattr(
        doctor, "module_json", lambda *words: {"loss": 1.0, "gaps": {"loss": 0.0, "logits": gap}, "amp": ""}
    )
    checks = by_name(doctor.self_check("mps"))
    assert [checks["loader"].status, checks["trainer"].status, checks["devices agree"].status] == [OK, OK, status]
    assert "the first batch's " in checks["devices agree"].text


def test_a_self_check_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "module_json", raising(ConfigError("python -m trainers.doctor: broken")))
    checks = by_name(doctor.self_check("cpu"))
    assert list(checks) == ["loader", "trainer"]
    assert checks["trainer"][1:3] == (FAILED, "python -m trainers.doctor: broken")
    monkeypatch.setattr("dataforge.ingest.run.ingest", raising(ValueError("broken")))
    assert by_name(doctor.self_check("cpu"))["loader"][1:3] == (FAILED, "ValueError: broken")
    monkeypatch.setattr(doctor, "TemporaryDirectory", raising(OSError(28, "No space left on device")))
    (check,) = doctor.self_check("cpu")
    assert check[:2] == ("temporary folder", FAILED)
    assert "No space left" in check.text


def test_the_comparison_sees_a_wrong_device(monkeypatch: pytest.MonkeyPatch, tiny_shards: Path) -> None:
    same = trainers.doctor.compare(str(tiny_shards), "cpu")
    assert {"maps", "logits", "offsets", "cls", "box", "loss"} == same["gaps"].keys()
    assert set(same["gaps"].values()) == {0.0}
    copies: list[torch.nn.Module] = []

    def deepcopy(model: torch.nn.Module) -> torch.nn.Module:
        copies.append(copy.deepcopy(model))
        if len(copies) == 2:
            with torch.no_grad():
                for values in copies[1].parameters():
                    values += 0.05
        return copies[-1]

    monkeypatch.setattr(trainers.doctor, "copy", SimpleNamespace(deepcopy=deepcopy))
    wrong = trainers.doctor.compare(str(tiny_shards), "cpu")
    assert wrong["loss"] == same["loss"]
    assert all(gap > doctor.DEVICES_AGREE for gap in wrong["gaps"].values()), wrong


def test_gaps() -> None:
    values = torch.tensor([-1.0, 0.0, 3.0])
    assert trainers.doctor._gap(values, values + torch.tensor([0.0, 1.0, 0.5])) == 0.25
    assert trainers.doctor._gap(torch.tensor(2.0), torch.tensor(1.0)) == 0.5
    assert trainers.doctor._gap(torch.zeros(3), torch.zeros(3)) == 0
    for odd in (math.nan, math.inf):
        assert trainers.doctor._gap(values, torch.tensor([-1.0, odd, 3.0])) == math.inf

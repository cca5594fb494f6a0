from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from dataforge.augment.recipes import recipe
from dataforge.shards.reader import Shards
from trainers import registry
from trainers.__main__ import TRAINERS
from trainers.command import command as trainer
from trainers.config import read_toml, write_toml
from trainers.training import engine, run
from trainers.training.data import make_loaders
from trainers.yolov2 import YOLOv2Config

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "shards is not set"),
        (["--shards", "nowhere"], "nowhere: does not exist"),
        (
            ["--shards", "{shards}", "--val-split", "test"],
            r"unknown split 'test'; known: train, val\. Pass --val-split val, or make .* `dataforge split",
        ),
        (
            ["--shards", "{shards}", "--train-split", "dev"],
            r"unknown split 'dev'.*\. Pass --train-split train, or make",
        ),
        (["--shards", "{shards}", "--size", "100"], "multiples of 32"),
        (["--shards", "{shards}", "--optimizer", "adam"], "'--optimizer': 'adam' is not one of 'sgd', 'adamw'"),
        (
            ["--shards", "{shards}", "--batch-size", "0"],
            "'--batch': '0' is not an integer of at least 1",
        ),
        (["--shards", "{shards}", "--accumulate", "0"], "'--accumulate': '0' is not an integer of at least 1"),
        (["--shards", "{shards}", "--accumulate", "17"], "accumulate is 17; expected at most batch_size, 16"),
        (["--shards", "{shards}", "--patience", "3", "--val-split", ""], "patience is 3; .* a val_split"),
        (
            ["--shards", "{shards}", "--layer-decay", "1.5"],
            "'1.5' is not a number above 0 and at most 1",
        ),
        (["--shards", "{shards}", "--ema", "1.5"], "'1.5' is not a number of at least 0 and below 1"),
        (["--shards", "{shards}", "--ema", "1"], "'--ema': '1' is not a number"),
        (["--shards", "{shards}", "--ema", "-0.1"], "'--ema': '-0.1' is not a number"),
        (["--shards", "{shards}", "--ema", "nan"], "'--ema': 'nan' is not a number"),
        (["--shards", "{shards}", "--momentum", "1"], "'--momentum': '1' is not a number of at least 0 and below 1"),
        (["--shards", "{shards}", "--lr", "-0.1"], "'--lr': '-0.1' is not a number of at least 0"),
        (["--shards", "{shards}", "--lr", "inf"], "'--lr': 'inf' is not a number of at least 0"),
        (["--shards", "{shards}", "--bias-lr", "-1"], "'--bias-lr': '-1' is not a number of at least 0"),
        (["--shards", "{shards}", "--layer-decay", "0"], "'--layer-decay': '0' is not a number above 0 and at most 1"),
        (["--shards", "{shards}", "--weight-decay", "-1"], "'--weight-decay': '-1' is not a number of at least 0"),
        (["--shards", "{shards}", "--clip", "-1"], "'--clip': '-1' is not a number of at least 0"),
        (["--shards", "{shards}", "--clip", "nan"], "'--clip': 'nan' is not a number of at least 0"),
        (["--shards", "{shards}", "--warmup-steps", "-1"], "'--warmup-steps': '-1' is not an integer of at least 0"),
        (["--shards", "{shards}", "--milestones", "3,-1"], "'--milestones': '-1' is not an integer of at least 0"),
        (["--shards", "{shards}", "--save-steps", "-1"], "'--save-steps': '-1' is not an integer of at least 0"),
        (
            ["--shards", "{shards}", "--threads", "-1"],
            "'--workers': '-1' is not an integer of at least 0",
        ),
        (["--shards", "{shards}", "--seed", "-1"], "'--seed': '-1' is not an integer of at least 0"),
        (["--shards", "{shards}", "--freeze", "-1"], "'--freeze': '-1' is not an integer of at least 0"),
        (["--shards", "{shards}", "--width", "0"], "'--width': '0' is not a number above 0"),
        (["--shards", "{shards}", "--num-anchors", "0"], "'--num-anchors': '0' is not an integer of at least 1"),
        (["--shards", "{shards}", "--sampling", "rare"], "'--sampling': 'rare' is not one of 'none', 'repeat-factor'"),
        (
            ["--shards", "{shards}", "--sampling", "repeat-factor", "--repeat-threshold", "0"],
            "'--repeat-threshold': '0' is not a number above 0",
        ),
        (["--shards", "{shards}", "--on-error", "stop"], "'--on-error': 'stop' is not one of 'raise', 'skip'"),
        (["--shards", "{shards}", "--decode", "gpu"], "'--decode': 'gpu' is not one of 'host', 'device'"),
        (
            ["--shards", "{shards}", "--decode", "device", "--device", "cpu"],
            "decode is 'device' on cpu; expected a CUDA",
        ),
        (["--shards", "{shards}", "--budget", "-1"], "'--budget': '-1' is not an integer of at least 0"),
        (["--shards", "{shards}", "--budget", "9"], "budget 9; expected at least the 369664 pixels of one image"),
        (["--shards", "{shards}", "--buckets", "a"], "buckets is 'a'; expected auto, or heights and widths"),
        (["--shards", "{shards}", "--logger", "tb"], "logger is 'tb'; expected one of tensorboard"),
        (["--shards", "{shards}", "--device", "gpu"], "device is 'gpu'; no device of torch here; expected auto, cpu, "),
        (["--shards", "{shards}", "--device", "meta"], "device is 'meta'; no device of torch here; expected auto, "),
        (["--shards", "{shards}", "--device", "999"], "device is '999'; cannot be used here: .*; expected auto, cpu, "),
        (["--shards", "{shards}", "--device", "cpu", "--amp", "fp16"], "amp is 'fp16' on cpu"),
        (["--shards", "{shards}", "--backbone", "resnet81", "--size", "64"], "unknown backbone 'resnet81'.*resnet18"),
        (["--shards", "{shards}", "--augment", "wild", "--size", "64"], "unknown augmentation recipe 'wild'"),
        (["--config", "{tmp}/typo.toml"], "unknown key 'epoch'; did you mean 'epochs'"),
        (["--config", "{tmp}/type.toml"], r"type.toml: epochs: 'ten' is not an integer of at least 1"),
        (["--config", "{tmp}/half.toml"], "half.toml: epochs: '1.5' is not an integer"),
        (["--config", "{tmp}/true.toml"], "true.toml: keep: 'true' is not an integer"),
        (["--config", "{tmp}/nan.toml"], "nan.toml: lr: 'NaN' is not a number of at least 0"),
        (["--config", "{tmp}/list.toml"], r"list.toml: epochs is \[3\]; expected one value"),
        (["--imgs", "64"], r"No such option '--imgs'\. Did you mean '--imgsz'\? See `"),
        (["--size", "64", "96"], "unexpected extra argument .96.; a list is one word with commas, such as 320,416"),
        (["--quality", "64"], r"No such option '--quality'\. See `"),
        (["--config", "{tmp}/none.toml"], "cannot be read"),
        (["--shards", "{shards}", "--shuffle", "windows"], "shuffle is 'windows'; expected full, or window:N"),
        (["--config", "bcc"], "unknown configuration 'bcc'; known: FILE.toml, dense_bccd, .*, yolov2_voc$"),
        (["--config", "weather"], "unknown configuration 'weather'"),
        (["--resume", "{tmp}"], "holds no args.toml"),
        (["--resume", "{tmp}/mnie"], "mnie: does not exist; expected the folder of a run"),
        (["--resume", "{tmp}", "--lr", "1"], "--resume goes with"),
        (["--resume", "{tmp}/dense"], "is a run of dense; continue it with python -m trainers.dense"),
    ],
)
def test_wrong_values_are_answered_in_one_line(tiny_shards: Path, tmp_path: Path, flags: list[str], words: str) -> None:
    (tmp_path / "typo.toml").write_text("epoch = 3\n")
    lines = {"type": 'epochs = "ten"', "half": "epochs = 1.5", "true": "keep = true", "nan": "lr = nan"}
    lines["list"] = "epochs = [3]"
    for name, line in lines.items():
        (tmp_path / f"{name}.toml").write_text(line)
    (tmp_path / "dense").mkdir()
    write_toml(registry.config_class("dense")(), tmp_path / "dense/args.toml")
    run.begin(tmp_path / "dense", "dense", {})
    arguments = [flag.format(shards=tiny_shards, tmp=tmp_path) for flag in flags]
    result = CliRunner().invoke(
        trainer("yolov2", YOLOv2Config),
        [*arguments, *([] if "--resume" in flags else ["--defaults", "paper", "--runs", str(tmp_path / "runs")])],
    )
    assert result.exit_code == 2, result.output
    assert re.search(words, result.stderr), result.stderr
    assert "Traceback" not in result.output and result.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("detector", list(registry.DETECTORS))
def test_toml_round_trip(detector: str, tmp_path: Path) -> None:
    kind = registry.config_class(detector)
    config = kind(shards='a "b" ü', size=[320, 416], lr=3e-4, compile=True, buckets="320,416,416,320")
    write_toml(config, tmp_path / "args.toml")
    assert kind(**read_toml(kind, tmp_path / "args.toml")) == config


@pytest.mark.parametrize("detector", list(registry.DETECTORS))
def test_the_parameters_that_the_list_of_trainers_states(detector: str, tiny_shards: Path) -> None:
    kind = registry.detector_class(detector)
    values = kind.configure(registry.config_class(detector)(shards=str(tiny_shards)), Shards(tiny_shards))
    with torch.device("meta"):
        model = kind(**values | {"classes": 20})
    assert round(sum(weight.numel() for weight in model.parameters()) / 1e6, 1) == TRAINERS[detector][0]


def test_an_included_configuration_by_the_rest_of_its_name() -> None:
    for detector in ("dense", "yolov2"):
        kind = registry.config_class(detector)
        short, full = (read_toml(kind, Path(name), detector) for name in ("bccd", f"{detector}_bccd"))
        assert short == full


@pytest.mark.parametrize("detector", list(registry.DETECTORS))
def test_flags(detector: str, tiny_shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every value has a flag, a switch has two; a flag that is not given leaves the default."""
    kind, taken = registry.config_class(detector), []
    monkeypatch.setattr(engine, "train", lambda config, *_: taken.append(config))
    command = trainer(detector, kind)
    flags = ["--compile", "--buckets", "64,96,96,64", "--accumulate", "2", "--patience", "5", "--size", "300"]
    flags += ["--no-cache", "--defaults", "paper"]
    assert CliRunner().invoke(command, ["--data", str(tiny_shards), *flags]).exit_code == 0
    [config] = taken
    values = {
        "defaults": "paper",
        "compile": True,
        "buckets": "64,96,96,64",
        "accumulate": 2,
        "patience": 5,
        "size": [300],
    }
    expected = kind(shards=str(tiny_shards), **values)
    expected.check()
    assert config == expected and config.size == [300, 300]
    shown = CliRunner().invoke(command, ["--help"]).output
    assert all(f"--{name.replace('_', '-')}" in shown for name in vars(kind()))


@pytest.mark.parametrize("file", sorted((ROOT / "configs").glob("*.toml")), ids=lambda file: file.stem)
def test_what_configs_hold_is_valid(
    file: Path, tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / file.stem).mkdir()  # a folder of its name does not hide it
    detector = {"retinanet": "dense"}.get(file.stem, file.stem.rpartition("_")[0])
    if detector not in registry.DETECTORS:
        assert recipe(file)
        return
    kind = registry.config_class(detector)
    values = read_toml(kind, Path(file.stem))
    assert values == read_toml(kind, file)
    config = kind(**values | {"train_split": "train", "val_split": "val"}, shards=str(tiny_shards))
    config.check()
    training, _ = make_loaders(config, registry.detector_class(detector), 0, 1, torch.device("cpu"))
    assert training.collate.recipe


@pytest.mark.parametrize(
    ("detector", "key", "given", "least"),
    [
        ("faster_rcnn", "width", 0, 1),
        ("faster_rcnn", "regions", -1, 1),
        ("dense", "width", 0, 1),
        ("dense", "depth", -1, 0),
    ],
)
def test_numbers_that_are_too_small(detector: str, key: str, given: int, least: int, tiny_shards: Path) -> None:
    flags = ["--shards", str(tiny_shards), f"--{key}", str(given)]
    result = CliRunner().invoke(trainer(detector, registry.config_class(detector)), flags)
    assert result.exit_code == 2 and f"'--{key}': '{given}' is not an integer of at least {least}" in result.stderr

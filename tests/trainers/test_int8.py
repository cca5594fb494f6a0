"""INT8 models detect nearly as well as the exported ones, or are not published."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from dataforge.errors import ConfigError
from dataforge.images.header import probe
from dataforge.loading.loader import Loader
from dataforge.record import Record
from dataforge.shards.reader import Shards
from dataforge.shards.writer import ShardWriter
from tests import tiny
from trainers import checkpoint, export
from trainers.dense import Dense, DenseConfig
from trainers.results.exported import load_onnx
from trainers.training.learner import Learner
from trainers.training.optim import learning_rate

onnx: Any = pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytest.importorskip("onnxscript", reason="onnxscript is not installed")

from trainers.exporting import int8  # noqa: E402 - imports onnxruntime

SIZE = (64, 64)
EPOCHS = 20


def records(split: str, count: int, seed: int) -> Iterator[Record]:
    """Red and green rectangles on dark noise."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        pixels = rng.integers(0, 60, (*SIZE, 3), np.uint8)
        labels = rng.integers(0, 2, rng.integers(1, 4)).astype(np.int32)
        low = rng.integers(0, 38, (len(labels), 2))
        boxes = np.concatenate([low, low + rng.integers(14, 26, low.shape)], 1)
        for (x1, y1, x2, y2), label in zip(boxes, labels, strict=True):
            pixels[y1:y2, x1:x2, label] = rng.integers(150, 256)
        yield Record(
            key=f"{split}{number}.png",
            split=split,
            image=tiny.encode(pixels, "PNG"),
            height=SIZE[0],
            width=SIZE[1],
            boxes=boxes.astype(np.float32),
            labels=labels,
            flags=np.zeros(len(labels), np.uint8),
        )


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("int8") / "shards"
    with ShardWriter(root, ("red", "green"), (1, 2), source="drawn") as writer:
        for record in (*records("train", 128, 0), *records("val", 24, 1)):
            assert isinstance(record.image, bytes)
            writer.add(record, record.image, probe(record.image))
        writer.publish()
    return root


@pytest.fixture(scope="module")
def trained(shards: Path) -> dict[str, Any]:
    """The contents of a checkpoint of a dense detector that was trained for some seconds."""
    torch.manual_seed(0)
    config = DenseConfig(size=[*SIZE], channels=3, width=16, levels=2, lr=4e-3, warmup_steps=10, ema=0.0)
    loader = Loader(shards, "train", 16, SIZE, fit=config.fit)
    how = Dense.configure(config, loader.shards)
    learner = Learner(config, Dense(**how), torch.device("cpu"))
    steps, total = 0, EPOCHS * len(loader)
    for epoch in range(EPOCHS):
        loader.set_epoch(epoch)
        for batch in loader:
            learner.gradients(batch)
            learner.update(learning_rate(config, steps, steps / total), steps)
            steps += 1
    state = {key: value.contiguous() for key, value in learner.model.eval().state_dict().items()}
    facts = {"classes": list(loader.shards.classes), "class_ids": list(loader.shards.class_ids), "fit": config.fit}
    return {"detector": "dense", "config": how, "model": state, "size": [*SIZE], **facts}


def call(*arguments: object) -> Result:
    result = CliRunner().invoke(export.main, [*map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture(scope="module")
def plain(trained: dict[str, Any], shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The detector as exported: what is quantised."""
    folder = tmp_path_factory.mktemp("models")
    checkpoint.save(folder / "best.pt", trained)
    result = call(folder / "best.pt", "--shards", shards, "--images", 2, "--size", *SIZE)
    assert result.exit_code == 0, result.output
    return folder / "best.onnx"


def quantise(plain: Path, out: Path, shards: Path, limit: float) -> dict[str, Any]:
    out.write_bytes(plain.read_bytes())
    return int8.quantise(out, load_onnx(plain).facts, Shards(shards, "val"), Shards(shards, "train"), 16, limit)


@pytest.fixture(scope="module")
def small(plain: Path, shards: Path) -> tuple[Path, dict[str, Any]]:
    """The detector in INT8, and the report."""
    out = plain.with_name("int8.onnx")
    return out, quantise(plain, out, shards, 0.05)


def test_the_gate_passes(small: tuple[Path, dict[str, Any]], plain: Path) -> None:
    path, report = small
    exact, quantised = report["table"]
    assert exact["map"] == load_onnx(plain).facts["certificate"]["map_exported"] > 0.1
    assert quantised["map"] >= exact["map"] - 0.05 and quantised["map"] == report["attempts"][-1]["map"]
    assert quantised["bytes"] == path.stat().st_size < exact["bytes"] and quantised["latency_ms"] > 0
    assert len(report["calibration"]["images"]) == 16 and report["calibration"]["split"] == "train"


def test_what_is_in_float(small: tuple[Path, dict[str, Any]], plain: Path) -> None:
    """First and last layers, layers that the report names, and pre- and post-processing."""
    model, layers = onnx.load(small[0]), int8.layers_of(onnx.load(plain))
    onnx.checker.check_model(model, full_check=True)
    assert {entry.domain for entry in model.opset_import} == {""}
    source = {output: node for node in model.graph.node for output in node.output}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    exact = {node.input[1] for node in convolutions if node.input[1] not in source}
    kept = {f"detector.{name}.weight" for name in small[1]["float"]}
    first_and_last = {"detector.backbone.stages.0.0.weight"}
    first_and_last |= {f"detector.{head}.last.weight" for head in ("classify", "regress")}
    assert exact == first_and_last | kept
    for node in convolutions:
        if node.input[1] in source:
            assert {source[name].op_type for name in node.input} == {"DequantizeLinear"}
    inner = {name for names in layers.nodes.values() for name in names}
    assert len(layers.nodes) == 22 and len(layers.last) == 4, "two heads on two maps"
    for node in model.graph.node:  # all that is quantised is read or written by a layer
        if node.op_type == "QuantizeLinear":
            around = [source[node.input[0]].name]
            [dequantised] = [x.output[0] for x in model.graph.node if node.output[0] in x.input]
            around += [x.name for x in model.graph.node if dequantised in x.input]
            assert inner & {*around}, node.name


def test_calibration_is_used(plain: Path, shards: Path, tmp_path: Path) -> None:
    """Two sets of images give different scales, and those of the wider range are greater."""
    copy = tmp_path / "model.onnx"
    copy.write_bytes(plain.read_bytes())
    model, exported = onnx.load(copy), load_onnx(plain)
    nodes = [name for names in int8.layers_of(model).nodes.values() for name in names]
    given = [int8.inputs_of(exported, Shards(shards, "train"), i) for i in range(4)]
    dim = [inputs | {"images": inputs["images"] // 8} for inputs in given]
    scales = []
    for inputs in (given[:2], given[2:], dim, given):
        quantised = int8.quantised(model, int8.calibrate(copy, inputs), nodes)
        own = {x.name: onnx.numpy_helper.to_array(x) for x in quantised.graph.initializer if x.name.endswith("_scale")}
        scales.append({name: float(value) for name, value in own.items() if not value.ndim})  # of activations
    one, other, dark, both = scales
    assert len(one) > 20 and one.keys() == other.keys() == dark.keys() == both.keys()
    assert sum(one[name] != other[name] for name in one) > len(one) / 2
    assert np.median([dark[name] / both[name] for name in one]) < 0.7
    assert all(
        both[name] == pytest.approx(max(one[name], other[name]), rel=1e-5) or both[name] > one[name] for name in one
    )


def unbalance(model: Any, blocks: list[str], factor: float) -> None:
    """Scale a channel between the two convolutions of residual blocks, and its weights in the second one back.

    The function stays the same, but the channel's range leaves no resolution to the others.
    """
    tensors = {x.name: x for x in model.graph.initializer}
    for block in blocks:
        node = next(x for x in model.graph.node if x.op_type == "Conv" and x.input[1] == f"detector.{block}.one.weight")
        second = f"detector.{block}.two.weight"
        values = {name: onnx.numpy_helper.to_array(tensors[name]).copy() for name in (*node.input[1:], second)}
        channel = int(np.abs(values[second]).sum((0, 2, 3)).argmin())
        for name in node.input[1:]:
            values[name][channel] *= factor
        values[second][:, channel] /= factor
        for name, value in values.items():
            tensors[name].CopyFrom(onnx.numpy_helper.from_array(value, name))


BLOCKS = [f"backbone.stages.{stage}.{block}" for stage in range(3) for block in (3, 4)]


def test_layers_that_cost_most_stay_in_float(plain: Path, shards: Path, tmp_path: Path) -> None:
    model = onnx.load(plain)
    unbalance(model, BLOCKS[3:4], 3e4)
    onnx.save(model, tmp_path / "model.onnx")
    report = quantise(tmp_path / "model.onnx", tmp_path / "int8.onnx", shards, 0.05)
    culprits = {f"{BLOCKS[3]}.one", f"{BLOCKS[3]}.two"}
    assert culprits == {*[*report["errors"]][:2]} and culprits <= {*report["float"]}
    assert [len(attempt["float"]) for attempt in report["attempts"]][:2] == [0, 1]
    drops = [report["table"][0]["map"] - attempt["map"] for attempt in report["attempts"]]
    assert drops[0] > 0.05 >= drops[-1]


@pytest.mark.slow
def test_a_model_that_fails_is_not_replaced(plain: Path, shards: Path, tmp_path: Path) -> None:
    """More layers cost precision than may stay in float; what `trainers.export` would publish is not written."""
    model = onnx.load(plain)
    unbalance(model, BLOCKS, 3e4)
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(ConfigError, match=r"--int8: AP decreases from .* with 8 of 22 layers in float") as failure:
        quantise(tmp_path / "model.onnx", tmp_path / "int8.onnx", shards, 0.05)
    assert any(f"{block}.{part}" in str(failure.value) for block in BLOCKS for part in ("one", "two"))
    assert (tmp_path / "int8.onnx").read_bytes() == (tmp_path / "model.onnx").read_bytes()


@pytest.mark.slow
def test_the_command_and_what_runs_its_model(trained: dict[str, Any], shards: Path, tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "best.pt", trained)
    how = ("--int8", "--calibrate", 16, "--max-map-drop", 0.05)
    result = call(tmp_path / "best.pt", "--shards", shards, "--images", 2, *how)
    assert result.exit_code == 0 and "int8: " in result.output, result.output
    facts = json.loads((tmp_path / "best.certificate.json").read_text("utf-8"))
    exact, half, row = facts["certificate"]["int8"]["table"]
    assert [x["precision"] for x in (exact, half, row)] == ["fp32", "fp16", "int8"]
    assert half["bytes"] < exact["bytes"] and half["map"] == pytest.approx(exact["map"], abs=0.01)
    assert {path.name for path in tmp_path.iterdir()} == {"best.pt", "best.onnx", "best.certificate.json"}
    code = "import sys\nfrom trainers.evaluate import main\ntry:\n    main(sys.argv[1:])\nfinally:\n"
    code += "    assert not {'torch', 'torchvision'} & sys.modules.keys()"
    command = [sys.executable, "-c", code, tmp_path / "best.onnx", "--shards", shards, "--split", "val", "--json"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["AP"] == pytest.approx(row["map"], abs=1e-6)


def test_wrong_values(plain: Path, shards: Path, tmp_path: Path) -> None:
    for arguments, message in (
        (("--calibrate-split", "none"), "none"),
        (("--calibrate", 0), "0"),
        (("--max-map-drop", -1), "-1"),
    ):
        result = call(plain.with_name("best.pt"), "--shards", shards, "--int8", *arguments)
        assert result.exit_code in (1, 2) and message in result.stderr, result.output
    facts = load_onnx(plain).facts
    facts["certificate"]["map_exported"] = 0.0
    with pytest.raises(ConfigError, match="AP is 0 on split val"):
        int8.quantise(plain, facts, Shards(shards, "val"), Shards(shards, "train"), 4, 0.01)

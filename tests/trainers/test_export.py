"""Exported models find what their checkpoints find, or are not published."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from torch import Tensor, nn

from dataforge.errors import ConfigError
from dataforge.images.decode import decode
from dataforge.registry import load
from dataforge.threads import cores
from tests import tiny
from trainers import checkpoint, export, exporting, registry
from trainers import evaluate as evaluate_command
from trainers import predict as predict_command
from trainers.exporting.certificate import first_stage
from trainers.exporting.comparison import Tolerance, awkward, compare, spread
from trainers.exporting.graph import Stages
from trainers.exporting.onnx_file import OPSET
from trainers.models.detector import select
from trainers.results.exported import KEY, Exported, check, load_onnx, session_of

onnx: Any = pytest.importorskip("onnx", reason="onnx is not installed")
onnxruntime: Any = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
pytest.importorskip("onnxscript", reason="onnxscript is not installed")

SIDES = [0.05, 0.1, 0.2, 0.4, 0.725, 0.9, 1.0]  # as of priors = auto
MODELS: dict[str, tuple[dict[str, Any], tuple[int, int], str]] = {
    "dense": ({"width": 8, "sizes": [[16, 32], [32, 64]]}, (64, 128), "stretch"),
    "yolov2": ({"width": 0.125}, (64, 96), "letterbox"),
    "ssd": ({"backbone": "test_efficientnet", "scales": SIDES, "top_down": 8}, (288, 320), "stretch"),
    "faster_rcnn": ({"backbone": "test_resnet", "width": 16}, (64, 96), "stretch"),
    "vit": ({"backbone": "test_vit", "width": 16, "depth": 1, "window": 3, "global_blocks": 2}, (64, 96), "letterbox"),
}
CALIBRATION = {"temperature": 2.0, "conf": 0.3, "class_conf": [0.2, 0.35, 0.5]}
STATIC = [  # more kinds of network, exported without preprocessing, which takes less time
    ("vit", {"ffn": "mix", "window": 2}),
    ("vit", {"lora": "r=2,alpha=4"}),
]


def lively(detector: nn.Module, size: tuple[int, int]) -> None:
    """Scale each layer so that its outputs differ from place to place: new weights give nearly the same everywhere."""

    def scale(layer: Any, given: Any, out: Tensor) -> Tensor:
        shape = [-1] + [1] * (out.dim() - 2 if isinstance(layer, nn.Conv2d) else 0)
        bias = 0 if layer.bias is None else layer.bias.view(shape)
        spread = (out - bias).std().clamp(min=1e-6)
        layer.weight.data /= spread
        return (out - bias) / spread + bias

    layers = [layer for layer in detector.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(scale) for layer in layers]
    images = torch.stack([torch.from_numpy(tiny.pixels(*size, seed)).permute(2, 0, 1) for seed in range(4)])
    with torch.no_grad():
        detector.decode(detector(images))  # type: ignore[operator]
    for hook in hooks:
        hook.remove()


def saved(file: Path, name: str, **options: Any) -> Path:
    """A checkpoint of a small detector with lively weights."""
    config, size, fit = MODELS[name]
    config = config | options
    torch.manual_seed(0)
    detector = registry.detector_class(name)(classes=3, **config).eval()
    for weight in (weight for key, weight in detector.named_parameters() if "lora_B" in key):
        nn.init.normal_(weight)  # new adapters change nothing
    lively(detector, size)
    if name == "faster_rcnn":  # otherwise rounding decides which proposals remain
        detector.rpn_offsets.weight.data *= 0.05
        detector.regress.weight.data *= 0.05
    if name == "ssd":  # otherwise float16 changes scores by more than the tolerance
        for layer in (*detector.classify, *detector.regress):
            layer.weight.data *= 0.3
    facts = {"classes": list(tiny.CLASSES), "class_ids": list(tiny.CLASS_IDS), "size": list(size), "fit": fit}
    config = {"classes": 3, **config}
    checkpoint.save(file, {"detector": name, "config": config, "model": detector.state_dict(), **facts})
    return file


def call(command: Any, *arguments: object) -> Result:
    result = CliRunner().invoke(command, [*map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, tiny_shards: Path) -> tuple[Path, Path]:
    """A checkpoint and its ONNX model."""
    file = saved(tmp_path_factory.mktemp("exported") / "best.pt", "dense")
    checkpoint.save(file, checkpoint.load(file) | {"calibration": CALIBRATION})
    result = call(export.main, file, "--shards", tiny_shards)
    assert result.exit_code == 0, result.output
    return file, file.with_suffix(".onnx")


def test_the_certificate_states_what_was_compared(exported: tuple[Path, Path], tiny_shards: Path) -> None:
    _, model = exported
    facts = json.loads(export.certificate_file(model).read_text("utf-8"))
    proof = facts["certificate"]
    assert set(tiny.images()) < set(proof["images"]) and {"1x1", "30x2000", "grey"} < set(proof["images"])
    assert any(max(map(int, key.split("x"))) > 4000 for key in proof["images"] if re.fullmatch(r"\d+x\d+", key))
    assert proof["detections"] > 100 and proof["excused"] <= 0.1 * (proof["detections"] + proof["excused"])
    assert proof["box_difference"] <= 0.5 and proof["score_difference"] <= 1e-3
    assert abs(proof["map_pytorch"] - proof["map_exported"]) <= 1e-3
    assert proof["versions"]["onnxruntime"] == onnxruntime.__version__ and proof["machine"]["cores"] > 0
    assert load_onnx(model).facts == facts


def test_the_graph_is_plain_onnx(exported: tuple[Path, Path]) -> None:
    model = onnx.load(exported[1])
    assert {entry.domain: entry.version for entry in model.opset_import} == {"": OPSET}
    assert not {"GridSample"} & {node.op_type for node in model.graph.node} and not model.functions
    inputs = [(x.name, [d.dim_value for d in x.type.tensor_type.shape.dim]) for x in model.graph.input]
    assert inputs == [("images", [0, 0, 0, 3]), ("conf", []), ("iou", []), ("top", [])]
    session = onnxruntime.InferenceSession(exported[1], providers=["CPUExecutionProvider"])
    images = np.stack([tiny.pixels(90, 50, seed) for seed in range(3)])
    plain = session.run(None, {"images": images})  # the other inputs have defaults
    given = {"conf": np.float32(0.25), "iou": np.float32(0.45), "top": np.int64(300)}
    stated = session.run(None, {"images": images, **{k: np.array(v) for k, v in given.items()}})
    for one, other in zip(plain, stated, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_session_uses_the_cores_of_the_process(exported: tuple[Path, Path]) -> None:
    session = session_of(exported[1], ["CPUExecutionProvider"])
    assert session.get_session_options().intra_op_num_threads == cores()


def test_batch_top_and_thresholds(exported: tuple[Path, Path]) -> None:
    model = load_onnx(exported[1])
    pictures = [tiny.pixels(90, 50, seed) for seed in range(3)] + [tiny.pixels(1, 1), tiny.pixels(33, 500)]
    together = model.detect(pictures, 0.05, 0.5)
    for pixels, found in zip(pictures, together, strict=True):
        [alone] = model.detect([pixels], 0.05, 0.5)
        result = compare(alone, found, conf=0.05, iou=0.5, top=300)
        assert not result.fault and result.excused <= 2
        boxes, scores, labels = found
        assert (np.diff(scores) <= 0).all() and (labels >= 0).all() and (scores >= 0.05 - 1e-6).all()
        assert (boxes >= 0).all() and (boxes <= [pixels.shape[1], pixels.shape[0]] * 2).all()
    assert max(len(found[2]) for found in together) > 5, "or the next lines show nothing"
    few = model.detect(pictures, 0.05, 0.5, top=5)
    for most, some in zip(together, few, strict=True):
        assert len(some[1]) <= 5  # fewer where some of the five lie outside of the picture
        np.testing.assert_array_equal(most[1][: len(some[1])], some[1])
    assert max(len(found[2]) for found in few) > 1
    assert all(len(found[2]) == 0 for found in model.detect(pictures, 1.0, 0.5))
    assert sum(len(found[2]) for found in model.detect(pictures, 0.0, 1.0)) > sum(len(found[2]) for found in together)


def test_the_thresholds_of_the_checkpoint_travel(exported: tuple[Path, Path]) -> None:
    pictures = [tiny.pixels(90, 50, seed) for seed in range(3)]
    for file in exported:
        detector = predict_command.load_detector(file, "cpu")
        assert detector.calibration == CALIBRATION
        every = detector.predict(pictures, conf=0.2, iou=0.45)
        least = np.array(CALIBRATION["class_conf"])
        for (*_, scores, labels), kept in zip(every, detector.predict(pictures), strict=True):
            np.testing.assert_array_equal(scores[scores >= least[labels]], kept[1])
        assert 0 < sum(len(kept[1]) for kept in detector.predict(pictures)) < sum(len(found[1]) for found in every)


def test_predict_gives_the_same_files_without_torch(exported: tuple[Path, Path], tmp_path: Path) -> None:
    source = tmp_path / "photos"
    for name, data in tiny.images().items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(data)
    common = ("--source", source, "--conf", "0.1", "--save-json", "--save-txt")
    assert call(predict_command.main, exported[0], "--out", tmp_path / "a", *common, "--device", "cpu").exit_code == 0
    code = "import sys\nfrom trainers.predict import main\ntry:\n    main(sys.argv[1:])\nfinally:\n"
    code += "    assert not {'torch', 'torchvision'} & sys.modules.keys()"
    command = [sys.executable, "-c", code, exported[1], "--out", tmp_path / "b", *common]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    files = [{p.relative_to(tmp_path / out): p for p in (tmp_path / out).rglob("*") if p.is_file()} for out in "ab"]
    assert files[0].keys() == files[1].keys() and len(files[0]) == 2 * len(tiny.images()) + 1
    rows = [json.loads((tmp_path / out / "predictions.json").read_text()) for out in "ab"]
    assert len(rows[0]) > 10
    for name in {row["file_name"] for row in rows[0]}:
        sides = []
        for side in rows:
            mine = [row for row in side if row["file_name"] == name]
            xywh = np.array([row["bbox"] for row in mine]).reshape(-1, 4)
            boxes = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], 1)
            labels = np.array([tiny.CLASS_IDS.index(row["category_id"]) for row in mine], np.int64)
            sides.append((boxes, np.array([row["score"] for row in mine]), labels))
        assert not compare(*sides, conf=0.1, iou=0.45, top=300).fault


def test_evaluate_gives_the_same_numbers_without_torch(exported: tuple[Path, Path], tiny_shards: Path) -> None:
    arguments = ["--shards", str(tiny_shards), "--json"]
    expected = json.loads(call(evaluate_command.main, exported[0], *arguments, "--device", "cpu").stdout)
    code = "import sys\nfrom trainers.evaluate import main\ntry:\n    main(sys.argv[1:])\nfinally:\n"
    code += "    assert not {'torch', 'torchvision'} & sys.modules.keys()"
    command = [sys.executable, "-c", code, str(exported[1]), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    numbers = json.loads(done.stdout)
    assert numbers.pop("best") == pytest.approx(expected.pop("best"), abs=1e-3)
    assert numbers == pytest.approx(expected, abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MODELS if name not in ("dense", "faster_rcnn")])
def test_every_detector_is_certified(name: str, tiny_shards: Path, tmp_path: Path) -> None:
    file = saved(tmp_path / "best.pt", name)
    result = call(export.main, file, "--shards", tiny_shards)
    assert result.exit_code == 0, result.output
    assert json.loads(export.certificate_file(tmp_path / "best.onnx").read_text())["certificate"]["detections"] > 50
    assert "GridSample" not in {node.op_type for node in onnx.load(tmp_path / "best.onnx").graph.node}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), STATIC)
def test_every_kind_of_network_is_certified(
    name: str, options: dict[str, Any], tiny_shards: Path, tmp_path: Path
) -> None:
    if "lora" in options:
        pytest.importorskip("peft", reason="peft is not installed")
    file = saved(tmp_path / "best.pt", name, **options)
    result = call(export.main, file, "--shards", tiny_shards, "--size", *MODELS[name][1])
    assert result.exit_code == 0, result.output
    assert json.loads(export.certificate_file(tmp_path / "best.onnx").read_text())["certificate"]["detections"] > 50
    nodes = onnx.load(tmp_path / "best.onnx").graph.node
    assert "GridSample" not in {node.op_type for node in nodes}


@pytest.mark.slow
@pytest.mark.parametrize("form", [name for name in exporting.FORMATS if name != "onnx"])
def test_other_formats_are_certified(form: str, tiny_shards: Path, tmp_path: Path) -> None:
    if form == "openvino":
        pytest.importorskip("openvino", reason="openvino is not installed")
    module = load("format", form, exporting.FORMATS)
    file = saved(tmp_path / "best.pt", "dense")
    result = call(export.main, file, "--shards", tiny_shards, "--format", form, "--size", *MODELS["dense"][1])
    assert result.exit_code == 0, result.output
    model = module.load(tmp_path / f"best{module.SUFFIX}")
    assert model.facts == json.loads(export.certificate_file(file).read_text("utf-8"))
    assert model.facts["certificate"]["detections"] > 100 and model.classes == tuple(tiny.CLASSES)
    assert {path.suffix for path in tmp_path.iterdir()} <= {".pt", ".json", ".bin", module.SUFFIX}
    module.describe(tmp_path / f"best{module.SUFFIX}", model.facts | {"classes": ["dog", "cat", "bird"]})
    with pytest.raises(ConfigError, match="altered after the export"):
        module.load(tmp_path / f"best{module.SUFFIX}")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MODELS if name != "faster_rcnn"])  # see docs/export.md
def test_float16(name: str, tiny_shards: Path, tmp_path: Path) -> None:
    file = saved(tmp_path / "best.pt", name)
    result = call(export.main, file, "--shards", tiny_shards, "--half", "--size", *MODELS[name][1])
    assert result.exit_code == 0, result.output
    model = onnx.shape_inference.infer_shapes(onnx.load(tmp_path / "best.onnx"))
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    kinds = {(node.op_type, types.get(node.input[0])) for node in model.graph.node if node.input}
    assert ("Conv", onnx.TensorProto.FLOAT16) in kinds
    assert name != "vit" or ("MatMul", onnx.TensorProto.FLOAT16) in kinds
    assert ("Exp", onnx.TensorProto.FLOAT) in kinds and ("Exp", onnx.TensorProto.FLOAT16) not in kinds
    weights = {x.data_type for x in model.graph.initializer if x.name.endswith("weight")}
    assert weights == {onnx.TensorProto.FLOAT16}
    certificate = json.loads(export.certificate_file(file).read_text())["certificate"]
    assert certificate["tolerance"]["score"] == 0.02 and certificate["detections"] > 50


@pytest.mark.slow
def test_an_operator_that_cannot_be_exported(
    tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainers import dense

    file, plain = saved(tmp_path / "best.pt", "dense"), dense.Residual.forward
    monkeypatch.setattr(
        dense.Residual, "forward", lambda self, x: plain(self, x) + torch.linalg.eigvals(x[..., :4, :4]).real.sum()
    )
    result = call(export.main, file, "--shards", tiny_shards, "--size", *MODELS["dense"][1])
    assert result.exit_code == 2 and "best.pt: its dense cannot be written as .onnx: " in result.stderr, result.output
    assert "linalg_eig" in result.stderr and list(tmp_path.iterdir()) == [file]


@pytest.mark.slow
def test_a_static_graph(tiny_shards: Path, tmp_path: Path) -> None:
    file = saved(tmp_path / "best.pt", "dense")
    result = call(
        export.main, file, "--shards", tiny_shards, "--size", 64, 96, "--batch", 2, "--out", tmp_path / "s.onnx"
    )
    assert result.exit_code == 0, result.output
    model = onnx.load(tmp_path / "s.onnx")
    assert [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim] == [2, 64, 96, 3]
    pictures = [tiny.pixels(90, 50), tiny.pixels(64, 96), tiny.pixels(300, 400)]
    assert len(load_onnx(tmp_path / "s.onnx").detect(pictures, 0.05, 0.5)) == 3


def _half_pixel(self: Any, images: Tensor, plain: Callable[..., Any]) -> tuple[Tensor, Tensor]:
    fitted, affine = plain(self, images)
    return torch.cat([fitted[..., 1:], fitted[..., -1:]], -1), affine


def _argmax(boxes: Tensor, scores: Tensor, *, conf: Any, iou: Any, top: int) -> Any:
    """One class a box, by its best score, as some exports have it."""
    return select(boxes, torch.where(scores == scores.amax(2, keepdim=True), scores, -1), conf=conf, iou=iou, top=top)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["preprocessing", "features", "head", "post-processing"])
def test_a_wrong_graph_is_not_published(
    stage: str, tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is wrong while the graph is traced, and right in eager mode, is found and its stage named."""
    from dataforge.augment.preprocess import Preprocess
    from trainers import dense

    file = saved(tmp_path / "best.pt", "dense")
    traced = torch.compiler.is_compiling

    def when_traced(owner: Any, name: str, wrong: Callable[..., Any]) -> None:
        plain = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *a, **k: wrong(plain, *a, **k) if traced() else plain(*a, **k))

    if stage == "preprocessing":
        when_traced(Preprocess, "_graph", lambda plain, self, images: _half_pixel(self, images, plain))
    elif stage == "features":
        when_traced(dense.Residual, "forward", lambda plain, self, x: plain(self, x) * 1.05)
    elif stage == "head":
        when_traced(dense.Head, "forward", lambda plain, self, maps: plain(self, maps) * 1.05)
    else:
        when_traced(dense, "select", lambda plain, *a, **k: _argmax(*a, **k))
    # a graph without preprocessing is exported in less time
    size = () if stage == "preprocessing" else ("--size", *MODELS["dense"][1])
    result = call(export.main, file, "--shards", tiny_shards, "--images", 3, *size)
    assert result.exit_code == 2 and re.search(rf"part in (the )?{stage}", result.stderr), result.output
    assert list(tmp_path.iterdir()) == [file]


def test_pixels_that_are_rounded_otherwise_are_told(tmp_path: Path) -> None:
    detector, _ = checkpoint.load_detector(saved(tmp_path / "best.pt", "dense"))
    size = MODELS["dense"][1]
    pixels = np.zeros((*size, 3), np.uint8)

    def other(images: Any, *given: Any) -> list[Any]:
        wanted = tuple(map(torch.tensor, given))
        fitted = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
        fitted[0, 0, 0, 0] += 1
        with torch.inference_mode():
            stages = Stages(detector, size, None)(fitted.permute(0, 2, 3, 1).contiguous(), *wanted)
        return [value.numpy() for part in stages.values() for value in part]

    form = SimpleNamespace(SUFFIX=".x", save=lambda *_: None, running=lambda _: other)
    facts = {"size": size, "fit": "stretch", "input": "any", "batch": "any", "half": False}
    model: Any = SimpleNamespace(facts=facts)
    assert first_stage(detector, model, pixels, form, tmp_path) == (
        f"post-processing, or in preprocessing, which rounds 1 of {pixels.size} values to another grey level"
    )


def found(*rows: tuple[float, float, float, float, float, int]) -> Any:
    table = np.array(rows, np.float64).reshape(-1, 6)
    return table[:, :4], table[:, 4], table[:, 5].astype(np.int64)


def test_pairs_and_what_may_be_alone() -> None:
    one, two = (10.0, 10, 50, 50, 0.9, 0), (60.0, 60, 90, 90, 0.6, 1)
    how: dict[str, Any] = {"conf": 0.25, "iou": 0.5, "top": 3}
    assert compare(found(one, two), found(two, one), **how).matched == 2, "the order does not count"
    near = compare(found(one), found((10.4, 10, 50, 49.7, 0.9005, 0)), **how)
    assert near.matched == 1 and not near.fault and near.box == pytest.approx(0.4) and near.score == pytest.approx(5e-4)
    for wrong in ((10.6, 10, 50, 50, 0.9, 0), (10.0, 10, 50, 50, 0.898, 0), (10.0, 10, 50, 50, 0.9, 1)):
        assert "PyTorch alone finds class 0" in compare(found(one), found(wrong), **how).fault
    assert "the exported model alone finds class 1" in compare(found(one), found(one, two), **how).fault
    assert "class 0" in compare(found(one), found(), **how).fault
    assert compare(found(), found(), **how).matched == 0
    # at conf, beyond the other run's last, and where NMS could go either way
    assert compare(found((10.0, 10, 50, 50, 0.2505, 0)), found(), **how).excused == 1
    full = [(x, 0.0, x + 5, 5.0, 0.6, 1) for x in (0.0, 10.0, 20.0)]
    assert compare(found(*full, (40.0, 0, 45, 5, 0.6, 1)), found(*full), **how).excused == 1
    assert compare(found(*full[:2], (40.0, 0, 45, 5, 0.6, 1)), found(*full[:2]), **how).fault
    half = (10.0, 10, 50, 29.9, 0.8, 0)  # 0.4975 of `one`
    assert compare(found(one, half), found(one), **how, candidates=found(one, half)).excused == 1
    other = (10.0, 10, 50, 29.0, 0.8, 0)
    assert compare(found(one, other), found(one), **how, candidates=found(one, other)).fault
    tied = (12.0, 10, 50, 50, 0.9003, 0)  # of equal scores, either may suppress the other
    assert compare(found(one), found(tied), **how, candidates=found(one, tied)).excused == 2
    assert compare(found(one), found(tied), **how, candidates=found(one)).fault, "but a box may not move"
    better = (12.0, 10, 50, 50, 0.95, 0)
    assert compare(found(one), found(better), **how, candidates=found(one, better)).fault
    assert Tolerance().box == 0.5 and Tolerance().score == Tolerance().map == 1e-3


def test_awkward_pictures() -> None:
    pictures = awkward(tiny.pixels(48, 64))
    shapes = [pixels.shape for pixels in pictures.values()]
    assert shapes[:3] == [(1, 1, 3), (30, 2000, 3), (48, 64, 3)] and max(shapes[3]) > 4000
    assert (pictures["grey"][..., 0] == pictures["grey"][..., 2]).all()
    assert list(spread(10, 3)) == [0, 4, 9] and list(spread(2, 64)) == [0, 1] and list(spread(0, 3)) == []


def test_wrong_models(exported: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text.onnx").write_text("no model")
    other = tmp_path / "other.onnx"
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    value = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy"]
    graph = onnx.helper.make_graph([node], "g", value[:1], value[1:])
    onnx.save(onnx.helper.make_model(graph, ir_version=9, opset_imports=[onnx.helper.make_opsetid("", 20)]), other)
    renamed = onnx.load(exported[1])
    facts = json.loads(renamed.metadata_props[0].value)
    onnx.helper.set_model_props(renamed, {KEY: json.dumps(facts | {"classes": ["dog", "cat", "traffic light"]})})
    onnx.save(renamed, tmp_path / "renamed.onnx")
    for name, message in (
        ("none.onnx", "no such model"),
        ("text.onnx", "not an ONNX model that can be loaded"),
        ("other.onnx", "not made by `python -m trainers.export`"),
        ("renamed.onnx", "its metadata was altered after the export"),
    ):
        with pytest.raises(ConfigError, match=f"{name}: {message}"):
            load_onnx(tmp_path / name)
    with pytest.raises(ConfigError, match="its format is 2; expected 1"):
        check(other, json.dumps(facts | {"format": 2}))
    with pytest.raises(ConfigError, match="device 'tpu' cannot be used"):
        load_onnx(exported[1], "tpu")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"needs onnxruntime; pip install 'dataforge-detection\[export\]'"):
        load_onnx(exported[1])


def test_wrong_calls(exported: tuple[Path, Path], tiny_shards: Path, tmp_path: Path, monkeypatch: Any) -> None:
    file, _ = exported
    facts = {key: value for key, value in torch.load(file, weights_only=True).items() if key != checkpoint.DIGEST}
    torch.save(facts | {"detector": "detr"}, tmp_path / "detr.pt")
    torch.save({"model": {}}, tmp_path / "none.pt")
    torch.save({key: value for key, value in facts.items() if key != "class_ids"}, tmp_path / "older.pt")
    torch.save(facts | {"config": facts["config"] | {"stem": 5}}, tmp_path / "newer.pt")
    shards = ("--shards", tiny_shards)
    for arguments, message in (
        ((tmp_path / "detr.pt", *shards), "detector 'detr' cannot be exported; expected one of dense"),
        ((tmp_path / "none.pt", *shards), "not a checkpoint of these trainers"),
        ((tmp_path / "older.pt", *shards), "a checkpoint of another version: it has no class_ids"),
        ((tmp_path / "newer.pt", *shards), "a checkpoint of another version: "),
        ((file, "--shards", tmp_path), "index.json"),
        ((file, *shards, "--split", "test"), "test"),
        ((file, *shards, "--size", 65, 96), "expected multiples of 4"),
        ((file, *shards, "--size", 64, 96, "--any-size"), "expected one of them"),
        ((file, *shards, "--batch", 0), "expected a number from 1 on, or any"),
        ((file, *shards, "--out", tmp_path / "model.pt"), "ends in .onnx"),
        ((file, *shards, "--format", "torch", "--out", tmp_path / "model.onnx"), "ends in .pt2"),
        ((file, *shards, "--out", tmp_path / "none" / "model.onnx"), "cannot be written"),
    ):
        result = call(export.main, *arguments)
        assert result.exit_code == 2 and message in result.stderr, result.output
    with monkeypatch.context() as without:
        without.setattr(export.importlib.util, "find_spec", lambda name: None if name == "onnxscript" else name)
        stderr = call(export.main, file, *shards).stderr
    assert "the export needs onnxscript; pip install 'dataforge-detection[export]'" in stderr
    with monkeypatch.context() as without:
        without.setattr(export.importlib.util, "find_spec", lambda name: None if name == "openvino" else name)
        stderr = call(export.main, file, *shards, "--format", "openvino").stderr
    assert "the export needs openvino; pip install 'dataforge-detection[openvino]'" in stderr


def test_a_video_is_one_batch() -> None:
    """Pictures of one size that follow each other go through the graph together; others do not wait for their like."""
    calls: list[tuple[int, ...]] = []

    def run(images: np.ndarray, conf: float, iou: float, top: int) -> list[np.ndarray]:
        calls.append(images.shape)
        count = len(images)
        return [np.zeros((count, 2, 4), np.float32), np.zeros((count, 2), np.float32), np.full((count, 2), -1)]

    facts = {"classes": ["a"], "class_ids": [1], "input": "any", "batch": "any", "top": 5}
    pictures = [np.zeros((4, 6, 3), np.uint8)] * 3 + [np.zeros((5, 6, 3), np.uint8)]
    assert len(Exported(facts, run).detect(pictures, 0.1, 0.5)) == 4
    assert calls == [(3, 4, 6, 3), (1, 5, 6, 3)]
    calls.clear()
    assert len(Exported(facts | {"batch": 2}, run).detect(pictures, 0.1, 0.5)) == 4
    assert calls == [(2, 4, 6, 3), (2, 4, 6, 3), (2, 5, 6, 3)]
    assert decode(tiny.images()["grey.jpg"]).shape[2] == 3, "grey pictures come as three channels"


DOCS = Path(__file__).resolve().parents[2] / "docs" / "export.md"


def documented(head: str, path: Path, lines: int) -> Path:
    """A script of the docs, copied out of them, of at most so many lines that are not empty."""
    [text] = [block for block in re.findall(r"```python\n(.*?)```", DOCS.read_text("utf-8"), re.S) if head in block]
    assert sum(bool(line.strip()) for line in text.splitlines()) <= lines
    path.write_text(text)
    return path


def test_the_documented_script(exported: tuple[Path, Path], tmp_path: Path) -> None:
    file = tmp_path / "rotated.jpg"
    file.write_bytes(tiny.images()["rotated.jpg"])
    script = documented("detect.py", tmp_path / "detect.py", 25)
    command = [sys.executable, str(script), str(exported[1]), str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    [(boxes, scores, labels)] = load_onnx(exported[1]).detect([decode(file.read_bytes(), 6)], 0.1, 0.45)
    lines = [line.removeprefix(str(file)).rsplit(maxsplit=5) for line in done.stdout.splitlines()]
    assert len(lines) == len(labels) > 3
    assert [line[0].strip() for line in lines] == [tiny.CLASSES[label] for label in labels]
    np.testing.assert_allclose([[float(x) for x in line[2:]] for line in lines], boxes, atol=0.06)
    np.testing.assert_allclose([float(line[1]) for line in lines], scores, atol=1e-3)


def test_the_documented_service(exported: tuple[Path, Path], tmp_path: Path) -> None:
    script = documented("serve.py", tmp_path / "serve.py", 30)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    served = subprocess.Popen([sys.executable, str(script), str(exported[1]), str(port)], stderr=subprocess.DEVNULL)
    try:
        address, answer = f"http://127.0.0.1:{port}/", None
        for _ in range(300):
            try:
                with urllib.request.urlopen(address, tiny.images()["crowded.jpg"], timeout=60) as response:
                    answer = json.loads(response.read())
                break
            except urllib.error.HTTPError:
                raise
            except urllib.error.URLError:  # it has not started yet
                time.sleep(0.2)
        [(boxes, _, labels)] = load_onnx(exported[1]).detect([decode(tiny.images()["crowded.jpg"])], 0.25, 0.45)
        assert answer is not None and [row["class"] for row in answer] == [tiny.CLASSES[label] for label in labels]
        np.testing.assert_allclose(np.reshape([row["box"] for row in answer], (-1, 4)), boxes, atol=1e-3)
        with pytest.raises(urllib.error.HTTPError, match="400"):
            urllib.request.urlopen(address, b"no picture", timeout=60)
    finally:
        served.kill()
        served.wait()

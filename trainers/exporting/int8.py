"""Quantise an exported model to INT8 by onnxruntime: QuantizeLinear and DequantizeLinear around its layers, with ranges
of activations from calibration images. The model is replaced only if the quantised one is nearly as precise.
"""

from __future__ import annotations

import copy
import re
import statistics
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QDQQuantizer,
    QuantType,
    create_calibrator,
)

from dataforge.errors import ConfigError
from dataforge.shards.reader import Shards
from trainers.exporting import comparison
from trainers.exporting.certificate import LOW_CONF, LOW_IOU
from trainers.exporting.graph import SLOTS
from trainers.exporting.onnx_file import quiet
from trainers.results import metrics
from trainers.results.evaluation import by_name, with_ancestors
from trainers.results.exported import Exported, evaluate, picture, run_of, session_of
from trainers.results.truth import Truth, truth_of_shards

CPU = ("CPUExecutionProvider",)
LAYERS = ("Conv", "Gemm", "MatMul")
ACTIVATIONS = ("Relu", "Clip", "LeakyRelu")  # quantised together with the layer before them
MODULE = "detector"  # the detector's name in the graph; other nodes are pre- and post-processing
PROBES = 4  # calibration images on which the errors of single layers are measured
TIMED = 20  # images whose latency is measured
NAMED = 4  # layers that an error names
Inputs = dict[str, NDArray[Any]]


class Layers(NamedTuple):
    """Layers of a model that may be quantised: all but the first and the last ones.

    Attributes:
        nodes: names of nodes by the name of the layer: one for each use, and the activations that follow.
        last: outputs of the last layers, which stay in float.
    """

    nodes: dict[str, list[str]]
    last: list[str]


def layers_of(model: onnx.ModelProto) -> Layers:
    """Find the layers between the first ones, which no layer precedes, and the last ones, which no layer follows."""
    weights = {initializer.name for initializer in model.graph.initializer}
    uses = [  # a convolution's weights may be computed, a product of activations is no layer
        node
        for node in model.graph.node
        if node.op_type in LAYERS and _module(node) and (node.op_type == "Conv" or node.input[1] in weights)
    ]
    own = {node.name for node in uses}
    behind: set[str] = set()  # tensors that depend on a layer
    for node in model.graph.node:
        if node.name in own or not behind.isdisjoint(node.input):
            behind.update(node.output)
    before: set[str] = set()  # tensors that a layer depends on
    for node in reversed(model.graph.node):
        if node.name in own or not before.isdisjoint(node.output):
            before.update(node.input)
    readers: dict[str, list[Any]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    nodes: dict[str, list[str]] = {}
    last = []
    for node in uses:
        output = node.output[0]
        if output not in before:
            last.append(output)
        elif node.input[0] in behind and node.input[1] in weights:
            name = node.input[1] if node.input[1].startswith(MODULE) else _module(node)
            name = name.removeprefix(f"{MODULE}.").removesuffix(".weight")
            followed = len(readers[output]) == 1 and readers[output][0].op_type in ACTIVATIONS
            nodes.setdefault(name, []).extend([node.name, *([readers[output][0].name] if followed else [])])
    return Layers(nodes, last)


def _module(node: onnx.NodeProto) -> str:
    """Return the dotted name of a node's module, or "" outside of the detector."""
    scopes = next((entry.value for entry in node.metadata_props if entry.key == "pkg.torch.onnx.name_scopes"), "")
    return max((name for name in re.findall(r"'([^']*)'", scopes) if name.split(".")[0] == MODULE), key=len, default="")


def inputs_of(model: Exported, shards: Shards, i: int) -> Inputs:
    """Return the inputs of the graph for record i, as one batch."""
    pixels = picture(shards, i)
    if model.facts["input"] != "any":
        pixels = model.fitted(pixels)[0]
    images = np.repeat(pixels[None], 1 if model.facts["batch"] == "any" else model.facts["batch"], 0)
    numbers = (np.array(LOW_CONF, np.float32), np.array(LOW_IOU, np.float32), np.array(SLOTS, np.int64))
    return {"images": images, **dict(zip(("conf", "iou", "top"), numbers, strict=True))}


class Reader(CalibrationDataReader):  # type: ignore[misc]
    """Inputs, in the form that onnxruntime's calibration reads."""

    def __init__(self, inputs: Iterable[Inputs]) -> None:
        self.inputs = iter(inputs)

    def get_next(self) -> Inputs:
        """Return the next inputs; {} after the last ones."""
        return next(self.inputs, {})


def calibrate(path: Path, inputs: Iterable[Inputs]) -> Any:
    """Return the range of each activation over all inputs, from the least to the greatest value."""
    augmented = path.with_name("calibration.onnx")
    with quiet():
        calibrator = create_calibrator(
            path, LAYERS + ACTIVATIONS, str(augmented), calibrate_method=CalibrationMethod.MinMax
        )
        calibrator.collect_data(Reader(inputs))
        return calibrator.compute_data()


def quantised(model: onnx.ModelProto, ranges: Any, nodes: Sequence[str]) -> onnx.ModelProto:
    """Return a model with these nodes quantised: activations to 8 bits, weights of each output channel to 7.

    With 7 bits the sum of two products fits into 16 bits, in which CPUs without INT8 instructions compute it; with 8
    it overflows there.
    """
    with quiet():
        quantizer = QDQQuantizer(
            copy.deepcopy(model),
            per_channel=True,
            reduce_range=True,
            weight_qType=QuantType.QInt8,
            activation_qType=QuantType.QUInt8,
            tensors_range=ranges,
            nodes_to_quantize=[*nodes],
            nodes_to_exclude=[],
            op_types_to_quantize=[*LAYERS, *ACTIVATIONS],
            extra_options={},
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()
    result: onnx.ModelProto = quantizer.model.model
    return result


def errors_of(model: onnx.ModelProto, ranges: Any, layers: Layers, inputs: Sequence[Inputs]) -> dict[str, float]:
    """Return the last layers' relative error for each layer, quantised alone; the worst layer first."""

    def outputs(variant: onnx.ModelProto) -> list[NDArray[Any]]:
        variant = copy.deepcopy(variant)
        variant.graph.output.extend(onnx.ValueInfoProto(name=name) for name in layers.last)
        session = session_of(variant.SerializeToString(), CPU)
        return [output for given in inputs for output in session.run(layers.last, given)]

    exact = outputs(model)
    errors = {}
    for name, nodes in layers.nodes.items():
        pairs = zip(outputs(quantised(model, ranges, nodes)), exact, strict=True)
        errors[name] = max(float(np.linalg.norm(x - y)) / max(float(np.linalg.norm(y)), 1e-9) for x, y in pairs)
    return dict(sorted(errors.items(), key=lambda item: -item[1]))


def quantise(
    path: Path,
    facts: dict[str, Any],
    shards: Shards,
    calibration: Shards,
    count: int,
    limit: float,
    half: Path | None = None,
) -> dict[str, Any]:
    """Replace a certified model by its INT8 version.

    If that is not precise enough, the layers with the greatest errors stay in float: one, then two, four, and so on, up
    to half of them.

    Args:
        facts: the model's metadata with its certificate.
        shards: the records on which the model was certified.
        calibration: the shards of which `count` records are used for calibration.
        limit: how much the average precision (AP) on `shards` may decrease.
        half: the same model in float16, for the table.

    Returns:
        What was done: calibration images, attempts, layers in float, and a table of size, latency and AP of `path`, of
        `half` and of the INT8 model.

    Raises:
        ConfigError: AP decreases by more, whichever layers stay in float; the message names the worst ones.
    """
    model, layers = onnx.load(path), layers_of(onnx.load(path))
    exact = facts["certificate"]["map_exported"]
    chosen = comparison.spread(len(calibration), count)
    for problem, wrong in (
        ("the model has no layers between its first and last ones", not layers.nodes),
        (f"{calibration.path} (split {calibration.split or 'all'}) holds no images to calibrate on", not chosen),
        (f"the model's AP is 0 on split {shards.split}, so that a loss cannot be measured", not exact),
    ):
        if wrong:
            raise ConfigError(f"--int8: {problem}")
    before = Exported(facts, run_of(session_of(path, CPU)))
    ranges = calibrate(path, (inputs_of(before, calibration, i) for i in chosen))
    truth = truth_of_shards(shards)
    errors: dict[str, float] = {}
    attempts: list[dict[str, Any]] = []
    kept: list[str] = []
    while True:
        variant = quantised(
            model, ranges, [x for name, nodes in layers.nodes.items() if name not in kept for x in nodes]
        )
        after = Exported(facts, run_of(session_of(variant.SerializeToString(), CPU)))
        precision = precision_of(after, shards, truth)
        attempts.append({"float": kept, "map": precision})
        if exact - precision <= limit:
            break
        errors = errors or errors_of(
            model, ranges, layers, [inputs_of(before, calibration, i) for i in chosen[:PROBES]]
        )
        more = max(1, 2 * len(kept))
        if more > len(layers.nodes) // 2:
            worst = ", ".join(f"{name} {error:.2g}" for name, error in [*errors.items()][:NAMED])
            raise ConfigError(
                f"--int8: AP decreases from {exact:.4f} to {precision:.4f} with {len(kept)} of {len(layers.nodes)} "
                f"layers in float; expected a decrease of at most {limit} (--max-map-drop). Relative errors of the "
                f"outputs if one layer is quantised: {worst}"
            )
        kept = [*errors][:more]
    table = {"fp32": (before, path.stat().st_size, exact)}
    if half:
        model16 = Exported(facts, run_of(session_of(half, CPU)))
        table["fp16"] = (model16, half.stat().st_size, precision_of(model16, shards, truth))
    table["int8"] = (after, variant.ByteSize(), precision)
    times = latency([model for model, _, _ in table.values()], shards)
    onnx.save(variant, path)
    return {
        "method": "MinMax",
        "calibration": {
            "shards": calibration.fingerprint,
            "split": calibration.split,
            "images": [str(calibration.table.key[i]) for i in chosen],
        },
        "layers": len(layers.nodes),
        "float": kept,
        "errors": errors,
        "attempts": attempts,
        "max_map_drop": limit,
        "table": [
            {"precision": name, "bytes": size, "latency_ms": milliseconds, "map": average}
            for (name, (_, size, average)), milliseconds in zip(table.items(), times, strict=True)
        ],
    }


def precision_of(model: Exported, shards: Shards, truth: Truth) -> float:
    """Return a model's average precision on a split."""
    detections = by_name(evaluate(model, shards, LOW_CONF, LOW_IOU, SLOTS), model.classes, truth)
    return metrics.coco(truth, with_ancestors(truth, detections))["AP"]


def latency(models: Sequence[Exported], shards: Shards) -> list[float]:
    """Return each model's median time for an image, in milliseconds; the models take turns."""
    times: list[list[float]] = [[] for _ in models]
    for i in comparison.spread(len(shards), TIMED):
        inputs = inputs_of(models[0], shards, i)
        for model, taken in zip(models, times, strict=True):
            for _ in range(2):  # the first run of a size allocates its memory
                started = time.perf_counter()
                model.run(inputs["images"], LOW_CONF, LOW_IOU, SLOTS)
                elapsed = time.perf_counter() - started
            taken.append(elapsed * 1e3)
    return [statistics.median(taken) for taken in times]

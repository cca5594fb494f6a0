"""Write a detector's graph as an ONNX file."""

from __future__ import annotations

import contextlib
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainers.results.exported import KEY

OPSET = 20
NAMES = ("boxes", "scores", "labels")


def program_of(graph: torch.nn.Module, how: dict[str, Any]) -> torch.export.ExportedProgram:
    """Return the graph as traced by torch."""
    static = how["input"] != "any"
    height, width = how["size"] if static else (151, 211)
    count = 2 if how["batch"] == "any" else how["batch"]
    axes: dict[int, Any] = {} if static else {1: torch.export.Dim("height"), 2: torch.export.Dim("width")}
    if how["batch"] == "any":
        axes[0] = torch.export.Dim("batch")
    example = torch.zeros(count, height, width, 3, dtype=torch.uint8)
    given = (example, torch.tensor(how["conf"]), torch.tensor(how["iou"]), torch.tensor(how["top"]))
    with torch.no_grad():
        return torch.export.export(graph.eval(), given, dynamic_shapes=(axes, None, None, None), strict=False)


def save(graph: torch.nn.Module, how: dict[str, Any], path: Path, outputs: Sequence[str] = NAMES) -> None:
    """Export a graph to a file, without its metadata."""
    with quiet():
        program = torch.onnx.export(
            program_of(graph, how),
            dynamo=True,
            opset_version=OPSET,
            custom_translation_table=translations(),
            input_names=["images", "conf", "iou", "top"],
            output_names=list(outputs),
            verbose=False,
        )
        assert program is not None
        program.save(path)


def describe(path: Path, how: dict[str, Any]) -> None:
    """Write a model's metadata and the defaults of its inputs."""
    import onnx

    model = onnx.load(path)
    for name, kind in (("conf", np.float32), ("iou", np.float32), ("top", np.int64)):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(how[name], kind), name))
    onnx.helper.set_model_props(model, {KEY: json.dumps(how, ensure_ascii=False)})
    onnx.checker.check_model(model)
    onnx.save(model, path)


def translations() -> dict[Any, Callable[..., Any]]:
    """Return translations for the operators that torch's ONNX exporter does not support."""
    from onnxscript import FLOAT, opset20

    op: Any = opset20

    def suppress(boxes: Any, labels: Any, threshold: Any, classes: int) -> Any:
        # ranks instead of scores: all are distinct, so that every runtime processes the boxes in the same order
        shape = op.Shape(labels)
        count = op.Gather(shape, op.Constant(value_int=1))
        rank = op.Cast(op.Range(count, op.Constant(value_int=0), op.Constant(value_int=-1)), to=FLOAT.dtype)
        label = op.Constant(value_ints=list(range(classes)))
        label = op.Reshape(label, op.Constant(value_ints=[1, classes, 1]))
        own = op.Equal(op.Unsqueeze(labels, op.Constant(value_ints=[1])), label)
        scores = op.Where(own, rank, op.Constant(value_float=0.0))
        kept = op.NonMaxSuppression(boxes, scores, count, threshold, op.Constant(value_float=0.5))
        index = op.Gather(kept, op.Constant(value_ints=[0, 2]), axis=1)
        ones = op.Expand(op.Constant(value_int=1), op.Shape(index, start=0, end=1))
        zeros = op.Expand(op.Constant(value_int=0), shape)
        return op.Equal(op.ScatterND(zeros, index, ones), op.Constant(value_int=1))

    def sort(values: Any, stable: bool | None = None, dim: int = -1, descending: bool = False) -> Any:
        count = op.Shape(values, start=dim, end=dim + 1 or None)  # of equal values TopK takes the first one first
        return op.TopK(values, count, axis=dim, largest=int(descending), sorted=1)

    return {torch.ops.dataforge.suppress.default: suppress, torch.ops.aten.sort.stable: sort}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress the exporter's warnings and log."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)

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

from trainers.exporting.graph import NAMES, program_of
from trainers.results.exported import KEY, Exported, Run, load_onnx, run_of, session_of

SUFFIX, EXTRA, NEEDS = ".onnx", "export", ("onnx", "onnxruntime", "onnxscript")
OPSET = 20


def save(graph: torch.nn.Module, facts: dict[str, Any], path: Path, outputs: Sequence[str] = NAMES) -> None:
    """Export a graph to a file, without its metadata."""
    import onnxscript.optimizer

    with quiet():
        program = torch.onnx.export(
            program_of(graph, facts),
            dynamo=True,
            opset_version=OPSET,
            custom_translation_table=translations(),
            input_names=["images", "conf", "iou", "top"],
            output_names=list(outputs),
            optimize=False,
            verbose=False,
        )
        assert program is not None
        onnxscript.optimizer.optimize(program.model, num_iterations=1)  # a second one takes long and finds little
        program.save(path)


def describe(path: Path, facts: dict[str, Any]) -> None:
    """Write a model's metadata and the defaults of its inputs."""
    import onnx

    model = onnx.load(path)
    for name, kind in (("conf", np.float32), ("iou", np.float32), ("top", np.int64)):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(facts[name], kind), name))
    onnx.helper.set_model_props(model, {KEY: json.dumps(facts, ensure_ascii=False)})
    onnx.checker.check_model(model)
    onnx.save(model, path)


def running(path: Path) -> Run:
    """Return the `run` function of an `Exported` for a file that has no metadata yet."""
    return run_of(session_of(path, ("CPUExecutionProvider",)))


def load(path: Path) -> Exported:
    """Load a model for the CPU and check its metadata."""
    return load_onnx(path, "cpu")


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

    def roi_pool(maps: Any, regions: Any, scale: float, height: int, width: int) -> Any:
        pooled = op.MaxRoiPool(maps, regions, pooled_shape=[height, width], spatial_scale=scale)
        return pooled, op.Identity(pooled)  # the second is the places of the maxima, which only a gradient needs

    return {
        torch.ops.dataforge.suppress.default: suppress,
        torch.ops.aten.sort.stable: sort,
        torch.ops.torchvision.roi_pool.default: roi_pool,
    }


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

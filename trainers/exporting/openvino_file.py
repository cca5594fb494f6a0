"""Write a detector's graph as OpenVINO's IR, an .xml and a .bin file, converted from ONNX."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from dataforge.images.draw import Pixels
from trainers.exporting import onnx_file
from trainers.exporting.graph import NAMES
from trainers.results.exported import KEY, Exported, Run, check

SUFFIX, EXTRA, NEEDS = ".xml", "openvino", ("onnx", "onnxscript", "openvino")
PRECISION = {"INFERENCE_PRECISION_HINT": "f32"}  # otherwise some CPUs compute in bfloat16


def save(graph: torch.nn.Module, facts: dict[str, Any], path: Path, outputs: Sequence[str] = NAMES) -> None:
    """Export a graph to a file, without its metadata."""
    import openvino

    source = path.with_suffix(".onnx")
    onnx_file.save(graph, facts, source, outputs)
    openvino.save_model(openvino.Core().read_model(source), path, compress_to_fp16=False)
    source.unlink()


def describe(path: Path, facts: dict[str, Any]) -> None:
    """Write a model's metadata."""
    import openvino

    model, draft = openvino.Core().read_model(path), path.with_name("described.xml")
    model.set_rt_info(json.dumps(facts, ensure_ascii=False), [KEY])
    openvino.save_model(model, draft, compress_to_fp16=False)  # not to `path`, whose weights are mapped
    for suffix in (".bin", ".xml"):
        os.replace(draft.with_suffix(suffix), path.with_suffix(suffix))


def running(path: Path) -> Run:
    """Return the `run` function of an `Exported` for a file that has no metadata yet."""
    import openvino

    compiled = openvino.Core().compile_model(path, "CPU", PRECISION)
    names = {name for port in compiled.inputs for name in port.names}

    def run(images: Pixels, conf: float, iou: float, top: int) -> list[NDArray[Any]]:
        given = {"images": images, "conf": np.float32(conf), "iou": np.float32(iou), "top": np.int64(top)}
        answers = compiled({name: np.asarray(value) for name, value in given.items() if name in names})
        return [answers[port].copy() for port in compiled.outputs]

    return run


def load(path: Path) -> Exported:
    """Load a model for the CPU and check its metadata."""
    import openvino

    model = openvino.Core().read_model(path)
    facts = check(path, model.get_rt_info([KEY]).astype(str) if model.has_rt_info([KEY]) else None)
    return Exported(facts, running(path))

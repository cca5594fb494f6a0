"""Write a detector's graph as a package of `torch.export`."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray

from dataforge.images.draw import Pixels
from trainers.exporting.graph import NAMES, program_of
from trainers.results.exported import KEY, Exported, Run, check

SUFFIX, EXTRA, NEEDS = ".pt2", "", ()


def save(graph: torch.nn.Module, facts: dict[str, Any], path: Path, outputs: Sequence[str] = NAMES) -> None:
    """Export a graph to a file, without its metadata; its outputs have an order, but no names."""
    _write(program_of(graph, facts), path)


def describe(path: Path, facts: dict[str, Any]) -> None:
    """Write a model's metadata."""
    _write(torch.export.load(path), path, {KEY: json.dumps(facts, ensure_ascii=False)})


def running(path: Path) -> Run:
    """Return the `run` function of an `Exported` for a file that has no metadata yet."""
    return _run_of(torch.export.load(path))


def load(path: Path) -> Exported:
    """Load a model for the CPU and check its metadata."""
    extra = {KEY: ""}
    program = torch.export.load(path, extra_files=extra)
    return Exported(check(path, extra[KEY]), _run_of(program))


def _write(program: torch.export.ExportedProgram, path: Path, extra: dict[str, str] | None = None) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of weights that are parts of larger tensors
        torch.export.save(program, path, extra_files=extra)


def _run_of(program: torch.export.ExportedProgram) -> Run:
    module = program.module()

    def run(images: Pixels, conf: float, iou: float, top: int) -> list[NDArray[Any]]:
        with torch.inference_mode():
            answers = module(torch.from_numpy(images), torch.tensor(conf), torch.tensor(iou), torch.tensor(top))
        return [answer.numpy() for answer in answers]

    return run

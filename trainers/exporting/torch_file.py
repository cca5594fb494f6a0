"""Legend: B images, K boxes.

Write a detector's graph as a package of `torch.export`.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch._higher_order_ops.while_loop import while_loop

from dataforge.images.draw import Pixels
from trainers.exporting.graph import NAMES, program_of
from trainers.results.exported import KEY, Exported, Run, check

SUFFIX, EXTRA, NEEDS = ".pt2", "", ()


def save(graph: torch.nn.Module, facts: dict[str, Any], path: Path, outputs: Sequence[str] = NAMES) -> None:
    """Export a graph to a file, without its metadata; its outputs have an order, but no names."""
    program = program_of(graph, facts)
    _write(program.run_decompositions({torch.ops.dataforge.suppress.default: suppress}), path)


def suppress(boxes: Tensor, labels: Tensor, threshold: Tensor, classes: int) -> Tensor:
    """Return the mask of `boxes.suppress` by torch's own operators, so that the file needs no import of this package.

    A box is kept unless a kept box before it overlaps it. Repeating this for all boxes at once, from all kept, settles
    the first n boxes within n rounds, and stops when nothing changes.

    Args:
        boxes: (B, K, 4), best first; labels: (B, K), -1 for no candidate; threshold: () float32.
    """
    one, other = boxes.unsqueeze(2), boxes.unsqueeze(1)
    sides = torch.minimum(one[..., 2:], other[..., 2:]) - torch.maximum(one[..., :2], other[..., :2])
    shared, area = sides.clamp(min=0).prod(-1), (boxes[..., 2:] - boxes[..., :2]).prod(-1)
    same = labels.unsqueeze(2) == labels.unsqueeze(1)
    over = ((shared > threshold * (area.unsqueeze(2) + area.unsqueeze(1) - shared)) & same).tril(-1)
    real = labels >= 0

    def changed(keep: Tensor, before: Tensor) -> Tensor:
        return (keep != before).any()

    def step(keep: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        return real & ~(over & keep.unsqueeze(1)).any(2), keep.clone()

    kept: Tensor = while_loop(changed, step, (real.clone(), ~real))[0]
    return kept


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

"""Export a checkpoint as one graph from pixels to boxes, and verify that its detections are the same:

    python -m trainers.export CKPT --shards DIR --out model.onnx

The model is written only if its detections match those of the checkpoint, on images of the shards and on images of
unusual sizes.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import json
import logging
import os
import platform
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

import dataforge
from dataforge.bench.measure import machine
from dataforge.command import Command
from dataforge.errors import ConfigError
from dataforge.files import writing
from dataforge.images.draw import Pixels
from dataforge.shards.reader import Shards
from trainers.checkpoint import load, load_detector
from trainers.models.detector import CANDIDATES, Detector
from trainers.models.graph import OPSET, SLOTS, Graph, Stages, translations
from trainers.predict import detect
from trainers.results import certificate, metrics
from trainers.results.evaluation import by_name
from trainers.results.exported import (
    FORMAT,
    KEY,
    Boxes,
    Exported,
    checksum,
    load_onnx,
    picture,
    predictions_of,
    run_of,
    session_of,
)
from trainers.results.truth import truth_of_shards

DETECTORS = ("dense", "ssd", "yolov2")  # detectors whose exports are certified by a test
NEEDS = ("onnx", "onnxruntime", "onnxscript")
CONF, IOU = 0.25, 0.45  # defaults of the graph's inputs, the same as in `trainers.predict`
LOW_CONF, LOW_IOU = 0.001, 0.5  # defaults of `trainers.evaluate`; the mean average precisions are computed with these
PAIR_CONF = 0.05  # minimum score of the detections that are paired
EXCUSED = 0.1  # maximum share of detections that may be excused by thresholds
CPU = ("CPUExecutionProvider",)
NAMES = ("boxes", "scores", "labels")
Size = tuple[int, int]


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--shards", required=True, type=click.Path(path_type=Path), help="Shards to certify the export on.")
@click.option("--split", default="val", show_default=True, help="Split of the shards.")
@click.option("--out", type=click.Path(path_type=Path), help="File to write; default: beside CHECKPOINT.")
@click.option("--size", nargs=2, type=click.IntRange(1), help="HEIGHT WIDTH: a static graph for images of this size.")
@click.option("--any-size", is_flag=True, help="Images of any size, fitted inside the graph (default).")
@click.option("--batch", default="any", show_default=True, help="Images in a batch: a number, or any.")
@click.option("--images", type=click.IntRange(1), default=64, show_default=True, help="Pictures to certify on.")
def main(
    checkpoint: Path,
    shards: Path,
    split: str,
    out: Path | None,
    size: Size | None,
    any_size: bool,
    batch: str,
    images: int,
) -> None:
    """Export CHECKPOINT to ONNX and certify that the result detects the same.

    The graph takes images (B, height, width, 3) uint8 RGB and gives boxes (B, K, 4) xyxy in their pixels, scores (B, K)
    and labels (B, K), -1 for none. Its further inputs conf (0.25), iou (0.45) and top (the detector's own) have these
    defaults.
    """
    if size and any_size:
        raise ConfigError("--size and --any-size: expected one of them")
    if batch != "any" and not (batch.isdecimal() and int(batch)):
        raise ConfigError(f"--batch {batch}: expected a number from 1 on, or any")
    for package in NEEDS:
        if importlib.util.find_spec(package) is None:
            raise ConfigError(f"the export needs {package}; pip install 'dataforge[export]'")
    target = out or checkpoint.with_suffix(".onnx")
    if target.suffix != ".onnx":
        raise ConfigError(f"--out {target}: expected a name that ends in .onnx")
    name = load(checkpoint)["detector"]
    if name not in DETECTORS:
        raise ConfigError(f"{checkpoint}: detector {name!r} cannot be exported; expected one of {', '.join(DETECTORS)}")
    detector, facts = load_detector(checkpoint)
    records = Shards(shards, split)
    how = facts_of(detector, facts, size, batch)
    with writing(target.parent, ConfigError):
        folder = tempfile.TemporaryDirectory(prefix=".export", dir=target.parent)
    with folder:
        temporary = Path(folder.name) / target.name
        save(Graph(detector, tuple(how["size"]), None if size else how["fit"]), how, temporary)
        model = Exported(how, run_of(session_of(temporary, CPU)))
        how["certificate"] = certify(detector, model, records, images, Path(folder.name))
        describe(temporary, how)
        load_onnx(temporary, "cpu")
        report = json.dumps(how, indent=1, ensure_ascii=False)
        with writing(target, ConfigError):
            certificate_file(temporary).write_text(report + "\n", "utf-8")
            for file in sorted(Path(folder.name).iterdir(), key=lambda file: file == temporary):  # the model is last
                if file.stem.startswith(target.stem):
                    os.replace(file, target.with_name(file.name))
    done = how["certificate"]
    click.echo(
        f"{target}: {target.stat().st_size / 2**20:.1f} MiB; {done['detections']} detections on "
        f"{len(done['images'])} pictures are those of {checkpoint}, to {done['box_difference']:.2g} pixels and "
        f"{done['score_difference']:.2g} in score; {done['excused']} at a threshold; AP {done['map_exported']:.4f} "
        f"({done['map_pytorch']:.4f})"
    )
    if not done["detections"]:
        click.echo("note: nothing is detected on these pictures, so that nothing was compared", err=True)


def certificate_file(model: Path) -> Path:
    """Return the path of a model's certificate."""
    return model.with_suffix(".certificate.json")


def facts_of(detector: Detector, saved: dict[str, Any], size: Size | None, batch: str) -> dict[str, Any]:
    own = list(size or saved["size"])
    if any(side % detector.stride or side < detector.least for side in own):
        least = f" and at least {detector.least}" if detector.least > 1 else ""
        raise ConfigError(f"--size {own[0]} {own[1]}: expected multiples of {detector.stride}{least} for this detector")
    facts = {
        "format": FORMAT,
        "detector": saved["detector"],
        "classes": list(saved["classes"]),
        "class_ids": list(saved["class_ids"]),
        "size": own,
        "fit": saved["fit"],
        "input": own if size else "any",
        "batch": batch if batch == "any" else int(batch),
        "conf": CONF,
        "iou": IOU,
        "top": inspect.signature(detector.decode).parameters["top"].default,
        "slots": SLOTS,
        "opset": OPSET,
        "versions": {"dataforge": dataforge.__version__, "torch": torch.__version__},
    }
    return facts | {"checksum": checksum(facts)}


def program_of(graph: torch.nn.Module, how: dict[str, Any]) -> torch.export.ExportedProgram:
    """Return the graph as traced by torch."""
    static = how["input"] != "any"
    height, width = how["size"] if static else (151, 211)
    count = 2 if how["batch"] == "any" else how["batch"]
    axes: dict[int, Any] = {} if static else {1: torch.export.Dim("height"), 2: torch.export.Dim("width")}
    if how["batch"] == "any":
        axes[0] = torch.export.Dim("batch")
    example = torch.zeros(count, height, width, 3, dtype=torch.uint8)
    given = (example, torch.tensor(CONF), torch.tensor(IOU), torch.tensor(how["top"]))
    with torch.no_grad():
        return torch.export.export(graph.eval(), given, dynamic_shapes=(axes, None, None, None), strict=False)


def save(graph: torch.nn.Module, how: dict[str, Any], path: Path, outputs: Sequence[str] = NAMES) -> None:
    """Export a graph to a file, without its metadata."""
    with _quiet():
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
    for name, number in (("conf", np.float32(CONF)), ("iou", np.float32(IOU)), ("top", np.int64(how["top"]))):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(number), name))
    onnx.helper.set_model_props(model, {KEY: json.dumps(how, ensure_ascii=False)})
    onnx.checker.check_model(model)
    onnx.save(model, path)


def certify(detector: Detector, model: Exported, shards: Shards, count: int, folder: Path) -> dict[str, Any]:
    """Compare the exported model with its checkpoint.

    Returns:
        The certificate: images, detections, largest differences, average precisions on the split, tolerances.

    Raises:
        ConfigError: they differ; the message names the image, the difference, and the first stage that differs.
    """
    tolerance = certificate.Tolerance()
    chosen = certificate.spread(len(shards), count)
    if not chosen:
        raise ConfigError(f"{shards.path} (split {shards.split or 'all'}) holds no images to certify the export on")
    size, fit, top = tuple(model.facts["size"]), model.facts["fit"], SLOTS

    def both(pixels: Pixels) -> tuple[Boxes, Boxes]:
        [expected] = detect(detector, [pixels], size, fit, torch.device("cpu"), LOW_CONF, LOW_IOU, top)
        return expected, model.detect([pixels], LOW_CONF, LOW_IOU, top)[0]

    every = [both(picture(shards, i)) for i in range(len(shards))]
    extra = certificate.awkward(picture(shards, chosen[0]))
    answers = {str(shards.table.key[i]): every[i] for i in chosen} | {key: both(x) for key, x in extra.items()}
    some = any((answer[0][1] >= PAIR_CONF).any() for answer in answers.values())
    conf = PAIR_CONF if some else LOW_CONF
    matched = excused = 0
    box = score = 0.0
    pixels_of = {str(shards.table.key[i]): i for i in chosen}
    for key, (expected, actual) in answers.items():
        parts = (certificate.above(boxes, conf - tolerance.score) for boxes in (expected, actual))
        result = certificate.compare(*parts, conf=conf, iou=LOW_IOU, top=top, tolerance=tolerance)
        if result.fault:
            pixels = extra[key] if key in extra else picture(shards, pixels_of[key])
            # the candidates of NMS; among those that score as low as the last one, any may be the last
            [candidates] = detect(detector, [pixels], size, fit, torch.device("cpu"), 0.0, 1.0, CANDIDATES)
            last = max(conf, float(candidates[1].min(initial=1)))
            parts = (certificate.above(boxes, last - tolerance.score) for boxes in (expected, actual))
            result = certificate.compare(
                *parts, conf=last, iou=LOW_IOU, top=top, tolerance=tolerance, candidates=candidates
            )
        if result.fault:
            stage = first_stage(detector, model, pixels, folder)
            raise ConfigError(f"the exported model differs on {key}: {result.fault}; they part in {stage}")
        matched, excused = matched + result.matched, excused + result.excused
        box, score = max(box, result.box), max(score, result.score)
    if excused > max(1, (matched + excused) * EXCUSED):
        raise ConfigError(
            f"{excused} of {matched + excused} detections lie at a threshold, where either run may drop them; expected "
            f"at most {EXCUSED:.0%}: this checkpoint's scores are too much alike to tell whether the export is right"
        )
    truth = truth_of_shards(shards)
    precision = [
        metrics.coco(truth, by_name(predictions_of(shards, side), model.classes, truth))["AP"]
        for side in zip(*every, strict=True)
    ]
    if abs(precision[0] - precision[1]) > tolerance.map:
        raise ConfigError(
            f"the exported model's AP is {precision[1]:.4f}; expected that of PyTorch, {precision[0]:.4f}"
        )
    return {
        "images": list(answers),
        "shards": shards.fingerprint,
        "split": shards.split,
        "detections": matched,
        "excused": excused,
        "box_difference": box,
        "score_difference": score,
        "map_pytorch": precision[0],
        "map_exported": precision[1],
        "map_images": len(shards),
        "conf": conf,
        "iou": LOW_IOU,
        "top": top,
        "tolerance": {
            "box": tolerance.box,
            "score": tolerance.score,
            "map": tolerance.map,
            "overlap": certificate.OVERLAP,
        },
        **machine(),
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("torch", "numpy", *NEEDS)},
    }


def first_stage(detector: Detector, model: Exported, pixels: Pixels, folder: Path) -> str:
    """Return the first stage that differs; each stage is run on the inputs of the exported one."""
    size, fit = tuple(model.facts["size"]), None if model.facts["input"] != "any" else model.facts["fit"]
    stages = Stages(detector, size, fit)
    if fit is None:
        pixels = model.fitted(pixels)[0]
    images = torch.from_numpy(pixels)[None]
    given = (torch.tensor(LOW_CONF), torch.tensor(LOW_IOU), torch.tensor(SLOTS))
    count = 1 if model.facts["batch"] == "any" else model.facts["batch"]
    images = images.expand(count, -1, -1, -1).contiguous()
    with torch.inference_mode():
        own = stages(images, *given)
    file = folder / "stages.onnx"
    names = [f"{stage}_{i}" for stage, part in own.items() for i in range(len(part))]
    save(Flat(stages), model.facts, file, names)
    outputs = iter(run_of(session_of(file, CPU))(images.numpy(), LOW_CONF, LOW_IOU, SLOTS))
    theirs = {stage: [torch.from_numpy(np.array(next(outputs))) for _ in part] for stage, part in own.items()}
    fitted = theirs["preprocessing"][0]
    off = (own["preprocessing"][0].int() - fitted.int()).abs()
    if off.max() > 2 or off.float().mean() > 0.05:
        return f"preprocessing (up to {int(off.max())} grey levels, {float(off.float().mean()):.3f} in the mean)"
    with torch.inference_mode():
        own = Stages(detector, size, None)(fitted.permute(0, 2, 3, 1).contiguous(), *given)
    for stage in ("features", "head"):
        for mine, other in zip(own[stage], theirs[stage], strict=True):
            gap = (mine.double() - other.double()).abs().max() if mine.numel() else torch.zeros(())
            scale = mine.double().abs().max().clamp(min=1) if mine.numel() else torch.ones(())
            if not gap <= 1e-3 * scale:
                return f"the {stage} (values of up to {float(scale):.3g} differ by {float(gap):.3g})"
    return "post-processing"


class Flat(torch.nn.Module):
    """Wrapper that returns the stages as a flat tuple."""

    def __init__(self, stages: Stages) -> None:
        super().__init__()
        self.stages = stages

    def forward(self, images: Any, conf: Any, iou: Any, top: Any) -> tuple[Any, ...]:
        return tuple(x for part in self.stages(images, conf, iou, top).values() for x in part)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the exporter's warnings and log."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


if __name__ == "__main__":
    main()

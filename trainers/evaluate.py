"""Legend: B images, K detections, C classes.

Compute the mean average precision of a checkpoint on shards, or of stored detections against a ground truth:

    python -m trainers.evaluate CKPT|MODEL.onnx --shards DIR --split val
    python -m trainers.evaluate --truth instances.json --predictions detections.json

torch is imported only where a model runs, so that the second form starts quickly.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from dataforge.command import OutFile, command, echo, echo_json, natural, real
from dataforge.errors import ConfigError
from dataforge.files import writing
from dataforge.shards.reader import Shards
from trainers.config import Config
from trainers.results.calibration import calibrate as calibration_of
from trainers.results.calibration import calibration_text, stored
from trainers.results.evaluation import by_name, report, run, with_ancestors
from trainers.results.explain import comparison, comparison_text, explanation, explanation_text
from trainers.results.exported import Boxes, evaluate, load_onnx, picture, predictions_of
from trainers.results.tiling import Tiling, tiling_options
from trainers.results.truth import (
    Predictions,
    Truth,
    coco_rows,
    read_predictions,
    truth_of_coco,
    truth_of_shards,
    write_json,
)
from trainers.results.yolo_predictions import read_yolo_predictions

TIMEOUT = Config.__dataclass_fields__["timeout"]


@command()
@click.argument("checkpoint", required=False, type=click.Path(path_type=Path))
@click.option("--shards", "--data", "shards", type=click.Path(path_type=Path), help="Shards to evaluate on.")
@click.option("--truth", type=click.Path(path_type=Path), help="COCO instances.json or shards, with --predictions.")
@click.option(
    "--predictions",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Detections instead of a checkpoint: COCO's format, or a folder of YOLO text files. A second one is compared.",
)
@click.option("--split", help="Split of the shards; default: val with a checkpoint, all with --truth.")
@click.option("--protocol", type=click.Choice(["coco", "lvis", "voc07", "voc12"]), default="coco", show_default=True)
@click.option("--conf", type=real(least=0, most=1), default=0.001, show_default=True, help="Lowest score kept.")
@click.option("--iou", type=real(least=0, most=1), default=0.5, show_default=True, help="Overlap for NMS.")
@click.option("--batch-size", "--batch", "batch_size", type=natural(), default=16, show_default=True)
@click.option("--device", default="auto", show_default=True)
@click.option("--timeout", default=TIMEOUT.default, show_default=True, **TIMEOUT.metadata)
@tiling_options
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--calibrate", is_flag=True, help="Print the temperature of the scores and the thresholds of best F1.")
@click.option(
    "--save-calibration", is_flag=True, help="Also store them in CHECKPOINT, for trainers.predict and trainers.export."
)
@click.option("--explain", is_flag=True, help="Print what each rule of other protocols costs.")
@click.option("--report", "report_file", type=OutFile(), help="Write an HTML page with errors by kind.")
@click.option("--save-json", type=OutFile(), help="Write the detections in COCO's result format.")
def main(
    checkpoint: Path | None,
    shards: Path | None,
    truth: Path | None,
    predictions: tuple[Path, ...],
    split: str | None,
    protocol: str,
    conf: float,
    iou: float,
    batch_size: int,
    device: str,
    timeout: int,
    tiling: Tiling | None,
    as_json: bool,
    calibrate: bool,
    save_calibration: bool,
    explain: bool,
    report_file: Path | None,
    save_json: Path | None,
) -> None:
    """Average precision of CHECKPOINT (or an ONNX model) on --shards, or of --predictions against --truth."""
    if save_calibration and (not checkpoint or checkpoint.suffix.lower() == ".onnx"):
        raise ConfigError(
            "--save-calibration: expected a checkpoint; of an exported model, calibrate that, export again"
        )
    if checkpoint and shards and not truth and len(predictions) < 2:
        part = Shards(shards, split or "val")
        others = [_predictions(path, truth_of_shards(part)) for path in predictions]  # errors show before a model runs
        ranks = device, timeout
        if tiling:
            known, detections = _of_tiles(checkpoint, part, replace(tiling, batch=batch_size), conf, iou, ranks)
        elif checkpoint.suffix.lower() == ".onnx":
            known, detections = _of_onnx(checkpoint, part, conf, iou, device)
        else:
            known, detections = _of_checkpoint(checkpoint, shards, split or "val", conf, iou, batch_size, ranks)
        if int(os.environ.get("RANK", "0")):
            return
    elif tiling:
        raise ConfigError("--tile is for CHECKPOINT and --shards")
    elif truth and 1 <= len(predictions) <= 2 and not checkpoint and not shards:
        known = _truth(truth, split)
        detections, *others = (_predictions(path, known) for path in predictions)
        if protocol == "coco" and known.ids is not None and not known.ids.all():
            echo(
                f"note: {truth}: like COCO's own evaluation, this one never counts the box with annotation id 0 as "
                "found; number annotations from 1",
                err=True,
            )
    else:
        raise ConfigError(
            "expected either CHECKPOINT and --shards, or --truth and --predictions; at most two to compare"
        )
    if known.judged is not None and protocol != "lvis":
        echo(
            f"note: not every class was looked for in every image; --protocol {protocol} judges as if, --protocol lvis "
            "judges only those that were",
            err=True,
        )
    if known.judged is None and protocol == "lvis":
        echo(
            "note: the truth does not say which classes were looked for; every class is judged in every image", err=True
        )
    if save_json:
        write_json(save_json, coco_rows(detections, known.image_ids, known.class_ids))
    counted, *others = (with_ancestors(known, one) for one in (detections, *others))
    facts, text = report(known, counted, protocol)
    parts = [text]
    if calibrate or save_calibration:
        facts["calibration"] = calibration_of(known, detections)
        parts.append(calibration_text(facts["calibration"]))
    if checkpoint and save_calibration:
        parts.append(f"stored in {_stored(checkpoint, facts['calibration'], iou, tiling)}")
    if explain:
        facts["explanation"] = explanation(known, counted)
        parts.append(explanation_text(facts["explanation"]))
    for other in others:
        facts["comparison"] = comparison(known, counted, other, protocol, explain)
        parts.append(comparison_text(facts["comparison"]))
    if report_file:
        from trainers.results.evaluation_page import evaluation_page  # which imports matplotlib

        folder = truth or shards
        pixels = Shards(folder, split if truth else split or "val") if folder and folder.is_dir() else None
        page = evaluation_page(f"{checkpoint or predictions[0]} on {folder}", known, counted, pixels)
        with writing(report_file, ConfigError):
            report_file.write_text(page, encoding="utf-8")
    echo_json(facts) if as_json else echo("\n\n".join(parts))


def _stored(file: Path, facts: dict[str, Any], iou: float, tiling: Tiling | None) -> Path:
    """Add a calibration to a checkpoint, and return its path."""
    from trainers import checkpoint

    path = checkpoint.weights_of(file)
    state = checkpoint.load(path)
    checkpoint.save(path, state | {"calibration": stored(facts, state["classes"], iou, tiling)})
    return path


def _predictions(path: Path, truth: Truth) -> Predictions:
    detections = (read_yolo_predictions if path.is_dir() else read_predictions)(path, truth)
    return replace(detections, known=np.unique(detections.labels))


def _truth(path: Path, split: str | None) -> Truth:
    if path.is_dir():
        return truth_of_shards(Shards(path, split))
    if split:
        raise ConfigError(f"--split {split} is for shards; {path} is a file")
    return truth_of_coco(path)


def _of_checkpoint(
    file: Path, shards: Path, split: str, conf: float, iou: float, batch_size: int, ranks: tuple[str, int]
) -> tuple[Truth, Predictions]:
    from dataforge.loading.loader import Loader
    from trainers.checkpoint import load_detector
    from trainers.distributed import joined

    detector, checkpoint = load_detector(file)
    with joined(*ranks) as (rank, world, device):
        loader = Loader(
            shards,
            split=split,
            batch_size=batch_size,
            size=tuple(checkpoint["size"]),
            fit=checkpoint["fit"],
            device=device,
            shuffle=False,
            rank=rank,
            world=world,
        )
        truth = truth_of_shards(loader.shards)
        predictions = run(detector.to(device), loader, device, conf=conf, iou=iou)
    return truth, _by_name(predictions, tuple(checkpoint["classes"]), truth)


def _of_onnx(file: Path, shards: Shards, conf: float, iou: float, device: str) -> tuple[Truth, Predictions]:
    model, truth = load_onnx(file, device), truth_of_shards(shards)
    return truth, _by_name(evaluate(model, shards, conf, iou), model.classes, truth)


def _of_tiles(
    file: Path, shards: Shards, tiling: Tiling, conf: float, iou: float, ranks: tuple[str, int]
) -> tuple[Truth, Predictions]:
    """Detect as `trainers.predict --tile` does. Under torchrun, each rank does its part."""
    from trainers.predict import load_detector

    detector, truth = load_detector(file, ranks[0]), truth_of_shards(shards)

    def detect(i: int) -> Boxes:
        return detector.predict([picture(shards, i)], conf, iou, tiling)[0]

    count = len(shards)
    if os.environ.get("WORLD_SIZE", "1") == "1":  # an exported model needs no torch
        every = [detect(i) for i in range(count)]
    else:
        from trainers.distributed import gathered, joined

        with joined(*ranks) as (rank, world, _):
            parts = gathered([detect(i) for i in range(rank, count, world)])
        every = [parts[i % world][i // world] for i in range(count)]
    return truth, _by_name(predictions_of(shards, every), detector.classes, truth)


def _by_name(predictions: Predictions, classes: tuple[str, ...], truth: Truth) -> Predictions:
    quiet = int(os.environ.get("RANK", "0")) > 0
    for owner, names, others in (("checkpoint", classes, truth.classes), ("shards", truth.classes, classes)):
        alone = [name for name in names if name not in others]
        if alone and not quiet:
            echo(f"note: only the {owner} knows: {', '.join(alone)}", err=True)
    return by_name(predictions, classes, truth)


if __name__ == "__main__":
    main()

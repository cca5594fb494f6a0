"""Export a checkpoint as one graph from pixels to boxes, and verify that its detections are the same:

    python -m trainers.export CKPT --shards DIR --out model.onnx

The model is written only if its detections match those of the checkpoint, on images of the shards and on images of
unusual sizes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from dataforge.command import OutFile, command, echo, natural, real
from trainers.exporting import FORMATS


@command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--format", "format_name", type=click.Choice(list(FORMATS)), default="onnx", show_default=True)
@click.option("--shards", required=True, type=click.Path(path_type=Path), help="Shards to certify the export on.")
@click.option("--split", default="val", show_default=True, help="Split of the shards.")
@click.option("--out", type=OutFile(), help="File to write; default: beside CHECKPOINT.")
@click.option("--size", nargs=2, type=natural(), help="HEIGHT WIDTH: a static graph for images of this size.")
@click.option("--any-size", is_flag=True, help="Images of any size, fitted inside the graph (default).")
@click.option("--batch", default="any", show_default=True, help="Images in a batch: a number, or any.")
@click.option("--half", is_flag=True, help="Weights and network in float16; pre- and post-processing in float32.")
@click.option("--images", type=natural(), default=64, show_default=True, help="Pictures to certify on.")
@click.option("--int8", is_flag=True, help="Quantise to INT8; only if AP on the split stays nearly the same.")
@click.option("--calibrate", type=natural(), default=128, show_default=True, help="Pictures to calibrate on.")
@click.option("--calibrate-split", default="train", show_default=True, help="Split of those pictures.")
@click.option("--max-map-drop", type=real(least=0), default=0.01, show_default=True, help="Loss of AP by INT8.")
def main(**given: Any) -> None:
    """Export CHECKPOINT and certify that the result detects the same.

    The graph takes images (B, height, width, 3) uint8 RGB and gives boxes (B, K, 4) xyxy in their pixels, scores (B, K)
    and labels (B, K), -1 for none. Its further inputs conf (0.25), iou (0.45) and top (the detector's own) have these
    defaults.
    """
    from trainers import export

    export.export(**given)


if __name__ == "__main__":  # before torch is imported: help and wrong options are answered at once
    main()

import copy
import importlib.util
import inspect
import json
import os
import tempfile

import torch

import dataforge
from dataforge import registry
from dataforge.errors import ConfigError, counted
from dataforge.files import writing
from dataforge.shards.reader import Shards
from trainers.checkpoint import detector_of, load, weights_of
from trainers.exporting.certificate import certify
from trainers.exporting.graph import SLOTS, Graph
from trainers.exporting.onnx_file import OPSET
from trainers.models import lora
from trainers.models.detector import Detector
from trainers.results.exported import FORMAT, Exported, checksum

DETECTORS = ("dense", "faster_rcnn", "ssd", "vit", "yolov2")  # detectors whose exports are certified by a test
CONF, IOU = 0.25, 0.45  # defaults of the graph's inputs, the same as in `trainers.predict`
Size = tuple[int, int]


def export(
    checkpoint: Path,
    format_name: str,
    shards: Path,
    split: str,
    out: Path | None,
    size: Size | None,
    any_size: bool,
    batch: str,
    half: bool,
    images: int,
    int8: bool,
    calibrate: int,
    calibrate_split: str,
    max_map_drop: float,
) -> None:
    """Carry out the command; the options are those of `main`."""
    if size and any_size:
        raise ConfigError("--size and --any-size: expected one of them")
    if int8 and (half or format_name != "onnx"):
        raise ConfigError("--int8: expected --format onnx without --half")
    if batch != "any" and not (batch.isdecimal() and int(batch)):
        raise ConfigError(f"--batch {batch}: expected a number from 1 on, or any")
    checkpoint = weights_of(checkpoint)
    form = registry.load("format", format_name, FORMATS)
    for package in form.NEEDS:
        if importlib.util.find_spec(package) is None:
            raise ConfigError(f"the export needs {package}; pip install 'dataforge-detection[{form.EXTRA}]'")
    target = out or checkpoint.with_suffix(form.SUFFIX)
    if target.suffix != form.SUFFIX:
        raise ConfigError(f"--out {target}: expected a name that ends in {form.SUFFIX}")
    state = load(checkpoint)
    name = state["detector"]
    if name not in DETECTORS:
        raise ConfigError(f"{checkpoint}: detector {name!r} cannot be exported; expected one of {', '.join(DETECTORS)}")
    detector = detector_of(state, checkpoint)
    if state["config"].get("lora"):
        lora.merge(detector)
    records = Shards(shards, split)
    calibration = Shards(shards, calibrate_split) if int8 else records
    how = facts_of(detector, state, size, batch, half)
    network = copy.deepcopy(detector).half() if half else detector
    with writing(target.parent, ConfigError):
        folder = tempfile.TemporaryDirectory(prefix=".export", dir=target.parent)
    with folder:
        temporary = Path(folder.name) / target.name
        graph = Graph(network, tuple(how["size"]), None if size else how["fit"])
        echo(f"tracing {name} and writing {format_name} ...", err=True)
        _save(form, graph, how, temporary, checkpoint)
        model = Exported(how, form.running(temporary))
        how["certificate"] = certify(detector, model, records, images, form, Path(folder.name))
        if int8:
            from trainers.exporting.int8 import quantise

            half_file = Path(folder.name) / "half.onnx"
            graph = Graph(copy.deepcopy(detector).half(), tuple(how["size"]), None if size else how["fit"])
            _save(form, graph, how, half_file, checkpoint)
            how["certificate"]["int8"] = quantise(
                temporary, how, records, calibration, calibrate, max_map_drop, half_file
            )
            half_file.unlink()
        form.describe(temporary, how)
        form.load(temporary)
        report = json.dumps(how, indent=1, ensure_ascii=False)
        with writing(target, ConfigError):
            certificate_file(temporary).write_text(report + "\n", "utf-8")
            for file in sorted(Path(folder.name).iterdir(), key=lambda file: file == temporary):  # the model is last
                if file.stem.startswith(target.stem):
                    os.replace(file, target.with_name(file.name))
    done = how["certificate"]
    files = [target, target.with_suffix(".bin")] if format_name == "openvino" else [target]
    size_of_files = sum(file.stat().st_size for file in files)
    echo(
        f"{target}: {size_of_files / 2**20:.1f} MiB; {counted(done['detections'], 'detection')} on "
        f"{len(done['images'])} pictures are those of {checkpoint}, to {done['box_difference']:.2g} pixels and "
        f"{done['score_difference']:.2g} in score; {done['excused']} at a threshold; AP {done['map_exported']:.4f} "
        f"({done['map_pytorch']:.4f})"
    )
    if int8:
        echo(told(done["int8"]))
    if not done["detections"]:
        echo("note: nothing is detected on these pictures, so that nothing was compared", err=True)


def told(report: dict[str, Any]) -> str:
    """Return what a report of `quantise` says, as text for the command."""
    lines = [
        f"with {', '.join(attempt['float']) or 'no layer'} in float, AP is {attempt['map']:.4f}"
        for attempt in report["attempts"]
    ]
    lines += [
        f"{row['precision']}: {row['bytes'] / 2**20:.1f} MiB, {row['latency_ms']:.1f} ms per image, AP {row['map']:.4f}"
        for row in report["table"]
    ]
    return "\n".join(lines)


def _save(form: Any, graph: Graph, facts: dict[str, Any], path: Path, checkpoint: Path) -> None:
    """Write a graph in a format.

    Raises:
        ConfigError: the exporter does not support something in it; the message is the exporter's own first line.
    """
    try:
        form.save(graph, facts, path)
    except OSError:
        raise
    except Exception as error:  # torch's and the converters' exceptions have no common base class
        while error.__cause__:
            error = error.__cause__  # type: ignore[assignment]
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(
            f"{checkpoint}: its {facts['detector']} cannot be written as {path.suffix}: {reason}"
        ) from None


def certificate_file(model: Path) -> Path:
    """Return the path of a model's certificate."""
    return model.with_suffix(".certificate.json")


def facts_of(detector: Detector, saved: dict[str, Any], size: Size | None, batch: str, half: bool) -> dict[str, Any]:
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
        "half": half,
        "opset": OPSET,
        "versions": {"dataforge": dataforge.__version__, "torch": torch.__version__},
    }
    if "calibration" in saved:
        facts["calibration"] = saved["calibration"]
    return facts | {"checksum": checksum(facts)}

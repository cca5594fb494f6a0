"""Certify an exported model: its detections are those of its checkpoint, or the export fails."""

from __future__ import annotations

import copy
import platform
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from dataforge.bench.measure import machine
from dataforge.command import echo
from dataforge.errors import ConfigError, counted
from dataforge.images.draw import Pixels
from dataforge.shards.reader import Shards
from trainers.exporting import comparison
from trainers.exporting.graph import SLOTS, Flat, Stages
from trainers.models.detector import CANDIDATES, Detector
from trainers.results import metrics
from trainers.results.detection import detect
from trainers.results.evaluation import by_name
from trainers.results.exported import Boxes, Exported, picture, predictions_of
from trainers.results.truth import truth_of_shards

LOW_CONF, LOW_IOU = 0.001, 0.5  # defaults of `trainers.evaluate`; the mean average precisions are computed with these
PAIR_CONF = 0.05  # minimum score of the detections that are paired
EXCUSED = 0.1  # maximum share of detections that may be excused by thresholds


def certify(detector: Detector, model: Exported, shards: Shards, count: int, form: Any, folder: Path) -> dict[str, Any]:
    """Compare the exported model with its checkpoint.

    Args:
        count: the number of the split's images on which boxes are compared.
        form: the module of the model's format, of `exporting.FORMATS`; folder: for temporary files.

    Returns:
        The certificate: images, detections, largest differences, average precisions on the split, tolerances.

    Raises:
        ConfigError: they differ; the message names the image, the difference, and the first stage that differs.
    """
    half = model.facts["half"]
    tolerance = comparison.HALF if half else comparison.Tolerance()
    chosen = comparison.spread(len(shards), count)
    if not chosen:
        raise ConfigError(f"{shards.path} (split {shards.split or 'all'}) holds no images to certify the export on")
    size, fit, top = tuple(model.facts["size"]), model.facts["fit"], SLOTS

    def both(pixels: Pixels) -> tuple[Boxes, Boxes]:
        [expected] = detect(detector, [pixels], size, fit, torch.device("cpu"), LOW_CONF, LOW_IOU, top)
        return expected, model.detect([pixels], LOW_CONF, LOW_IOU, top)[0]

    images = f"{counted(len(shards), 'image')} of {shards.split or 'all'}"
    echo(f"comparing on {images} and 4 of unusual sizes ...", err=True)
    every = [both(picture(shards, i)) for i in tqdm(range(len(shards)), "certify", disable=None)]
    extra = comparison.awkward(picture(shards, chosen[0]))
    answers = {str(shards.table.key[i]): every[i] for i in chosen} | {key: both(x) for key, x in extra.items()}
    some = any((answer[0][1] >= PAIR_CONF).any() for answer in answers.values())
    conf = PAIR_CONF if some else LOW_CONF
    matched = excused = 0
    box = score = 0.0
    number_of = {str(shards.table.key[i]): i for i in chosen}
    for key, (expected, actual) in answers.items():
        row = number_of.get(key)
        height, width = extra[key].shape[:2] if row is None else (shards.table.height[row], shards.table.width[row])
        wide = max(1.0, height / size[0], width / size[1]) if half else 1.0
        allowed = replace(tolerance, box=tolerance.box * wide, sliver=tolerance.sliver * wide)
        parts = (comparison.above(boxes, conf - tolerance.score) for boxes in (expected, actual))
        result = comparison.compare(*parts, conf=conf, iou=LOW_IOU, top=top, tolerance=allowed)
        if result.fault:
            pixels = extra[key] if row is None else picture(shards, row)
            # the candidates of NMS; among those that score as low as the last one, any may be the last
            [candidates] = detect(detector, [pixels], size, fit, torch.device("cpu"), 0.0, 1.0, CANDIDATES)
            last = max(conf, float(candidates[1].min(initial=1)))
            parts = (comparison.above(boxes, last - tolerance.score) for boxes in (expected, actual))
            result = comparison.compare(
                *parts, conf=last, iou=LOW_IOU, top=top, tolerance=allowed, candidates=candidates
            )
        if result.fault:
            stage = first_stage(detector, model, pixels, form, folder)
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
        "tolerance": asdict(tolerance),
        **machine(),
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("torch", "numpy", *form.NEEDS)},
    }


def first_stage(detector: Detector, model: Exported, pixels: Pixels, form: Any, folder: Path) -> str:
    """Return the first stage that differs; each stage is run on the inputs of the exported one.

    Args:
        form: the module of the model's format; folder: for the file of the stages.
    """
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
    file = folder / f"stages{form.SUFFIX}"
    names = [f"{stage}_{i}" for stage, part in own.items() for i in range(len(part))]
    traced = Stages(copy.deepcopy(detector).half(), size, fit) if model.facts["half"] else stages
    form.save(Flat(traced), model.facts, file, names)
    outputs = iter(form.running(file)(images.numpy(), LOW_CONF, LOW_IOU, SLOTS))
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
            if not gap <= (3e-2 if model.facts["half"] else 1e-3) * scale:
                return f"the {stage} (values of up to {float(scale):.3g} differ by {float(gap):.3g})"
    rounded = f"preprocessing, which rounds {int((off > 0).sum())} of {off.numel()} values to another grey level"
    return f"post-processing, or in {rounded}" if off.any() else "post-processing"

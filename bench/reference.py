"""Train our detectors and torchvision's, each by its own loop, and compare mAP, losses and speed.

    python bench/reference.py --shards BCCD --pretrained efficientnet-lite0-57934424.pth --work DIR \\
        --results bench/results/DATE.jsonl --plot docs/pictures/reference.png

The same in both: the backbone and its weights, frozen layers and norms, the layers of pyramid and heads, the anchors'
sizes, images and input size, horizontal flips, batch size, steps, AdamW with a linear warm-up over the first epoch and
a drop of the learning rate by 10, the seeds, and the thresholds of the evaluation. Each loop's own: decoding, resizing,
the order of images, initial weights of what is new, assignment, sampling, losses, weight decay of biases and norms
(torchvision's has it), and how boxes are decoded and selected. Theirs is the loop of torchvision's references/detection
with its preset "hflip" and `--opt adamw`, since SGD learns little in so few steps. Neither averages weights or clips
gradients.

Trainings take turns, ours and theirs, and are kept in DIR: those that are there, of the same data and values, are not
run again. The exit code is 1
if our mean mAP50 over the seeds is more than 0.01 below theirs.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import sys
import tempfile
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.figure import Figure
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from dataforge.analysis.charts import COLOURS, STYLE
from dataforge.bench.measure import record_rows
from dataforge.loading.loader import Loader
from dataforge.shards.reader import Shards
from trainers import dense, faster_rcnn, ssd
from trainers.checkpoint import load_detector
from trainers.config import Config
from trainers.models import backbones, pretrained, priors
from trainers.results import metrics
from trainers.results.evaluation import run
from trainers.results.truth import Predictions, truth_of_shards
from trainers.training import engine

LOOPS = ("ours", "torchvision")
MARGIN = 0.01  # of mAP50
LIMITS = {"conf": 0.001, "iou": 0.5, "top": 300}  # of the evaluation: score, NMS, detections of an image
TEST = "test"
SMOOTHED = 25  # steps over which the plot takes means
COMMON: dict[str, Any] = {
    "train_split": "train", "val_split": "", "augment": "flip", "batch_size": 2, "epochs": 3, "milestones": [2],
    "optimizer": "adamw", "lr": 7e-4, "weight_decay": 0.02, "bias_lr": 1.0, "schedule": "step", "ema": 0.0,
    "clip": 0.0, "backbone": "tf_efficientnet_lite0", "freeze": 5, "threads": 1, "keep": 1, "defaults": "paper",
}  # fmt: skip
SETTINGS: dict[str, tuple[type[Config], dict[str, Any]]] = {
    "ssd": (ssd.SSDConfig, {"size": [288, 288], "fit": "stretch"}),
    "dense": (dense.DenseConfig, {"size": [144, 192], "channels": 3, "levels": 3, "width": 64, "depth": 4, "lr": 3e-4}),
    "faster_rcnn": (faster_rcnn.FasterRCNNConfig, {"size": [144, 192], "width": 64, "regions": 64, "lr": 3e-4}),
}


def settings(detector: str, shards: Path, weights: Path, seed: int) -> Any:
    """Return the configuration of both trainings."""
    kind, own = SETTINGS[detector]
    steps = math.ceil(len(Shards(shards, COMMON["train_split"])) / COMMON["batch_size"])
    values = COMMON | own | {"shards": str(shards), "pretrained": str(weights), "seed": seed}
    config = kind(**values, warmup_steps=steps - 1)
    config.check()
    return config


def train_ours(detector: str, config: Config) -> tuple[list[float], Callable[[Loader], Predictions]]:
    """Train by our loop; return the loss of each step, and the function that detects on a loader's images."""
    with tempfile.TemporaryDirectory() as config.runs:
        path = engine.train(config, detector)
        with open(path / "steps.csv", encoding="utf-8", newline="") as file:
            losses = [float(row["loss"]) for row in csv.DictReader(file)]
        model, _ = load_detector(path)
    return losses, lambda loader: run(model, loader, "cpu", **LIMITS)


class Maps(nn.Module):
    """Feature maps by name, and their number of channels, as torchvision's detectors take them from a backbone."""

    def __init__(self, body: Callable[[Tensor], Any], pyramid: nn.Module | None, out_channels: Any) -> None:
        super().__init__()
        self.body, self.pyramid, self.out_channels = body, pyramid or nn.Identity(), out_channels

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        return self.pyramid(OrderedDict((str(i), level) for i, level in enumerate(self.body(images))))


def torchvision_model(detector: str, config: Any, classes: int) -> nn.Module:
    """Return torchvision's detector on our backbone, whose layer of normalisation is its own."""
    height, width = config.size
    plain: dict[str, Any] = {"image_mean": [0.0] * 3, "image_std": [1.0] * 3}
    kept = dict(zip(("score_thresh", "nms_thresh", "detections_per_img"), LIMITS.values(), strict=True))
    if detector == "ssd":
        ours = ssd.SSD(classes, backbone=config.backbone, freeze=config.freeze)
        pretrained.load(ours.backbone, config.pretrained)
        channels = [head.in_channels for head in ours.regress]
        ours.forward = ours.features  # type: ignore[method-assign]
        ours.regress, ours.classify = nn.ModuleList(), nn.ModuleList()
        ratios = [list(ratio) for ratio in priors.RATIOS[6]]
        boxes = DefaultBoxGenerator(ratios, scales=list(priors.SCALES["paper", 6]))
        return detection.ssd.SSD(Maps(ours, None, channels), boxes, (width, height), classes + 1, **plain, **kept)  # type: ignore[arg-type]
    plain |= {"min_size": height, "max_size": width}
    strides = (8, 16, 32) if detector == "dense" else (4, 8, 16, 32)
    backbone = backbones.build(config.backbone, strides=strides)
    pretrained.load(backbone, config.pretrained)
    backbone.freeze(config.freeze, norms=pretrained.frozen_norm(config))
    extra = None if detector == "dense" else LastLevelMaxPool()
    pyramid = FeaturePyramidNetwork(list(backbone.channels), config.width, extra)
    maps = Maps(backbone, pyramid, config.width)
    if detector == "dense":
        sizes = tuple(tuple(int(s * 2 ** (k / 3)) for k in range(3)) for s in (32, 64, 128))
        made = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * 3)
        return detection.RetinaNet(maps, classes, anchor_generator=made, **plain, **kept)
    made = AnchorGenerator(tuple(map(tuple, faster_rcnn.SIZES["fpn"])), ((0.5, 1.0, 2.0),) * 5)  # type: ignore[arg-type]
    last = 4 * config.width
    head, predictor = TwoMLPHead(config.width * 49, last), FastRCNNPredictor(last, classes + 1)
    parts = {"rpn_anchor_generator": made, "box_head": head, "box_predictor": predictor}
    parts |= {"box_batch_size_per_image": config.regions, **{f"box_{key}": given for key, given in kept.items()}}
    return detection.FasterRCNN(maps, **parts, **plain)


def sample(shards: Shards, row: int, first_label: int, flip: bool) -> tuple[Tensor, dict[str, Tensor]]:
    """Return an image (3, H, W) in 0..1 and its target, as torchvision's preset "hflip" makes them."""
    record = shards.table.take(np.array([row]))
    image = torch.from_numpy(shards.pixels(row)).permute(2, 0, 1).float() / 255
    boxes = torch.from_numpy(np.array(record.boxes))
    if flip:
        image = image.flip(-1)
        boxes[:, [0, 2]] = image.shape[-1] - boxes[:, [2, 0]]
    return image, {"boxes": boxes, "labels": torch.from_numpy(np.array(record.labels)).long() + first_label}


def train_theirs(detector: str, config: Any) -> tuple[list[float], Callable[[Loader], Predictions]]:
    """Train by torchvision's loop (references/detection/train.py and engine.py); the results are `train_ours`'."""
    torch.manual_seed(config.seed)
    shards = Shards(config.shards, config.train_split)
    first = 0 if detector == "dense" else 1  # of their classes; 0 is the background elsewhere
    model = torchvision_model(detector, config, len(shards.classes)).train()
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, config.lr, weight_decay=config.weight_decay)
    drops = torch.optim.lr_scheduler.MultiStepLR(optimizer, config.milestones, 0.1)
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, 1e-3, total_iters=min(1000, config.warmup_steps))
    losses = []
    for epoch in range(config.epochs):
        for rows in torch.randperm(len(shards)).split(config.batch_size):
            drawn = [sample(shards, row, first, bool(torch.rand(()) < 0.5)) for row in rows.tolist()]
            loss = sum(model([image for image, _ in drawn], [target for _, target in drawn]).values())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            if epoch == 0:
                warmup.step()
        drops.step()
    return losses, partial(detect, model.eval(), first)


@torch.no_grad()
def detect(model: nn.Module, first_label: int, loader: Loader) -> Predictions:
    shards = loader.shards
    found = [model([sample(shards, row, 0, False)[0]])[0] for row in range(len(shards))]
    image = np.repeat(np.arange(len(shards)), [len(each["scores"]) for each in found])
    boxes, scores, labels = (torch.cat([each[key] for each in found]).numpy() for key in ("boxes", "scores", "labels"))
    return Predictions(image, boxes.astype(np.float64), scores.astype(np.float64), labels - first_label)


def training(detector: str, loop: str, config: Config) -> dict[str, Any]:
    """Train and evaluate."""
    clock, processor = time.perf_counter(), time.process_time()
    losses, detected = (train_ours if loop == "ours" else train_theirs)(detector, config)
    clock, processor = time.perf_counter() - clock, time.process_time() - processor
    size = (config.size[0], config.size[1])
    loader = Loader(config.shards, TEST, batch_size=4, size=size, fit=config.fit, shuffle=False, threads=1)
    scores = metrics.coco(truth_of_shards(loader.shards), detected(loader))
    images = config.epochs * len(Shards(config.shards, config.train_split))
    return {"losses": losses, "mAP50": scores["AP50"], "mAP50-95": scores["AP"],
            "img/s": images / clock, "img/processor s": images / processor}  # fmt: skip


def recipe(detector: str) -> dict[str, Any]:
    return COMMON | SETTINGS[detector][1]


def rows(detector: str, data: str, runs: dict[str, list[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a detector, of the results of `training` by loop, in the order of the seeds."""
    same = {"runs": len(runs["ours"]), "data": f"{data}, train to {TEST}", "recipe": recipe(detector)}
    for unit in ("mAP50", "mAP50-95", "img/s", "img/processor s"):
        for loop in LOOPS:
            each = [round(result[unit], 4) for result in runs[loop]]
            yield {"name": f"{detector}, {loop}", "value": round(mean(each), 4), "unit": unit, "each": each, **same}
    less = mean(result["mAP50"] for result in runs["ours"]) - mean(result["mAP50"] for result in runs["torchvision"])
    yield {"name": f"{detector}, ours less torchvision", "value": round(less, 4), "unit": "mAP50", **same}


def draw(results: dict[str, dict[str, list[dict[str, Any]]]], file: Path) -> None:
    """Draw the losses of all seeds, means over `SMOOTHED` steps, one chart a detector."""
    with rc_context(STYLE):
        figure = Figure((4.7 * len(results), 3.2), layout="constrained")
        axes = figure.subplots(1, len(results), squeeze=False)[0]
        for axis, (detector, runs) in zip(axes, results.items(), strict=True):
            for loop, colour in zip(LOOPS, COLOURS, strict=False):
                for seed, result in enumerate(runs[loop]):
                    losses = np.convolve(result["losses"], np.ones(SMOOTHED) / SMOOTHED, "valid")
                    steps = np.arange(len(losses)) + SMOOTHED
                    axis.plot(steps, losses, color=colour, linewidth=1, label="" if seed else loop)
            axis.set(title=detector, xlabel="step", ylabel="loss", ylim=(0, None))
            axis.legend()
        figure.savefig(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=Path, required=True)
    parser.add_argument("--pretrained", type=Path, required=True, help="weights of an EfficientNet-Lite0")
    parser.add_argument("--work", type=Path, required=True, help="folder of the results of trainings")
    parser.add_argument("--detectors", default=",".join(SETTINGS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--results", type=Path, help="file that the rows are added to")
    parser.add_argument("--plot", type=Path, help="picture of the losses")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    results: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for detector in given.detectors.split(","):
        runs = results.setdefault(detector, {loop: [] for loop in LOOPS})
        for seed in range(given.seeds):
            for loop in LOOPS:
                same = json.dumps([Shards(given.shards).fingerprint, recipe(detector)])
                file = given.work / f"{detector}-{loop}-{seed}-{zlib.crc32(same.encode()):08x}.json"
                if not file.exists():
                    config = settings(detector, given.shards, given.pretrained, seed)
                    file.write_text(json.dumps(training(detector, loop, config)))
                runs[loop].append(json.loads(file.read_text()))
                shown = {key: round(number, 3) for key, number in runs[loop][-1].items() if key != "losses"}
                print(detector, loop, "seed", seed, shown, flush=True)
    found = [row for detector, runs in results.items() for row in rows(detector, given.shards.name, runs)]
    record_rows(found, given.results)
    if given.plot:
        draw(results, given.plot)
    worse = [row for row in found if "less" in row["name"] and row["value"] < -MARGIN]
    sys.exit(f"worse than torchvision's: {', '.join(row['name'] for row in worse)}" if worse else 0)


if __name__ == "__main__":
    main()

"""Legend: B images, K detections, C classes.

Mean average precision of a checkpoint on shards, or of finished detections against a truth:

    python -m trainers.evaluate CKPT --shards DIR --split val
    python -m trainers.evaluate --truth instances.json --predictions detections.json

torch is imported where a model is at work, so that the second form starts at once.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
import numpy as np
from numpy.typing import NDArray

from dataforge.command import Command
from dataforge.errors import ConfigError, DataError
from dataforge.shards.reader import Shards
from trainers import metrics
from trainers.truth import (
    Predictions,
    Truth,
    coco_rows,
    finite_or_none,
    read_predictions,
    truth_of_coco,
    truth_of_shards,
)

if TYPE_CHECKING:
    import torch

    from dataforge.loader import Loader
    from trainers.detector import Detector

PROTOCOLS = {
    "coco": "COCO: IoU 0.50:0.05:0.95, 101 recall points, at most 100 detections an image and class, matched greedily "
    "by score to the free box of highest IoU; crowd boxes take any number of detections and count neither way; "
    "difficult boxes count as any other; size bins by object area in source pixels: small up to 32^2, medium to 96^2, "
    "large above; -1 where there is no such object",
    "voc07": "PASCAL VOC 2007: IoU 0.5, mean precision at 11 recall points, no limit on detections; each detection "
    "goes to the box of highest IoU, the best score takes it, the rest are false; difficult and crowd boxes count "
    "neither way; no size bins; classes without boxes are left out of the mean",
    "voc12": "PASCAL VOC 2010-2012: IoU 0.5, area under the whole precision/recall curve, no limit on detections; each "
    "detection goes to the box of highest IoU, the best score takes it, the rest are false; difficult and crowd boxes "
    "count neither way; no size bins; classes without boxes are left out of the mean",
}


def run(
    detector: Detector,
    loader: Loader,
    device: torch.device | str,
    *,
    conf: float = 0.001,
    iou: float = 0.5,
    top: int = 300,
) -> Predictions:
    """Detect on all that a loader gives, on all ranks, each record exactly once.

    Under `torch.distributed` every rank calls it with its own share and gets the whole; the result is the same for any
    number of ranks.

    Args:
        detector: is left in the mode it came in.
        loader: one pass is taken. It must reach every record of its shards: `shuffle=False`, no augmentation.
        conf, iou, top: as in `Detector.decode`.

    Returns:
        boxes in source pixels, clipped to the image (what has no area then is left out); `image` is the record number.

    Raises:
        DataError: a record never came.
    """
    import torch

    from trainers.process import gathered

    training = detector.training
    detector.eval()
    table = loader.shards.source
    visits, image, boxes, scores, labels = [], [], [], [], []  # a visit: one record in one batch
    seen = 0
    with torch.inference_mode():
        for batch in loader:
            batch = batch.to(device)
            found = detector.decode(detector(batch.images), conf=conf, iou=iou, top=top).to_source(batch.affine)
            row, place = torch.nonzero(found.labels >= 0, as_tuple=True)
            visits.append(batch.index.cpu().numpy())
            image.append(row.cpu().numpy() + seen)
            boxes.append(found.boxes[row, place].cpu().numpy())
            scores.append(found.scores[row, place].float().cpu().numpy())
            labels.append(found.labels[row, place].cpu().numpy())
            seen += len(batch.index)
    detector.train(training)
    mine = [np.concatenate([e, *x]) for e, x in zip(_EMPTY, (visits, image, boxes, scores, labels), strict=True)]
    shares = gathered(mine)
    starts = np.cumsum([0, *(len(share[0]) for share in shares[:-1])])
    for share, start in zip(shares, starts, strict=True):
        share[1] = share[1] + start
    every, visit, box, score, label = (np.concatenate(column) for column in zip(*shares, strict=True))

    records, first = np.unique(every, return_index=True)  # a record that came twice, as padding, counts once
    missing = np.setdiff1d(np.arange(len(table)), records)
    if len(missing):
        raise DataError(
            f"{len(missing)} of {len(table)} records were not evaluated; the first is "
            f"{loader.shards.place(int(missing[0]))}"
        )
    counts = np.zeros(len(every), bool)
    counts[first] = True
    record = every[visit]
    limit = np.stack([table.width, table.height] * 2, 1)[record]
    box = np.clip(box.astype(np.float64), 0, limit)
    keep = np.flatnonzero(counts[visit] & (box[:, 2:] > box[:, :2]).all(1))
    keep = keep[np.argsort(record[keep], kind="stable")]
    return Predictions(record[keep], box[keep], score[keep].astype(np.float64), label[keep])


_EMPTY: tuple[NDArray[Any], ...] = (
    np.zeros(0, np.int64),
    np.zeros(0, np.int64),
    np.zeros((0, 4), np.float32),
    np.zeros(0, np.float32),
    np.zeros(0, np.int64),
)


def by_name(predictions: Predictions, classes: tuple[str, ...], truth: Truth) -> Predictions:
    """Move labels from a detector's classes to the truth's; what the truth does not know is left out.

    Raises:
        ConfigError: no name in common.
    """
    place = {name: label for label, name in enumerate(truth.classes)}
    label = np.array([place.get(name, -1) for name in classes], np.int64)
    if not (label >= 0).any():
        raise ConfigError(
            f"the checkpoint's classes ({', '.join(classes)}) and the truth's ({', '.join(truth.classes)}) have none "
            "in common"
        )
    labels = label[predictions.labels]
    keep = labels >= 0
    return Predictions(predictions.image[keep], predictions.boxes[keep], predictions.scores[keep], labels[keep])


def report(truth: Truth, predictions: Predictions, protocol: str) -> tuple[dict[str, Any], str]:
    """The numbers as `--json` prints them, and as text with a table of the classes."""
    names = metrics.class_names(truth)
    boxes = np.bincount(truth.labels, minlength=len(names))
    wide = max(5, *map(len, names), 0)
    if protocol == "coco":
        numbers, ap, ap50 = metrics.coco_per_class(truth, predictions)
        head = [f"{name:<5} {value:7.4f}" for name, value in numbers.items()]
        title = f"{'class':<{wide}}  {'boxes':>7}  {'AP':>7}  {'AP50':>7}"
        rows = zip(names, boxes, ap, ap50, strict=True)
        table = [f"{n:<{wide}}  {b:>7}  {_cell(x)}  {_cell(y)}" for n, b, x, y in rows]
        result: dict[str, Any] = dict(numbers)
    else:
        found = metrics.voc(truth, predictions, protocol)
        head = [f"mAP   {_cell(found['mAP'])}"]
        title = f"{'class':<{wide}}  {'boxes':>7}  {'AP':>7}"
        table = [
            f"{n:<{wide}}  {b:>7}  {_cell(x)}"
            for n, b, x in zip(names, boxes, found["per_class"].values(), strict=True)
        ]
        result = finite_or_none({"mAP": found["mAP"]}) | {"per_class": finite_or_none(found["per_class"])}
    images = f"{len(truth.image_ids)} images, {len(truth.boxes)} boxes, {len(predictions.scores)} detections"
    return result, "\n".join([f"protocol: {PROTOCOLS[protocol]}", images, *head, "", title, *table])


def _cell(value: float) -> str:
    return "      -" if np.isnan(value) else f"{value:7.4f}"


def write_json(file: Path, rows: list[dict[str, Any]]) -> None:
    """Write detections in COCO's result format.

    Raises:
        ConfigError: the file cannot be written.
    """
    try:
        file.write_bytes(msgspec.json.encode(rows))
    except OSError as error:
        raise ConfigError(f"{file}: cannot be written: {error.strerror}") from None


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("checkpoint", required=False, type=click.Path(path_type=Path))
@click.option("--shards", type=click.Path(path_type=Path), help="Shards to detect on.")
@click.option("--truth", type=click.Path(path_type=Path), help="COCO instances.json or shards, with --predictions.")
@click.option("--predictions", type=click.Path(path_type=Path), help="COCO-format detections, instead of a checkpoint.")
@click.option("--split", help="Split of the shards; default: val with a checkpoint, all with --truth.")
@click.option("--protocol", type=click.Choice(["coco", "voc07", "voc12"]), default="coco", show_default=True)
@click.option("--conf", type=click.FloatRange(0, 1), default=0.001, show_default=True, help="Lowest score kept.")
@click.option("--iou", type=click.FloatRange(0, 1), default=0.5, show_default=True, help="Overlap for NMS.")
@click.option("--batch-size", type=click.IntRange(1), default=16, show_default=True)
@click.option("--device", default="auto", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
@click.option("--save-json", type=click.Path(path_type=Path), help="Write the detections in COCO's result format.")
def main(
    checkpoint: Path | None,
    shards: Path | None,
    truth: Path | None,
    predictions: Path | None,
    split: str | None,
    protocol: str,
    conf: float,
    iou: float,
    batch_size: int,
    device: str,
    as_json: bool,
    save_json: Path | None,
) -> None:
    """Average precision of CHECKPOINT on --shards, or of --predictions against --truth."""
    if checkpoint and shards and not truth and not predictions:
        known, found = _of_checkpoint(checkpoint, shards, split or "val", conf, iou, batch_size, device)
        if int(os.environ.get("RANK", "0")):
            return
    elif truth and predictions and not checkpoint and not shards:
        known = _truth(truth, split)
        found = read_predictions(predictions, known)
        if protocol == "coco" and known.ids is not None and not known.ids.all():
            click.echo(
                f"note: {truth}: like COCO's own evaluation, this one never counts the box with annotation id 0 as "
                "found; number annotations from 1",
                err=True,
            )
    else:
        raise ConfigError("expected either CHECKPOINT and --shards, or --truth and --predictions")
    if save_json:
        write_json(save_json, coco_rows(found, known.image_ids, known.class_ids))
    result, text = report(known, found, protocol)
    click.echo(json.dumps(result, ensure_ascii=False, allow_nan=False) if as_json else text)


def _truth(path: Path, split: str | None) -> Truth:
    if path.is_dir():
        return truth_of_shards(Shards(path, split))
    if split:
        raise ConfigError(f"--split {split} is for shards; {path} is a file")
    return truth_of_coco(path)


def _of_checkpoint(
    file: Path, shards: Path, split: str, conf: float, iou: float, batch_size: int, device: str
) -> tuple[Truth, Predictions]:
    import torch.distributed as dist

    from dataforge.loader import Loader
    from trainers.checkpoint import load_detector
    from trainers.process import place

    detector, checkpoint = load_detector(file)
    rank, world, where = place(device)
    loader = Loader(
        shards,
        split=split,
        batch_size=batch_size,
        size=tuple(checkpoint["size"]),
        fit=checkpoint["fit"],
        device=where,
        shuffle=False,
        rank=rank,
        world=world,
    )
    truth = truth_of_shards(loader.shards)
    try:
        found = run(detector.to(where), loader, where, conf=conf, iou=iou)
    finally:
        if world > 1:
            dist.destroy_process_group()
    classes = tuple(checkpoint["classes"])
    for owner, names, others in (("checkpoint", classes, truth.classes), ("shards", truth.classes, classes)):
        alone = [name for name in names if name not in others]
        if alone and not rank:
            click.echo(f"note: only the {owner} knows: {', '.join(alone)}", err=True)
    return truth, by_name(found, classes, truth)


if __name__ == "__main__":
    main()

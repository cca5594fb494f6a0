"""Legend: B images, K detections, C classes.

Evaluation of a detector on shards, and its average precision as numbers and as a table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dataforge.command import columns
from dataforge.errors import ConfigError, DataError, counted
from trainers.results import metrics
from trainers.results.truth import Predictions, Truth, finite_or_none

if TYPE_CHECKING:
    import torch

    from dataforge.loading.loader import Loader
    from trainers.models.detector import Detector

PROTOCOLS = {
    "coco": "COCO: IoU 0.50:0.05:0.95, 101 recall points, at most 100 detections per image and class, matched greedily "
    "by score to the free box of highest IoU; crowd boxes take any number of detections and count neither way; "
    "difficult boxes count as any other; size bins by object area in source pixels: small up to 32^2, medium to 96^2, "
    "large above; -1 where there is no such object",
    "lvis": "LVIS: as COCO, but at most 300 detections an image; detections of classes that were not looked for in "
    "their image do not count, nor do unmatched ones of classes of which boxes may be missing; APr, APc and APf are "
    "the means over rare, common and frequent classes",
    "voc07": "PASCAL VOC 2007: IoU 0.5, mean precision at 11 recall points, no limit on detections; each detection "
    "goes to the box of highest IoU, the best score takes it, the rest are false; difficult and crowd boxes count "
    "neither way; no size bins; classes without boxes are left out of the mean",
    "voc12": "PASCAL VOC 2010-2012: IoU 0.5, area under the whole precision/recall curve, no limit on detections; each "
    "detection goes to the box of highest IoU, the best score takes it, the rest are false; difficult and crowd boxes "
    "count neither way; no size bins; classes without boxes are left out of the mean",
}


PER_CLASS = {"coco": metrics.coco_per_class, "lvis": metrics.lvis_per_class}


def run(
    detector: Detector,
    loader: Loader,
    device: torch.device | str,
    *,
    conf: float = 0.001,
    iou: float = 0.5,
    top: int = 300,
) -> Predictions:
    """Detect on all images of a loader, on all ranks, each record exactly once.

    Under `torch.distributed` every rank calls it with its own share and gets the complete result, which is the same
    for any number of ranks.

    Args:
        detector: its mode (training or evaluation) is kept.
        loader: read once. It must yield every record of its shards: `shuffle=False`, no augmentation.
        conf, iou, top: as in `Detector.decode`.

    Returns:
        Boxes in source pixels, clipped to the image (those without area are removed); `image` is the record number.

    Raises:
        DataError: the loader skipped a record.
    """
    import torch

    from trainers.distributed import gathered
    from trainers.models.detector import evaluating

    table = loader.shards.source
    visits, image, boxes, scores, labels = [], [], [], [], []  # a visit: one record in one batch
    seen = 0
    with evaluating(detector):
        for batch in loader:
            batch = batch.to(device)
            detections = detector.decode(detector(batch.images), conf=conf, iou=iou, top=top).to_source(batch.affine)
            row, column = torch.nonzero(detections.labels >= 0, as_tuple=True)
            visits.append(batch.index.cpu().numpy())
            image.append(row.cpu().numpy() + seen)
            boxes.append(detections.boxes[row, column].cpu().numpy())
            scores.append(detections.scores[row, column].float().cpu().numpy())
            labels.append(detections.labels[row, column].cpu().numpy())
            seen += len(batch.index)
    own = [np.concatenate([e, *x]) for e, x in zip(_EMPTY, (visits, image, boxes, scores, labels), strict=True)]
    shares = gathered(own)
    starts = np.cumsum([0, *(len(share[0]) for share in shares[:-1])])
    for share, start in zip(shares, starts, strict=True):
        share[1] = share[1] + start
    every, visit, box, score, label = (np.concatenate(column) for column in zip(*shares, strict=True))

    records, first = np.unique(every, return_index=True)  # a record that occurs twice, as padding, counts once
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
    """Map labels from a detector's classes to the truth's by name; classes that the truth lacks are skipped.

    Raises:
        ConfigError: there is no common name.
    """
    label_of = {name: label for label, name in enumerate(truth.classes)}
    label = np.array([label_of.get(name, -1) for name in classes], np.int64)
    if not (label >= 0).any():
        raise ConfigError(
            f"the checkpoint's classes ({', '.join(classes)}) and the truth's ({', '.join(truth.classes)}) have none "
            "in common"
        )
    labels = label[predictions.labels]
    return replace(predictions, labels=labels, known=np.unique(label[label >= 0])).where(labels >= 0)


def with_ancestors(truth: Truth, predictions: Predictions) -> Predictions:
    """Repeat detections for the classes above theirs for which true boxes count, too, and that the detector lacks.

    A detector that was trained on the leaves of a hierarchy is evaluated so on the whole of it.
    """
    if not truth.above or predictions.known is None:
        return predictions
    lacking = [{*above}.difference(predictions.known.tolist()) for above in truth.above]
    labels = [[label, *sorted(lacking[label])] for label in predictions.labels.tolist()]
    index = np.repeat(np.arange(len(labels)), np.array([*map(len, labels)], np.int64))
    return replace(predictions.where(index), labels=np.array([one for each in labels for one in each], np.int64))


def report(truth: Truth, predictions: Predictions, protocol: str) -> tuple[dict[str, Any], str]:
    """Return the numbers as printed by `--json`, and as text with a table of the classes."""
    names = metrics.class_names(truth)
    boxes = np.bincount(truth.labels, minlength=len(names))
    table: list[Sequence[object]]
    if protocol in PER_CLASS:
        numbers, ap, ap50 = PER_CLASS[protocol](truth, predictions)
        head = [f"{name:<5} {value:7.4f}" for name, value in numbers.items()]
        table = [("class", "boxes", "AP", "AP50"), *zip(names, boxes, map(_cell, ap), map(_cell, ap50), strict=True)]
        result: dict[str, Any] = dict(numbers)
    else:
        average = metrics.voc(truth, predictions, protocol)
        head = [f"mAP   {_cell(average['mAP'])}"]
        per_class = map(_cell, average["per_class"].values())
        table = [("class", "boxes", "AP"), *zip(names, boxes, per_class, strict=True)]
        result = finite_or_none({"mAP": average["mAP"]}) | {"per_class": finite_or_none(average["per_class"])}
    result["best"] = best = best_threshold(truth, predictions)
    if best["conf"] is not None:
        words = ", ".join(f"{name} {best[name]:.4f}" for name in ("precision", "recall", "F1"))
        head += ["", f"best F1 at --conf {best['conf']:.3f}: {words} (IoU 0.5, mean of the classes)"]
    images = f"{counted(len(truth.image_ids), 'image')}, {counted(len(truth.boxes), 'box')}"
    images += f", {counted(len(predictions.scores), 'detection')}"
    return result, "\n".join([f"protocol: {PROTOCOLS[protocol]}", images, *head, "", columns(table)])


def best_threshold(truth: Truth, predictions: Predictions) -> dict[str, float | None]:
    """Return the score threshold "conf" of the highest mean F1 at an IoU of 0.5, and the means there.

    Returns:
        "conf", "precision", "recall" and "F1"; None without boxes.
    """
    curves = metrics.curves(truth, predictions)
    measured, at = ~np.isnan(curves.ap), int(np.searchsorted(curves.conf, curves.best))
    means = {"precision": curves.precision, "recall": curves.recall_at, "F1": curves.f1}
    if not measured.any():
        return dict.fromkeys(("conf", *means))
    best: dict[str, float | None] = {"conf": curves.best}
    return best | {name: float(values[measured, at].mean()) for name, values in means.items()}


def _cell(value: float) -> str:
    return "      -" if np.isnan(value) else f"{value:7.4f}"

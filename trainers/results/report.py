"""Pictures and metrics of a run: its inputs, its detections, their scores, a trace of its steps."""

from __future__ import annotations

from pathlib import Path

import torch

from dataforge.loading.loader import Loader
from trainers.models.detector import Detector
from trainers.results import metrics, plots
from trainers.results.evaluation import run
from trainers.results.truth import truth_of_shards

SHOWN = 16  # validation images in a picture
CONFIDENCE = 0.25  # of the detections in it


def draw_inputs(folder: Path, loader: Loader) -> None:
    """Write `labels.jpg` and `train_batch0.jpg`; the loader is reset to the start of its epoch."""
    plots.labels(folder / "labels.jpg", loader.shards.table, loader.classes)
    batch = next(iter(loader))
    loader.set_epoch(loader.epoch)
    plots.mosaic(folder / "train_batch0.jpg", batch.images, batch.boxes, batch.labels, loader.classes)


def score(detector: Detector, loader: Loader, folder: Path | None = None) -> dict[str, float]:
    """Compute COCO's 12 metrics on a split; all ranks must call it.

    Args:
        folder: where curves, the confusion matrix and pictures of the first images are written; None to skip them.
    """
    predictions = run(detector, loader, loader.device)
    truth = truth_of_shards(loader.shards)
    if folder:
        plots.curves(folder, metrics.curves(truth, predictions), loader.classes)
        plots.confusion_matrix(folder / "confusion_matrix.png", metrics.confusion(truth, predictions), loader.classes)
        rows = list(range(min(SHOWN, len(loader.shards))))
        plots.on_images(folder / "val_labels.jpg", loader.shards, rows, truth, loader.classes)
        sure = predictions.where(predictions.scores >= CONFIDENCE)
        plots.on_images(folder / "val_predictions.jpg", loader.shards, rows, sure, loader.classes)
    return metrics.coco(truth, predictions)


def trace(folder: Path) -> torch.profiler.profile:
    """Return a profiler, to be used as a context manager, of the three steps after the first three.

    It writes `folder/trace.json` after them, or when it is closed, if earlier.
    """

    def write(profiler: torch.profiler.profile) -> None:
        profiler.export_chrome_trace(str(folder / "trace.json"))

    plan = torch.profiler.schedule(wait=2, warmup=1, active=3, repeat=1)
    return torch.profiler.profile(schedule=plan, on_trace_ready=write)

"""Charts of an evaluation: each draws on axes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from dataforge.analysis.charts import COLOURS, shown
from trainers.results.calibration import Calibration
from trainers.results.diagnosis import KINDS, Errors
from trainers.results.metrics import Curves

FEW = 8  # classes; of more, the lines are grey and have no names


def errors(axis: Axes, result: Errors) -> None:
    """Draw the gain in AP50 of each kind of error."""
    axis.barh(range(len(KINDS)), [result.gains[kind] for kind in KINDS], color=COLOURS[0])
    axis.set_yticks(range(len(KINDS)), list(KINDS))
    axis.invert_yaxis()
    axis.set_xlabel("gain in AP50")


def precision_recall(axis: Axes, curves: Curves, names: Sequence[str]) -> None:
    """Draw precision against recall at IoU 0.5: each class and their mean."""
    of_classes = [f"{name} {ap:.3f}" for name, ap in zip(_names(names), curves.ap, strict=True)]
    measured = curves.ap[~np.isnan(curves.ap)]
    mean = f"all classes {measured.mean() if len(measured) else 0:.3f} mAP50 (voc12)"
    _lines(axis, curves.recall, curves.at_recall, curves, of_classes, mean)
    axis.set(xlabel="recall", ylabel="precision")


def threshold(axis: Axes, curves: Curves, names: Sequence[str], quantity: str) -> None:
    """Draw a quantity against the score threshold: each class, their mean, and the threshold of the highest mean F1.

    Args:
        quantity: "F1", "precision" or "recall".
    """
    values = {"F1": curves.f1, "precision": curves.precision, "recall": curves.recall_at}[quantity]
    measured = ~np.isnan(curves.ap)
    best = values[measured, int(np.argmin(np.abs(curves.conf - curves.best)))].mean() if measured.any() else 0.0
    mean = f"all classes {best:.3f} at {curves.best:.3f}"
    _lines(axis, curves.conf, values, curves, _names(names), mean)
    axis.axvline(curves.best, color="grey", linestyle=":")
    axis.set(xlabel="score threshold (dotted: of the highest mean F1)", ylabel=quantity)


def reliability(axis: Axes, result: Calibration) -> None:
    """Draw the share of right detections against their mean score."""
    known = result.count > 0
    axis.plot([0, 1], [0, 1], color="grey", linestyle=":")
    axis.plot(result.score[known], result.precision[known], marker="o", color=COLOURS[0])
    axis.set(xlabel="mean score", ylabel="share of right detections", xlim=(0, 1), ylim=(0, 1.02))


def _names(names: Sequence[str]) -> list[str]:
    return [shown(name, f"class {c}") for c, name in enumerate(names)]


def _lines(
    axis: Axes, x: np.ndarray, values: np.ndarray, curves: Curves, of_classes: Sequence[str], of_mean: str
) -> None:
    """Draw a line for each class with boxes and a thick one for their mean."""
    measured = np.flatnonzero(~np.isnan(curves.ap))
    few = len(measured) <= FEW
    for i, c in enumerate(measured.tolist()):
        look = {"color": COLOURS[i], "label": of_classes[c]} if few else {"color": "grey", "alpha": 0.35}
        axis.plot(x, values[c], linewidth=1.2, **look)
    if len(measured):
        axis.plot(x, values[measured].mean(0), color="black", linewidth=2.5, label=of_mean)
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=2)
    axis.set(xlim=(0, 1), ylim=(0, 1.02))

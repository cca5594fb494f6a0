"""Charts of an evaluation, as PNG."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dataforge.analysis.charts import COLOURS, STYLE, shown
from trainers.results.diagnosis import KINDS, Calibration, Errors
from trainers.results.metrics import Curves


def errors(result: Errors) -> bytes:
    """Draw the gain in AP50 of each kind of error."""

    def paint(axis: Axes) -> None:
        axis.barh(range(len(KINDS)), [result.gains[kind] for kind in KINDS], color=COLOURS[0])
        axis.set_yticks(range(len(KINDS)), list(KINDS))
        axis.invert_yaxis()
        axis.set_xlabel("gain in AP50")

    return _chart(paint)


def f1(curves: Curves, names: Sequence[str]) -> bytes:
    """Draw F1 against the score threshold: the first eight classes and the mean of all."""
    measured = np.flatnonzero(~np.isnan(curves.ap))

    def paint(axis: Axes) -> None:
        for c in measured[: len(COLOURS)].tolist():
            axis.plot(curves.conf, curves.f1[c], label=shown(names[c], f"class {c}"), color=COLOURS[c % len(COLOURS)])
        if len(measured):
            axis.plot(curves.conf, curves.f1[measured].mean(0), color="black", linewidth=3, label="mean of all classes")
            axis.axvline(curves.best, color="grey", linestyle=":")
            axis.legend()
        axis.set(xlabel="score threshold", ylabel="F1", xlim=(0, 1), ylim=(0, 1.02))

    return _chart(paint)


def reliability(result: Calibration) -> bytes:
    """Draw the share of right detections against their mean score."""

    def paint(axis: Axes) -> None:
        known = result.count > 0
        axis.plot([0, 1], [0, 1], color="grey", linestyle=":")
        axis.plot(result.score[known], result.precision[known], marker="o", color=COLOURS[0])
        axis.set(xlabel="mean score", ylabel="share of right detections", xlim=(0, 1), ylim=(0, 1.02))

    return _chart(paint)


def _chart(paint: Callable[[Axes], None]) -> bytes:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6, 3.8), layout="constrained")
        paint(figure.subplots())
        file = io.BytesIO()
        figure.savefig(file)
    return file.getvalue()

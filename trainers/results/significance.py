"""Legend: I images, R resamples.

How sure an average precision is, and whether two differ by more than chance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trainers.results.protocol import Protocol, judge, mean_of_classes, weighted_precision
from trainers.results.truth import Floats, Predictions, Truth


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """Two sets of detections on the same images.

    Attributes:
        first, second: their average precisions; difference: second minus first, over the same resamples.
        p: two-sided; the chance of a difference at least as large if the two were equally good.
    """

    first: Interval
    second: Interval
    difference: Interval
    p: float


def resampled(
    truth: Truth, predictions: Predictions, protocol: Protocol, *, resamples: int = 1000, seed: int = 0
) -> tuple[float, Floats]:
    """Compute an average precision, and those (R,) of R bootstrap resamples of the images (Efron, 1979).

    The same seed and number of images give the same resamples, so that two sets of detections can be compared pairwise.
    """
    judged = judge(truth, predictions, protocol)
    images = len(truth.image_ids)
    generator = np.random.default_rng(seed)

    def average(weights: Floats) -> float:
        return mean_of_classes(weighted_precision(judged, weights, protocol.points).mean(0))

    draws = (np.bincount(generator.integers(0, images, images), minlength=images) for _ in range(resamples))
    return average(np.ones(images)), np.array([average(weights.astype(np.float64)) for weights in draws])


def interval(value: float, samples: Floats) -> Interval:
    """Return a value with the 2.5th and 97.5th percentile of its resamples."""
    known = samples[~np.isnan(samples)]
    low, high = np.percentile(known, [2.5, 97.5]).tolist() if len(known) else (float("nan"),) * 2
    return Interval(value, low, high)


def compare(
    truth: Truth, first: Predictions, second: Predictions, protocol: Protocol, *, resamples: int = 1000, seed: int = 0
) -> Comparison:
    """Compare two sets of detections by a paired bootstrap over images.

    `p` is twice the smaller share of resamples in which the difference has the other sign or is 0, and at least
    2 / (R + 1).
    """
    (one, ones), (other, others) = (
        resampled(truth, each, protocol, resamples=resamples, seed=seed) for each in (first, second)
    )
    known = (others - ones)[~np.isnan(others - ones)]
    tail = min((known <= 0).sum(), (known >= 0).sum())
    p = min(1.0, 2 * (int(tail) + 1) / (len(known) + 1))
    return Comparison(interval(one, ones), interval(other, others), interval(other - one, known), p)

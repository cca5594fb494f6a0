"""How often an epoch takes each record."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dataforge.errors import ConfigError
from dataforge.rng import bits, uniform
from dataforge.shards.table import Table


def repeats_of(sampling: str | NDArray[np.float64], threshold: float, table: Table) -> NDArray[np.float64] | None:
    """Return how often an epoch takes each record: `plan`'s `repeats` for `sampling` and `repeat_threshold`.

    Raises:
        ConfigError: an unknown name, a threshold of 0 or less, or an array of wrong shape or with invalid numbers.
    """
    if isinstance(sampling, str):
        if sampling == "none":
            return None
        if sampling != "repeat-factor" or not threshold > 0:
            raise ConfigError(
                f"sampling is {sampling!r}, repeat_threshold {threshold}; expected none, repeat-factor or an "
                "array of how often to take each record, and a threshold above 0"
            )
        return repeat_factors(table.labels, table.image, len(table), threshold)
    repeats = np.asarray(sampling, np.float64)
    if repeats.shape != (len(table),) or not np.isfinite(repeats).all() or (repeats < 0).any():
        raise ConfigError(
            f"sampling: an array of shape {repeats.shape}; expected ({len(table)},) finite numbers from 0 on"
        )
    return repeats


def repeat_factors(
    labels: NDArray[np.int32], image: NDArray[np.int64], records: int, threshold: float = 0.001
) -> NDArray[np.float64]:
    """Return how often an epoch takes each record so that rare classes are seen more often: `plan`'s `repeats`.

    LVIS (Gupta et al. 2019, 1908.03195, appendix B): max over the record's classes of max(1, sqrt(threshold / f)),
    where f is the share of records that contain the class.

    Args:
        labels, image: (S,) each box's label and record.
        threshold: the share of records below which a class is repeated.

    Returns:
        (records,) factors of at least 1.
    """
    classes = int(labels.max(initial=-1)) + 1
    pairs = np.unique(image * max(classes, 1) + labels)
    share = np.bincount(pairs % max(classes, 1), minlength=classes) / max(records, 1)
    factor = np.maximum(1.0, np.sqrt(threshold / np.maximum(share, 1e-12)))
    factors = np.ones(records)
    np.maximum.at(factors, image, factor[labels])
    return factors


def samples_of(repeats: NDArray[np.float64], seed: int, epoch: int) -> NDArray[np.int64]:
    """Return sample numbers, record + N x its earlier occurrences. Systematic resampling: each record occurs as often
    as `repeats` gives, rounded up or down, and the total is always the same."""
    n = len(repeats)
    if not n:
        return np.zeros(0, np.int64)
    total = round(float(repeats.sum()))
    order = np.argsort(bits(seed, epoch, np.arange(n), "repeat order")[:, 0], kind="stable")
    edges = np.cumsum(repeats[order]) * (total / max(float(repeats.sum()), 1e-12))
    ends = np.floor(edges + uniform(seed, epoch, np.zeros(1, np.int64), "repeat")[0, 0]).astype(np.int64)
    ends = np.minimum(ends, total)
    ends[edges >= edges[-1]] = total  # against rounding: the last edges equal the total
    copies = np.zeros(n, np.int64)
    copies[order] = np.diff(ends, prepend=0)
    record = np.repeat(np.arange(n), copies)
    return record + n * (np.arange(total) - np.repeat(np.cumsum(copies) - copies, copies))

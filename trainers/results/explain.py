"""Why two average precisions differ: the cost of each rule of a protocol, and of what two sets of detections leave out.

The costs of a table sum to the difference that it explains.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from trainers.results.matching import rank
from trainers.results.protocol import COCO_IOUS, PROTOCOLS, Protocol, average_precision
from trainers.results.significance import compare
from trainers.results.truth import Predictions, Truth

RULES = {
    "conf": "lowest score",
    "duplicates": "identical boxes",
    "images": "images",
    "judged": "classes in an image",
    "limit": "detections at most",
    "ties": "equal scores",
    "area": "area of a box",
    "extent": "IoU: added to the sides",
    "crowd": "crowd boxes",
    "difficult": "difficult boxes",
    "matching": "matching",
    "ious": "IoU threshold",
    "points": "recall points",
    "classes": "classes in the mean",
}  # in the order in which they are switched; each concerns what the ones before let through

_FIELDS = {"limit": ("limit", "limit_of")}  # fields of one rule, where they are several


@dataclass(frozen=True)
class Step:
    """One rule switched.

    Attributes:
        rule: what it is about; before, after: its values; cost: by how much the average precision changed (0..1).
    """

    rule: str
    before: str
    after: str
    cost: float


def between_protocols(
    truth: Truth, predictions: Predictions, start: Protocol, end: Protocol
) -> tuple[float, list[Step], float]:
    """Switch the rules of one protocol to those of another, one after the other.

    Returns:
        The average precision by `start`, a step for each rule in which they differ, and that by `end`. The costs of the
        steps sum to the difference.
    """
    protocol, value = start, average_precision(truth, predictions, start)
    first, steps = value, []
    for rule, words in RULES.items():
        names = _FIELDS.get(rule, (rule,))
        changes = {name: getattr(end, name) for name in names}
        if changes == {name: getattr(protocol, name) for name in names}:
            continue
        switched = replace(protocol, **changes)
        score = average_precision(truth, predictions, switched)
        steps.append(Step(words, _shown(protocol, rule), _shown(switched, rule), score - value))
        protocol, value = switched, score
    return first, steps, value


def single_rules(truth: Truth, predictions: Predictions, protocol: Protocol) -> list[Step]:
    """Switch each rule of a protocol alone, to each other value that is in use somewhere."""
    base = average_precision(truth, predictions, protocol)
    others: dict[str, tuple[Any, ...]] = {
        "conf": (0.001, 0.05, 0.25),
        "duplicates": ("drop",),
        "images": ("annotated",),
        "judged": ("all", "looked for") if truth.judged is not None else (),
        "limit": ((100, "image"), (300, "image"), (None, "class")),
        "ties": ("image id", "file", "reverse"),
        "area": ((32**2, 1e10),),
        "extent": (1.0,),
        "crowd": ("count",),
        "difficult": ("count", "ignore"),
        "matching": ("best", "best-free"),
        "ious": ((0.5,), COCO_IOUS),
        "points": ("101", "11", "all", "trapezoid"),
        "classes": ("all",),
    }
    steps = []
    for rule, values in others.items():
        for value in values:
            names = _FIELDS.get(rule, (rule,))
            switched = replace(protocol, **dict(zip(names, value if len(names) > 1 else (value,), strict=True)))
            if _shown(switched, rule) != _shown(protocol, rule):
                cost = average_precision(truth, predictions, switched) - base
                steps.append(Step(RULES[rule], _shown(protocol, rule), _shown(switched, rule), cost))
    return steps


def between_predictions(
    truth: Truth, first: Predictions, second: Predictions, protocol: Protocol
) -> tuple[float, list[Step], float]:
    """Explain the difference of two sets of detections on the same truth.

    Both are reduced, step by step, to what both could contain: images with detections in both, classes in both, the
    higher of the lowest scores, the smaller of the largest numbers per image. What is left is the difference between
    the boxes and scores themselves.

    Returns:
        The average precision of `first`, the steps, and that of `second`. The costs of the steps sum to the difference.
    """
    reductions: dict[str, Callable[[Predictions, Predictions], tuple[Predictions, str]]] = {
        "images with detections": lambda own, other: _in_common(own, other, "image"),
        "classes with detections": lambda own, other: _in_common(own, other, "labels"),
        "lowest score": _above_lowest,
        "detections of an image at most": _at_most,
    }
    pair = (first, second)
    values = [average_precision(truth, each, protocol) for each in pair]
    start, end = values
    steps = []
    for rule, reduce in reductions.items():
        (left, before), (right, after) = reduce(*pair), reduce(*pair[::-1])
        pair = (left, right)
        reduced = [average_precision(truth, each, protocol) for each in pair]
        cost = (reduced[0] - values[0]) - (reduced[1] - values[1])
        if before != after:
            steps.append(Step(rule, before, after, cost))
        values = reduced
    steps.append(Step("boxes and scores themselves", "", "", values[1] - values[0]))
    return start, steps, end


def _in_common(own: Predictions, other: Predictions, column: str) -> tuple[Predictions, str]:
    values = getattr(own, column)
    return own.where(np.isin(values, getattr(other, column))), str(len(np.unique(values)))


def _above_lowest(own: Predictions, other: Predictions) -> tuple[Predictions, str]:
    lowest = [each.scores.min(initial=np.inf) for each in (own, other)]
    return own.where(own.scores >= max(lowest)), f"{lowest[0]:.4g}"


def _at_most(own: Predictions, other: Predictions) -> tuple[Predictions, str]:
    most = [int(np.bincount(each.image).max(initial=0)) for each in (own, other)]
    ranks = rank(own.image, np.zeros_like(own.labels), own.scores)
    return own.where(ranks < min(most)), str(most[0])


def _shown(protocol: Protocol, rule: str) -> str:
    """Return the value of a rule in words."""
    value = getattr(protocol, rule)
    if rule == "ious":
        return f"{value[0]:.2f}" if len(value) == 1 else f"{value[0]:.2f}:{value[-1]:.2f}, {len(value)} values"
    if rule == "area":
        return f"{value[0]:g} to {value[1]:g}"
    if rule == "limit":
        per = "image and class" if protocol.limit_of == "class" else "image"
        return "no limit" if value is None else f"{value} per {per}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def explanation(truth: Truth, predictions: Predictions) -> dict[str, Any]:
    """Return what COCO's AP50 costs by the rules of each other protocol, and each rule alone, as `--json` prints it."""
    base = PROTOCOLS["coco50"]
    protocols = {}
    for name, protocol in PROTOCOLS.items():
        if name == "lvis" and truth.judged is None:
            continue
        value, steps, end = between_protocols(truth, predictions, base, protocol)
        protocols[name] = {"AP": _number(end), "difference": _number(end - value), "steps": _facts(steps)}
    return {"protocols": protocols, "single_rules": _facts(single_rules(truth, predictions, base))}


def explanation_text(facts: dict[str, Any]) -> str:
    """Return an `explanation` as text, in points (hundredths of AP)."""
    protocols = dict(facts["protocols"])
    base = protocols.pop("coco50")["AP"]
    parts = ["Average precision by other rules, and what each rule costs, in points"]
    for name, end in protocols.items():
        parts.append(f"coco50 {points(base)} -> {name} {points(end['AP'])} ({points(end['difference'], '+')})")
        parts.append(_table(end["steps"]))
    return "\n".join([*parts, "each rule of coco50 alone", _table(facts["single_rules"])])


def comparison(
    truth: Truth, first: Predictions, second: Predictions, protocol: str, explain: bool = False
) -> dict[str, Any]:
    """Return the difference of two sets of detections, as `--json` prints it.

    Args:
        explain: add what makes the difference.
    """
    compared = compare(truth, first, second, PROTOCOLS[protocol])
    facts: dict[str, Any] = {
        name: {key: _number(value) for key, value in vars(getattr(compared, name)).items()}
        for name in ("first", "second", "difference")
    }
    facts["p"] = compared.p
    if explain:
        facts["steps"] = _facts(between_predictions(truth, first, second, PROTOCOLS[protocol])[1])
    return facts


def comparison_text(facts: dict[str, Any]) -> str:
    """Return a `comparison` as text, in points (hundredths of AP)."""
    lines = ["Comparison, in points of average precision; intervals contain 95 % of 1,000 bootstrap resamples"]
    for name, sign in (("first", ""), ("second", ""), ("difference", "+")):
        value, low, high = (points(facts[name][key], sign) for key in ("value", "low", "high"))
        lines.append(f"  {name:<10}  {value:>7}  ({low} to {high})")
    lines.append(f"  p {facts['p']:.3f}, two-sided: the chance of such a difference between equally good detectors")
    if "steps" in facts:
        lines += ["what makes the difference", _table(facts["steps"])]
    return "\n".join(lines)


def _facts(steps: Sequence[Step]) -> list[dict[str, Any]]:
    return [vars(step) | {"cost": _number(step.cost)} for step in steps]


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def points(value: float | None, sign: str = "") -> str:
    """Return an average precision in hundredths; `sign` is that of a format."""
    return "-" if value is None else f"{value * 100:{sign}.2f}"


def _table(steps: Sequence[dict[str, Any]]) -> str:
    rows = [
        (step["rule"], f"{step['before']} -> {step['after']}" if step["before"] else "", points(step["cost"], "+"))
        for step in steps
    ]
    wide = [max((len(row[i]) for row in rows), default=0) for i in (0, 1)]
    return "\n".join(f"  {rule:<{wide[0]}}  {change:<{wide[1]}}  {cost:>7}" for rule, change, cost in rows)

"""COCO's numbers against pycocotools, VOC's against a plain loop, curves and confusions against hand counts."""

from __future__ import annotations

import contextlib
import io
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from dataforge.analysis.detections import pair_iou
from dataforge.errors import ConfigError
from dataforge.record import CROWD, DIFFICULT
from trainers.results.metrics import (
    COCO_KEYS,
    LVIS_KEYS,
    coco,
    coco_per_class,
    confusion,
    curves,
    judge,
    lvis_per_class,
    voc,
)
from trainers.results.truth import Predictions, Truth, coco_rows, read_predictions, truth_of_coco

Json = dict[str, Any]


def oracle(instances: Json, found: list[Json]) -> dict[str, float]:
    """pycocotools on the JSON itself."""
    instances = json.loads(json.dumps(instances))
    instances.setdefault("info", {})
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = instances
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(json.loads(json.dumps(found))), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(COCO_KEYS, evaluation.stats.tolist(), strict=True))


def random_set(seed: int) -> tuple[Json, list[Json]]:
    """Crowds, areas that are not w*h, empty images, tied scores, > 100 detections an image, boxes without a match."""
    rng = np.random.default_rng(seed)
    image_ids = rng.permutation(10_000)[: rng.integers(3, 9)].tolist()
    class_ids = np.sort(rng.permutation(91)[: rng.integers(1, 5)]).tolist()
    annotations: list[Json] = []
    found: list[Json] = []
    for image in image_ids[: len(image_ids) - 1]:  # the last one stays empty
        for _ in range(int(rng.integers(0, 25))):
            x, y = rng.uniform(0, 300, 2).round(2)
            w, h = rng.choice([8, 32, 60.5, 96, 200]) * rng.uniform(0.5, 1.5, 2).round(2)
            crowd = int(rng.random() < 0.1)
            category = int(rng.choice(class_ids))
            area = float(w * h * rng.uniform(0.4, 1))
            row = {"image_id": image, "category_id": category, "bbox": [float(x), float(y), float(w), float(h)]}
            annotations.append({**row, "area": area, "iscrowd": crowd, "id": len(annotations) + 1})
            for _ in range(int(rng.integers(0, 4))):
                near = (np.array(row["bbox"]) + rng.normal(0, 0.08, 4) * [w, h, w, h]).clip(0.5)
                score = round(float(rng.random()), int(rng.choice([1, 6])))  # many ties
                found.append({**row, "bbox": near.tolist(), "score": score})
    crowded, category = image_ids[-1 if seed % 2 else 0], int(class_ids[0])
    for _ in range(150):
        x, y, w, h = rng.uniform(5, 200, 4).tolist()
        score = round(float(rng.random()), 2)
        found.append({"image_id": crowded, "category_id": category, "bbox": [x, y, w, h], "score": score})
    order = rng.permutation(len(found))
    categories = [{"id": i, "name": f"class {i}"} for i in class_ids]
    images = [{"id": i, "width": 640, "height": 640, "file_name": f"{i}.jpg"} for i in image_ids]
    return {"images": images, "annotations": annotations, "categories": categories}, [found[i] for i in order]


def load(tmp: Path, instances: Json, found: list[Json]) -> tuple[Truth, Predictions]:
    (tmp / "instances.json").write_text(json.dumps(instances))
    (tmp / "found.json").write_text(json.dumps(found))
    truth = truth_of_coco(tmp / "instances.json")
    return truth, read_predictions(tmp / "found.json", truth)


def same(ours: dict[str, float], theirs: dict[str, float]) -> None:
    assert list(ours) == list(COCO_KEYS)
    np.testing.assert_allclose(list(ours.values()), list(theirs.values()), rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(12))
def test_coco_agrees_with_pycocotools(seed: int, tmp_path: Path) -> None:
    instances, found = random_set(seed)
    numbers = coco(*load(tmp_path, instances, found))
    same(numbers, oracle(instances, found))
    assert 0 < numbers["AP50"] <= 1


def federated_set(seed: int) -> tuple[Json, list[Json]]:
    """The random set with LVIS's fields; crowds are no part of LVIS."""
    rng = np.random.default_rng(seed)
    instances, found = random_set(seed)
    ids = [one["id"] for one in instances["categories"]]
    for one in instances["annotations"]:
        one["iscrowd"] = 0
    for image in instances["images"]:
        held = {one["category_id"] for one in instances["annotations"] if one["image_id"] == image["id"]}
        image["neg_category_ids"] = [i for i in ids if i not in held and rng.random() < 0.5]
        image["not_exhaustive_category_ids"] = [i for i in ids if rng.random() < 0.3]
    for category in instances["categories"]:
        category["frequency"] = str(rng.choice(list("rcf")))
    image = instances["images"][0]["id"]
    found += [{**one, "image_id": image, "score": round(rng.random(), 2)} for one in found[:200]]  # > 300 in an image
    others = {"category_id": ids, "score": [0.25, 0.5]}
    return instances, found + [{**one, **{k: rng.choice(v).item() for k, v in others.items()}} for one in found[::3]]


def lvis_oracle(instances: Json, found: list[Json]) -> list[float]:
    """lvis-api's rules laid upon pycocotools: which detections are looked at, and which are ignored."""
    images = {image["id"]: image for image in instances["images"]}
    held = {(one["image_id"], one["category_id"]) for one in instances["annotations"]}
    best: list[Json] = []
    for i in images:
        best += sorted((one for one in found if one["image_id"] == i), key=lambda one: -one["score"])[:300]
    seen = [
        one
        for one in best
        for i, c in [(one["image_id"], one["category_id"])]
        if (i, c) in held or c in images[i]["neg_category_ids"]
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {**instances, "info": {}}
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(seen), "bbox")
        evaluation.params.maxDets = [300]
        evaluation.evaluate()
        for one in filter(None, evaluation.evalImgs):
            if one["category_id"] in images[one["image_id"]]["not_exhaustive_category_ids"]:
                one["dtIgnore"] = one["dtIgnore"] | (one["dtMatches"] == 0)
        evaluation.accumulate()
    precision, recall = evaluation.eval["precision"][..., 0], evaluation.eval["recall"][..., 0]
    frequency = {one["id"]: one["frequency"] for one in instances["categories"]}
    rare = np.array([frequency[i] for i in evaluation.params.catIds])
    whole = precision[:, :, :, 0]
    parts = [whole, whole[0], whole[5], *np.moveaxis(precision, 3, 0)[1:], *(whole[:, :, rare == f] for f in "rcf")]
    parts += [*np.moveaxis(recall, 2, 0)]
    return [float(part[part > -1].mean()) if (part > -1).any() else -1.0 for part in parts]


@pytest.mark.parametrize("seed", range(6))
def test_lvis_judges_only_what_was_looked_for(seed: int, tmp_path: Path) -> None:
    instances, found = federated_set(seed)
    truth, predictions = load(tmp_path, instances, found)
    numbers, _, _ = lvis_per_class(truth, predictions)
    assert tuple(numbers) == LVIS_KEYS
    np.testing.assert_allclose(list(numbers.values()), lvis_oracle(instances, found), rtol=0, atol=1e-12)
    assert numbers["AP"] != coco(truth, predictions)["AP"]


def test_coco_per_class_means_give_the_total(tmp_path: Path) -> None:
    numbers, ap, ap50 = coco_per_class(*load(tmp_path, *random_set(3)))
    assert np.nanmean(ap) == pytest.approx(numbers["AP"], abs=1e-12)
    assert np.nanmean(ap50) == pytest.approx(numbers["AP50"], abs=1e-12)


def test_coco_on_the_toy_set(shared_data: Path, tmp_path: Path) -> None:
    root = shared_data / "formats/toy_voc10"
    instances = json.loads((root / "gts_coco_format/toy_example_coco.JSON").read_text())
    file = root / "dets_coco_format/coco_dets.json"  # an object with `annotations`
    found = json.loads(file.read_text())["annotations"]
    truth = truth_of_coco(root / "gts_coco_format/toy_example_coco.JSON")
    expected = oracle(instances, found)
    same(coco(truth, read_predictions(file, truth)), expected)
    assert 0 < expected["AP"] < 1

    names = {image["file_name"].partition(".")[0]: image for image in instances["images"]}
    for dialect in ("classid_abs_xywh", "classid_abs_xyx2y2", "classname_abs_xywh", "classname_rel_xcycwh"):
        rows = []
        for text in sorted((root / f"dets_{dialect}").glob("*.txt")):
            image = names[text.stem]
            for line in text.read_text().splitlines():
                score, *box = map(float, line.split()[1:])
                a = np.array(box)
                if "xyx2y2" in dialect:
                    a[2:] -= a[:2]
                elif "rel" in dialect:
                    a = a * ([image["width"], image["height"]] * 2)
                    a[:2] -= a[2:] / 2
                rows.append({"image_id": image["id"], "category_id": 0, "bbox": a.tolist(), "score": score})
        (tmp_path / "rows.json").write_text(json.dumps(rows))
        numbers = coco(truth, read_predictions(tmp_path / "rows.json", truth))
        same(numbers, oracle(instances, rows))
        if "rel" not in dialect:  # those differ from the others by up to half a pixel
            same(numbers, expected)


@pytest.mark.parametrize("split", ["train2017", "val2017"])
def test_coco_on_real_truth(split: str, shared_data: Path, tmp_path: Path) -> None:
    file = shared_data / f"coco_mini/annotations/instances_{split}.json"
    instances = json.loads(file.read_text())
    rng = np.random.default_rng(0)
    found = []
    for row in instances["annotations"]:
        for _ in range(int(rng.integers(0, 3))):
            box = np.array(row["bbox"]) + rng.normal(0, 0.1, 4) * (row["bbox"][2:] * 2)
            box[2:] = box[2:].clip(1)
            category = row["category_id"] if rng.random() < 0.9 else instances["categories"][0]["id"]
            keys = {"image_id": row["image_id"], "category_id": category}
            found.append({**keys, "bbox": box.round(2).tolist(), "score": round(float(rng.random()), 3)})
    truth, predictions = load(tmp_path, instances, found)
    assert (truth.flags & CROWD).sum() == sum(row["iscrowd"] for row in instances["annotations"])
    same(coco(truth, predictions), oracle(instances, found))
    again = coco_rows(predictions, truth.image_ids, truth.class_ids)  # written and read back: the same
    same(coco(*load(tmp_path, instances, again)), coco(truth, predictions))


def simple(
    boxes: Any, labels: Any, flags: Any = None, image: Any = None, classes: int = 1, images: int | None = None
) -> Truth:
    box = np.array(boxes, np.float64).reshape(-1, 4)
    n = len(box)
    rows = np.zeros(n, np.int64) if image is None else np.array(image, np.int64)
    return Truth(
        np.arange(images or int(rows.max(initial=0)) + 1),
        rows,
        box,
        np.array(labels, np.int64).reshape(n),
        np.zeros(n, np.uint8) if flags is None else np.array(flags, np.uint8),
        (box[:, 2:] - box[:, :2]).prod(1),
        tuple(f"c{i}" for i in range(classes)),
        tuple(range(classes)),
    )


def guesses(boxes: Any, scores: Any, labels: Any = None, image: Any = None) -> Predictions:
    box = np.array(boxes, np.float64).reshape(-1, 4)
    zeros = np.zeros(len(box), np.int64)
    return Predictions(
        zeros if image is None else np.array(image, np.int64),
        box,
        np.array(scores, np.float64).reshape(len(box)),
        zeros if labels is None else np.array(labels, np.int64),
    )


def test_nothing_found_and_nothing_to_find() -> None:
    truth = simple([[0, 0, 10, 10], [0, 0, 50, 50]], [0, 1], classes=3)
    numbers = coco(truth, guesses([], []))
    assert {key for key, value in numbers.items() if value == 0} == set(COCO_KEYS) - {"APl", "ARl"}
    assert numbers["APl"] == numbers["ARl"] == -1  # pycocotools' sign for "no large object"
    found = voc(truth, guesses([], []))
    assert found["mAP"] == 0 and np.isnan(found["per_class"]["c2"])
    empty = simple([], [], classes=2, images=3)
    assert set(coco(empty, guesses([[0, 0, 5, 5]], [0.5])).values()) == {-1.0}
    assert np.isnan(voc(empty, guesses([[0, 0, 5, 5]], [0.5]))["mAP"])
    assert curves(empty, guesses([[0, 0, 5, 5]], [0.5])).best == 0
    assert confusion(empty, guesses([[0, 0, 5, 5]], [0.5])).tolist() == [[0, 0, 0], [0, 0, 0], [1, 0, 0]]


def iou_of(a: Any, b: Any) -> float:
    w = min(a[2], b[2]) - max(a[0], b[0])
    h = min(a[3], b[3]) - max(a[1], b[1])
    if w <= 0 or h <= 0:
        return 0.0
    inner = w * h
    return inner / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inner)


def plain_voc(truth: Truth, found: Predictions, label: int, protocol: str) -> float | None:
    """The development kit's procedure, word by word."""
    mine = [i for i in range(len(truth.boxes)) if truth.labels[i] == label]
    ignored = {i: bool(truth.flags[i] & (CROWD | DIFFICULT)) for i in mine}
    positives = sum(not flag for flag in ignored.values())
    if not positives:
        return None
    taken: set[int] = set()
    true, false = [], []
    candidates = [k for k in range(len(found.scores)) if found.labels[k] == label]
    for k in sorted(candidates, key=lambda k: -found.scores[k]):  # sorted() is stable
        best, best_iou = -1, 0.0
        for i in mine:
            if truth.image[i] == found.image[k]:
                overlap = iou_of(found.boxes[k], truth.boxes[i])
                if overlap > best_iou:
                    best, best_iou = i, overlap
        if best >= 0 and best_iou >= 0.5:
            if ignored[best]:
                continue
            true.append(best not in taken)
            false.append(best in taken)
            taken.add(best)
        else:
            true.append(False)
            false.append(True)
    precision, recall = [], []
    for n in range(1, len(true) + 1):
        tp, fp = sum(true[:n]), sum(false[:n])
        precision.append(tp / (tp + fp))
        recall.append(tp / positives)
    if protocol == "voc07":
        tops = [max((p for p, r in zip(precision, recall, strict=True) if r >= t / 10), default=0) for t in range(11)]
        return sum(tops) / 11
    area, before = 0.0, 0.0
    for i, r in enumerate(recall):
        area += (r - before) * max(precision[i:])
        before = r
    return area


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_voc_agrees_with_the_plain_loop(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, k, images, classes = int(rng.integers(0, 25)), int(rng.integers(0, 50)), 4, 3
    low = rng.integers(0, 12, (n, 2)) * 4
    box = np.concatenate([low, low + rng.integers(1, 6, (n, 2)) * 4], 1)
    flags = rng.choice([0, 0, 0, DIFFICULT, CROWD], n)
    truth = simple(box, rng.integers(0, classes, n), flags, np.sort(rng.integers(0, images, n)), classes, images)
    from_truth = rng.integers(0, n, k) if n else np.zeros(0, np.int64)
    near = (box[from_truth] if n else np.zeros((0, 4))) + rng.integers(-2, 3, (len(from_truth), 4))
    near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
    scores = rng.integers(0, 8, len(near)) / 8  # ties
    found = guesses(near, scores, truth.labels[from_truth], truth.image[from_truth])
    for protocol in ("voc07", "voc12"):
        result = voc(truth, found, protocol)
        expected = [plain_voc(truth, found, label, protocol) for label in range(classes)]
        for ours, theirs in zip(result["per_class"].values(), expected, strict=True):
            assert np.isnan(ours) if theirs is None else ours == pytest.approx(theirs, abs=1e-9)
        measured = [value for value in expected if value is not None]
        assert not measured or result["mAP"] == pytest.approx(np.mean(measured), abs=1e-9)


def test_voc_by_hand() -> None:
    truth = simple([[0, 0, 10, 10], [20, 0, 30, 10], [50, 0, 60, 10]], [0, 0, 0], [0, 0, DIFFICULT])
    found = guesses(
        [[0, 0, 10, 10], [0, 0, 10, 9], [50, 0, 60, 10], [50, 0, 60, 9], [20, 0, 30, 5]], [0.9, 0.8, 0.7, 0.6, 0.5]
    )  # true, double, two on the difficult box, and IoU exactly 0.5
    [ranked] = judge(truth, found)
    assert ranked.boxes == 2 and ranked.hit.tolist() == [True, False, True]
    assert voc(truth, found, "voc12")["mAP"] == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert voc(truth, found, "voc07")["mAP"] == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)


def test_voc_takes_the_highest_iou_first_and_asks_later() -> None:
    """Both detections overlap the left box most; COCO would give the second one the right box, VOC does not."""
    truth = simple([[0, 0, 10, 10], [2, 0, 12, 10]], [0, 0])
    found = guesses([[0, 0, 10, 10], [0.5, 0, 10.5, 10]], [0.9, 0.8])
    [ranked] = judge(truth, found)
    assert ranked.hit.tolist() == [True, False]
    assert coco(truth, found)["AR100"] > 0.5


def test_recall_of_three_tenths_counts() -> None:
    truth = simple([[20 * i, 0, 20 * i + 10, 10] for i in range(10)], [0] * 10)
    found = guesses(truth.boxes[:3], [0.9, 0.8, 0.7])
    assert voc(truth, found, "voc07")["mAP"] == pytest.approx(4 / 11)


def test_unknown_protocol() -> None:
    with pytest.raises(ConfigError, match=r"voc99.*voc07, voc12"):
        voc(simple([], []), guesses([], []), "voc99")


def test_curves_by_hand() -> None:
    truth = simple([[0, 0, 10, 10], [20, 0, 30, 10]], [0, 0], classes=2)
    found = guesses([[0, 0, 10, 10], [40, 0, 50, 10], [20, 0, 30, 10]], [0.9, 0.6, 0.4])
    got = curves(truth, found)
    at = {score: round(score * 1000) for score in (0.3, 0.5, 0.7, 0.95)}
    assert got.precision[0, list(at.values())].tolist() == pytest.approx([2 / 3, 1 / 2, 1, 1])
    assert got.recall_at[0, list(at.values())].tolist() == pytest.approx([1, 0.5, 0.5, 0])
    assert got.f1[0, at[0.3]] == pytest.approx(0.8) and got.f1[0, at[0.95]] == 0
    assert got.best <= 0.4 and got.f1[0, round(got.best * 1000)] == got.f1[0].max()
    assert got.at_recall[0, 50] == 1 and got.at_recall[0, 51] == pytest.approx(2 / 3)
    assert np.isnan(got.ap[1]) and np.isnan(got.f1[1]).all()
    assert got.ap[0] == voc(truth, found, "voc12")["per_class"]["c0"]


def test_confusion_by_hand() -> None:
    truth = simple(
        [[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10], [60, 0, 70, 10]], [0, 1, 1, 0], [0, 0, 0, CROWD], classes=2
    )
    boxes = [[0, 0, 10, 10], [0, 0, 10, 9], [20, 0, 30, 10], [60, 0, 70, 10], [80, 0, 90, 10], [40, 0, 50, 10]]
    found = guesses(boxes, [0.5, 0.9, 0.6, 0.9, 0.25, 0.2], [0, 0, 0, 0, 1, 1])
    # hit; a double; box of class 1 taken for 0; on the crowd: left out; background taken for 1; below 0.25: missed
    assert confusion(truth, found).tolist() == [[1, 0, 0], [1, 0, 1], [1, 1, 0]]


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_confusion_pairs_greedily_and_counts_all(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n, k = (int(v) for v in rng.integers(0, 30, 2))
    truth_boxes, found_boxes = (
        np.concatenate([low, low + rng.uniform(4, 12, low.shape)], 1)
        for low in (rng.uniform(0, 9, (c, 2)) for c in (n, k))
    )
    truth = simple(truth_boxes, rng.integers(0, 3, n), None, np.sort(rng.integers(0, 2, n)), 3, 2)
    found = guesses(found_boxes, rng.uniform(0.25, 1, k), rng.integers(0, 3, k), rng.integers(0, 2, k))
    expected = np.zeros((4, 4), int)
    pairs = [
        (-iou_of(found.boxes[d], truth.boxes[t]), d, t)
        for d in range(k)
        for t in range(n)
        if found.image[d] == truth.image[t]
    ]
    left_d, left_t = set(range(k)), set(range(n))
    for negative, d, t in sorted(pairs):
        if -negative >= 0.5 and d in left_d and t in left_t:
            expected[truth.labels[t], found.labels[d]] += 1
            left_d.remove(d)
            left_t.remove(t)
    for d in left_d:
        expected[3, found.labels[d]] += 1
    for t in left_t:
        expected[truth.labels[t], 3] += 1
    np.testing.assert_array_equal(confusion(truth, found), expected)


def test_pair_iou_of_boxes_without_area() -> None:
    flat = np.array([[1.0, 1, 1, 1]])
    assert pair_iou(flat, flat).tolist() == [0]


def test_many_pairs_are_looked_at_in_parts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    truth, found = load(tmp_path, *random_set(5))
    whole = voc(truth, found, "voc12")
    monkeypatch.setattr("dataforge.analysis.detections._PAIRS", 7)
    np.testing.assert_equal(voc(truth, found, "voc12"), whole)


def test_five_thousand_images_take_seconds() -> None:
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 500, (36_000, 2))
    box = np.concatenate([low, low + rng.uniform(5, 150, low.shape)], 1)
    truth = simple(box, rng.integers(0, 80, 36_000), None, np.sort(rng.integers(0, 5000, 36_000)), 80, 5000)
    low = rng.uniform(0, 500, (500_000, 2))
    box = np.concatenate([low, low + rng.uniform(5, 150, low.shape)], 1)
    found = guesses(box, rng.random(500_000), rng.integers(0, 80, 500_000), np.repeat(np.arange(5000), 100))
    start = time.process_time()
    voc(truth, found)
    confusion(truth, found)
    assert time.process_time() - start < 20  # ~1.5 s; a loop over boxes would take minutes

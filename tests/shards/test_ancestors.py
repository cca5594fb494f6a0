"""The hierarchy of Open Images' classes goes with the classes: into shards, caches, unions, versions and evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from dataforge.formats.table.reader import read
from dataforge.ingest.prove import first_difference
from dataforge.ingest.run import ingest
from dataforge.record import Source, among
from dataforge.shards.as_source import source_of
from dataforge.shards.reader import Shards
from dataforge.sources.join import join, rename
from dataforge.sources.view import View
from dataforge.transform.bake import Form, bake
from dataforge.transform.edited import Stored
from dataforge.web.session import Session
from tests.formats.sets import picture, put
from trainers.evaluate import main
from trainers.results import metrics
from trainers.results.evaluation import by_name, with_ancestors
from trainers.results.truth import Predictions, coco_rows, truth_of_shards, write_json

HIERARCHY = "bbox_labels_600_hierarchy.json"
ABOVE = {"cat": ["animal", "mammal"], "dog": ["animal"]}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("set")
    below = [{"LabelName": "mammal", "Subcategory": [{"LabelName": "cat"}]}, {"LabelName": "dog"}]
    others = [{"LabelName": "car"}, {"LabelName": "other"}]
    tree = {"LabelName": "all", "Subcategory": [{"LabelName": "animal", "Subcategory": below}, *others]}
    put(root / HIERARCHY, json.dumps(tree))
    head = "ImageID,LabelName,Confidence,XMin,XMax,YMin,YMax\n"
    sides = {"dog": 0.25, "cat": 0.5, "car": 0.75, "other": 1}
    put(root / "val-annotations-bbox.csv", head + "".join(f"a,{name},1,0,{x},0,1\n" for name, x in sides.items()))
    put(root / "train-annotations-bbox.csv", head + "b,animal,1,0,1,0,1\n")
    for path in ("val/a.jpg", "train/b.jpg"):
        put(root / path, picture(path == "val/a.jpg"))
    return root


@pytest.fixture(scope="module")
def shards(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "shards"
    ingest(source(images), out)
    return out


def source(images: Path) -> Source:
    return read(images, hierarchy=Path(HIERARCHY))


def test_goes_with_the_classes(images: Path, shards: Path, tmp_path: Path) -> None:
    """All tables are of one hierarchy: "mammal" is a class of the split that has a cat alone."""
    stated = {name: sorted(above) for name, above in source(images).ancestors.items()}
    assert stated == Shards(shards).ancestors == {**ABOVE, "mammal": ["animal"]}
    assert first_difference(Shards(shards), source(images)) is None
    bake(Shards(shards), tmp_path / "cache", Form(side=16))
    assert Shards(tmp_path / "cache").ancestors == stated
    renamed = rename(source_of(Shards(shards)), {"mammal": "", "dog": "pet", "cat": "pet", "car": "animal"})
    assert renamed.ancestors == {"pet": ["animal"]}
    assert join([("a", renamed), ("b", source_of(Shards(shards)))]).ancestors == {**stated, "pet": ["animal"]}
    session = Session(Stored(Shards(shards)), tmp_path / "overlay")
    session.change_classes("r1", "merge", "cat", "mammal")
    session.change_classes("r2", "rename", "dog", "hound")
    assert Shards(tmp_path / "overlay").ancestors == {"mammal": ["animal"], "hound": ["animal"]}


def test_a_view_has_those_of_its_classes(images: Path, shards: Path) -> None:
    for classes, above in (
        (("cat",), {}),
        (("dog", "mammal", "cat"), {"cat": ["mammal"]}),
        (("cat", "dog", "animal"), {"cat": ["animal"], "dog": ["animal"]}),
    ):
        view = View(classes=classes)
        viewed = Shards(shards, view=view)
        assert viewed.ancestors == view.filter(source(images)).ancestors == source_of(viewed).ancestors == above


def test_classes_that_become_one_are_below_what_is_above_all_of_them() -> None:
    assert among({"cat": ("pet", "animal")}, {"cat": "pet", "pet": "pet", "animal": "pet"}) == {}
    assert among({"cat": ("animal",)}, {"cat": "thing", "sofa": "thing", "animal": "animal"}) == {}
    chain = {"cat": ("animal", "mammal"), "mammal": ("animal",)}
    assert among(chain, {"cat": "mammal", "mammal": "mammal", "animal": "animal"}) == {"mammal": ["animal"]}


@pytest.mark.parametrize(
    ("classes", "other", "expected"),
    [
        (("cat", "pet"), {"cat": ["pet"]}, {"cat": ["animal", "pet"]}),
        (("pet", "cat", "animal"), {"cat": ["pet", "animal"]}, {"cat": ["animal", "pet"]}),
        (("cat", "animal"), {}, {}),  # whose boxes of cats are none of animals
        (("animal",), {}, {"cat": ["animal"]}),
    ],
)
def test_a_join_unites_what_holds_for_all_boxes(
    classes: tuple[str, ...], other: dict[str, list[str]], expected: dict[str, list[str]]
) -> None:
    first = Source(("cat", "animal"), iter(()), ancestors={"cat": ["animal"]})
    second = Source(classes, iter(()), ancestors=other)
    for sets in ([first, second], [second, first]):
        joined = join([(str(n), one) for n, one in enumerate(sets)]).ancestors
        assert {name: sorted(above) for name, above in joined.items()} == expected


def test_a_detector_of_leaves_is_evaluated_on_what_is_above_them(shards: Path, tmp_path: Path) -> None:
    """From a checkpoint or a file alike; classes that it has are its own, and what it found is stored as it is."""
    truth = truth_of_shards(Shards(shards, "val"))
    names = ("car", "cat", "dog", "mammal")
    boxes = np.array([[0, 0, 16, 48], [0, 0, 32, 48], [0, 0, 32, 48], [0, 0, 48, 48.0]])
    own = Predictions(np.zeros(4, np.int64), boxes, np.arange(9, 5, -1) / 10, np.array([2, 1, 3, 0]))
    named = by_name(own, names, truth)
    assert [truth.classes[n] for n in named.labels] == ["dog", "cat", "mammal", "car"]
    counted = with_ancestors(truth, named)
    classes = [truth.classes[n] for n in counted.labels]
    assert classes == ["dog", "animal", "cat", "animal", "mammal", "animal", "car"]
    assert counted.scores.tolist() == [0.9, 0.9, 0.8, 0.8, 0.7, 0.7, 0.6]
    none = with_ancestors(truth, named.where(named.scores > 1))
    assert len(none.labels) == 0
    file, copy = tmp_path / "found.json", tmp_path / "copy.json"
    write_json(file, coco_rows(named, truth.image_ids, truth.class_ids))
    facts = evaluated("--truth", shards, "--split", "val", "--predictions", file, "--save-json", copy, "--calibrate")
    assert facts["AP"] == metrics.coco(truth, counted)["AP"] > metrics.coco(truth, named)["AP"]
    assert copy.read_bytes() == file.read_bytes() and facts["calibration"]["classes"]["animal"]["F1"] == 0


def test_boxes_that_do_not_count_for_ancestors_leave_detections_as_they_are(images: Path, tmp_path: Path) -> None:
    ingest(read(images), tmp_path / "shards")
    assert Shards(tmp_path / "shards").ancestors == {}
    truth = truth_of_shards(Shards(tmp_path / "shards", "val"))
    found = Predictions(truth.image, truth.boxes, np.ones(len(truth.boxes)), truth.labels, np.unique(truth.labels))
    assert with_ancestors(truth, found) is found and metrics.coco(truth, found)["AP"] == pytest.approx(1)


def evaluated(*args: object) -> dict[str, Any]:
    done = CliRunner().invoke(main, [*map(str, args), "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)

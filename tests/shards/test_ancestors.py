"""The hierarchy of Open Images' classes goes with the classes: into shards, caches, unions, versions and evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dataforge.formats.table.reader import read
from dataforge.ingest.prove import first_difference
from dataforge.ingest.run import ingest
from dataforge.record import among
from dataforge.shards.as_source import source_of
from dataforge.shards.reader import Shards
from dataforge.sources.join import join, rename
from dataforge.sources.view import View
from dataforge.transform.bake import Form, bake
from dataforge.transform.edited import Stored
from dataforge.web.session import Session
from tests.formats.sets import picture, put
from trainers.results.evaluation import by_name
from trainers.results.truth import Predictions, truth_of_shards

ABOVE = {"cat": ["animal", "mammal"], "dog": ["animal"]}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("set")
    below = [{"LabelName": "mammal", "Subcategory": [{"LabelName": "cat"}]}, {"LabelName": "dog"}]
    tree = {"LabelName": "all", "Subcategory": [{"LabelName": "animal", "Subcategory": below}, {"LabelName": "car"}]}
    put(root / "bbox_labels_600_hierarchy.json", json.dumps(tree))
    rows = [f"a,{name},1,0,1,0,1\n" for name in ("dog", "cat", "car", "animal", "mammal", "other")]
    put(root / "val-annotations-bbox.csv", "ImageID,LabelName,Confidence,XMin,XMax,YMin,YMax\n" + "".join(rows))
    put(root / "val/a.jpg", picture())
    return root


@pytest.fixture(scope="module")
def shards(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "shards"
    ingest(read(images), out)
    return out


def test_goes_with_the_classes(images: Path, shards: Path, tmp_path: Path) -> None:
    source = {name: sorted(above) for name, above in read(images).ancestors.items()}
    assert source == Shards(shards).ancestors == {**ABOVE, "mammal": ["animal"]}
    assert first_difference(Shards(shards), read(images)) is None
    bake(Shards(shards), tmp_path / "cache", Form(side=16))
    assert Shards(tmp_path / "cache").ancestors == source
    ingest(View(classes=("cat", "dog", "animal")).filter(read(images)), tmp_path / "some")
    assert Shards(tmp_path / "some").ancestors == {"cat": ["animal"], "dog": ["animal"]}
    renamed = rename(source_of(Shards(shards)), {"mammal": "", "dog": "pet", "cat": "pet", "car": "animal"})
    assert renamed.ancestors == {"pet": ["animal"]}
    assert join([("a", renamed), ("b", source_of(Shards(shards)))]).ancestors == {**source, "pet": ["animal"]}
    session = Session(Stored(Shards(shards)), tmp_path / "overlay")
    session.change_classes("r1", "merge", "cat", "mammal")
    session.change_classes("r2", "rename", "dog", "hound")
    assert Shards(tmp_path / "overlay").ancestors == {"mammal": ["animal"], "hound": ["animal"]}


def test_a_class_is_above_no_class_that_it_is_merged_with() -> None:
    assert among({"cat": ("pet", "animal")}, {"cat": "pet", "pet": "pet", "animal": "pet"}) == {}


def test_a_detector_of_leaves_is_evaluated_on_what_is_above_them(shards: Path) -> None:
    """Classes that it lacks get the boxes of those below; those it has are its own."""
    truth = truth_of_shards(Shards(shards))
    found = Predictions(np.arange(3) * 0, np.arange(12.0).reshape(3, 4), np.arange(3) / 9, np.array([1, 2, 0]))
    moved = by_name(found, ("car", "cat", "dog", "mammal"), truth)
    assert [truth.classes[n] for n in moved.labels] == ["cat", "animal", "dog", "animal", "car"]
    assert moved.boxes[:, 0].tolist() == [0, 0, 4, 4, 8] and len(moved.scores) == len(moved.image) == 5

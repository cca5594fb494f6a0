from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from click.testing import CliRunner, Result

from dataforge.errors import ConfigError, DataError, FormatError
from dataforge.loading.loader import Loader
from dataforge.shards.reader import Shards
from tests.cli.test_json import check
from tests.trainers import fake
from trainers import checkpoint
from trainers.evaluate import main
from trainers.results.evaluation import by_name, run
from trainers.results.metrics import COCO_KEYS, coco
from trainers.results.truth import Predictions, read_predictions, truth_of_coco, truth_of_shards


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake.shards(tmp_path_factory.mktemp("fake") / "shards")


def call(*arguments: object) -> Result:
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


INSTANCES: dict[str, Any] = {
    "images": [{"id": 7, "width": 100, "height": 100}, {"id": 9, "width": 100, "height": 100}],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 3, "bbox": [10, 10, 40, 40], "area": 1600, "iscrowd": 0},
        {"id": 2, "image_id": 9, "category_id": 5, "bbox": [10, 10, 40, 40], "area": 1600, "iscrowd": 0},
    ],
    "categories": [{"id": 3, "name": "cat"}, {"id": 5, "name": "dog"}, {"id": 6, "name": "cow"}],
}
FOUND = [
    {"image_id": 7, "category_id": 3, "bbox": [10, 10, 40, 40], "score": 0.9},
    {"image_id": 9, "category_id": 5, "bbox": [60, 60, 40, 40], "score": 0.8},
]


def write(file: Path, content: object) -> Path:
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


@pytest.mark.parametrize("fit", ["letterbox", "stretch"])
@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_run_finds_what_was_painted_in_source_pixels(shards: Path, fit: str, batch_size: int) -> None:
    loader = Loader(shards, "val", batch_size=batch_size, size=(320, 256), fit=fit, shuffle=False)
    detector = fake.Painted().train()
    found = run(detector, loader, "cpu")
    assert detector.training
    truth = truth_of_shards(loader.shards)
    np.testing.assert_array_equal(np.bincount(found.image, minlength=5), np.bincount(truth.image, minlength=5))
    np.testing.assert_array_equal(found.labels, truth.labels)
    np.testing.assert_allclose(found.boxes, truth.boxes, atol=1)
    limit = np.stack([loader.shards.table.width, loader.shards.table.height] * 2, 1)[found.image]
    assert (found.boxes >= 0).all() and (found.boxes <= limit).all()


class Short:
    """A loader that gives chosen records, as a padding or a faulty one might."""

    def __init__(self, loader: Loader, batches: list[list[int]]) -> None:
        self.shards, self.batches, self.loader = loader.shards, batches, loader

    def __iter__(self) -> Any:
        every = next(iter(self.loader))
        for rows in self.batches:
            yield every[torch.tensor(rows)]


def test_a_record_that_comes_twice_counts_once_and_a_missing_one_is_named(shards: Path) -> None:
    loader = Loader(shards, "val", batch_size=5, shuffle=False)
    whole = run(fake.Painted(), loader, "cpu")
    twice = run(fake.Painted(), Short(loader, [[3, 0], [4, 1, 2], [0, 3]]), "cpu")  # type: ignore[arg-type]
    for name, value in vars(whole).items():
        np.testing.assert_array_equal(value, getattr(twice, name))
    with pytest.raises(DataError, match=r"2 of 5 records.*record 1 \(tall\.jpg\)"):
        run(fake.Painted(), Short(loader, [[3, 0], [4]]), "cpu")  # type: ignore[arg-type]


def _rank(rank: int, world: int, shards: Path, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meet'}", rank=rank, world_size=world)
    loader = Loader(shards, "val", batch_size=2, shuffle=False, rank=rank, world=world, threads=1)
    found = run(fake.Painted(), loader, "cpu")
    np.savez(folder / f"{rank}.npz", **{name: value for name, value in vars(found).items() if value is not None})
    dist.destroy_process_group()


def test_two_ranks_give_what_one_gives(shards: Path, tmp_path: Path) -> None:
    """5 records on 2 ranks: unequal shares."""
    mp.start_processes(_rank, (2, shards, tmp_path), nprocs=2, start_method="spawn")  # type: ignore[no-untyped-call]
    one = run(fake.Painted(), Loader(shards, "val", batch_size=2, shuffle=False), "cpu")
    for rank in range(2):
        two = np.load(tmp_path / f"{rank}.npz")
        for name, value in vars(one).items():
            np.testing.assert_array_equal(value, two.get(name))


def test_checkpoint_on_shards(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = fake.saved(tmp_path / "best.pt", monkeypatch)
    saved = tmp_path / "found.json"
    result = call(file, "--shards", shards, "--split", "val", "--json", "--save-json", saved, "--device", "cpu")
    assert result.exit_code == 0, result.output
    numbers = json.loads(result.stdout)
    assert list(numbers) == [*COCO_KEYS, "best"] and numbers["best"]["F1"] == 1
    check("evaluate", result.stdout)
    assert numbers["AP50"] == 1 and numbers["AP"] > 0.9 and numbers["APl"] == -1
    rows = json.loads(saved.read_text())
    assert {row["image_id"] for row in rows} == {500, 499, 497, 496}  # the source's ids, not row numbers
    assert {row["category_id"] for row in rows} == set(fake.CLASS_IDS)
    again = call("--truth", shards, "--split", "val", "--predictions", saved, "--json")
    assert json.loads(again.stdout) == numbers

    text = call(file, "--shards", shards, "--split", "val", "--device", "cpu").stdout
    assert "protocol: COCO: IoU 0.50:0.05:0.95" in text and "5 images, 7 boxes, 7 detections" in text
    assert [line.split()[0] for line in text.splitlines()[-3:]] == list(fake.CLASSES)

    high = call(file, "--shards", shards, "--protocol", "voc12", "--conf", "0.5", "--device", "cpu", "--json")
    facts = check("evaluate", high.stdout)
    assert facts["mAP"] == pytest.approx(2 / 3) and facts["per_class"] == {"red": 1, "green": 1, "blue": 0}
    assert facts["best"]["precision"] == 1 and facts["best"]["recall"] == facts["best"]["F1"] == pytest.approx(2 / 3)
    assert "best F1 at --conf 0.000: precision 1.0000, recall 1.0000, F1 1.0000" in text


def test_calibration_is_stored_in_the_checkpoint(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights").mkdir()
    file = fake.saved(tmp_path / "weights/best.pt", monkeypatch, classes=["red", "green", "azure"], extra=[1, "a"])
    before = checkpoint.load(file)
    shown = call(file, "--shards", shards, "--device", "cpu", "--calibrate")
    assert "threshold of all classes: " in shown.stdout and "stored" not in shown.stdout
    assert "calibration" not in checkpoint.load(file)
    done = call(tmp_path, "--shards", shards, "--device", "cpu", "--save-calibration", "--json")  # a run's folder
    facts = check("evaluate", done.stdout)["calibration"]
    stored = checkpoint.load(file)  # which compares the digest
    kept = stored.pop("calibration")
    assert checkpoint.digest(stored) == checkpoint.digest(before)
    by_class = {name: row["conf"] for name, row in facts["classes"].items()}
    assert kept["class_conf"] == [by_class["red"], by_class["green"], facts["conf"]] and kept["conf"] == facts["conf"]
    assert (kept["iou"], kept["tiling"]) == (0.5, None)
    assert facts["classes"]["blue"]["F1"] == 0 and kept["temperature"] == facts["temperature"]
    assert [path.name for path in file.parent.iterdir()] == ["best.pt"]


def test_classes_are_joined_by_name(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    truth = truth_of_shards(Shards(shards, "val"))
    found = Predictions(np.zeros(3, np.int64), np.ones((3, 4)), np.ones(3), np.array([0, 1, 2]))
    moved = by_name(found, ("blue", "pink", "red"), truth)
    assert moved.labels.tolist() == [2, 0]
    with pytest.raises(ConfigError, match=r"pink.*red, green, blue.*none in common"):
        by_name(found, ("pink", "mauve", "x"), truth)

    file = fake.saved(tmp_path / "best.pt", monkeypatch, classes=["red", "green", "azure"])
    result = call(file, "--shards", shards, "--device", "cpu", "--json", "--protocol", "voc07")
    assert json.loads(result.stdout)["per_class"] == {"red": 1, "green": 1, "blue": 0}
    assert "only the checkpoint knows: azure" in result.stderr and "only the shards knows: blue" in result.stderr


def test_ids_are_row_numbers_where_the_source_has_none(tmp_path: Path) -> None:
    none = fake.shards(tmp_path / "none", first_id=-1)
    assert truth_of_shards(Shards(none, "val")).image_ids.tolist() == [0, 1, 2, 3, 4]
    own = fake.shards(tmp_path / "own")
    assert truth_of_shards(Shards(own, "val")).image_ids.tolist() == [500, 499, 498, 497, 496]
    assert truth_of_shards(Shards(own)).image_ids.tolist() == list(range(7))  # both splits: ids come twice


def test_shards_truth_equals_the_json_it_came_from(tmp_path: Path) -> None:
    """COCO's areas are the masks': they survive the shards, and with them the size bins."""
    from tests import tiny

    shards = Shards(tiny.shards(tmp_path / "shards"), "train")
    truth = truth_of_shards(shards)
    assert truth.image_ids.tolist() == list(range(1000, 1010)) and truth.class_ids == (3, 17, 90)
    rng = np.random.default_rng(0)
    areas = (truth.areas * rng.uniform(0.5, 1, len(truth.areas))).astype(np.float32).astype(np.float64)
    truth = type(truth)(**{**vars(truth), "areas": areas})
    corners = truth.boxes
    xywh = np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1)
    keys = {"image_id": truth.image_ids[truth.image], "category_id": np.array(truth.class_ids)[truth.labels]}
    rows = [
        {"id": i + 1, **{k: int(v[i]) for k, v in keys.items()}, "bbox": xywh[i].tolist(), "area": areas[i]}
        | {"iscrowd": int(truth.flags[i] & 1)}
        for i in range(len(xywh))
    ]
    categories = [{"id": i, "name": n} for i, n in zip(truth.class_ids, truth.classes, strict=True)]
    images = [{"id": int(i)} for i in truth.image_ids]
    file = write(tmp_path / "i.json", {"images": images, "annotations": rows, "categories": categories})
    found = [
        {**{k: row[k] for k in ("image_id", "category_id")}, "score": float(rng.random())}
        | {"bbox": (np.array(row["bbox"]) * rng.uniform(0.8, 1.2, 4)).tolist()}
        for row in rows
    ]
    predictions = write(tmp_path / "d.json", found)
    of_json = truth_of_coco(file)
    assert coco(truth, read_predictions(predictions, truth)) == coco(of_json, read_predictions(predictions, of_json))


def test_without_a_model(tmp_path: Path) -> None:
    truth, found = write(tmp_path / "truth.json", INSTANCES), write(tmp_path / "found.json", FOUND)
    result = call("--truth", truth, "--predictions", found, "--json")
    numbers = json.loads(result.stdout)
    assert (
        numbers["AP"] == pytest.approx(0.5) and numbers["APs"] == -1 and numbers["AR1"] == 0.5 and result.stderr == ""
    )
    result = call("--truth", truth, "--predictions", found, "--json", "--protocol", "voc07")
    numbers = json.loads(result.stdout)
    assert numbers.pop("best")["F1"] == 0.5
    assert numbers == {"mAP": 0.5, "per_class": {"cat": 1, "dog": 0, "cow": None}}
    text = call("--truth", truth, "--predictions", found, "--protocol", "voc07").stdout
    assert "11 recall points" in text and text.splitlines()[-1].split() == ["cow", "0", "-"]
    lvis = call("--truth", truth, "--predictions", found, "--json", "--protocol", "lvis")
    assert lvis.exit_code == 0 and "does not say which classes were looked for" in lvis.stderr
    write(found, [])
    numbers = json.loads(call("--truth", truth, "--predictions", found, "--json").stdout)
    assert {key for key, value in numbers.items() if value == 0} == set(COCO_KEYS) - {"APs", "APl", "ARs", "ARl"}
    write(truth, {"images": [], "annotations": [], "categories": []})
    for protocol in ("coco", "voc12"):
        assert call("--truth", truth, "--predictions", found, "--protocol", protocol).exit_code == 0


def changed(**keys: Any) -> list[dict[str, Any]]:
    row = {**FOUND[1], **keys}
    return [FOUND[0], {key: value for key, value in row.items() if value is not ...}]


BAD_PREDICTIONS = [
    ({"a": 1}, "the whole file.*missing required field `annotations`; expected a list of"),
    ([3], "entry 0: 3; expected `object`"),
    ("[{", "not JSON.*line 1 column 3"),
    ("", "not JSON"),
    (changed(score=...), "entry 1: .*missing required field `score`"),
    (changed(bbox=...), "entry 1: .*missing required field `bbox`"),
    (changed(image_id=8), r"entry 1: image_id is 8; expected one of the truth's id \(7, 9\)"),
    (changed(category_id=4), r"entry 1: category_id is 4; expected one of the truth's id \(3, 5, 6\)"),
    (changed(image_id="9"), 'entry 1: image_id: "9"; expected `int`, got `str`'),
    (changed(image_id=2**70), "entry 1: image_id: 1180591620717411303424; expected `int`"),
    (changed(score=float("nan")), "entry 1: score is nan; expected a finite number"),
    (changed(score="high"), 'entry 1: score: "high"; expected `float`'),
    (changed(bbox=[1, 2, -3, 4]), r"entry 1: bbox is \[1.0, 2.0, -3.0, 4.0\]; expected \[x, y, width, height\]"),
    (changed(bbox=[1, 2, float("inf"), 4]), "entry 1: bbox is .*inf.*finite"),
    (changed(bbox=[1, 2, 3]), r"entry 1: bbox: \[1, 2, 3\]; expected `array` of length 4"),
    (changed(bbox=[1, 2, 3, None]), r"entry 1: bbox\[3\]: null; expected `float`"),
    ({"annotations": changed(score=None)}, "score: null; expected `float`"),
]


@pytest.mark.parametrize(("content", "message"), BAD_PREDICTIONS)
def test_bad_predictions_are_named(content: object, message: str, tmp_path: Path) -> None:
    truth, found = write(tmp_path / "truth.json", INSTANCES), write(tmp_path / "found.json", content)
    with pytest.raises(FormatError, match=r"found\.json: .*" + message):
        read_predictions(found, truth_of_coco(truth))
    result = call("--truth", truth, "--predictions", found, "--json")
    assert result.exit_code == 2 and result.stderr.startswith("error: ") and "error" in json.loads(result.stdout)


def spoiled(where: str, **keys: Any) -> dict[str, Any]:
    rows = [*INSTANCES[where][:-1], {k: v for k, v in {**INSTANCES[where][-1], **keys}.items() if v is not ...}]
    return {**INSTANCES, where: rows}


BAD_TRUTHS = [
    ([], "expected `object`"),
    ({"images": []}, "missing required field `annotations`"),
    (spoiled("images", id=7), "images entry 1: id is 7, which an entry before has"),
    (spoiled("categories", id=5), "categories entry 2: id is 5"),
    (spoiled("categories", name=3), "categories entry 2: name: 3; expected `str`"),
    (spoiled("annotations", image_id=1), r"annotations entry 1: image_id is 1; expected an image's id \(7, 9\)"),
    (spoiled("annotations", category_id=1), "annotations entry 1: category_id is 1"),
    (spoiled("annotations", bbox=[1, 1, -1, 1]), "annotations entry 1: bbox is"),
    (spoiled("annotations", bbox=[float("nan"), 1, 1, 1]), "annotations entry 1: bbox is .*nan"),
    (spoiled("annotations", bbox=...), "annotations entry 1: bbox is missing; expected"),
    (spoiled("annotations", area="big"), 'annotations entry 1: area: "big"; expected'),
]


@pytest.mark.parametrize(("content", "message"), BAD_TRUTHS)
def test_bad_truths_are_named(content: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"truth\.json: .*" + message):
        truth_of_coco(write(tmp_path / "truth.json", content))


def test_area_is_the_box_where_the_file_has_none(tmp_path: Path) -> None:
    truth = truth_of_coco(write(tmp_path / "t.json", spoiled("annotations", area=..., iscrowd=...)))
    assert truth.areas.tolist() == [1600, 1600] and truth.flags.tolist() == [0, 0]


def test_wrong_calls(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = fake.saved(tmp_path / "best.pt", monkeypatch)
    truth, found = write(tmp_path / "truth.json", INSTANCES), write(tmp_path / "found.json", FOUND)
    wrong: list[tuple[list[object], str]] = [
        ([], "expected either"),
        ([file], "expected either"),
        (["--truth", truth, "--predictions", found, "--save-calibration"], "--save-calibration: expected a checkpoint"),
        (["m.onnx", "--shards", shards, "--save-calibration"], "of an exported model, calibrate that, export again"),
        (["--truth", truth, "--predictions", write(tmp_path / "no.json", []), "--calibrate"], "none of the detections"),
        ([file, "--shards", shards, "--predictions", found], "image_id is 7; expected one of the truth's"),
        ([file, "--shards", shards, "--predictions", found, "--predictions", found], "expected either"),
        (["--truth", truth], "expected either"),
        (["--truth", truth, "--predictions", tmp_path / "none.json"], "none.json: cannot be read"),
        (["--truth", tmp_path / "none.json", "--predictions", found], "none.json: cannot be read"),
        (["--truth", tmp_path, "--predictions", found], "index.json"),
        (["--truth", truth, "--predictions", found, "--split", "val"], "--split val is for shards"),
        (["--truth", truth, "--predictions", found, "--save-json", tmp_path / "no/x.json"], "cannot be written"),
        ([file, "--shards", tmp_path / "none"], "does not exist"),
        ([file, "--shards", shards, "--split", "test"], "unknown split 'test'"),
        ([file, "--shards", shards, "--device", "abacus"], "device is 'abacus'"),
        ([tmp_path / "none.pt", "--shards", shards], "no such checkpoint"),
        ([truth, "--shards", shards], "not a checkpoint"),
    ]
    for arguments, message in wrong:
        result = call(*arguments)
        assert result.exit_code == 2 and message in result.stderr and result.stdout == "", (arguments, result.output)
    assert call(file, "--shards", shards, "--protocol", "mine").exit_code == 2
    assert "CHECKPOINT" in call("--help").stdout and os.environ.get("RANK") is None


def test_finished_detections_need_no_torch(tmp_path: Path) -> None:
    truth, found = write(tmp_path / "truth.json", INSTANCES), write(tmp_path / "found.json", FOUND)
    code = (
        "import sys; from trainers.evaluate import main\n"
        f"main(['--truth', {str(truth)!r}, '--predictions', {str(found)!r}, '--json'], standalone_mode=False)\n"
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stderr == ""
    assert json.loads(done.stdout)["AP"] == pytest.approx(0.5)


def test_explain_compare_and_report(shards: Path, tmp_path: Path) -> None:
    truth, found = write(tmp_path / "truth.json", INSTANCES), write(tmp_path / "found.json", FOUND)
    worse = write(tmp_path / "worse.json", FOUND[1:])
    page = tmp_path / "eval.html"
    options = ("--truth", truth, "--predictions", found, "--predictions", worse, "--explain", "--report", page)
    result = call(*options)
    assert result.exit_code == 0, result.output
    assert "coco50 50.00 -> voc07 50.00 (+0.00)" in result.stdout
    assert "  difference   -50.00" in result.stdout and "what makes the difference" in result.stdout
    assert "</html>" in page.read_text("utf-8")
    facts = json.loads(call(*options, "--json").stdout)
    assert facts["comparison"]["second"]["value"] == 0
    costs = [step["cost"] for step in facts["comparison"]["steps"]]
    assert sum(costs) == pytest.approx(facts["comparison"]["difference"]["value"])
    assert facts["explanation"]["protocols"]["coco50"]["difference"] == 0

    folder = tmp_path / "labels"
    folder.mkdir()
    (folder / "absent.txt").write_text("0 .5 .5 .1 .1 .9")
    result = call("--truth", shards, "--split", "val", "--predictions", folder)
    assert result.exit_code == 2 and "absent.txt" in result.stderr

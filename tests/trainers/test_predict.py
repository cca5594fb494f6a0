from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from click.testing import CliRunner, Result

import trainers
from dataforge.images.header import probe
from dataforge.loading.loader import Loader
from dataforge.record import Record
from dataforge.shards.reader import Shards
from dataforge.shards.writer import ShardWriter
from tests import tiny
from tests.cli.test_json import check
from tests.trainers import fake
from trainers.evaluate import main as evaluate
from trainers.predict import main, sources
from trainers.results.detection import detect, detect_and_embed
from trainers.results.evaluation import run
from trainers.results.truth import read_predictions, truth_of_shards


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return fake.saved(tmp_path / "best.pt", monkeypatch)


def call(*arguments: object) -> Result:
    result = CliRunner().invoke(main, [*map(str, arguments), "--device", "cpu"])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_a_folder(checkpoint: Path, tmp_path: Path) -> None:
    source, out = fake.files(tmp_path / "photos"), tmp_path / "out"
    result = call(checkpoint, "--source", source, "--out", out, "--save-json", "--save-txt")
    assert result.exit_code == 0, result.output
    assert "lowest score: 0.25" in result.stdout
    assert "sub/dir/all.jpg 96x128: 1 red, 1 green, 1 blue" in result.stdout
    assert "empty.jpg 90x90: nothing" in result.stdout
    assert "5 pictures, 7 boxes, 0 files could not be read" in result.stdout
    drawn = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.suffix in (".jpg", ".png")}
    assert drawn == set(fake.PICTURES)
    assert fake.pixels_of(out / "wide.png").shape == (80, 160, 3)
    assert (fake.pixels_of(out / "wide.png") != fake.pixels_of(source / "wide.png")).any()

    rows = json.loads((out / "predictions.json").read_text())
    assert {row["file_name"] for row in rows} == set(fake.PICTURES) - {"empty.jpg"}
    names = sorted(fake.PICTURES)
    for row in rows:
        assert names[row["image_id"]] == row["file_name"]
        x1, y1, x2, y2 = fake.PICTURES[row["file_name"]][2][fake.CLASS_IDS.index(row["category_id"])]
        np.testing.assert_allclose(row["bbox"], [x1, y1, x2 - x1, y2 - y1], atol=2)  # JPEG blurs edges

    assert (out / "labels/empty.txt").read_text() == ""
    lines = [list(map(float, line.split())) for line in (out / "labels/sub/dir/all.txt").read_text().splitlines()]
    for label, *cxcywh_unit, conf in lines:
        x1, y1, x2, y2 = fake.PICTURES["sub/dir/all.jpg"][2][int(label)]
        expected = [(x1 + x2) / 2 / 96, (y1 + y2) / 2 / 128, (x2 - x1) / 96, (y2 - y1) / 128]
        np.testing.assert_allclose(cxcywh_unit, expected, atol=0.02)
        assert conf == pytest.approx([0.9, 0.6, 0.3][int(label)])


def test_thresholds_of_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calibration = {"temperature": 2.0, "conf": 0.5, "class_conf": [0.95, 0.6, 0.25]}
    file = fake.saved(tmp_path / "best.pt", monkeypatch, calibration=calibration)
    source, out = fake.files(tmp_path / "photos"), tmp_path / "out"
    result = call(file, "--source", source, "--out", out, "--save-json")
    assert "lowest score: red 0.950, green 0.600, blue 0.250 (best F1)" in result.stdout
    assert "sub/dir/all.jpg 96x128: 1 green, 1 blue" in result.stdout
    rows = json.loads((out / "predictions.json").read_text())
    logit = np.log(0.6 / 0.4)
    expected = {"green": 1 / (1 + np.exp(-logit / 2)), "blue": 1 / (1 + np.exp(np.log(0.7 / 0.3) / 2))}
    assert {row["category_name"]: row["probability"] for row in rows} == pytest.approx(expected, abs=1e-5)
    stated = call(file, "--source", source, "--out", out, "--conf", "0.7").stdout
    assert "lowest score: 0.7" in stated and "sub/dir/all.jpg 96x128: 1 red\n" in stated
    [(*_, labels)] = trainers.load_detector(file).predict([source / "sub/dir/all.jpg"])
    assert labels.tolist() == [1, 2]
    assert trainers.load_detector(file).predict([source / "sub/dir/all.jpg"], conf=0.7)[0][2].tolist() == [0]
    detector = trainers.predict.Predictor(("red",), (1,), None, {"class_conf": [0.5], "iou": 0.5, "tiling": None})  # type: ignore
    assert detector.thresholds(0.5) == "red 0.500 (best F1)"
    assert detector.thresholds() == "red 0.500 (best F1, found at --iou 0.5)"
    many = trainers.predict.Predictor(("a",) * 9, (0,) * 9, None, {"class_conf": [k / 10 for k in range(1, 10)]})  # type: ignore
    assert many.thresholds() == "0.100 to 0.900, by class (best F1)"


@pytest.mark.parametrize("fit", ["letterbox", "stretch"])
def test_it_detects_what_evaluate_detects(fit: str, tmp_path: Path) -> None:
    """The same bytes through the loader and through predict give the same boxes."""
    shards = Shards(fake.shards(tmp_path / "shards"), "val")
    loader = Loader(shards, "val", batch_size=5, size=(224, 160), fit=fit, shuffle=False)
    found = run(fake.Painted(), loader, "cpu", conf=0.001)
    from dataforge.images.decode import decode

    pictures = [decode(fake.encoded(name)) for name in fake.PICTURES]
    every = detect(fake.Painted(), pictures, (224, 160), fit, "cpu", 0.001, 0.5)  # type: ignore[arg-type]
    for i, (boxes, scores, labels) in enumerate(every):
        mine = found.image == i
        np.testing.assert_allclose(boxes, found.boxes[mine], atol=1e-4)
        np.testing.assert_array_equal(labels, found.labels[mine])
        np.testing.assert_array_equal(scores, found.scores[mine])


def test_exif_is_applied(checkpoint: Path, tmp_path: Path) -> None:
    upright = fake.picture(120, 200, {0: (20, 10, 80, 50)})
    (tmp_path / "r.jpg").write_bytes(tiny.encode(np.ascontiguousarray(np.rot90(upright, 1)), orientation=6))
    out = tmp_path / "out"
    assert call(checkpoint, "--source", tmp_path / "r.jpg", "--out", out, "--save-json").exit_code == 0
    assert fake.pixels_of(out / "r.jpg").shape == (120, 200, 3)
    [row] = json.loads((out / "predictions.json").read_text())
    np.testing.assert_allclose(row["bbox"], [20, 10, 60, 40], atol=1.5)


def test_unreadable_files_are_named_skipped_and_counted(checkpoint: Path, tmp_path: Path) -> None:
    source, out = fake.files(tmp_path / "photos"), tmp_path / "out"
    (source / "zero.jpg").touch()
    (source / "cut.jpg").write_bytes(fake.encoded("last.jpg")[:300])
    (source / "text.png").write_text("not a picture")
    (source / "notes.txt").write_text("not asked for")
    result = call(checkpoint, "--source", source, "--out", out)
    assert result.exit_code == 2
    for name in ("zero.jpg: the file is empty", "cut.jpg: ", "text.png: not an image"):
        assert f"error: {source / name}" in result.stderr
    assert "notes" not in result.output and "5 pictures, 7 boxes, 3 files could not be read" in result.stdout
    assert not (out / "zero.jpg").exists() and (out / "last.jpg").exists()


def test_every_kind_of_picture(checkpoint: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "photos", tmp_path / "out"
    for name, data in tiny.images().items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(data)
    (source / "a.png").write_bytes(tiny.encode(tiny.pixels(20, 30), "PNG"))  # beside a.jpg
    (source / "B.JPG").write_bytes(tiny.encode(tiny.pixels(20, 30)))
    result = call(checkpoint, "--source", source, "--out", out, "--save-txt")
    assert result.exit_code == 0, result.output
    drawn = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file() and p.suffix != ".txt"}
    assert drawn == {*tiny.images(), "a.png", "B.JPG", "d.webp.jpg"} - {"d.webp"}
    texts = {p.relative_to(out / "labels").as_posix() for p in (out / "labels").rglob("*.txt")}
    assert len(texts) == len(drawn) and {"a.txt", "a.png.txt", "sub dir/b.txt"} <= texts


def test_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = fake.files(tmp_path / "photos")
    assert sources(str(root / "last.jpg"), tmp_path) == (root, [root / "last.jpg"])
    base, found = sources(str(root / "**/*.jpg"), tmp_path / "out")
    assert base == root and {p.relative_to(root).as_posix() for p in found} == set(fake.PICTURES) - {"wide.png"}
    base, found = sources(str(root / "s*/dir/all.jpg"), tmp_path / "out")
    assert base == root and found == [root / "sub/dir/all.jpg"]
    monkeypatch.chdir(root)
    base, found = sources("*.png", Path("out"))
    assert base == Path() and found == [Path("wide.png")]


def test_a_second_run_does_not_take_the_firsts_pictures(checkpoint: Path, tmp_path: Path) -> None:
    source = fake.files(tmp_path / "photos")
    for _ in range(2):
        result = call(checkpoint, "--source", source, "--out", source / "out")
        assert "5 pictures" in result.stdout and result.exit_code == 0


def test_confidence_and_read_back(checkpoint: Path, tmp_path: Path) -> None:
    source, out = fake.files(tmp_path / "photos"), tmp_path / "out"
    call(checkpoint, "--source", source, "--out", out, "--conf", "0.7", "--save-json")
    rows = json.loads((out / "predictions.json").read_text())
    assert len(rows) == 2 and all(row["category_id"] == fake.CLASS_IDS[0] for row in rows)
    truth = truth_of_shards(Shards(fake.shards(tmp_path / "shards", first_id=-1), "val"))
    assert read_predictions(out / "predictions.json", truth).labels.tolist() == [0, 0]


def test_wrong_calls(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    source = fake.files(tmp_path / "photos")
    out = tmp_path / "out"
    for arguments, message in (
        ((checkpoint, "--source", tmp_path / "empty", "--out", out), "no images found"),
        ((checkpoint, "--source", tmp_path / "nothing*.jpg", "--out", out), "no images found"),
        ((checkpoint, "--source", tmp_path / "none", "--out", out), "no images found"),
        ((tmp_path / "none.pt", "--source", tmp_path / "none", "--out", out), "no images found"),  # before the model
        ((tmp_path / "none.pt", "--source", source, "--out", out), "no such checkpoint"),
        ((checkpoint, "--source", source, "--out", checkpoint), "cannot be written"),
    ):
        result = call(*arguments)
        assert result.exit_code == 2 and message in result.stderr, result.output
    assert call(checkpoint, "--out", out).exit_code == 2


def test_a_run_folder_default_output_crops_and_the_function(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, folder = fake.files(tmp_path / "photos"), tmp_path / "runs/mine"
    (folder / "weights").mkdir(parents=True)
    assert "weights/best.pt: no such checkpoint" in call(folder, "--source", source).stderr
    (folder / "weights/last.pt").write_bytes(checkpoint.read_bytes())
    monkeypatch.chdir(tmp_path)
    result = call(folder, "--source", source, "--save-crops", "--batch", 2)
    assert result.exit_code == 0 and result.stdout.endswith("results saved to predictions\n"), result.output
    detector = trainers.load_detector(folder, device="cpu")
    files = sorted(path for path in source.rglob("*") if path.is_file())
    every = detector.predict([str(files[0]), *files[1:]])
    for (boxes, scores, labels), file in zip(every, files, strict=True):
        assert boxes.shape == (len(scores), 4) and len(labels) == len(scores) and (np.diff(scores) <= 0).all()
        name = file.relative_to(source).with_suffix("")
        for n, (box, label) in enumerate(zip(boxes, labels.tolist(), strict=True), 1):
            with PIL.Image.open(tmp_path / "predictions/crops" / detector.classes[label] / f"{name}-{n}.jpg") as crop:
                assert np.allclose(crop.size, box[2:] - box[:2], atol=2)
    crops = list((tmp_path / "predictions/crops").rglob("*.jpg"))
    assert len(crops) == sum(len(scores) for _, scores, _ in every) > 0


SEAMS = {0: (100, 90, 160, 150), 1: (10, 200, 450, 240), 2: (300, 20, 310, 28)}


def test_tiles(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies across seams is found once, in pixels of the picture, from memory or from disk; evaluate agrees."""
    data, out = tiny.encode(fake.picture(300, 460, SEAMS), "PNG"), tmp_path / "out"
    (tmp_path / "large.png").write_bytes(data)
    tiles = ("--tile", 128, "--overlap", 0.5, "--iou", 0.5)
    for merging, whole in (("nms", "--no-tile-whole"), ("wbf", "--tile-whole")):
        words = (checkpoint, "--source", tmp_path / "large.png", "--out", out, "--save-json", *tiles)
        result = call(*words, "--tile-merge", merging, whole, "--batch", 3)
        assert result.exit_code == 0 and "460x300: 1 red, 1 green, 1 blue" in result.stdout, result.output
        rows = json.loads((out / "predictions.json").read_text())
        for row, (x1, y1, x2, y2) in zip(rows, SEAMS.values(), strict=True):
            np.testing.assert_allclose(row["bbox"], [x1, y1, x2 - x1, y2 - y1], atol=2)
    monkeypatch.setattr("dataforge.images.large.IN_MEMORY", 0)
    monkeypatch.setattr("trainers.predict.IN_MEMORY", 0)
    monkeypatch.setattr("trainers.results.tiled.VIEW", 230)
    assert call(*words, "--tile-merge", "nms").exit_code == 0
    assert fake.pixels_of(out / "large.png").shape == (150, 230, 3)
    rows = json.loads((out / "predictions.json").read_text())

    with ShardWriter(tmp_path / "shards", fake.CLASSES, fake.CLASS_IDS) as writer:
        boxes = np.array(list(SEAMS.values()), np.float32)
        record = Record("large.png", "val", data, 300, 460, boxes, np.arange(3, dtype=np.int32), np.zeros(3, np.uint8))
        writer.add(record, data, probe(data))
        writer.publish()
    words = (checkpoint, "--shards", tmp_path / "shards", *tiles, "--conf", 0.25, "--device", "cpu")
    scored = CliRunner().invoke(evaluate, [*map(str, words), "--json", "--save-json", str(tmp_path / "found.json")])
    assert scored.exit_code == 0 and check("evaluate", scored.stdout)["AP50"] == pytest.approx(1), scored.output
    found = json.loads((tmp_path / "found.json").read_text())
    assert [row["bbox"] for row in found] == [row["bbox"] for row in rows]


def test_wrong_tiles(checkpoint: Path, tmp_path: Path) -> None:
    source = fake.files(tmp_path / "photos")
    for words, message in (
        (("--overlap", 0.3), "expected --tile"),
        (("--tile-whole",), "expected --tile"),
        (("--tile", 0), "at least 1"),
        (("--tile", 64, "--tile-merge", "mean"), "mean"),
    ):
        result = call(checkpoint, "--source", source, "--out", tmp_path / "out", *words)
        assert result.exit_code == 2 and message in result.stderr, result.output
    words = ("--truth", tmp_path, "--predictions", tmp_path, "--tile", "9")
    result = CliRunner().invoke(evaluate, [*map(str, words)])
    assert result.exit_code == 2 and "--tile is for CHECKPOINT" in result.stderr


def test_embeddings_are_of_the_image_without_its_padding() -> None:
    class Shrunk(fake.Painted):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = torch.nn.Sequential(torch.nn.AvgPool2d(8), torch.nn.Unflatten(0, (1, -1)))  # one map

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            self.backbone(images.float())
            return super().forward(images)

    pictures = [fake.picture(*fake.PICTURES[name]) for name in ("wide.png", "tall.jpg", "sub/dir/all.jpg")]
    boxes, embeddings = detect_and_embed(Shrunk(), pictures, (320, 320), "letterbox", torch.device("cpu"), 0.1, 0.5)
    alone = detect(Shrunk(), pictures, (320, 320), "letterbox", torch.device("cpu"), 0.1, 0.5)
    assert all(
        np.array_equal(a, b) for one, two in zip(boxes, alone, strict=True) for a, b in zip(one, two, strict=True)
    )
    for pixels, embedding in zip(pictures, embeddings, strict=True):
        assert embedding == pytest.approx(pixels.mean((0, 1)), abs=6)  # with grey padding: 20 to 40 off

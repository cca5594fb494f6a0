from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from dataforge.cli.main import main
from dataforge.errors import ConfigError
from dataforge.formats.coco import read
from dataforge.images import synth
from dataforge.images.decode import decode
from dataforge.record import Finding, Record

COUNT = 40


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("synth") / "set"
    synth.write(root, images=COUNT, seed=3)
    return root


def files(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def content(root: Path, split: str) -> dict:
    return json.loads((root / "annotations" / f"instances_{split}.json").read_text())


def test_the_same_seed_draws_the_same_bytes(drawn: Path, tmp_path: Path) -> None:
    synth.write(tmp_path / "again", images=COUNT, seed=3)
    assert files(tmp_path / "again") == files(drawn)


def test_another_seed_draws_others_and_more_images_keep_the_first(drawn: Path, tmp_path: Path) -> None:
    assert synth.picture(4, 0)[0] != synth.picture(3, 0)[0]
    synth.write(tmp_path / "more", images=10, seed=3)
    for name, data in files(tmp_path / "more").items():
        if name.endswith(".jpg"):
            assert files(drawn)[name] == data


def test_the_layout_is_cocos(drawn: Path) -> None:
    names = {name for name in files(drawn) if name.endswith(".jpg")}
    stated = {
        f"{split}/{image['file_name']}" for split in ("train", "val") for image in content(drawn, split)["images"]
    }
    assert names == stated and len(names) == COUNT
    assert len(content(drawn, "val")["images"]) == COUNT // 5
    records = [item for item in read(drawn).records if not isinstance(item, Finding)]
    assert len(records) == COUNT and all(isinstance(record, Record) for record in records)


def test_boxes_are_tight_around_what_is_seen() -> None:
    seen, counts = set(), []
    for i in range(COUNT):
        data, (height, width), objects = synth.picture(3, i)
        assert decode(data).shape == (height, width, 3) and 200 <= min(height, width) <= max(height, width) <= 320
        entry: dict = {"images": [], "annotations": []}
        synth._add(entry, i, "x.jpg", height, width, objects)
        for annotation, (label, mask) in zip(entry["annotations"], objects, strict=True):
            x, y, w, h = annotation["bbox"]
            assert mask.shape == (height, width) and annotation["area"] == mask.sum() > 0.2 * w * h
            assert mask[y : y + h, x : x + w].sum() == mask.sum()  # nothing outside
            inner = mask[y : y + h, x : x + w]
            assert inner[0].any() and inner[-1].any() and inner[:, 0].any() and inner[:, -1].any()
            assert min(w, h) >= 20
            seen.add(label)
        assert (sum((mask for _, mask in objects), np.zeros((height, width))) <= 1).all()  # one owner a pixel
        counts.append(len(objects))
    assert seen == set(range(len(synth.CLASSES)))
    assert 0 in counts and max(counts) >= 5 and max(counts) <= synth.MAX_OBJECTS


def test_an_object_differs_from_the_ground_around_it() -> None:
    """The boxes lie where the shapes were drawn: inside the mask the colours are others than just outside it."""
    differs = []
    for i in range(20):
        data, _, objects = synth.picture(3, i)
        pixels = decode(data).astype(float)
        for _, mask in objects:
            kernel = np.ones((9, 9), np.uint8)
            near = cv2.dilate(mask, kernel) - mask > 0
            core = cv2.erode(mask, np.ones((3, 3), np.uint8)) > 0
            differs.append(np.abs(pixels[core].mean(0) - pixels[near].mean(0)).max())
    assert np.median(differs) > 30


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--images", "2"], "images 2"),
        (["--size", "300", "200"], "size 300 200"),
        (["--size", "8", "20"], "size 8 20"),
        (["--seed", "-1"], "is not an integer of at least 0"),
    ],
)
def test_values_that_cannot_work(tmp_path: Path, arguments: list[str], expected: str) -> None:
    result = CliRunner().invoke(main, ["synth", str(tmp_path / "s"), *arguments])
    assert result.exit_code == 2 and result.stderr.startswith("error: ") and expected in result.stderr
    assert not (tmp_path / "s").exists()


def test_a_folder_that_is_not_free(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x")
    for taken in (tmp_path, tmp_path / "mine.txt", tmp_path / "mine.txt" / "below"):
        with pytest.raises(ConfigError, match=r"mine\.txt|is not an empty folder"):
            synth.write(taken, images=5)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]

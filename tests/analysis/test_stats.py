from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from click.testing import CliRunner

from dataforge.analysis.charts import draw, shown
from dataforge.analysis.stats import CELLS, padding, statistics, text
from dataforge.cli.main import main
from dataforge.record import CROWD
from dataforge.shards.reader import Shards
from dataforge.shards.table import Table
from tests import tiny
from tests.analysis.test_padding import table

CHARTS = {
    *("classes", "box_sizes", "relative_box_sizes", "box_centres", "box_widths_and_heights"),
    *("image_aspects", "box_aspects", "boxes_per_image", "image_sizes", "padding"),
}


def facts_of(some: Table, classes: list[str]) -> dict:
    facts = statistics(some, classes, {"train": np.arange(len(some))})
    facts["padding"] = padding(some, (320, 320), 32)
    json.dumps(facts)
    return facts


def test_counts_are_those_of_a_plain_loop(tiny_shards: Path) -> None:
    shards = Shards(tiny_shards)
    facts = statistics(shards.table, shards.classes, shards.splits)
    for split in ("train", "val"):
        records = tiny.records(split)
        for label, name in enumerate(tiny.CLASSES):
            found = facts["classes"][name]
            assert found["boxes"][split] == sum(int((one.labels == label).sum()) for one in records)
            assert found["images"][split] == sum(bool((one.labels == label).any()) for one in records)
        assert facts["splits"][split] == {k: v for k, v in shards.info()["splits"][split].items() if k != "per_class"}
    areas = [float(area) for one in tiny.records() for area in (one.boxes[:, 2:] - one.boxes[:, :2]).prod(1)] * 2
    assert facts["coco_areas"]["small"] == sum(area < 1024 for area in areas)
    assert facts["coco_areas"]["large"] == sum(area > 9216 for area in areas)


def test_nothing_falls_out_of_a_histogram(tiny_shards: Path) -> None:
    shards = Shards(tiny_shards)
    facts = statistics(shards.table, shards.classes, shards.splits)
    for name in ("box_side", "box_side_share", "box_aspect"):
        assert sum(facts[name]["histogram"]["counts"]) == facts["boxes"], name
    for name in ("image_aspect", "boxes_per_image"):
        assert sum(facts[name]["histogram"]["counts"]) == facts["images"], name
    for name in ("centres", "relative_sizes"):
        assert np.shape(facts[name]) == (CELLS, CELLS) and np.sum(facts[name]) == facts["boxes"], name
    assert sum(n for _, _, n in facts["image_sizes"]["common"]) == facts["images"]
    extreme = replace(table(np.array([9000]), np.array([20]), np.array([2])), areas=np.ones(2, np.float32))
    assert sum(statistics(extreme, ["a"], {})["box_aspect"]["histogram"]["counts"]) == 2


def test_the_heat_maps_are_upright() -> None:
    some = table(np.array([100]), np.array([200]), np.array([1]))
    some = replace(some, boxes=np.array([[162, 0, 200, 11]], np.float32))  # at the top right, wide and low
    facts = statistics(some, ["a"], {})
    assert np.argwhere(facts["centres"]).tolist() == [[2, 36]]
    assert np.argwhere(facts["relative_sizes"]).tolist() == [[4, 7]]


@pytest.mark.parametrize(
    ("counts", "classes"),
    [
        ([0, 0, 0], ["cat", "dog"]),
        ([0, 0], []),
        ([3, 0, 9], ["only"]),
        ([1] * 50 + [40] * 50, [f"class {i}" for i in range(1200)]),
        ([5], ["血小板", "$x_1$", "_hidden", "<script>", "Größe", "a" * 200]),
        ([], ["cat"]),
    ],
)
def test_charts_of_any_set_without_a_warning(counts: list[int], classes: list[str]) -> None:
    n = len(counts)
    some = table(np.arange(n) * 3 + 60, np.arange(n) * 2 + 50, np.array(counts, int))
    some = replace(some, labels=(np.arange(len(some.boxes)) % max(1, len(classes))).astype(np.int32))
    facts = facts_of(some, classes)
    found = draw(facts)
    assert set(found) - {"class_ranks"} == CHARTS
    for caption, svg in found.values():
        root = ElementTree.fromstring(svg)
        assert root.tag.endswith("svg") and caption and b"#000000" not in svg and b"<metadata" not in svg
        assert len(list(root.iter("{http://www.w3.org/2000/svg}path"))) > 2
    lines = text(facts).splitlines()
    assert all(any(line.startswith(name) for line in lines) for name in classes)


def test_names_that_a_chart_can_show() -> None:
    assert shown("cat") == "cat" and shown("_a").strip() == "_a" and shown("$x$") == r"\$x\$"
    assert shown("血", "class 3") == "class 3"
    assert len(shown("a" * 200)) < 40 and shown("a" * 200).startswith("aaa")


def test_the_command(tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "a" / "stats"
    run = CliRunner().invoke
    done = run(main, ["stats", str(tiny_shards), "--out", str(out), "--split", "train"])
    assert done.exit_code == 0, done.output
    assert "10 images" in done.output and "traffic light" in done.output
    assert {file.name for file in out.iterdir()} == {f"{name}.svg" for name in CHARTS} | {"index.html"}
    assert (out / "index.html").read_text("utf-8").count("<svg ") == len(CHARTS)

    monkeypatch.chdir(tmp_path)
    done = run(main, ["stats", str(tiny_shards), "--json", "--size", "64", "96", "--batch-size", "4"])
    assert not (tmp_path / "stats").exists(), "a program asked for JSON alone"
    facts = json.loads(done.stdout)
    assert facts["images"] == 20 and facts["padding"]["1 size"]["shapes"] == [[64, 96]]
    assert facts["padding"]["1 size"]["steps"] == 5 and facts["splits"]["train"]["crowd"] > 0

    (tmp_path / "file").write_text("")
    for flags, words in (
        (["--out", str(tmp_path / "file")], "is a file; expected a folder"),
        (["--split", "x"], "unknown split"),
    ):
        done = run(main, ["stats", str(tiny_shards), *flags])
        assert done.exit_code == 2 and words in done.stderr and "Traceback" not in done.output


def test_a_union_is_its_parts(tiny_shards: Path, tmp_path: Path) -> None:
    records = tiny.records("train")
    assert any((one.flags & CROWD).any() for one in records)
    index = json.loads((tiny_shards / "index.json").read_text("utf-8"))
    index["unions"] = {"trainval": ["train", "val"]}
    del index["index_crc"]
    copy = tmp_path / "copy"
    copy.mkdir()
    for split in ("train", "val"):
        (copy / split).symlink_to(tiny_shards / split)
    (copy / "index.json").write_text(json.dumps(index), "utf-8")
    for split in ([], ["--split", "trainval"]):
        done = CliRunner().invoke(main, ["stats", str(copy), "--json", "--out", str(tmp_path / "out"), *split])
        assert list(json.loads(done.stdout)["splits"]) == ["train", "val"]

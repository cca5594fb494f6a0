"""Lint: each defect, planted once in a clean set, is found once and named; a clean set is left in peace."""

from __future__ import annotations

import ast
import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from dataforge.analysis.lint.codes import CODES as LINT_CODES
from dataforge.analysis.lint.codes import SEVERITIES
from dataforge.analysis.lint.pictures import sections
from dataforge.analysis.lint.run import Report, lint, lint_shards
from dataforge.analysis.lint.whole import by_chance, divergence
from dataforge.cli.main import main
from dataforge.formats import coco, codes
from dataforge.images.decode import decode
from dataforge.images.draw import thumbnail
from dataforge.images.header import ImageInfo, probe
from dataforge.ingest.run import ingest
from dataforge.record import CROWD, Finding, Record, Source
from dataforge.shards.reader import Shards
from dataforge.sources import checks
from tests import tiny

ROOT = Path(__file__).resolve().parents[2]
CODES = LINT_CODES | codes()
CLASSES = ("cat", "dog")
HEIGHT, WIDTH = 120, 170

Set = dict[str, Record]
Plant = Callable[[Set], Source | None]


def pixels(seed: int) -> np.ndarray:
    """(HEIGHT, WIDTH, 3) blobs of colour, as unlike for two seeds as two photographs."""
    draw = np.random.default_rng(seed)
    coarse = draw.integers(0, 256, (6, 8, 3)).astype(np.uint8)
    return np.asarray(cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC), np.uint8)


def clean() -> Set:
    """By split and number: six images to train on and four to validate with, a box of each class in each."""
    found = {}
    for i in range(10):
        split, n = ("train", i) if i < 6 else ("val", i - 6)
        boxes = np.array([[5 + i, 7, 45 + i, 40 + i], [60, 50 + i, 110 + i, 90 + i]], np.float32)
        image = tiny.encode(pixels(i))
        fields = (f"{split}/{n}.jpg", split, image, HEIGHT, WIDTH, boxes, np.array([0, 1], np.int32))
        found[f"{split}{n}"] = Record(*fields, np.zeros(2, np.uint8), id=i, origin="labels.json")
    return found


def as_source(records: Set, *findings: Finding) -> Source:
    return Source(CLASSES, iter([*findings, *records.values()]), total=len(records))


def codes(report: Report) -> dict[str, int]:
    return {code: kind.count for code, kind in report.kinds.items()}


def image(data: bytes) -> Plant:
    """Another image for train1, with its size stated as it is, and boxes that lie inside it."""

    def plant(records: Set) -> None:
        try:
            info = probe(data)
            height, width = info.height, info.width
        except Exception:
            height, width = HEIGHT, WIDTH
        scale = np.array([width / WIDTH, height / HEIGHT] * 2, np.float32)
        boxes = np.maximum(records["train1"].boxes * scale, [[0, 0, 2, 2]]).astype(np.float32)
        records["train1"] = replace(records["train1"], image=data, height=height, width=width, boxes=boxes)

    return plant


def fields(**values: object) -> Plant:
    def plant(records: Set) -> None:
        records["train1"] = replace(records["train1"], **values)  # type: ignore[arg-type]

    return plant


def more_box(*box: float, label: int = 0, flag: int = 0) -> Plant:
    """A third box for train1."""

    def plant(records: Set) -> None:
        one = records["train1"]
        records["train1"] = replace(
            one,
            boxes=np.concatenate([one.boxes, np.array([box], np.float32)]),
            labels=np.append(one.labels, label).astype(np.int32),
            flags=np.append(one.flags, flag).astype(np.uint8),
        )

    return plant


def without_boxes(records: Set) -> None:
    none = {"labels": np.zeros(0, np.int32), "flags": np.zeros(0, np.uint8)}
    records["train1"] = replace(records["train1"], boxes=np.zeros((0, 4), np.float32), **none)


def copied(name: str, other: str) -> Plant:
    def plant(records: Set) -> None:
        records[name] = replace(records[name], image=records[other].image)

    return plant


def alike(name: str, other: str) -> Plant:
    """The other's image, a bit brighter and worse."""

    def plant(records: Set) -> None:
        number = list(records).index(other)
        worse = np.clip(pixels(number).astype(int) + 8, 0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        PIL.Image.fromarray(worse).save(buffer, "JPEG", quality=60)
        records[name] = replace(records[name], image=buffer.getvalue())

    return plant


def relabelled(split: str, label: int) -> Plant:
    """Every box of a split has one class."""

    def plant(records: Set) -> None:
        for name, one in records.items():
            if name.startswith(split):
                records[name] = replace(one, labels=np.full(2, label, np.int32))

    return plant


def damaged() -> bytes:
    """A PNG whose header and end are fine and whose pixels are not."""
    data = bytearray(tiny.encode(pixels(1), "PNG"))
    at = data.index(b"IDAT") + 4
    data[at + 2 : at + 400] = bytes(398)
    return bytes(data)


def palette() -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels(1)).quantize(64).save(buffer, "PNG")
    return buffer.getvalue()


def deep() -> bytes:
    return tiny.encode((pixels(1)[..., 0].astype(np.uint16) << 8) + 77, "PNG")


def transparent() -> bytes:
    return tiny.encode(np.dstack([pixels(1), np.full((HEIGHT, WIDTH), 200, np.uint8)]), "PNG")


NAN, INF = float("nan"), float("inf")
KEY = "train/1.jpg"
JPEG = tiny.encode(pixels(1))

# what is planted; the codes that are found; the key
DEFECTS: list[tuple[str, Plant, set[str], str]] = [
    ("no image", image(b"no image at all"), {"image-unreadable"}, KEY),
    ("empty file", image(b""), {"image-unreadable"}, KEY),
    ("cut short", image(JPEG[: len(JPEG) // 2]), {"image-truncated"}, KEY),
    ("gone", fields(image=Path("nowhere.jpg")), {"image-missing"}, KEY),
    ("twice", fields(key="train/0.jpg"), {"image-twice"}, "train/0.jpg"),
    ("suffix", fields(key="train/1.png"), {"image-suffix"}, "train/1.png"),
    ("16 bits", image(deep()), {"image-deep", "image-suffix"}, KEY),
    ("palette", image(palette()), {"image-mode", "image-suffix"}, KEY),
    ("alpha", image(transparent()), {"image-mode", "image-suffix"}, KEY),
    ("cmyk", image(tiny.encode(pixels(1), mode="CMYK")), {"image-mode"}, KEY),
    ("pixels", image(damaged()), {"image-damaged", "image-suffix"}, KEY),
    ("exif", image(tiny.encode(pixels(1), orientation=6)), {"image-rotated"}, KEY),
    ("narrow", image(tiny.encode(pixels(1)[:5])), {"image-small"}, KEY),
    ("size", fields(height=60, width=85), {"size-wrong"}, KEY),
    ("no box", without_boxes, {"image-empty"}, KEY),
    ("nan", more_box(NAN, 2, 30, 40), {"box-nan"}, KEY),
    ("infinite", more_box(1, 2, INF, 40), {"box-nan"}, KEY),
    ("degenerate", more_box(50, 10, 50, 40), {"box-empty"}, KEY),
    ("outside", more_box(400, 10, 450, 40), {"box-outside"}, KEY),
    ("over", more_box(120, 10, 190, 40), {"box-clipped"}, KEY),
    ("inverted", more_box(160, 40, 120, 10), {"box-inverted"}, KEY),
    ("tiny", more_box(120, 10, 120.5, 40), {"box-tiny"}, KEY),
    ("all", more_box(0.5, 0, WIDTH, HEIGHT - 0.5), {"box-covers"}, KEY),
    ("same", more_box(6, 7, 46, 41), {"box-same"}, KEY),
    ("near", more_box(6.4, 7, 46, 40.6), {"box-alike"}, KEY),
    ("copy", copied("train1", "train0"), {"copy"}, KEY),
    ("copy across", copied("val1", "train0"), {"copy-across"}, "val/1.jpg"),
    ("alike", alike("train1", "train0"), {"alike"}, KEY),
    ("alike across", alike("val1", "train0"), {"alike-across"}, "val/1.jpg"),
    ("unused", relabelled("", 0), {"class-unused"}, "dog"),
]


def test_a_clean_set_has_no_findings() -> None:
    report = lint(as_source(clean()), "set")
    assert not report.kinds and (report.images, report.boxes) == (10, 20)


@pytest.mark.parametrize(("plant", "expected", "key"), [one[1:] for one in DEFECTS], ids=[one[0] for one in DEFECTS])
def test_each_defect_is_found_once(plant: Plant, expected: set[str], key: str) -> None:
    records = clean()
    plant(records)
    report = lint(as_source(records), "set")
    assert codes(report) == dict.fromkeys(expected, 1)
    for kind in report.kinds.values():
        (finding,) = kind.examples
        assert finding.key == key and kind.meaning
        if finding.scope == "box":
            box = records["train1"].boxes[2]
            assert finding.box == 2 and finding.split == "train"
            assert finding.xyxy == (tuple(box.tolist()) if np.isfinite(box).all() else None)
        if expected & {"copy", "copy-across", "alike", "alike-across"}:
            assert finding.other == ("train", "train/0.jpg") and finding.split == key.partition("/")[0]
    for severity in SEVERITIES:
        assert report.count(severity) == sum(CODES[code][0] == severity for code in expected)


@pytest.mark.parametrize(
    "plant",
    [
        more_box(6, 7, 46, 41, label=1),  # two classes may share a box
        more_box(0, 0, WIDTH, HEIGHT, flag=CROWD),  # a crowd may fill the image
        more_box(10, 12, 46, 41),  # overlaps by 77 %
        fields(height=0, width=0),  # no size is stated
        image(tiny.encode(pixels(1), mode="L")),
    ],
)
def test_what_is_fine(plant: Plant) -> None:
    records = clean()
    plant(records)
    assert not lint(as_source(records), "set").kinds


def test_a_rare_class() -> None:
    records = clean()
    for name, one in records.items():
        n = 30
        boxes = tiny.boxes(n, HEIGHT, WIDTH, list(records).index(name))
        labels = np.zeros(n, np.int32)
        labels[0] = name in ("train0", "val0")
        records[name] = replace(one, boxes=boxes, labels=labels, flags=np.zeros(n, np.uint8))
    found = lint(as_source(records), "set").kinds["class-rare"]
    assert found.count == 1 and found.examples[0].key == "dog" and "298" in found.examples[0].reason


def test_classes_missing_in_a_split() -> None:
    records = clean()
    relabelled("val", 0)(records)
    report = lint(as_source(records), "set")
    assert report.kinds["class-untested"].examples[0].key == "dog" and report.kinds["class-untested"].count == 1
    records = clean()
    relabelled("train", 0)(records)
    assert "no box in train" in lint(as_source(records), "set").kinds["class-untrained"].examples[0].value


def many(images: int, seed: int, *, dogs: float = 0.3, side: float = 20) -> Set:
    """Records with small, unlike images; shares of classes and sizes of boxes as asked, in the split "val"."""
    draw = np.random.default_rng(seed)
    found = {}
    for i in range(images):
        split = "train" if i % 2 else "val"
        share, size = (dogs, side) if split == "val" else (0.3, 20)
        labels = (draw.random(4) < share).astype(np.int32)
        low = draw.uniform(0, 8, (4, 2))
        boxes = np.concatenate([low, low + size * draw.uniform(0.8, 1.2, (4, 2))], 1).astype(np.float32)
        noise = draw.integers(0, 256, (9, 9, 3)).astype(np.uint8)
        data = tiny.encode(cv2.resize(noise, (120, 110), interpolation=cv2.INTER_NEAREST))
        found[f"{i}"] = Record(f"{i}.jpg", split, data, 110, 120, boxes, labels, np.zeros(4, np.uint8))
    return found


@pytest.mark.parametrize("seed", range(5))
def test_splits_dealt_by_chance_are_not_called_unlike(seed: int) -> None:
    for images in (8, 40):
        found = codes(lint(as_source(many(images, seed)), "set"))
        assert not {"split-classes", "split-sizes"} & found.keys()


def test_unlike_splits() -> None:
    assert codes(lint(as_source(many(80, 0, dogs=0.9)), "set")) == {"split-classes": 1}
    assert codes(lint(as_source(many(80, 0, side=70)), "set")) == {"split-sizes": 1}


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=12), st.integers(1, 9))
def test_divergence(counts: list[tuple[int, int]], times: int) -> None:
    one, two = np.array(counts, np.int64).T + np.eye(1, len(counts), dtype=np.int64)[0]
    bits = divergence(one, two)
    assert -1e-9 <= bits <= 1 + 1e-9
    assert bits == pytest.approx(divergence(two, one)) and divergence(one, times * one) == pytest.approx(0)
    assert divergence(np.array([times, 0]), np.array([0, 3])) == pytest.approx(1)


def test_chance_is_what_is_seen_of_equal_splits() -> None:
    draw = np.random.default_rng(0)
    share = np.array([0.5, 0.2, 0.2, 0.1])
    seen = [divergence(draw.multinomial(60, share), draw.multinomial(90, share)) for _ in range(2000)]
    whole = np.array([30, 12, 12, 6])
    assert np.mean(seen) == pytest.approx(by_chance(whole, whole, 60, 90) / 2, rel=0.1)


boxes_of_an_image = st.lists(
    st.tuples(*[st.integers(0, 12)] * 2, *[st.integers(1, 12)] * 2, st.integers(0, 1)), max_size=25
)


@given(boxes_of_an_image, st.sampled_from([1.0, 37.5]))
def test_no_double_is_missed(drawn: list[tuple[int, ...]], scale: float) -> None:
    given_boxes = np.array(drawn, np.float32).reshape(-1, 5)
    low = given_boxes[:, :2]
    boxes = np.concatenate([low, low + given_boxes[:, 2:4]], 1) * np.float32(scale)
    labels = given_boxes[:, 4].astype(np.int32)
    record = Record("a.jpg", "train", b"", 5000, 5000, boxes, labels, np.zeros(len(boxes), np.uint8))
    found = {
        one.box: one.code
        for one in checks.look(record, ImageInfo("JPEG", 5000, 5000, 1, "RGB"))
        if one.code in ("box-same", "box-alike")
    }
    for n in range(len(boxes)):
        shorter = (boxes[:, 2:] - boxes[:, :2]).min(1)
        mine = labels[:n] == labels[n]
        edges = np.abs(boxes[:n] - boxes[n]).max(1, initial=0)
        same = (mine & (edges == 0)).any()
        near = (mine & (edges <= checks.ALIKE * np.minimum(shorter[:n], shorter[n]))).any()
        assert found.get(n) == ("box-same" if same else "box-alike" if near else None)


def test_every_code_in_the_source_has_a_severity_and_a_meaning() -> None:
    """Any text in the places that make findings that looks like a code is one, but for these."""
    others = {"annotations-bbox", "awning-tricycle", "bounding-box", "bounding-box-metadata", "class-map"}
    others |= {"human-annotated", "source-ref", "vott-csv-export", "vott-json-export"}
    rooms = ("formats", "sources", "ingest", "transform", "analysis/lint")
    files = [file for room in rooms for file in (ROOT / "dataforge" / room).rglob("*.py")]
    found = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found |= {node.value} if re.fullmatch(r"[a-z]+(-[a-z]+)+", node.value) else set()
    assert len(found) > 40 and not found - CODES.keys() - others
    made = {f"view-{reason}" for reason in ("class", "crowd", "difficult", "area", "side", "empty", "limit", "sample")}
    made |= {"image-not-listed", "annotation-not-listed", "copy", "copy-across", "alike", "alike-across"}
    assert not CODES.keys() - found - made, "codes that nothing makes"
    assert CODES.keys() >= checks.CODES
    assert all(severity in SEVERITIES and meaning for severity, meaning in CODES.values())


def test_the_readme_lists_the_codes() -> None:
    text = (ROOT / "dataforge/analysis/lint/README.md").read_text("utf-8")
    rows = re.findall(r"^\| `([a-z-]+)` \| (\w+) \| (.*) \|$", text, re.MULTILINE)
    assert {code: (severity, meaning) for code, severity, meaning in rows} == CODES
    assert len(rows) == len(CODES)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(one) for one in ("lint", *arguments)], catch_exceptions=False)


@pytest.fixture
def defects(tmp_path: Path) -> Path:
    """A COCO folder with a box outside, a double box and a copy across splits."""
    records = clean()
    copied("val1", "train0")(records)
    more_box(6, 7, 46, 41)(records)
    coco.write(as_source(records), tmp_path / "coco")
    file = tmp_path / "coco/annotations/instances_val.json"
    facts = json.loads(file.read_text())
    facts["annotations"].append({**facts["annotations"][0], "id": 999, "bbox": [900, 900, 5, 5]})
    file.write_text(json.dumps(facts))
    return tmp_path / "coco"


def test_the_command_on_a_source_and_on_its_shards(defects: Path, tmp_path: Path) -> None:
    wanted = {"box-outside": 1, "box-same": 1, "copy-across": 1}
    page = tmp_path / "page.html"
    result = run(defects, "--json", "--report", page)
    facts = json.loads(result.stdout)
    assert result.exit_code == 1 and {one["code"]: one["count"] for one in facts["findings"]} == wanted
    assert (facts["images"], facts["error"], facts["warning"], facts["info"]) == (10, 2, 1, 0)
    html = page.read_text("utf-8")
    assert html.count("<figure>") == 4 and all(f"<h2>{code}</h2>" in html for code in wanted)
    ingest(coco.read(defects), tmp_path / "shards")
    assert codes(lint_shards(Shards(tmp_path / "shards"))) == wanted
    result = run(tmp_path / "shards", "--report", page)
    assert result.exit_code == 1 and page.read_text("utf-8").count("<figure>") == 4
    for code, count in wanted.items():
        assert re.search(rf"^(error|warning) +{code} +{count} ", result.stdout, re.MULTILINE), result.stdout


def test_a_page_draws_by_key_box_and_split_alone(tmp_path: Path) -> None:
    """As readers give them: the value is words, and a key may be in two splits."""
    records = clean()
    records["val0"] = replace(records["val0"], key="train/0.jpg")
    first, other = records["train0"], records["val0"]
    noted = ("noted", "mine", "labels.json", "train/0.jpg")
    report = Report()
    for finding in (
        Finding(*noted, "annotation 7: bbox [...]", "why", box=1, xyxy=(45, 60, 5, 7)),
        Finding(*noted, "shape 2 (polygon)", "why", box=2),
        Finding(*noted, "", "why", "image", split="val"),
        Finding(*noted, "", "why", "image", split="train", other=("val", "train/0.jpg")),
        Finding("noted", "mine", "labels.json", "annotation 7", "", "names no image"),
        Finding("noted", "mine", "labels.json", "train/0.jpg", "", "of all", "set"),
    ):
        report.add(finding)
    pictures = sections(report, as_source(records))[1].pictures

    def drawn(record: Record, boxes: object = None, labels: object = None, names: object = CLASSES) -> bytes:
        boxes = record.boxes if boxes is None else np.array(boxes)
        labels = record.labels if labels is None else np.array(labels)
        return thumbnail(decode(record.image), boxes, labels, names)  # type: ignore[arg-type]

    assert [image for _, image in pictures] == [
        drawn(first, [[5, 7, 45, 60]], [0], ["mine"]),
        drawn(first),
        drawn(other),
        drawn(first),
        drawn(other),
    ]
    captions = ["train/0.jpg box 1: annotation 7: bbox [...]", "train/0.jpg box 2: shape 2 (polygon)", "train/0.jpg"]
    assert [caption for caption, _ in pictures] == [*captions, "train: train/0.jpg", "val: train/0.jpg"]


def test_reports_leave_out_what_is_none_and_old_ones_are_read(defects: Path, tmp_path: Path) -> None:
    ingest(coco.read(defects), tmp_path / "shards")
    report = tmp_path / "shards/ingest.jsonl"
    lines = [json.loads(line) for line in report.read_text("utf-8").splitlines()]
    assert not any(value is None for line in lines for value in line.values())
    outside = next(line for line in lines if line.get("code") == "box-outside")
    assert outside["xyxy"] == [900, 900, 905, 905] and isinstance(outside["box"], int)
    assert Finding.from_facts(outside).xyxy == (900, 900, 905, 905)
    examples = [one for kind in json.loads(run(defects, "--json").stdout)["findings"] for one in kind["examples"]]
    assert examples and not any(value is None for one in examples for value in one.values())
    old = {"action": "refused", "code": "box-outside", "file": "f", "key": "k box 3", "value": "", "reason": "r"}
    report.write_text(json.dumps(old | {"scope": "box"}) + "\n", "utf-8")
    assert codes(lint_shards(Shards(tmp_path / "shards")))["box-outside"] == 1


def test_the_exit_code_follows_fail_on(tmp_path: Path) -> None:
    records = clean()
    more_box(6, 7, 46, 41)(records)
    coco.write(as_source(records), tmp_path / "coco")
    assert run(tmp_path / "coco").exit_code == 0
    assert run(tmp_path / "coco", "--fail-on", "warning").exit_code == 1
    coco.write(as_source(clean()), tmp_path / "clean")
    result = run(tmp_path / "clean", "--fail-on", "info")
    assert result.exit_code == 0 and result.stdout.strip() == "10 images, 20 boxes: 0 errors, 0 warnings, 0 infos"


def test_wrong_use(tmp_path: Path, tiny_shards: Path) -> None:
    result = run(tiny_shards, "--classes", "cat")
    assert result.exit_code == 2 and "is a shard folder" in result.stderr
    result = run(tmp_path / "nowhere")
    assert result.exit_code == 2 and result.stderr.startswith("error: ")
    coco.write(as_source(clean()), tmp_path / "coco")
    result = run(tmp_path / "coco", "--report", tmp_path / "no/folder.html")
    assert result.exit_code == 2 and "cannot be written" in result.stderr


def test_an_own_readers_code_goes_by_what_was_done() -> None:
    mine = [Finding(action, f"mine-{action}", "f", "k", "", "why") for action in ("refused", "repaired", "noted")]  # type: ignore[arg-type]
    report = lint(as_source(clean(), *mine), "set")
    assert {code: (kind.severity, kind.meaning) for code, kind in report.kinds.items()} == {
        "mine-refused": ("error", "why"),
        "mine-repaired": ("warning", "why"),
        "mine-noted": ("info", "why"),
    }


@pytest.mark.parametrize(("height", "width", "expected"), [(8192, 8192, []), (8193, 8192, ["image-huge"])])
def test_a_huge_image(height: int, width: int, expected: list[str]) -> None:
    one = replace(clean()["train1"], height=height, width=width)
    assert [found.code for found in checks.look(one, ImageInfo("JPEG", height, width, 1, "RGB"))] == expected

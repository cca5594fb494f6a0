"""What users get wrong, through the command: a message that names the place, no traceback, nothing published."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from dataforge.cli.main import main
from dataforge.shards.reader import Shards
from dataforge.shards.verify import verify
from tests import tiny
from tests.formats.sets import box, coco, coco_json, picture, put, voc_object, voc_xml

NAN = float("nan")


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(main, ["ingest", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result


def refused(out: Path, *arguments: object) -> str:
    result = run(*arguments, "--out", out)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ") and "Traceback" not in result.stderr
    assert not (out / "index.json").exists()
    assert not out.is_dir() or [p.name for p in out.iterdir()] in ([], ["ingest.jsonl"])
    return result.stderr


def kinds(out: Path) -> list[tuple[str, str]]:
    rows = [json.loads(line) for line in (out / "ingest.jsonl").read_text().splitlines()]
    return [(row["action"], row["code"]) for row in rows[:-1]]


@pytest.mark.parametrize("name", ["coco", "voc", "yolo"])
def test_missing_and_empty_folders(tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    text = refused(out, name, tmp_path / "nowhere")
    assert "nowhere: does not exist; expected " in text
    (tmp_path / "empty").mkdir()
    assert "empty: the folder is empty; expected " in refused(out, name, tmp_path / "empty")
    put(tmp_path / "other/readme.md", "x")
    assert "found; expected " in refused(out, name, tmp_path / "other")
    message = {"coco": "readme.md: not JSON", "voc": "Not a directory", "yolo": "readme.md"}[name]
    assert message in refused(out, name, tmp_path / "other/readme.md")
    assert not out.exists()


def test_the_root_is_the_current_folder_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    coco(tmp_path, {"a.jpg": picture()}, [box(10, [1, 1, 5, 5])])
    monkeypatch.chdir(tmp_path)
    result = run("coco", "--out", "shards/")
    assert result.exit_code == 0, result.output
    assert "no findings" in result.stdout
    assert len(Shards(tmp_path / "shards")) == 1


def test_broken_json(tmp_path: Path) -> None:
    file = put(tmp_path / "annotations/instances_train.json", '{"images": [\n{"id": 1,}]}')
    text = refused(tmp_path / "out", "coco", tmp_path)
    assert f"{file}: not JSON: " in text and "line 2 column 10" in text


def test_broken_xml(tmp_path: Path) -> None:
    file = put(tmp_path / "a.xml", "<annotation>\n <object>\n</annotation>")
    put(tmp_path / "a.jpg", picture())
    put(tmp_path / "b.xml", voc_xml("b.jpg", voc_object("cat", [1, 1, 9, 9])))
    put(tmp_path / "b.jpg", picture())
    text = refused(tmp_path / "out", "voc", tmp_path)
    assert f"{file}: a.jpg: not XML" in text
    assert "line 3, column 2" in text
    assert run("voc", tmp_path, "--out", tmp_path / "out", "--max-bad", 1).exit_code == 0


def test_broken_yaml(tmp_path: Path) -> None:
    file = put(tmp_path / "data.yaml", "train: images\nnames: [a\n")
    text = refused(tmp_path / "out", "yolo", tmp_path)
    assert f"{file}: not YAML: " in text and "line 3, column 1" in text


def test_unknown_image_id_is_listed_and_the_rest_goes_on(tmp_path: Path) -> None:
    coco(tmp_path / "in", {"a.jpg": picture()}, [box(10, [1, 1, 5, 5]), box(77, [1, 1, 5, 5])])
    result = run("coco", tmp_path / "in", "--out", tmp_path / "out")
    assert result.exit_code == 0
    assert "refused unknown-image: 1" in result.stdout and "annotation 101: image_id 77" in result.stdout
    assert Shards(tmp_path / "out").info()["boxes"] == 1


WHOLE = picture()
BAD_IMAGES = {
    "missing": (None, "no such file"),
    "zero bytes": (b"", "the file is empty"),
    "cut in its header": (WHOLE[: len(WHOLE) // 2], "cannot be read: Truncated File Read"),
    "cut in its pixels": (WHOLE[:-50], "cannot be read: image file is truncated"),
    "no image": (b"<html>not found</html>", "not an image"),
    "header alone": (WHOLE[:20], "cannot be read|not an image"),
}


@pytest.mark.parametrize("kind", BAD_IMAGES)
@pytest.mark.parametrize("name", ["coco", "voc", "yolo"])
def test_bad_images(tmp_path: Path, name: str, kind: str) -> None:
    data, reason = BAD_IMAGES[kind]
    root, out = tmp_path / "in", tmp_path / "out"
    pictures = {"good.jpg": WHOLE, "bad.jpg": data or b""}
    if name == "coco":
        coco(root, pictures, [box(10, [1, 1, 5, 5])])
        bad = root / "train/bad.jpg"
    elif name == "voc":
        for stem in ("good", "bad"):
            put(root / f"JPEGImages/{stem}.jpg", pictures[f"{stem}.jpg"])
            put(root / f"Annotations/{stem}.xml", voc_xml(f"{stem}.jpg", voc_object("cat", [1, 1, 5, 5])))
        put(root / "ImageSets/Main/train.txt", "good\nbad\n")
        bad = root / "JPEGImages/bad.jpg"
    else:
        for stem in ("good", "bad"):
            put(root / f"images/{stem}.jpg", pictures[f"{stem}.jpg"])
            put(root / f"labels/{stem}.txt", "0 .5 .5 .1 .1")
        put(root / "train.txt", "images/good.jpg\nimages/bad.jpg\n")
        put(root / "data.yaml", "train: train.txt\nnames: [cat]")
        bad = root / "images/bad.jpg"
    if data is None:
        bad.unlink()
        reason = {"voc": "no picture has this name", "yolo": "no such image"}.get(name, reason)
    text = refused(out, name, root)
    assert "refused images: 1, --max-bad allows 0; nothing was published" in text and "bad" in text
    assert re.search(reason, text)
    code = "image-missing" if data is None else "image-truncated" if data[:3] == WHOLE[:3] else "image-unreadable"
    assert ("refused", code) in kinds(out)
    result = run(name, root, "--out", out, "--max-bad", 1)
    assert result.exit_code == 0 and len(Shards(out)) == 1
    assert not list(verify(Shards(out)))


def test_a_png_named_jpg_is_kept_and_noted(tmp_path: Path) -> None:
    data = tiny.encode(tiny.pixels(48, 64), "PNG")
    coco(tmp_path / "in", {"a.jpg": data}, [box(10, [1, 1, 5, 5])])
    result = run("coco", tmp_path / "in", "--out", tmp_path / "out")
    assert result.exit_code == 0 and kinds(tmp_path / "out") == [("noted", "image-suffix")]
    assert "is a PNG by its content" in result.stdout
    assert bytes(Shards(tmp_path / "out").blob(0)) == data and not list(verify(Shards(tmp_path / "out")))


def test_cmyk_and_16_bit_images_are_kept(tmp_path: Path) -> None:
    deep = (tiny.pixels(48, 64)[..., 0].astype(np.uint16) << 8) + 3
    pictures = {"cmyk.jpg": tiny.encode(tiny.pixels(48, 64), mode="CMYK"), "deep.png": tiny.encode(deep, "PNG")}
    coco(tmp_path / "in", pictures)
    result = run("coco", tmp_path / "in", "--out", tmp_path / "out", "--decode-check")
    assert result.exit_code == 0
    assert sorted(kinds(tmp_path / "out")) == [("noted", "image-deep"), ("noted", "image-mode")]
    assert not list(verify(Shards(tmp_path / "out")))


def test_bad_boxes_are_listed_and_do_not_stop_it(tmp_path: Path) -> None:
    wrong = [[70, 1, 5, 5], [-5, 1, 9, 5], [20, 20, -10, 5], [NAN, 1, 5, 5], [5, 5, 0, 5], [1, 1, 1e400, 5]]
    coco(tmp_path / "in", {"a.jpg": picture()}, [box(10, bbox) for bbox in [[1, 1, 5, 5], *wrong]])
    result = run("coco", tmp_path / "in", "--out", tmp_path / "out")
    assert result.exit_code == 0
    assert sorted(kinds(tmp_path / "out")) == [
        ("refused", "box-empty"),
        ("refused", "box-nan"),
        ("refused", "box-nan"),
        ("refused", "box-outside"),
        ("repaired", "box-clipped"),
        ("repaired", "box-inverted"),
    ]
    assert Shards(tmp_path / "out").table.boxes.tolist() == [[1, 1, 6, 6], [0, 1, 4, 6], [10, 20, 20, 25]]
    assert "a.jpg box 4: xyxy [nan, 1, nan, 6]" in result.stdout


def test_duplicate_ids(tmp_path: Path) -> None:
    facts = coco_json(["a.jpg", "b.jpg"], [box(10, [1, 1, 5, 5], id=7), box(10, [2, 2, 5, 5], id=7)])
    for name in ("a.jpg", "b.jpg"):
        put(tmp_path / "train" / name, picture())
    file = put(tmp_path / "annotations/instances_train.json", json.dumps(facts))
    assert run("coco", tmp_path, "--out", tmp_path / "fine").exit_code == 0
    assert kinds(tmp_path / "fine") == [("noted", "annotation-twice")]
    facts["images"][1]["id"] = 10
    file.write_text(json.dumps(facts))
    assert f"{file}: images: id 10 is given twice" in refused(tmp_path / "out", "coco", tmp_path)
    facts["images"][1] = {**facts["images"][0], "id": 11}
    file.write_text(json.dumps(facts))
    assert "a.jpg" in refused(tmp_path / "out", "coco", tmp_path)
    assert ("refused", "image-twice") in kinds(tmp_path / "out")


def test_a_class_list_that_changes_between_splits(tmp_path: Path) -> None:
    coco(tmp_path / "in", {"a.jpg": picture()}, [box(10, [1, 1, 5, 5], 17)])
    other = [{"id": 1, "name": "dog"}]
    coco(tmp_path / "in", {"b.jpg": picture()}, [box(10, [1, 1, 5, 5], 1)], "val", categories=other)
    result = run("coco", tmp_path / "in", "--out", tmp_path / "out", "--json")
    assert result.exit_code == 0
    facts = json.loads(result.stdout)
    assert {split: facts["splits"][split]["per_class"]["dog"] for split in ("train", "val")} == {"train": 1, "val": 1}
    assert facts["findings"]["noted"]["classes-differ"] >= 1


def test_output_folders_that_are_taken(tmp_path: Path) -> None:
    root = coco(tmp_path / "in", {"a.jpg": picture()})
    (tmp_path / "file").write_text("mine")
    put(tmp_path / "mine/notes.txt", "mine")
    for out, reason in (("file", "is a file"), ("file/sub", "Not a directory"), ("mine", "was not made by `dataforge")):
        result = run("coco", root, "--out", tmp_path / out)
        assert result.exit_code == 2 and reason in result.stderr
    assert (tmp_path / "mine/notes.txt").read_text() == (tmp_path / "file").read_text() == "mine"
    assert run("coco", root, "--out", tmp_path / "out").exit_code == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    result = run("coco", root, "--out", tmp_path / "out")
    assert result.exit_code == 2 and "already holds shards" in result.stderr
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before


@pytest.mark.parametrize(
    "words", [["split", "--val", ".5"], ["bake", "--target-imgs-per-s", "9"], ["bake", "--tile", "64"]]
)
def test_a_taken_output_folder_is_told_before_images_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    root = coco(tmp_path / "in", {"a.jpg": picture(), "b.jpg": picture(1)})
    assert run("coco", root, "--out", tmp_path / "out").exit_code == 0
    put(tmp_path / "mine/notes.txt", "mine")
    monkeypatch.setattr(Shards, "blob", lambda *_: pytest.fail("an image is read"))
    monkeypatch.setattr(Shards, "stored_image", lambda *_: pytest.fail("an image is read"))
    for out in ("out", "mine"):
        result = CliRunner().invoke(main, [words[0], str(tmp_path / "out"), "--out", str(tmp_path / out), *words[1:]])
        assert (
            result.exit_code == 2 and f"{tmp_path / out}: " in result.stderr and "choose another --out" in result.stderr
        )


def test_a_file_of_the_shards_is_not_said_to_be_missing(tmp_path: Path) -> None:
    root = coco(tmp_path / "in", {"a.jpg": picture()})
    run("coco", root, "--out", tmp_path / "out")
    result = CliRunner().invoke(main, ["info", str(tmp_path / "out/index.json")])
    assert "index.json: is a file; expected a folder written by `dataforge ingest`" in result.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_an_output_folder_that_cannot_be_written(tmp_path: Path) -> None:
    root = coco(tmp_path / "in", {"a.jpg": picture()})
    (tmp_path / "locked").mkdir(mode=0o555)
    result = run("coco", root, "--out", tmp_path / "locked")
    assert result.exit_code == 2 and "cannot be written: Permission denied" in result.stderr


def test_options_that_the_format_does_not_take(tmp_path: Path) -> None:
    root = coco(tmp_path / "in", {"a.jpg": picture()})
    out = tmp_path / "out"
    assert "--voc-offset: format 'coco' does not take it" in refused(out, "coco", root, "--voc-offset", 0)
    assert "--images: format 'yolo' does not take it" in refused(out, "yolo", root, "--images", root)
    assert "unknown format 'cocoa'; known: bdd100k, coco, " in refused(out, "cocoa", root)
    assert "unknown split 'test'; known: train" in refused(out, "coco", root, "--split", "train,test")


def test_a_refusal_for_machines(tmp_path: Path) -> None:
    root = coco(tmp_path / "in", {"a.jpg": b""})
    result = run("coco", root, "--out", tmp_path / "out", "--json")
    facts = json.loads(result.stdout)
    assert result.exit_code == 2 and "the file is empty" in facts["error"]
    assert facts["findings"]["refused"] == {"image-unreadable": 1} and facts["out"] == str(tmp_path / "out")
    result = run("coco", tmp_path / "nowhere", "--out", tmp_path / "out", "--json")
    assert "does not exist" in json.loads(result.stdout)["error"]


def command(*arguments: object, before: str = "") -> subprocess.Popen[str]:
    code = f"{before}\nfrom dataforge.cli.main import main\nmain()"
    return subprocess.Popen(
        [sys.executable, "-c", code, "ingest", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("limit", [100, 30_000])
def test_a_full_disk(tmp_path: Path, limit: int) -> None:
    """A limit on the size of files stands for it: 100 bytes stop the report, 30,000 the images."""
    noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    pictures = {f"{n}.png": tiny.encode(noise, "PNG") for n in range(10)}
    root, out = (
        coco(tmp_path / "in", pictures, [*[box(10, [70, 1, 5, 5])] * 5, box(11, [1, 1, 5, 5])]),
        tmp_path / "out",
    )
    setup = f"import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))"
    process = command("coco", root, "--out", out, before=setup)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 2 and stdout == ""
    assert "\nerror: " in f"\n{stderr}" and "cannot be " in stderr and "Traceback" not in stderr
    assert [path.name for path in out.iterdir()] == ["ingest.jsonl"]
    assert run("coco", root, "--out", out).exit_code == 0 and len(Shards(out)) == 10


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_publishes_nothing_and_a_second_run_works(tmp_path: Path, number: signal.Signals) -> None:
    root = coco(tmp_path / "in", {"a.jpg": picture(), "b.jpg": picture()}, [box(10, [1, 1, 5, 5])])
    stuck, out = root / "train/b.jpg", tmp_path / "out"
    stuck.unlink()
    os.mkfifo(stuck)  # the ingest waits here, in its middle, until it is interrupted
    process = command("coco", root, "--out", out)
    deadline = time.monotonic() + 60
    pipe = None
    while pipe is None:
        try:
            pipe = os.open(stuck, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:  # nobody reads yet
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.02)
    process.send_signal(number)
    os.close(pipe)  # ends the read, should the signal have come just before it began
    _, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (130, "interrupted; nothing was published\n")
    assert [path.name for path in out.iterdir()] == ["ingest.jsonl"]
    stuck.unlink()
    put(stuck, picture())
    assert run("coco", root, "--out", out).exit_code == 0 and len(Shards(out)) == 2

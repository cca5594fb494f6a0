"""Parts of an ingest, merged, are the set that one process writes; anything else is refused and publishes nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from dataforge.cli.main import main
from dataforge.cloud.path import located
from dataforge.errors import ConfigError, ShardError
from dataforge.ingest.parts import merge_parts
from dataforge.ingest.run import IngestError, ingest
from dataforge.record import Finding, Polygons, Record, Source
from dataforge.shards.out_folder import BusyError, locked
from dataforge.shards.reader import Shards
from dataforge.shards.verify import verify
from dataforge.shards.writer import ShardWriter
from tests import tiny
from tests.ingest.test_ingest import HOW, few_at_a_time, files, stock  # noqa: F401

MADE = {"command": "ingest", "given": {"root": "/in"}}


def items(folder: Path) -> list[Record | Finding]:
    """`stock`, and polygons, judged classes, a split "late" whose first record is refused, and an image cut short."""
    found: list[Record | Finding] = []
    for n, item in enumerate(stock(folder)):
        if isinstance(item, Record) and n % 5 == 0 and len(item.boxes):
            item = replace(item, polygons=Polygons.of([[[(3, 3), (20, 4), (9, 30)]]] * len(item.boxes)))
        if isinstance(item, Record) and n % 11 == 0:
            item = replace(item, judged=np.array([[2, 1]], np.int32))
        found.append(item)
    last = next(item for item in found if isinstance(item, Record))
    if (folder / "30.jpg").stat().st_size > 1200:  # counts for its shard's bound, although it is refused
        (folder / "30.jpg").write_bytes((folder / "30.jpg").read_bytes()[:1200])
    return [*found, replace(last, split="late", image=folder / "none.jpg"), replace(last, split="late")]


def source(items: list[Record | Finding]) -> Source:
    return Source(tiny.CLASSES, iter(items), unions={"all": ("train", "val")}, frequencies={"cat": "r"})


def comparable(out: Path) -> dict[str, bytes]:
    """All files, without how the set came to be, which names the number of parts."""
    found = files(out)
    *lines, last = found["ingest.jsonl"].splitlines()
    facts = json.loads(last.replace(bytes(out), b"OUT"))
    facts["made"].pop("parts", None)
    facts["made"]["given"].pop("out", None)
    return found | {"ingest.jsonl": b"\n".join([*lines, json.dumps(facts).encode()])}


def write_parts(root: Path, items: list[Record | Finding], of: int, **how: Any) -> list[Path]:
    for n in range(1, of + 1):
        ingest(source(items), root / str(n), part=(n, of), made=MADE, **HOW | how)
    return [root / str(n) for n in range(1, of + 1)]


@pytest.mark.parametrize(("of", "store"), [(1, "lmdb"), (2, "memmap"), (3, "lmdb"), (5, "zarr"), (40, "lmdb")])
def test_merged_parts_are_the_files_of_one_process(tmp_path: Path, of: int, store: str) -> None:
    stocked = items(tmp_path / "in")
    whole = ingest(source(stocked), tmp_path / "whole", made=MADE, **HOW, store_name=store)
    assert whole.refused_images > 4 and len(list((tmp_path / "whole").rglob("table.arrow"))) > 10
    parts = write_parts(tmp_path / "parts", stocked, of, store_name=store)
    before = {path: files(path) for path in parts}
    summary = merge_parts(parts[::-1], tmp_path / "out")
    assert comparable(tmp_path / "out") == comparable(tmp_path / "whole")
    assert summary.facts() | {"out": "", "report": ""} == whole.facts() | {"out": "", "report": ""}
    assert before == {path: files(path) for path in parts}
    if store == "lmdb" and of == 3:
        with pytest.raises(ShardError, match="is a part of an ingest; `dataforge merge --parts`"):
            CliRunner().invoke(main, ["info", str(parts[0])], catch_exceptions=False, standalone_mode=False)
        with pytest.raises(ShardError, match="already holds shards"):
            merge_parts(parts, tmp_path / "out")
        with pytest.raises(ShardError, match="holds a part"):
            merge_parts(parts, parts[0])
        assert before == {path: files(path) for path in parts}


@pytest.mark.usefixtures("few_at_a_time")
@pytest.mark.parametrize("stop", [10, 40, 70])
def test_an_interrupted_part_goes_on(tmp_path: Path, stop: int) -> None:
    stocked = items(tmp_path / "in")
    ingest(source(stocked), tmp_path / "whole", made=MADE, **HOW)
    parts = write_parts(tmp_path / "parts", stocked, 2)
    shutil.rmtree(parts[1])

    def broken_off() -> Iterator[Record | Finding]:
        yield from stocked[:stop]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ingest(replace(source([]), records=broken_off()), parts[1], part=(2, 2), made=MADE, **HOW)
    with pytest.raises(ShardError, match=r"2: holds no part\.json \(an ingest that did not finish\?\)"):
        merge_parts(parts, tmp_path / "out")
    kept = {path: path.stat().st_mtime_ns for path in parts[1].rglob("table.arrow")}
    if kept:
        with pytest.raises(ShardError, match=r"was begun with part \[2, 2\], now it is None"):
            ingest(source(stocked), parts[1], resume=True, **HOW)
    for _ in range(2):  # a complete part is checked and kept
        ingest(source(stocked), parts[1], part=(2, 2), resume=True, made=MADE, **HOW)
    assert kept == {path: path.stat().st_mtime_ns for path in kept} and bool(kept) == (stop > 10)
    merge_parts(parts, tmp_path / "out")
    assert comparable(tmp_path / "out") == comparable(tmp_path / "whole")


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The three parts "1", "2", "3" of the items in "in"."""
    root = tmp_path_factory.mktemp("three")
    write_parts(root, items(root / "in"), 3)
    return root


def _other(root: Path, to: Path, part: tuple[int, int], *, box: float = 0, classes: Any = (), **how: Any) -> Path:
    stocked = [replace(one, boxes=one.boxes + box) if isinstance(one, Record) else one for one in items(root / "in")]
    made = replace(source(stocked), classes=(*tiny.CLASSES, *classes))
    ingest(made, to, part=part, made=MADE, **HOW | how)
    return to


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ("missing", ConfigError, r"of 3 parts, these are missing: 2; run `dataforge ingest --part I/3` for each"),
        ("twice", ConfigError, r"again: is part 1, as .*1 is; expected each part once"),
        ("of 4", ConfigError, r"other: number of parts: 4, but 3 in .*1; expected the parts of one ingest"),
        ("store", ConfigError, r"other: store: memmap, but lmdb in"),
        ("max_bad", ConfigError, r"other: max_bad: 21, but 20 in"),
        ("shard_bytes", ConfigError, r"other: shard_bytes: 6001, but 6000 in"),
        ("classes", ConfigError, r"other: classes: \['cat', 'dog', 'traffic light', 'bird'\], but"),
        ("boxes", ConfigError, r"other: annotations and sizes of images: 62 records with checksum \w+, but"),
        ("whole", ShardError, r"whole: is a whole set; expected a part"),
        ("nowhere", ShardError, r"nowhere: does not exist; expected a folder written by `dataforge ingest --part`"),
        ("cut", ShardError, r"blobs\.mdb: is missing, cut or new since the part was written"),
        ("gone", ShardError, r"table\.arrow: is missing, cut or new since the part was written"),
        ("report", ShardError, r"ingest\.jsonl: is missing, cut or new since the part was written"),
        ("table", ShardError, r"table\.arrow: is damaged: its checksum"),
        ("index", ShardError, r"part\.json: is damaged or was edited"),
    ],
)
def test_what_is_not_one_ingest_is_refused(three: Path, tmp_path: Path, change: str, error: Any, text: str) -> None:
    parts = [three / "1", three / "2", three / "3"]
    if change == "missing":
        del parts[1]
    elif change == "twice":
        parts.append(Path(shutil.copytree(parts[0], tmp_path / "again")))
    elif change in ("of 4", "store", "max_bad", "shard_bytes", "classes", "boxes"):
        how: dict[str, Any] = {
            "store": {"store_name": "memmap"},
            "max_bad": {"max_bad": 21},
            "shard_bytes": {"shard_bytes": 6001},
            "classes": {"classes": ("bird",)},
            "boxes": {"box": 0.5},
        }.get(change, {})
        parts[1] = _other(three, tmp_path / "other", (2, 4 if change == "of 4" else 3), **how)
    elif change == "whole":
        parts[1] = tiny.shards(tmp_path / "whole")
    elif change == "nowhere":
        parts[1] = tmp_path / "nowhere"
    else:
        parts[1] = Path(shutil.copytree(parts[1], tmp_path / "damaged"))
        names = {"cut": "blobs.mdb", "gone": "table.arrow", "table": "table.arrow", "report": "ingest.jsonl"}
        file = next(parts[1].rglob(names.get(change, "part.json")))
        data = file.read_bytes()
        file.write_bytes(data[:-1] + (b"" if change in ("cut", "report") else b"x"))
        if change == "gone":
            file.unlink()
        elif change == "index":
            file.write_bytes(data.replace(b'"train"', b'"trail"'))
    with pytest.raises(error, match=text):
        merge_parts(parts, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_limits_hold_for_all_parts_together(tmp_path: Path) -> None:
    """Each part refuses less than is allowed, all of them more."""
    stocked = items(tmp_path / "in")
    refused = ingest(source(stocked), tmp_path / "whole", **HOW).refused_images
    parts = write_parts(tmp_path, stocked, 4, max_bad=refused - 1)
    with pytest.raises(IngestError, match=rf"refused images: {refused}, --max-bad allows {refused - 1}"):
        merge_parts(parts, tmp_path / "out")
    assert list(files(tmp_path / "out")) == ["ingest.jsonl"]


def test_a_second_writer_of_a_folder_is_refused(tmp_path: Path) -> None:
    """As two pods of one index of a Kubernetes Job may be."""
    with ShardWriter(tmp_path / "out", tiny.CLASSES) as writer:
        record = tiny.records()[0]
        assert isinstance(record.image, bytes)
        with pytest.raises(ShardError, match="another process is writing to it"):
            ingest(Source(tiny.CLASSES, iter([record])), tmp_path / "out", part=(1, 2))
        writer.publish()
    assert (tmp_path / "out/index.json").exists()


def test_a_complete_part_stays_until_it_can_be_resumed(three: Path, tmp_path: Path) -> None:
    part = Path(shutil.copytree(three / "2", tmp_path / "2"))
    before, stocked = files(part), items(three / "in")
    with locked(part), pytest.raises(BusyError, match="another process is writing to it"):
        ingest(source(stocked), part, part=(2, 3), resume=True, **HOW)
    for resume, text in ((True, r"part \[2, 3\], now it is \[2, 4\]; remove the folder and run"), (False, "remove it")):
        with pytest.raises(ShardError, match=text):
            ingest(source(stocked), part, part=(2, 4), resume=resume, **HOW)
    assert files(part) == before


@pytest.mark.parametrize("value", ["0/3", "4/3", "3", "1/0", "-1/3", "a/b", "1/3/3", ""])
def test_part_must_be_a_part(tmp_path: Path, value: str) -> None:
    result = CliRunner().invoke(main, ["ingest", "coco", str(tmp_path), "--out", str(tmp_path / "o"), "--part", value])
    assert result.exit_code == 2 and "is not I/N, such as 3/8, with I from 1 to N" in result.output


def test_parts_lie_in_folders_and_may_be_published_to_a_url(
    three: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATAFORGE_CACHE", str(tmp_path / "cache"))
    url = located("memory://parts/set")
    with pytest.raises(ConfigError, match="--part writes to a folder; `dataforge merge --parts` can publish to a URL"):
        ingest(source([]), url, part=(1, 2))
    with pytest.raises(ConfigError, match="is at a URL; expected the folder of a part"):
        merge_parts([url], tmp_path / "out")
    parts = [three / "1", three / "2", three / "3"]
    merge_parts(parts, url)
    merge_parts(parts, tmp_path / "out")
    assert Shards(url).fingerprint == Shards(tmp_path / "out").fingerprint and not list(verify(Shards(url)))

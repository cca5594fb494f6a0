"""Linked shards: read as the shards that hold their images, and refused once those are gone or others."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from dataforge import Loader
from dataforge.cli.main import main
from dataforge.errors import ShardError
from dataforge.images import synth
from dataforge.shards.index import read_index, write_index
from dataforge.shards.links import StoredImage
from dataforge.shards.reader import Shards
from dataforge.shards.stores.memmap import MemmapStore
from dataforge.shards.verify import verify
from dataforge.sources.view import View
from tests import tiny


def run(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


@pytest.fixture(scope="module", params=["lmdb", "memmap", "zarr"])
def parent(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of 12 images in two splits."""
    root = tmp_path_factory.mktemp("links")
    synth.write(root / "pictures", images=12, size=(64, 96))
    run("ingest", "coco", root / "pictures", "--store", request.param, "--out", root / "parent", "--jobs", 1)
    return root / "parent"


@pytest.fixture
def linked(tmp_path: Path) -> Path:
    """Shards linked to `tmp_path/parent`, which may be altered."""
    run("merge", tiny.shards(tmp_path / "parent"), "--link", "--out", tmp_path / "linked")
    return tmp_path / "linked"


def same(one: Path, other: Path) -> None:
    """Check that two sets have the same records and images, and that a loader makes the same batches of them."""
    first, second = Shards(one), Shards(other)
    assert first.classes == second.classes and not list(verify(first)) and not list(verify(second))
    for name in ("key", "id", "crc", "orientation", "offsets", "boxes", "labels", "flags", "areas"):
        np.testing.assert_array_equal(getattr(first.table, name), getattr(second.table, name))
    assert all(first.blob(i) == second.blob(i) for i in range(len(first)))
    loaders = [Loader(path, split="train", batch_size=4, size=(32, 32), threads=1) for path in (one, other)]
    for batches in zip(*loaders, strict=True):
        np.testing.assert_array_equal(*(batch.images.numpy() for batch in batches))


@pytest.mark.parametrize(
    "how",
    [
        ["split", "--val", "0.25", "--seed", "3"],
        ["merge", "--classes", "box,ball", "--empty", "drop", "--limit", "3"],
        ["split", "--from", "val", "--val", "0.5", "--crowd", "drop"],
    ],
    ids=" ".join,
)
def test_links_are_read_as_copies_are(parent: Path, tmp_path: Path, how: list[str]) -> None:
    command, *options = how
    for out, option in (("copied", "--copy"), ("linked", "--link")):
        run(command, parent, *options, option, "--out", tmp_path / out)
    same(tmp_path / "linked", tmp_path / "copied")
    assert sum(file.stat().st_size for file in (tmp_path / "linked").rglob("blobs*")) < 1000
    run("merge", tmp_path / "linked", "--link", "--out", tmp_path / "again")  # links to links lead to the images
    shutil.rmtree(tmp_path / "linked")
    same(tmp_path / "again", tmp_path / "copied")
    run("bake", tmp_path / "again", "--out", tmp_path / "cache", "--side", 32)
    assert not list(verify(Shards(tmp_path / "cache")))


def test_two_parents_of_two_stores(parent: Path, tmp_path: Path) -> None:
    other = tiny.shards(tmp_path / "tiny", splits=("val",))
    run("merge", parent, other, "--link", "--out", tmp_path / "linked")
    run("merge", parent, other, "--out", tmp_path / "copied")
    same(tmp_path / "linked", tmp_path / "copied")
    assert Shards(tmp_path / "linked").parents == (parent, other)
    assert f"refers to the images in {parent}, {other}, which must stay" in run("info", tmp_path / "linked").stdout
    steps = json.loads(run("log", tmp_path / "linked", "--json").stdout)["steps"]
    assert [step["images_in"] for step in steps] == [[str(parent), str(other)], [], []]


def test_a_stored_image_is_found_in_any_split_and_view(parent: Path) -> None:
    whole = Shards(parent)
    part = Shards(parent, "val", View(empty="drop"))
    for i in range(len(part)):
        image = part.stored_image(i)
        assert isinstance(image, StoredImage) and image.folder == parent and image == whole.blob(image.number)


def test_a_parent_that_is_gone_or_another_is_named(linked: Path) -> None:
    parent = linked.parent / "parent"
    index = read_index(parent)
    write_index(parent, index | {"source": "another"})
    for command in ("info", "verify", "stats", "lint"):
        error = run(command, linked, *(["--out", linked.parent / "x"] if command == "stats" else []), code=2).stderr
        assert str(linked) in error and f"are in {parent}, which has changed (fingerprint" in error
    parent.rename(linked.parent / "moved")
    error = run("verify", linked, code=2).stderr
    assert error.startswith(f"error: {linked}: its images are in {parent}, where no shards are now") and "log" in error
    assert f"images in {parent} (not there)" in run("log", linked).stdout


def test_verify_reads_the_images_of_the_parent(linked: Path) -> None:
    tiny.damage(linked.parent / "parent/train/00000", 3)
    assert "1 fault" in (result := run("verify", linked, code=1)).stdout
    assert "train/00000 record 3 (cmyk.jpg): the image's bytes are not those" in result.stderr
    (linked.parent / "parent/val/00000/blobs.mdb").unlink()
    assert "11 faults" in run("verify", linked, code=1).stdout


def test_images_in_no_shards_are_not_linked(tmp_path: Path, parent: Path) -> None:
    result = run("ingest", "coco", parent.parent / "pictures", "--store", "link", "--out", tmp_path / "out", code=2)
    assert "is in no shards, so it cannot be linked" in result.stderr and not (tmp_path / "out/index.json").exists()
    result = run("merge", parent, "--link", "--store", "zarr", "--out", tmp_path / "out", code=2)
    assert "error: --store zarr: --link stores no images" in result.stderr


def test_shards_at_a_url_are_not_linked(parent: Path, tmp_path: Path) -> None:
    url = f"memory://links/{parent.parent.name}"
    run("merge", parent, "--out", url)
    error = run("merge", url, "--link", "--out", tmp_path / "out", code=2).stderr
    assert f"error: {url}: is at a URL; expected shards in a folder to link to" in error
    assert not (tmp_path / "out/index.json").exists()


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"parents": [{"path": "../parent", "fingerprint": "0"}]}, "parent '../parent'; expected an absolute path"),
        ({"parents": [{"path": "/a\0b", "fingerprint": "0"}]}, "expected an absolute path"),
        ({"parents": [{"path": "/dev/stdin", "fingerprint": "0"}]}, "are in /dev/stdin, where no shards are now"),
        ({"parents": [{"path": 7, "fingerprint": "0"}]}, "Expected `str`, got `int`"),
        ({"parents": []}, "link 0 leads to no record of its parents"),
        ({"store": "lmdb"}, "has parents; expected none with store 'lmdb'"),
        ({"store": "rows"}, "has parents; expected none with store 'rows'"),
    ],
    ids=str,
)
def test_an_index_of_a_stranger(linked: Path, changed: dict[str, object], error: str) -> None:
    write_index(linked, read_index(linked) | changed)
    result = run("verify", linked, code=1 if changed == {"parents": []} else 2)
    assert error in result.stderr


def test_links_lead_neither_in_circles_nor_beyond_the_parent(linked: Path) -> None:
    circle = shutil.copytree(linked, linked.parent / "circle")
    for link in (struct.pack("<QQ", 0, 1 << 63), struct.pack("<QQ", 1, 0), struct.pack("<QQ", 0, 20), b"7 bytes", b""):
        store = MemmapStore.create(linked / "train/00000")
        for n in range(10):
            store.append(link if n == 4 else struct.pack("<QQ", 0, n))
        store.close()
        with pytest.raises(ShardError, match="link 4 leads to no record"):
            Shards(linked, trust=False).blob(4)
    parents = [{"path": str(circle), "fingerprint": Shards(circle).fingerprint}]
    write_index(linked, read_index(linked) | {"parents": parents})
    with pytest.raises(ShardError, match="which holds no original images itself"):
        Shards(linked).blob(0)

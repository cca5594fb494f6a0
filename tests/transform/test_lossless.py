"""`dataforge bake --lossless`: JPEGs with the same pixels, bit for bit, that are faster to decode."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
from click.testing import CliRunner

from dataforge.cli.main import main
from dataforge.errors import DataError
from dataforge.images.decode import decode
from dataforge.images.header import probe
from dataforge.shards.reader import Shards
from dataforge.shards.verify import verify
from dataforge.shards.writer import ShardWriter
from dataforge.transform.bake import bake
from dataforge.transform.form import Form
from dataforge.transform.lossless import rewrite
from tests import tiny

pytest.importorskip("jpegio", reason="pyjpegio is not installed")

FORM = Form(lossless=True)
BASELINE, PROGRESSIVE, RESTART = 0xC0, 0xC2, 0xDD


def jpeg(mode: str = "RGB", **options: object) -> bytes:
    image, buffer = PIL.Image.fromarray(tiny.pixels(75, 101, 3)).convert(mode), io.BytesIO()
    image.save(buffer, "JPEG", quality=90, **options)
    return buffer.getvalue()


def markers(data: bytes) -> list[int]:
    """The markers of a JPEG up to its first scan."""
    found, at = [], 2
    while data[at + 1] != 0xDA:
        found.append(data[at + 1])
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return found


@pytest.mark.parametrize(
    "data",
    [
        jpeg(),
        jpeg(progressive=True),
        jpeg("L", progressive=True),
        jpeg("CMYK"),
        jpeg(subsampling="4:4:4", progressive=True, comment=b"?a comment", exif=b"Exif\0\0" + bytes(40)),
        jpeg(subsampling="4:2:2", restart_marker_blocks=2, icc_profile=bytes(90_000)),
        jpeg(keep_rgb=True, progressive=True),  # Adobe's marker says that the components are no YCbCr
    ],
    ids=["baseline", "progressive", "grey", "cmyk", "444", "restart", "rgb"],
)
@pytest.mark.parametrize("orientation", [1, 6])
def test_the_pixels_are_the_same_and_nothing_else_is_kept(data: bytes, orientation: int) -> None:
    made = bytes(rewrite(data, orientation))
    np.testing.assert_array_equal(decode(made), decode(data))
    kept = markers(made)
    assert BASELINE in kept and PROGRESSIVE not in kept and RESTART not in kept
    assert not {0xE2, 0xFE} & set(kept) and (0xE1 in kept) == (orientation != 1)
    assert probe(made).orientation == orientation
    if PROGRESSIVE not in markers(data):
        assert len(made) < len(data)


def test_other_formats_and_jpegs_that_cannot_be_written_anew_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, data in tiny.images().items():
        assert (rewrite(data, 1) is data) == (not name.endswith(".jpg")), name
    from dataforge.transform import lossless

    data = jpeg()
    monkeypatch.setattr(lossless, "_rewrite", lambda data, orientation: jpeg(subsampling="4:4:4"))
    assert rewrite(data, 1) is data


def test_a_cache_has_the_pixels_boxes_and_results_of_its_parent(tiny_shards: Path, tmp_path: Path) -> None:
    bake(Shards(tiny_shards), tmp_path / "cache", FORM, jobs=2)
    parent, cache = Shards(tiny_shards), Shards(tmp_path / "cache")
    for i in range(len(parent)):
        np.testing.assert_array_equal(cache.pixels(i), parent.pixels(i))
    for name in ("key", "id", "height", "width", "orientation", "offsets", "boxes", "labels", "flags", "areas"):
        np.testing.assert_array_equal(getattr(cache.table, name), getattr(parent.table, name))
    np.testing.assert_array_equal(cache.source.boxes, parent.table.boxes)
    assert cache.codec == "jpeg" and not list(verify(cache))


def test_samples_of_more_than_8_bits_become_8_as_in_the_parent(tmp_path: Path) -> None:
    record = next(record for record in tiny.records() if record.key == "deep.png")
    with ShardWriter(tmp_path / "s", tiny.CLASSES, depth="high-byte") as writer:
        assert isinstance(record.image, bytes)
        writer.add(record, record.image, probe(record.image))
        writer.publish()
    bake(Shards(tmp_path / "s"), tmp_path / "cache", FORM)
    np.testing.assert_array_equal(Shards(tmp_path / "cache").pixels(0), Shards(tmp_path / "s").pixels(0))


def test_a_damaged_jpeg_is_named(tmp_path: Path) -> None:
    torn = tiny.encode(tiny.pixels(48, 64))[:-200] + b"\xff\xd9"
    with ShardWriter(tmp_path / "s", tiny.CLASSES) as writer:
        writer.add(tiny.records()[0], torn, probe(torn))
        writer.publish()
    with pytest.raises(DataError, match=r"train/00000 record 0 \(a.jpg\): cannot be decoded"):
        bake(Shards(tmp_path / "s"), tmp_path / "cache", FORM)


def test_the_command_counts_what_stays_and_exports_stand_upright(tiny_shards: Path, tmp_path: Path) -> None:
    def run(*arguments: object) -> str:
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        assert result.exit_code == 0, result.output
        return result.stdout

    text = run("bake", tiny_shards, "--out", tmp_path / "a", "--lossless")
    assert "6 of 20 images are stored as they were" in text  # two splits of c.png, deep.png and d.webp
    assert json.loads(run("bake", tiny_shards, "--out", tmp_path / "b", "--lossless", "--json"))["unchanged"] == 6
    run("export", tmp_path / "a", "--format", "coco", "--out", tmp_path / "coco", "--allow-cache")
    (file,) = (path for path in (tmp_path / "coco").rglob("rotated.jpg") if "val" in path.parts[-2])
    upright = np.asarray(PIL.ImageOps.exif_transpose(PIL.Image.open(file)).convert("RGB"))
    i = list(Shards(tiny_shards, "val").table.key).index("rotated.jpg")
    np.testing.assert_array_equal(upright, Shards(tiny_shards, "val").pixels(i))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--side", "30"], "--lossless keeps all pixels; omit --side"),
        (["--raw", "--size", "30", "40"], "--lossless keeps all pixels"),
        (["--quality", "90"], "--quality applies to JPEGs that are encoded; omit it with --lossless"),
        (["--target-imgs-per-s", "100"], "omit --lossless"),
    ],
)
def test_options_that_are_wrong(tiny_shards: Path, tmp_path: Path, arguments: list[str], says: str) -> None:
    command = ["bake", str(tiny_shards), "--out", str(tmp_path / "c"), "--lossless", *arguments]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 2 and says in result.stderr, result.output


def test_a_cache_of_raw_pixels_has_no_jpegs(tiny_shards: Path, tmp_path: Path) -> None:
    bake(Shards(tiny_shards), tmp_path / "raw", Form(shapes=((32, 32),), raw=True))
    result = CliRunner().invoke(main, ["bake", str(tmp_path / "raw"), "--out", str(tmp_path / "c"), "--lossless"])
    assert result.exit_code == 2 and "holds raw pixels, no JPEGs; omit --lossless" in result.stderr

"""Photos and annotated sets in archives, and kinds of images that browsers cannot show."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from dataforge.images import synth
from dataforge.images.decode import decode
from dataforge.images.header import probe
from dataforge.transform.edited import edited_source, open_base, overlay_of
from tests import tiny
from tests.web.photos import add, boxes, photos, post, serving


@pytest.mark.parametrize("kind", ["zip", "gztar"])
def test_photos_in_an_archive(tmp_path: Path, kind: str) -> None:
    photos(tmp_path / "photos")
    archive = Path(shutil.make_archive(str(tmp_path / "photos"), kind, tmp_path / "photos"))
    before = archive.read_bytes()
    overlay = overlay_of(open_base(archive).path)
    assert type(overlay) is type(Path()) and overlay == archive.with_name(f"{archive.name}.overlay")
    with serving(archive, overlay) as client:
        rows = client.get("/api/images").json()["images"]
        assert {row["key"] for row in rows} == set(tiny.images())
        for row in rows:
            got = client.get(f"/image/{row['n']}")
            assert got.content == tiny.images()[row["key"]] and got.headers["etag"]
        assert post(client, 0, add("a", 1, 2, 9, 9)).status_code == 200
    with serving(archive, overlay) as client:
        assert [box["box"] for box in boxes(client, 0)] == [[1, 2, 9, 9]]
    [record] = list(edited_source(overlay, untouched=False).records)
    assert record.key == rows[0]["key"] and record.boxes.tolist() == [[1, 2, 9, 9]]  # type: ignore[union-attr]
    assert archive.read_bytes() == before


def test_an_annotated_set_below_a_folder_of_an_archive(tmp_path: Path) -> None:
    synth.write(tmp_path / "in/set", images=6, seed=1)
    archive = Path(shutil.make_archive(str(tmp_path / "all"), "tar", tmp_path / "in"))
    plain, packed = open_base(tmp_path / "in/set"), open_base(archive / "set")
    assert packed.format == plain.format == "coco" and packed.places == plain.places
    assert overlay_of(packed.path) == tmp_path / "all.tar.set.overlay"
    with serving(archive / "set", tmp_path / "overlay", ()) as client:
        shown = boxes(client, 0)
        assert [box["box"] for box in shown] == plain.record(0).boxes.tolist()


@pytest.mark.parametrize(
    ("kind", "deep"), [("TIFF", False), ("TIFF", True), ("PPM", False), ("JPEG2000", False), ("JPEG2000", True)]
)
def test_kinds_that_browsers_do_not_show_are_sent_as_png(tmp_path: Path, kind: str, deep: bool) -> None:
    pixels = tiny.pixels(37, 52, 3)
    array = (pixels[..., 0].astype(np.uint16) << 4) if deep else pixels
    suffix = {"TIFF": "tif", "PPM": "ppm", "JPEG2000": "jp2"}[kind]
    data = tiny.encode(array, kind, orientation=6 if kind == "TIFF" and not deep else 1)
    (tmp_path / "photos").mkdir()
    (tmp_path / f"photos/a.{suffix}").write_bytes(data)
    with serving(tmp_path / "photos", tmp_path / "overlay") as client:
        got = client.get("/image/0")
        facts = client.get("/api/images/0").json()
        shown = PIL.Image.open(io.BytesIO(got.content))
        assert got.headers["content-type"] == "image/png" and shown.size == (facts["width"], facts["height"])
        assert np.array_equal(np.asarray(shown), decode(data, probe(data).orientation))
        assert client.get("/image/0", headers={"If-None-Match": got.headers["etag"]}).status_code == 304
    assert (tmp_path / f"photos/a.{suffix}").read_bytes() == data

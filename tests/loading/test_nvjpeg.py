"""JPEGs decoded on the device: by nvJPEG where there is a GPU, else by what torchvision has for the CPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dataforge import Loader, Shards
from dataforge.augment.executors import antialias
from dataforge.errors import ConfigError, DataError
from dataforge.images.decode import shrink
from dataforge.images.header import probe
from dataforge.loading import nvjpeg
from dataforge.record import Record
from dataforge.shards.writer import ShardWriter
from tests import tiny
from tests.loading.test_loader import on_device

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding and encoding capabilities:DeprecationWarning")
PLAIN = {"a.jpg", "sub dir/b.jpg", "grey.jpg", "empty.jpg", "crowded.jpg"}
SIZE = (48, 64)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny set, and photographs' sizes, that are shrunken and smoothed."""
    out = tmp_path_factory.mktemp("nvjpeg") / "s"
    large = {f"{h}x{w}.jpg": tiny.encode(tiny.pixels(h, w, h)) for h, w in [(480, 640), (333, 501), (257, 100)]}
    with ShardWriter(out, tiny.CLASSES, tiny.CLASS_IDS, source="tiny") as writer:
        for key, data in (tiny.images() | large).items():
            info = probe(data)
            box = tiny.boxes(1, info.height, info.width)
            flags = np.zeros(1, np.uint8)
            record = Record(key, "train", data, info.height, info.width, box, np.zeros(1, np.int32), flags)
            writer.add(record, data, info)
        writer.publish()
    return out


def decoding(path: Path, **how: Any) -> Loader:
    loader = on_device(path, **how)
    loader.collate.decode = "device"
    return loader


BLURRED = [{"op": "flip"}, {"op": "crop", "area": 0.4}, {"op": "blur", "p": 0.5}, {"op": "erase"}, {"op": "normalise"}]


@pytest.mark.parametrize("augment", [None, "yolo", "strong", "lsj", BLURRED], ids=str)
def test_pixels_are_those_that_the_host_decodes(shards: Path, augment: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    there: list[int] = []
    decode = nvjpeg._decode
    monkeypatch.setattr(nvjpeg, "_decode", lambda jpegs, place: there.append(len(jpegs)) or decode(jpegs, place))
    how: dict[str, Any] = {"batch_size": 5, "size": SIZE, "augment": augment, "seed": 2}
    for a, b in zip(on_device(shards, **how), decoding(shards, **how), strict=True):
        assert torch.equal(a.boxes, b.boxes) and torch.equal(a.labels, b.labels) and torch.equal(a.index, b.index)
        assert a.images.dtype == b.images.dtype and a.images.shape == b.images.shape
        error = (a.images.float() - b.images.float()).abs() / (1 if augment else 255)
        assert error.mean() < 0.005 and error.quantile(0.99) < 0.03, "DCT-scaled on the host, averaged here"
    if augment in (None, "yolo", "lsj"):
        assert sum(there) == len(PLAIN) + 3
    else:
        assert sum(there) < len(PLAIN) + 3


def test_only_what_the_device_decodes_as_the_host_does_is_left_to_it(shards: Path) -> None:
    opened = Shards(shards, "train")
    table = opened.table
    suited = [i for i in range(len(table)) if nvjpeg.jpeg(opened, i) is not None]
    assert {str(table.key[i]) for i in suited} == PLAIN | {"480x640.jpg", "333x501.jpg", "257x100.jpg"}
    opened = Shards(shards, "train")
    opened.table = replace(table, crc=table.crc ^ 1)
    for i in suited:
        with pytest.raises(DataError, match="bytes are not those"):
            nvjpeg.jpeg(opened, i)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 5), (64, 48), (101, 67)])
@pytest.mark.parametrize("scale", [(1.0, 1.0), (0.6, 0.6), (0.4, 0.9), (0.3, 0.45), (0.12, 0.26)])
def test_it_makes_images_smaller_as_the_host_does(size: tuple[int, int], scale: tuple[float, float]) -> None:
    pixels, matrix = tiny.pixels(*size), np.diag([scale[1], scale[0], 1.0])
    matrix[:2, 2] = 0.3, 0.7
    factors = antialias.shrink_factors(matrix, pixels.shape[:2])
    expected = antialias.smooth(shrink(pixels, factors), matrix, factors)
    found = nvjpeg._smaller(
        torch.from_numpy(pixels).permute(2, 0, 1), factors, antialias.filters(matrix, pixels.shape[:2], factors)
    )
    assert (found.permute(1, 2, 0).numpy().astype(int) - expected).__abs__().max() <= 1


NAMED = r"train/00000 record 1 \(sub dir/b.jpg\): cannot be decoded"


@pytest.mark.parametrize("how", ["cut", "flipped bits"])
def test_damage_is_the_host_s_to_name(tmp_path: Path, how: str) -> None:
    data = tiny.encode(tiny.pixels(90, 50, 1))
    bad = data[: len(data) // 2] if how == "cut" else data[:300] + b"\xff\xd8" * 200 + data[700:]
    info, flags = probe(data), np.zeros(1, np.uint8)
    with ShardWriter(tmp_path / "s", tiny.CLASSES, tiny.CLASS_IDS, source="one") as writer:
        for key, blob in (("a.jpg", data), ("sub dir/b.jpg", bad)):
            box = tiny.boxes(1, info.height, info.width)
            writer.add(
                Record(key, "train", blob, info.height, info.width, box, np.zeros(1, np.int32), flags), blob, info
            )
        writer.publish()
    with pytest.raises(DataError, match=NAMED):
        list(decoding(tmp_path / "s", size=SIZE))
    loader = decoding(tmp_path / "s", size=SIZE, on_error="skip", shuffle=False)
    with pytest.warns(UserWarning, match=NAMED):
        (batch,) = loader
    assert list(loader.skipped) == [1] and (batch.images[1] == 114).all() and (batch.labels[1] == -1).all()
    assert batch.images[0].float().std() > 10 and (batch.labels[0] >= 0).any()


def test_a_kind_that_it_does_not_know_is_decoded_on_the_host(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decode = nvjpeg._decode

    def fussy(jpegs: list[torch.Tensor], place: torch.device) -> list[torch.Tensor]:
        if jpegs:
            raise RuntimeError("Unknown chroma subsampling")
        return decode(jpegs, place)

    monkeypatch.setattr(nvjpeg, "_decode", fussy)
    how: dict[str, Any] = {"batch_size": 5, "size": SIZE, "augment": "yolo"}
    for a, b in zip(on_device(shards, **how), decoding(shards, **how), strict=True):
        assert torch.equal(a.images, b.images)


def test_where_it_cannot_be_it_is_refused(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="decode is 'device' on cpu; expected a CUDA device"):
        Loader(shards, decode="device")
    with pytest.raises(ConfigError, match="decode is 'gpu'; expected host or device"):
        Loader(shards, decode="gpu")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="without torchvision"):
        nvjpeg.check(torch.device("cuda"))

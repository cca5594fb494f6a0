"""The peers of `cloud.py`: how each one writes images, in pieces of about 8 MB, and reads shuffled batches of them.

WebDataset, litdata and MDS (mosaicml-streaming) have two worker processes, and cache what they fetch in a folder.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

BATCH, SIDE, PIECE = 32, 320, 8 << 20
WORKERS = {"num_workers": 2, "prefetch_factor": 3}


def images_of(root: Path) -> list[bytes]:
    from dataforge import Shards

    shards = Shards(root / "dataforge", "train")
    return [bytes(shards.blob(i)) for i in range(len(shards))]


def decode(data: bytes) -> Any:
    import cv2
    import simplejpeg
    import torch

    return torch.from_numpy(cv2.resize(simplejpeg.decode_jpeg(data), (SIDE, SIDE)))


def collate(samples: list[dict[str, bytes]]) -> Any:
    import torch

    return torch.stack([decode(sample["img"]) for sample in samples])


def write_webdataset(folder: Path, images: list[bytes]) -> None:
    import webdataset

    folder.mkdir()
    with webdataset.ShardWriter(str(folder / "%04d.tar"), maxsize=PIECE, verbose=0) as shards:
        for i, blob in enumerate(images):
            shards.write({"__key__": f"{i:06d}", "img": blob})


def webdataset_batches(root: Path, url: str, cache: Path) -> Iterable[Any]:
    import webdataset

    count = len(list((root / "webdataset").glob("*.tar")))
    pieces = [f"{url.replace('s3://', os.environ['AWS_ENDPOINT_URL'] + '/')}/{n:04d}.tar" for n in range(count)]
    data = webdataset.WebDataset(pieces, shardshuffle=count, cache_dir=str(cache)).shuffle(512)
    data = data.batched(BATCH, collation_fn=collate, partial=True)
    return webdataset.WebLoader(data, batch_size=None, shuffle=False, **WORKERS)


def write_mds(folder: Path, images: list[bytes]) -> None:
    from streaming import MDSWriter

    with MDSWriter(out=str(folder), columns={"img": "bytes"}, size_limit=PIECE) as shards:
        for blob in images:
            shards.write({"img": blob})


def mds_batches(root: Path, url: str, cache: Path) -> Iterable[Any]:
    from streaming import StreamingDataset
    from torch.utils.data import DataLoader

    data = StreamingDataset(remote=url, local=str(cache), shuffle=True, batch_size=BATCH)
    data.streams[0]._downloader.clean_up()  # else the forked workers share its open connection, and mix up the replies
    return DataLoader(data, batch_size=BATCH, collate_fn=collate, **WORKERS)


def write_litdata(folder: Path, images: list[bytes]) -> None:
    from litdata.streaming import Cache

    shards = Cache(str(folder), chunk_bytes=PIECE)
    for i, blob in enumerate(images):
        shards[i] = {"img": blob}
    shards.done()
    shards.merge()


def litdata_batches(root: Path, url: str, cache: Path) -> Iterable[Any]:
    import litdata
    from litdata.streaming import downloader

    downloader._OBSTORE_CLIENT_OPTIONS["allow_http"] = True  # which no option of its own sets
    data = litdata.StreamingDataset(url, cache_dir=str(cache), shuffle=True, drop_last=False)
    return litdata.StreamingDataLoader(data, batch_size=BATCH, collate_fn=collate, **WORKERS)


def dataforge_batches(place: str, cache: Path, shuffle: bool | str) -> Iterable[Any]:
    from dataforge import Loader

    os.environ["DATAFORGE_CACHE"] = str(cache)
    loader = Loader(place, "train", BATCH, (SIDE, SIDE), threads=2, fit="stretch", shuffle=shuffle)
    return (batch.images for batch in loader)


WRITERS: dict[str, Callable[[Path, list[bytes]], None]] = {
    "webdataset": write_webdataset,
    "mds": write_mds,
    "litdata": write_litdata,
}


def write(root: Path, peer: str) -> None:
    """Write the images in a peer's own form."""
    WRITERS[peer](root / peer, images_of(root))


def batches_of(peer: str, root: Path, url: str, cache: Path) -> Iterable[Any]:
    cache.mkdir(parents=True, exist_ok=True)
    readers = {"webdataset": webdataset_batches, "mds": mds_batches, "litdata": litdata_batches}
    if peer in readers:
        return readers[peer](root, url, cache)
    place = str(root / "dataforge") if peer == "local" else f"{url.rpartition('/')[0]}/dataforge"
    return dataforge_batches(place, cache, peer if peer.startswith("window:") else True)

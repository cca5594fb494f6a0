"""Shards that are written to a URL: made in a temporary folder, and sent from there one by one."""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dataforge.cloud.path import RemotePath
from dataforge.cloud.requests import requests
from dataforge.errors import ShardError
from dataforge.files import writing

LOCK = "writing.json"
PART = 16 << 20  # bytes; stores take up to 10,000 parts


@contextmanager
def staged(out: Path, index: str, report: str) -> Iterator[tuple[Path, Callable[[Path], None] | None]]:
    """Yield the folder to write shards to, and what sends a closed shard of it; `out` itself and None on a disk.

    At the end of the block what is left in the folder is sent, the index last, and only if there is none. After an
    error the report alone is. Until then the object `writing.json`, which is created only if there is none, keeps other
    writers away.

    Args:
        index, report: names of these files.

    Raises:
        ShardError: shards, other files or another writer are at the URL, or a request failed.
    """
    if not isinstance(out, RemotePath):
        yield out, None
        return
    with tempfile.TemporaryDirectory(prefix="dataforge-") as name, _locked(out, index, report) as lock:
        folder = Path(name)

        def send(path: Path) -> None:
            for file in sorted(file for file in (path, *path.rglob("*")) if file.is_file()):
                _put(file, out / file.relative_to(folder).as_posix())
            shutil.rmtree(path) if path.is_dir() else path.unlink()

        try:
            yield folder, send
        except BaseException:
            with suppress(ShardError, OSError):
                send(folder / report)
            raise
        for path in sorted(folder.iterdir()):
            if path.name != index:
                send(path)
        with writing(out / index, ShardError):
            if _content(out / LOCK) != lock or not _created((folder / index).read_bytes(), out / index):
                raise ShardError(f"{out}: another process has written to it meanwhile; these shards are not published")


@contextmanager
def _locked(out: RemotePath, index: str, report: str) -> Iterator[bytes]:
    """Create `writing.json`, yield its content, and remove what an unfinished ingest has left."""
    since = datetime.now(UTC).isoformat()
    lock = json.dumps({"host": socket.gethostname(), "process": os.getpid(), "since": since}).encode()
    with writing(out, ShardError):
        if not _created(lock, out / LOCK):
            other = _content(out / LOCK).decode("utf-8", "replace")
            raise ShardError(
                f"{out}: another process is writing to it: {other}; if that one has ended, delete {out / LOCK}"
            )
    try:
        with writing(out, ShardError), requests(out) as obstore:
            keys = [key for key in out.objects() if key != (out / LOCK).key]
            if (out / index).key in keys:
                raise ShardError(f"{out}: already holds shards; remove them, or choose another --out")
            below = next((key for key in keys if key.endswith(f"/{index}")), "")
            if below:
                inner = out / below.removeprefix(f"{out.key}/").removesuffix(f"/{index}")
                raise ShardError(f"{out}: other shards are below it, in {inner}; choose another --out")
            if keys and (out / report).key not in keys:
                raise ShardError(f"{out}: is not empty and was not made by `dataforge ingest`; choose another --out")
            obstore.delete(out.bucket, keys)
            obstore.put(out.bucket, (out / report).key, b"")  # marks the folder as an ingest's from the start
        yield lock
    finally:
        with suppress(OSError), requests(out) as obstore:
            if _content(out / LOCK) == lock:
                obstore.delete(out.bucket, (out / LOCK).key)


def _content(path: RemotePath) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def create(store: Any, key: str, data: bytes, path: object) -> None:
    """Write an object unless it exists, which is one operation of the store.

    If a reply is lost, the request is sent again, and finds what it has written. So the data must be this writer's own.

    Raises:
        FileExistsError: another writer's exists. OSError: a request failed.
    """
    try:
        with requests(path) as obstore:
            obstore.put(store, key, data, mode="create")
    except FileExistsError:
        with requests(path) as obstore:
            if bytes(obstore.get(store, key)) != data:
                raise


def _created(data: bytes, path: RemotePath) -> bool:
    try:
        create(path.writer, path.key, data, path)
    except FileExistsError:
        return False
    return True


def _put(file: Path, path: RemotePath) -> None:
    with writing(path, ShardError), requests(path) as obstore:  # large files in parts, several at a time
        obstore.put(path.writer, path.key, file, chunk_size=PART, max_concurrency=8)

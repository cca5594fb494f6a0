"""Objects of an object store, or files of a folder, that are complete or not there, with digests of their contents."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import IO, Any

from dataforge.cloud.path import RemotePath, located
from dataforge.cloud.requests import requests
from dataforge.cloud.upload import create
from dataforge.errors import ConfigError
from dataforge.files import writing

PART = 16 << 20  # bytes of a request


class Objects:
    """Objects below a URL, or files below a folder: complete, or not there.

    Raises:
        ConfigError: the URL is wrong. Methods: also what is read is damaged. OSError: a request failed.
    """

    def __init__(self, url: str) -> None:
        self.path = located(url)
        if isinstance(self.path, RemotePath):
            self._store, self._writer = self.path.bucket, self.path.writer
            self._prefix = f"{self.path.key}/".lstrip("/")
        else:
            with writing(self.path, ConfigError), requests(self.path):
                from obstore.store import LocalStore

                self.path.mkdir(parents=True, exist_ok=True)
                self._store = self._writer = LocalStore(self.path.absolute())
                self._prefix = ""

    def names(self) -> list[str]:
        with requests(self.path) as obstore:
            pages = obstore.list(self._store, self._prefix or None)
            return [facts["path"].removeprefix(self._prefix) for page in pages for facts in page]

    def put(self, name: str, data: bytes | IO[bytes]) -> None:
        with requests(self.path / name) as obstore:
            obstore.put(self._writer, self._prefix + name, data, chunk_size=PART, max_concurrency=4)

    def put_json(self, name: str, content: dict[str, Any], new: bool = False) -> None:
        """Write an object; with `new`, unless it exists: then raise `FileExistsError`, except if it is this one."""
        data = json.dumps({"digest": _digest(content), "content": content}).encode()
        if new:
            create(self._writer, self._prefix + name, data, self.path / name)
        else:
            self.put(name, data)

    def json(self, name: str) -> dict[str, Any] | None:
        """Return what `put_json` wrote; None if there is none."""
        try:
            with requests(self.path / name) as obstore:
                whole = json.loads(bytes(obstore.get(self._store, self._prefix + name)))
            content: dict[str, Any] = whole["content"]
            sound = whole["digest"] == _digest(content)
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            sound = False
        if not sound:
            raise ConfigError(f"{self.path / name}: is damaged: its content does not have its digest")
        return content

    def fetch(self, name: str, size: int, file: Path) -> None:
        """Copy an object to a file, which is replaced when the digest is right."""
        digest, temporary = hashlib.blake2b(digest_size=16), file.with_name(file.name + ".tmp")
        with requests(self.path / name) as obstore, open(temporary, "wb") as stream:
            for start in range(0, size, PART):
                end = min(start + PART, size)
                data = obstore.get_range(self._store, self._prefix + name, start=start, end=end)
                digest.update(data)
                with writing(file, ConfigError):
                    stream.write(data)
            os.fsync(stream.fileno())
        if f"{digest.hexdigest()}.pt" != name:
            raise ConfigError(
                f"{self.path / name}: is damaged: its bytes do not have the digest that it is named by; delete it to "
                "continue from the checkpoint before"
            )
        os.replace(temporary, file)

    def delete(self, names: list[str]) -> None:
        with requests(self.path) as obstore:
            obstore.delete(self._store, [self._prefix + name for name in names])


def _digest(content: dict[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).hexdigest()


def file_digest(file: IO[bytes]) -> str:
    """Return the digest of a file from its start; its position is then its end."""
    return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()  # type: ignore[arg-type]

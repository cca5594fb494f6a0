"""`RemotePath`: the path of an object, or of a folder of objects, with the methods of `pathlib.Path` that only read."""

from __future__ import annotations

import errno
import io
import os
import re
import stat
import urllib.parse
from collections.abc import Generator
from fnmatch import fnmatchcase
from pathlib import Path, PosixPath
from typing import Any

from dataforge.cloud.chunks import RemoteFile
from dataforge.cloud.requests import bucket_of, requests
from dataforge.errors import ConfigError

SCHEMES = ("s3", "gs", "az", "memory")
EXPECTED = "a folder, or s3://bucket/folder, gs://bucket/folder, az://container/folder or file:///folder"
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.]+):/+(.*)", re.DOTALL)  # a `Path` makes one slash of two
_UNFIT = re.compile("[\x00-\x1f\x7f\ud800-\udfff]|(?:^|/)[.]{2}(?:/|$)")  # in the key of an object


def located(path: str | Path) -> Path:
    """Return the path of a folder, or a `RemotePath` if it is a URL. Nothing is opened.

    Raises:
        ConfigError: the URL is of another kind, names no bucket, or holds credentials.
    """
    match = None if isinstance(path, RemotePath) else _URL.fullmatch(os.fspath(path))
    if not match:
        return path if isinstance(path, Path) else Path(path)
    scheme, rest = match.groups()
    if scheme == "file":
        return Path("/", urllib.parse.unquote(rest))
    bucket = rest.partition("/")[0]
    if "?" in rest or "@" in bucket:
        raise ConfigError(f"{scheme}://...: holds '?' or '@'; credentials are taken from the environment alone")
    if _UNFIT.search(rest):
        raise ConfigError(f"{scheme}://{rest}: holds '..' or a control character")
    if scheme not in SCHEMES or not bucket:
        raise ConfigError(f"{scheme}://{rest}: expected {EXPECTED}")
    return RemotePath(f"{scheme}:", rest)


class RemotePath(PosixPath):
    """A path such as `s3://bucket/shards/index.json`. A request that fails raises an `OSError` without credentials."""

    __slots__ = ()

    def __str__(self) -> str:
        return super().__str__().replace(":/", "://", 1)

    @property
    def bucket(self) -> Any:
        """The obstore client of its bucket."""
        return bucket_of(self.parts[0].removesuffix(":"), self.parts[1])

    @property
    def writer(self) -> Any:
        """The client that writes to its bucket."""
        return bucket_of(self.parts[0].removesuffix(":"), self.parts[1], writes=True)

    @property
    def key(self) -> str:
        return "/".join(self.parts[2:])

    def head(self) -> Any:
        """Return obstore's facts of the object: `size`, `e_tag`, `last_modified`."""
        with requests(self) as obstore:
            return obstore.head(self.bucket, self.key)

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        facts = self.head()
        seconds = int(facts["last_modified"].timestamp())
        return os.stat_result((stat.S_IFREG | 0o444, 0, 0, 1, 0, 0, facts["size"], seconds, seconds, seconds))

    def is_file(self, **how: Any) -> bool:
        try:
            return bool(self.key and self.head())
        except FileNotFoundError:
            return False

    def is_dir(self, **how: Any) -> bool:
        return any(True for _ in self.objects(1))

    def exists(self, **how: Any) -> bool:
        return self.is_file() or self.is_dir()

    def objects(self, most: int = 1000) -> Generator[str, None, None]:
        """Yield the keys of all objects below the folder, with `most` a request."""
        with requests(self) as obstore:
            for page in obstore.list(self.bucket, self.key, chunk_size=most):
                yield from (facts["path"] for facts in page)

    def iterdir(self) -> Generator[Any, None, None]:
        with requests(self) as obstore:
            listed = obstore.list_with_delimiter(self.bucket, self.key)
        for key in (*listed["common_prefixes"], *(facts["path"] for facts in listed["objects"])):
            yield self / key.rpartition("/")[2]

    def glob(self, pattern: str, **how: Any) -> Generator[Any, None, None]:  # type: ignore[override]
        yield from (path for path in self.iterdir() if fnmatchcase(path.name, pattern))

    def read_bytes(self) -> bytes:
        with requests(self) as obstore:
            return bytes(obstore.get(self.bucket, self.key))

    def open(self, mode: str = "r", *how: Any, **options: Any) -> Any:  # type: ignore[override]
        if mode not in ("r", "rt", "rb"):
            raise OSError(errno.EROFS, "is at a URL, whose files are only read", str(self))
        if mode != "rb":
            return io.TextIOWrapper(io.BytesIO(self.read_bytes()), options.get("encoding"), options.get("errors"))
        return io.BufferedReader(_Reader(RemoteFile(self)))

    def resolve(self, strict: bool = False) -> RemotePath:
        return self

    def absolute(self) -> RemotePath:
        return self

    def is_absolute(self) -> bool:
        return True


class _Reader(io.RawIOBase):
    """A `RemoteFile` as Python's own readers take it."""

    def __init__(self, file: Any) -> None:
        self._file, self._place = file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._place = offset + (0, self._place, self._file.size)[whence]
        return self._place

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer: Any) -> int:
        count = max(0, min(len(buffer), self._file.size - self._place))
        buffer[:count] = self._file.read(self._place, count)
        self._place += count
        return count

"""A set with more files than may stay open."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from dataforge.errors import ShardError
from dataforge.shards import file_bytes
from dataforge.shards.file_bytes import FileBytes
from dataforge.shards.reader import Shards


def test_files_beyond_the_limit_are_opened_at_each_read(
    tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = [bytes(Shards(tiny_shards).blob(i)) for i in range(20)]
    monkeypatch.setattr(file_bytes, "KEPT", 0)
    before = len(list(Path("/proc/self/fd").iterdir()))
    shards = Shards(tiny_shards)
    assert [bytes(shards.blob(i)) for i in range(20)] == kept
    assert len(list(Path("/proc/self/fd").iterdir())) == before

    copy = Path(shutil.copy(tiny_shards / "index.json", tmp_path / "file"))
    file = FileBytes(copy)
    assert file.read(0, 1) == b"{"
    (tmp_path / "other").write_bytes(b"x" * file.size)
    os.replace(tmp_path / "other", copy)
    with pytest.raises(ShardError, match="file: was replaced or changed while it was read"):
        file.read(0, 1)

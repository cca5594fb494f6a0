"""`hf://owner/name`, against a cache in huggingface_hub's layout; there is no network in tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dataforge.archives.hub import snapshot
from dataforge.errors import ConfigError
from dataforge.shards.reader import Shards
from tests.archives.test_archives import facts
from tests.formats.named import run
from tests.formats.sets import box, coco, picture

pytest.importorskip("huggingface_hub")
COMMITS = {"main": "a" * 40, "v1": "b" * 40}


def cached(home: Path, files: dict[str, bytes], revision: str = "main", inner: str = "") -> None:
    """Lay files into the cache: `refs`, `snapshots` of links, and `blobs`, as the guide of huggingface_hub has it."""
    repository = home / "hub/datasets--owner--name"
    commit = COMMITS[revision]
    (repository / "refs").mkdir(parents=True, exist_ok=True)
    (repository / "refs" / revision).write_text(commit)
    (repository / "blobs").mkdir(exist_ok=True)
    for n, (name, data) in enumerate(files.items()):
        blob = repository / "blobs" / f"{revision}{n:040d}"
        blob.write_bytes(data)
        link = repository / "snapshots" / commit / inner / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))


def command(home: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    call = [sys.executable, "-m", "dataforge", *map(str, arguments)]
    return subprocess.run(call, env=environment, capture_output=True, text=True, check=False)


def test_a_cached_set(tmp_path: Path) -> None:
    root = coco(tmp_path / "set", {"a.jpg": picture()}, [box(10, [1, 1, 30, 30])])
    files = {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    assert run("ingest", "coco", root, "--out", tmp_path / "plain").exit_code == 0
    cached(tmp_path / "home", {**files, ".gitattributes": b"", "README.md": b"# Card"})
    cached(tmp_path / "home", files, "v1", "in/ner")
    for n, address in enumerate(("hf://owner/name", "hf://datasets/owner/name@v1/in/ner")):
        done = command(tmp_path / "home", "ingest", "auto", address, "--out", tmp_path / f"out{n}")
        assert done.returncode == 0 and "coco (" in done.stderr, done.stderr
        assert "unread" not in done.stdout and facts(tmp_path / f"out{n}") == facts(tmp_path / "plain")
        done = command(tmp_path / "home", "lint", address)
        assert done.returncode < 2 and "coco (" in done.stderr, done.stderr
    done = command(
        tmp_path / "home", "ingest", "coco", root, "--add", "coco:hf://owner/name", "--out", tmp_path / "both"
    )
    assert done.returncode == 0 and [*Shards(tmp_path / "both").table.key] == ["a.jpg", "name/a.jpg"], done.stderr


@pytest.mark.parametrize("address", ["hf://owner/other", "hf://owner/name@gone", "hf://owner/na me"])
def test_what_cannot_be_had(tmp_path: Path, address: str) -> None:
    cached(tmp_path / "home", {"a.jpg": picture()})
    done = command(tmp_path / "home", "ingest", "coco", address, "--out", tmp_path / "out")
    assert done.returncode == 2 and done.stderr.startswith("error: hf://owner/") and "cannot be fetched" in done.stderr
    assert "Traceback" not in done.stderr


def test_malformed_addresses_and_no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="expected hf://owner/name"):
        snapshot(Path("hf://name"))
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ConfigError, match=r"pip install 'dataforge-detection\[hub\]'"):
        snapshot(Path("hf://owner/unseen"))

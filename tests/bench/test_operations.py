"""The page with a picture of every operation: its script runs, and the one in docs has them all."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from bench.operations import KORNIA
from dataforge.augment.operations.registry import OPERATIONS
from dataforge.augment.recipes import RECIPES

ROOT = Path(__file__).resolve().parents[2]
NAMES = [name for kind, group in OPERATIONS.items() if kind != "settings" for name in group] + list(KORNIA)
FILES = {f"augment_{name}.jpg" for name in NAMES} | {f"augment_recipe_{name}.jpg" for name in RECIPES}


def call(*words: object) -> None:
    script = [sys.executable, str(ROOT / "bench/operations.py"), *map(str, words)]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_script_draws_a_page(tiny_shards: Path, tmp_path: Path) -> None:
    call(tiny_shards, "--out", tmp_path / "page.md", "--columns", 1)
    page = (tmp_path / "page.md").read_text("utf-8")
    assert {file.name for file in (tmp_path / "pictures").iterdir()} == FILES
    assert set(re.findall(r"\]\(pictures/(.*)\)", page)) == FILES
    call(tiny_shards, "--out", tmp_path / "page.html", "--columns", 1)
    assert (tmp_path / "page.html").read_text("utf-8").count("data:image/jpeg") == len(FILES)


def test_the_page_in_docs_shows_every_operation() -> None:
    page = (ROOT / "docs/augment.md").read_text("utf-8")
    assert set(re.findall(r"\]\(pictures/(.*)\)", page)) == FILES, "run bench/operations.py as it says"
    files = sorted((ROOT / "docs/pictures").glob("augment_*.jpg"))
    assert {file.name for file in files} == FILES
    assert sum(file.stat().st_size for file in files) < 500_000

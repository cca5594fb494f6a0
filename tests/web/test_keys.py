"""The page's keys: the table in docs/annotate.md, its pictures, and the API's promise that no key is bound twice."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import PIL.Image

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_docs_list_the_keys_that_there_are() -> None:
    spec = importlib.util.spec_from_file_location("docs_annotate", DOCS / "annotate.py")
    assert spec and spec.loader
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    page = (DOCS / "annotate.md").read_text("utf-8")
    tables = script.TABLE.findall(page)
    assert tables == [script.table()], "run docs/annotate.py"
    assert all(f"`{key}`" in tables[0] for action in script.KEYS for key in action["keys"])


def test_the_pictures_are_there_and_small() -> None:
    shown = set(re.findall(r"\]\(pictures/(\w+\.jpg)\)", (DOCS / "annotate.md").read_text("utf-8")))
    files = sorted((DOCS / "pictures").glob("annotate_*.jpg"))
    shots = {file for file in files if file.stem.split("_")[1] in ("light", "dark", "conflict", "bulk")}
    assert {file.name for file in shots} == shown and len(shown) == 4
    for file in shots:
        with PIL.Image.open(file) as image:
            assert image.size == (1280, 720) and file.stat().st_size < 150_000

"""The pictures of docs/view.md are there, and small."""

from __future__ import annotations

import re
from pathlib import Path

import PIL.Image

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_pictures_are_there_and_small() -> None:
    shown = set(re.findall(r"\]\(pictures/(\w+\.jpg)\)", (DOCS / "view.md").read_text("utf-8")))
    files = sorted((DOCS / "pictures").glob("view_*.jpg"))
    assert {file.name for file in files} == shown and len(shown) == 5
    for file in files:
        with PIL.Image.open(file) as image:
            assert image.size == (1280, 720) and file.stat().st_size < 160_000

"""The documentation as a site: it builds without a warning, holds every page, and its links lead to files."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    build = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", "docs/mkdocs.yml", "-d", out],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert build.returncode == 0, build.stderr
    assert "not included in the" not in build.stderr and "excluded from the built site" not in build.stderr
    return out


def test_links_lead_to_files_and_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        html = page.read_text("utf-8")
        assert not re.search(r"<(?:script|img|iframe)[^>]* src=\"?(?:https?:)?//", html)
        for link in re.findall(r"<(?:script|img|link|a)\b[^>]*? (?:src|href)=\"?([^\"\s>#?]+)", html):
            if ":" not in link and page.name != "404.html":
                assert (page.parent / link).exists() or (site / link.lstrip("/")).exists(), (page, link)


def test_numbers_of_the_page_on_trainers_are_of_rows() -> None:
    page = (ROOT / "docs" / "choosing.md").read_text("utf-8")
    results = [
        json.loads(line)
        for path in (ROOT / "bench" / "results").glob("*.jsonl")
        for line in path.read_text("utf-8").splitlines()
    ]
    lines = [line for line in page.splitlines() if line.startswith("| `")]
    trainers, bare = lines[:5], lines[5:]
    assert len(bare) == 5
    for line in bare:
        name, *cells = (cell.strip(" `") for cell in line.strip("|").split("|"))
        rows = [row for row in results if row["name"].startswith(f"{name} on bccd with bare defaults, ")]
        for number, unit in zip((cells[0], cells[2]), ("mAP50", "processor min"), strict=True):
            assert any(abs(row["value"] - float(number)) < 6e-4 for row in rows if row["unit"] == unit), (name, number)
    for line in trainers:
        name, _, *numbers = (cell.strip(" `") for cell in line.strip("|").split("|"))
        rows = [row for row in results if str(row.get("recipe", "")).endswith(f"configs/{name}_bccd.toml")]
        for number, units in zip(numbers, [{"mAP50"}, {"mAP50-95"}, {"min", "processor min"}], strict=True):
            assert any(abs(row["value"] - float(number)) < 6e-4 for row in rows if row["unit"] in units), (name, number)

"""The walk-through of the dense detector: its script runs, its numbers and pictures are there, and are small."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import PIL.Image
import pytest
from click.testing import CliRunner

from dataforge.errors import ConfigError

DOCS = Path(__file__).resolve().parents[1] / "docs"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_dense", DOCS / "dense.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pictures(page: str) -> set[str]:
    return set(re.findall(r"\]\(pictures/(\w+\.png)\)", page))


@pytest.mark.timeout(300)
def test_the_script_makes_what_the_page_shows(script: ModuleType, tmp_path: Path) -> None:
    done = CliRunner().invoke(script.main, ["--out", str(tmp_path), "--images", "10", "--epochs", "1"])
    assert done.exit_code == 0, done.output
    page, ours = (tmp_path / "dense.md").read_text("utf-8"), (DOCS / "dense.md").read_text("utf-8")
    assert script.SLOT.sub("", page) == script.SLOT.sub("", ours), "only numbers change"
    values = {found[2]: found[0] for found in script.SLOT.finditer(page)}
    assert "8<!--/-->" in values["train_images"] and ">2<!--/-->" in values["val_images"]
    assert {file.name for file in (tmp_path / "pictures").iterdir()} == pictures(page)


def test_the_page_is_whole(script: ModuleType) -> None:
    page = (DOCS / "dense.md").read_text("utf-8")
    assert "?<!--/-->" not in page, "run docs/dense.py"
    files = sorted((DOCS / "pictures").glob("dense_*.png"))
    assert {file.name for file in files} == pictures(page)
    assert sum(file.stat().st_size for file in files) < 600_000
    for file in files:
        with PIL.Image.open(file) as image:
            assert image.convert("L").getextrema()[0] < image.convert("L").getextrema()[1], file


def test_a_number_that_nothing_gives_is_an_error(script: ModuleType) -> None:
    assert script.filled("a <!--=b-->?<!--/--> c", {"b": 3}) == "a <!--=b-->3<!--/--> c"
    with pytest.raises(ConfigError, match="nothing gives mood"):
        script.filled("<!--=mood-->good<!--/-->", {"b": 3})

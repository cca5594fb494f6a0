from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from dataforge.cli import demo
from dataforge.cli.main import main
from dataforge.errors import DataError


@pytest.mark.slow
def test_the_demo_reaches_its_mark(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    result = demo.run(tmp_path / "my demo")
    assert result["mAP50"] >= demo.NEEDED_MAP50
    assert json.loads((tmp_path / "my demo/demo.json").read_text()) == result
    assert len(list((tmp_path / "my demo/predictions").glob("*.jpg"))) == 128
    run = tmp_path / "my demo/runs/yolov2/demo"
    for name in ("args.toml", "results.csv", "results.png", "PR_curve.png", "weights/best.pt"):
        assert (run / name).stat().st_size > 0
    assert "Look at" in capfd.readouterr().out


def fake(ap50: float, failing: str = "") -> Callable[[list[str], bool], str]:
    def call(words: list[str], quiet: bool) -> str:
        if failing and failing in words:
            raise DataError(f"{failing}: ended with exit code 3")
        return json.dumps({"AP": 0.1, "AP50": ap50}) if "trainers.evaluate" in words else "done\n"

    return call


@pytest.mark.parametrize(
    ("ap50", "failing", "code"), [(0.9, "", 0), (0.6, "", 0), (0.59, "", 2), (float("nan"), "", 2), (0.9, "bench", 2)]
)
def test_a_failing_step_or_a_low_score_fails_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ap50: float, failing: str, code: int
) -> None:
    monkeypatch.setattr(demo, "_call", fake(ap50, failing))
    result = CliRunner().invoke(main, ["demo", "--out", str(tmp_path / "d")])
    assert result.exit_code == code
    assert ("error: " in result.stderr) == bool(code) and ("Look at" in result.stdout) == (not code)


def test_a_step_that_fails_is_named() -> None:
    with pytest.raises(DataError, match="dataforge info nowhere: ended with exit code 2"):
        demo._call(["dataforge", "info", "nowhere"], quiet=True)


def test_it_replaces_an_earlier_demo_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "_call", fake(0.9))
    for _ in range(2):
        demo.run(tmp_path / "d")
        (tmp_path / "d/pictures").mkdir()
        (tmp_path / "d/notes.txt").write_text("mine")
    demo.run(tmp_path / "d")
    assert sorted(path.name for path in (tmp_path / "d").iterdir()) == ["demo.json", "notes.txt"]
    (tmp_path / "other").mkdir()
    (tmp_path / "other/thesis.txt").write_text("years of work")
    result = CliRunner().invoke(main, ["demo", "--out", str(tmp_path / "other")])
    assert result.exit_code == 2 and "is not empty" in result.stderr

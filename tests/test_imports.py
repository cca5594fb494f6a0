"""Imports go one way, and `dataforge --help` stays light. The files are read, not run."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import dataforge
from trainers.checkpoint import DETECTORS

ROOT = Path(__file__).resolve().parents[1]

# What a part of the project may import of the project; everything may import itself. Leaves (nobody imports them but
# the command line) and `cli` itself are free.
BELOW: dict[str, set[str]] = {
    "dataforge.errors": set(),
    "dataforge.record": {"errors"},
    "dataforge.image": {"errors"},
    "dataforge.rng": set(),
    "dataforge.command": {"errors"},
    "dataforge.formats": {"errors", "record", "image"},
    "dataforge.mend": {"errors", "record", "image"},
    "dataforge.view": {"errors", "record", "image", "mend", "rng"},
    "dataforge.shards": {"errors", "record", "image", "decode", "view"},
    "dataforge.cpus": set(),
    "dataforge.summary": {"errors", "record", "shards"},
    "dataforge.ingest": {"errors", "record", "checks", "cpus", "image", "decode", "mend", "shards", "summary"},
    "dataforge.export": {"errors", "record", "formats", "shards"},
    "dataforge.bake": {"errors", "record", "image", "augment", "buckets", "cpus", "shards", "view"},
    "dataforge.tune": {"errors", "bake", "cpus", "decode", "shards"},
    "dataforge.checks": {"image", "mend", "record"},
    "dataforge.lint": {
        "errors",
        "record",
        "checks",
        "cpus",
        "decode",
        "draw",
        "export",
        "image",
        "ingest",
        "page",
        "shards",
        "similar",
    },
    "dataforge.prove": {"errors", "record", "image", "ingest", "shards", "summary"},
    "dataforge.join": {"errors", "record"},
    "dataforge.similar": {"cpus", "shards"},
    "dataforge.split": {"errors", "export", "join", "record", "rng", "shards", "similar"},
    "dataforge.decode": {"errors", "image"},
    "dataforge.draw": set(),
    "dataforge.show": {"errors", "augment", "draw", "rng", "shards"},
    "dataforge.page": set(),
    "dataforge.padding": {"augment", "sampler", "shards"},
    "dataforge.stats": {"record", "buckets", "padding", "sampler", "shards"},
    "dataforge.charts": {"stats"},
    "dataforge.pairing": set(),
    "dataforge.diff": {"pairing", "shards"},
    "dataforge.synth": {"errors"},
    "dataforge.batch": {"sampler"},
    "dataforge.buffers": set(),
    "dataforge.buckets": {"errors"},
    "dataforge.boxes": {"errors"},
    "dataforge.sampler": {"errors", "rng", "buckets"},
    "dataforge.augment": {"errors", "boxes", "decode", "batch", "rng"},
    "dataforge.nvjpeg": {"errors", "augment", "shards"},
    "dataforge.collate": {"errors", "augment", "batch", "buffers", "decode", "nvjpeg", "rng", "sampler", "shards"},
    "dataforge.adapters": {"errors", "record", "batch", "loader", "sampler", "shards"},
    "dataforge.transfer": {"batch"},
    "dataforge.loader": {
        "errors",
        "augment",
        "batch",
        "buckets",
        "collate",
        "cpus",
        "nvjpeg",
        "sampler",
        "shards",
        "transfer",
    },
}
LEAVES = {"cli", "commands", "bench", "demo", "web", "__main__"}
NO_TORCH = {"errors", "record", "image", "rng", "command", "formats", "shards", "mend", "ingest", "decode", "synth"}
NO_TORCH |= {"cli", "commands", "demo", "sampler", "buckets", "export", "prove", "join", "draw", "show"}
NO_TORCH |= {"bake", "tune", "view", "similar", "split", "page", "padding", "stats", "charts", "pairing", "diff"}
NO_TORCH |= {"checks", "lint", "cpus", "summary"}


def module(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(file: Path) -> set[str]:
    """Full names of all that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return found


FILES = {module(file): imports(file) for part in ("dataforge", "trainers") for file in (ROOT / part).rglob("*.py")}


def part(name: str) -> str:
    """The second part of a dotted name: "shards" of dataforge.shards.lmdb."""
    return [*name.split("."), ""][1]


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("dataforge")])
def test_imports_go_one_way(name: str) -> None:
    assert not [other for other in FILES[name] if other.split(".")[0] == "trainers"], "dataforge imports trainers"
    if name == "dataforge" or part(name) in LEAVES:
        return
    unit = ".".join(name.split(".")[:2])
    assert unit in BELOW, f"{unit} has no line in BELOW; say what it may import"
    known = {part(other) for other in FILES if other.startswith("dataforge")} - {""}
    used = {part(other) for other in FILES[name] if other.startswith("dataforge.")} & known - {part(name)}
    assert used <= BELOW[unit], f"{name} must not import {used - BELOW[unit]}"
    bare = {other for other in FILES[name] if other.startswith("dataforge.") and part(other) in dataforge.__all__}
    assert not bare, f"{name} imports {bare}; inside, name the file it comes from"


def test_only_the_command_line_imports_leaves() -> None:
    for name, used in FILES.items():
        if part(name) not in LEAVES:
            assert not {other for other in used if other.startswith("dataforge.") and part(other) in LEAVES}, name


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("dataforge") and part(name) in NO_TORCH])
def test_no_torch_below(name: str) -> None:
    torch = {"torch", "torchvision", "tensordict", "timm"}
    assert not {other for other in FILES[name] if other.split(".")[0] in torch}


def test_no_detector_imports_another() -> None:
    detectors = {target.partition(":")[0] for target in DETECTORS.values()}
    assert detectors
    for name in detectors:
        others = {other for other in detectors - {name} if any((u + ".").startswith(other + ".") for u in FILES[name])}
        assert not others, f"{name} imports the detector {others}"


@pytest.mark.parametrize("arguments", [["--help"], ["ingest", "--help"], ["demo", "--help"], ["--version"]])
def test_help_imports_no_torch(arguments: list[str]) -> None:
    code = "import sys\nfrom dataforge.cli import main\ntry:\n    main(sys.argv[1:])\nfinally:\n"
    code += "    heavy = {'torch', 'cv2', 'pyarrow', 'timm', 'matplotlib', 'numpy'} & sys.modules.keys()\n"
    code += "    assert not heavy, heavy\n"
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout or "dataforge" in done.stdout


def test_ingest_and_shards_work_without_torch(tiny_shards: Path) -> None:
    code = "import sys\nsys.modules['torch'] = None\nimport dataforge.ingest, dataforge.formats.coco\n"
    code += "from dataforge import Shards\nfrom dataforge.shards.verify import verify\n"
    code += "assert not list(verify(Shards(sys.argv[1])))"
    done = subprocess.run([sys.executable, "-c", code, tiny_shards], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_all_names_resolve() -> None:
    assert sorted(dataforge.__all__) == sorted(set(dataforge.__all__))
    for name in dataforge.__all__:
        assert getattr(dataforge, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Sherds'"):
        dataforge.Sherds  # noqa: B018


def test_importing_the_package_does_nothing_heavy() -> None:
    code = "import sys, dataforge\nassert not {'torch', 'numpy', 'cv2'} & sys.modules.keys()"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

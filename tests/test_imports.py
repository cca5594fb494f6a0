"""Imports go one way, and `dataforge --help` stays light. The files are read, not run."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import dataforge
from trainers.registry import DETECTORS

ROOT = Path(__file__).resolve().parents[1]

# Floors, the lowest first: a room may import itself and what lies on a lower floor. `dataforge.files` is a room too.
FLOORS = (
    {"dataforge.errors", "dataforge.interrupt", "dataforge.polygons", "dataforge.threads"},
    {"dataforge.archives"},
    {
        "dataforge.record",
        "dataforge.rng",
        "dataforge.files",
        "dataforge.command",
        "dataforge.registry",
        "dataforge.process",
        "dataforge.cluster",
    },
    {"dataforge.cloud"},
    {"dataforge.images"},
    {"dataforge.formats", "dataforge.sources", "dataforge.augment", "dataforge.overlay"},
    {"dataforge.shards"},
    {"dataforge.ingest", "dataforge.loading", "dataforge.testing"},
    {"dataforge.adapters", "dataforge.transform"},
    {"dataforge.analysis"},
    {"dataforge.bench"},
    {"dataforge.web"},
    {"dataforge.cli"},
    {"trainers.config", "trainers.models", "trainers.watchdog"},
    {"trainers.registry", "trainers.distributed"},
    {"trainers.checkpoint", "trainers.results"},
    {"trainers.training", "trainers.exporting"},
)
TOP = {"dataforge", "dataforge.__main__", "dataforge.__version__", "trainers"}
FLOOR = {room: n for n, rooms in enumerate(FLOORS) for room in rooms}
HEAVY = {
    "PIL",
    "obstore",
    "starlette",
    "uvicorn",
    "msgspec",
    "yaml",
    "torch",
    "torchvision",
    "tensordict",
    "kornia",
    "timm",
    "numpy",
    "pyarrow",
    "lmdb",
    "zarr",
    "cv2",
    "matplotlib",
}
NO_TORCH = {"formats", "sources", "images", "shards", "ingest", "transform", "analysis", "cli", "overlay", "web"}


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


def room(name: str) -> str:
    """The first two parts of a dotted name: "dataforge.shards" of dataforge.shards.table."""
    return ".".join(name.split(".")[:2])


@pytest.mark.parametrize("name", FILES)
def test_imports_go_down(name: str) -> None:
    if room(name) in TOP:
        return
    used = {room(other) for other in FILES[name] if other.split(".")[0] in ("dataforge", "trainers")}
    floor = FLOOR.get(room(name), len(FLOORS))  # files that users start lie above all rooms
    above = {
        other
        for other in used - {room(name)}
        if other not in TOP and FLOOR.get(other, len(FLOORS)) >= floor < len(FLOORS)
    }
    assert not above, f"{name} must not import {above}"
    assert name.split(".")[0] == "trainers" or not {other for other in used if other.startswith("trainers")}
    bare = {other for other in FILES[name] if other.rpartition(".")[2] in dataforge.__all__ and room(other) == other}
    assert not bare, f"{name} imports {bare}; inside, name the file it comes from"


def test_every_room_has_a_floor() -> None:
    rooms = {room(name) for name in FILES if name.startswith("dataforge.")} - TOP
    rooms |= {room(name) for name in FILES if name.count(".") > 1}
    assert rooms <= FLOOR.keys(), f"say in FLOORS where {rooms - FLOOR.keys()} lie"


def test_no_file_imports_itself_by_others() -> None:
    graph = {
        # `from package import file` names the package too; a file may stand in the one that it is taken from
        name: {other for other in used if other in FILES and other not in TOP and not name.startswith(f"{other}.")}
        for name, used in FILES.items()
    }
    TopologicalSorter({name: others - {name} for name, others in graph.items()}).prepare()  # CycleError names a circle


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("dataforge")])
def test_no_torch_below(name: str) -> None:
    if name.split(".")[1:2] and (name.split(".")[1] in NO_TORCH or FLOOR.get(room(name), 9) < 2):
        torch = {"torch", "torchvision", "tensordict", "timm", "kornia"}
        assert not {other for other in FILES[name] if other.split(".")[0] in torch}


def test_no_detector_imports_another() -> None:
    detectors = {target.partition(":")[0] for target in DETECTORS.values()}
    assert detectors
    for name in detectors:
        others = {other for other in detectors - {name} if any((u + ".").startswith(other + ".") for u in FILES[name])}
        assert not others, f"{name} imports the detector {others}"


@pytest.mark.parametrize("arguments", [["--help"], ["ingest", "--help"], ["demo", "--help"], ["--version"]])
def test_help_imports_no_torch(arguments: list[str]) -> None:
    code = "import sys\nfrom dataforge.cli.main import main\ntry:\n    main(sys.argv[1:])\nfinally:\n"
    code += f"    heavy = {HEAVY} & sys.modules.keys()\n"
    code += "    assert not heavy, heavy\n"
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout or "dataforge" in done.stdout


def test_ingest_and_shards_work_without_torch(tiny_shards: Path) -> None:
    code = "import sys\nsys.modules['torch'] = None\nimport dataforge.ingest.run, dataforge.formats.coco\n"
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
    code = f"import sys, dataforge\nassert not {HEAVY} & sys.modules.keys()\nassert 'click' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

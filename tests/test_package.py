"""The wheel and the sdist contain what git tracks, and an installed wheel works away from the checkout."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import dataforge
from dataforge.errors import TRAIN

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
PACKAGED = ("dataforge/", "trainers/", "configs/")
SOURCES = ("bench/", "docker/", "docs/", "tests/", "CHANGELOG.md", "LICENSE", "README.md", "constraints.txt", "run")


def call(*words: str | Path, cwd: Path, code: int = 0) -> str:
    """Run a program without this checkout on Python's path, and return what it prints."""
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        words, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert done.returncode == code, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def tracked() -> list[str]:
    if not shutil.which("git") or not (ROOT / ".git").exists():
        pytest.skip("needs git and a checkout, to know which files belong to the project")
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in names.split("\0") if (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def sdist(tracked: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist of the tracked files, unpacked."""
    out = tmp_path_factory.mktemp("sdist")
    for name in tracked:
        (out / "tree" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, out / "tree" / name)
    build = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    call(sys.executable, "-c", build, out, cwd=out / "tree")
    [file] = out.glob("*.tar.gz")
    assert file.name == f"dataforge_detection-{dataforge.__version__}.tar.gz"
    with tarfile.open(file) as archive:
        archive.extractall(out, filter="data")
    return out / file.name.removesuffix(".tar.gz")


@pytest.fixture(scope="module")
def wheel(sdist: Path) -> Path:
    """The wheel that is built from the sdist."""
    build = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    call(sys.executable, "-c", build, sdist.parent, cwd=sdist)
    [file] = sdist.parent.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    """The programs of an environment with the wheel, and with the packages of this one, but not its checkout."""
    if importlib.util.find_spec("ensurepip") is None:
        pytest.skip("this Python cannot make an environment with pip: it has no ensurepip")
    folder = wheel.parent / "venv"
    call(sys.executable, "-m", "venv", folder, cwd=wheel.parent)
    paths = sysconfig.get_paths("venv", {"base": str(folder), "platbase": str(folder)})
    # files .pth in a folder that a file .pth names are not read: the editable install of the checkout is not found
    Path(paths["purelib"], "packages.pth").write_text(sysconfig.get_path("purelib") + "\n", "utf-8")
    call(Path(paths["scripts"], "python"), "-m", "pip", "install", "--no-deps", "--no-index", wheel, cwd=wheel.parent)
    return Path(paths["scripts"])


@pytest.mark.slow
def test_nothing_that_is_tracked_is_missing(tracked: list[str], sdist: Path, wheel: Path) -> None:
    assert [name for name in tracked if name.startswith(PACKAGED + SOURCES) and not (sdist / name).is_file()] == []
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        [metadata] = [archive.read(name).decode() for name in archive.namelist() if name.endswith("/METADATA")]
    assert names == {re.sub("^configs/", "trainers/configs/", name) for name in tracked if name.startswith(PACKAGED)}
    required = re.findall(r'^Requires-Dist: ([\w-]+)[^;\n]*(?:; extra == "(\w+)")?$', metadata, re.M)
    assert {name for name, extra in required if extra == "train"} == TRAIN
    assert not TRAIN & {name for name, extra in required if not extra} and (PROJECT["name"], "dev") in required


@pytest.mark.slow
def test_the_installed_wheel_is_used_elsewhere(installed: Path, tmp_path: Path) -> None:
    python, program = installed / "python", installed / "dataforge"
    code = "import dataforge, trainers, importlib.metadata as m; print(m.version('dataforge-detection'))\n"
    code += "print(dataforge.__file__, trainers.__file__)"
    version, files = call(python, "-c", code, cwd=tmp_path).splitlines()
    assert version == dataforge.__version__ and str(ROOT) not in files
    call(program, "synth", "drawn", "--images", "10", cwd=tmp_path)
    call(program, "ingest", "coco", "drawn", "--out", "shards", cwd=tmp_path)
    assert "train" in call(program, "info", "shards", cwd=tmp_path)
    assert "--config" in call(python, "-m", "trainers.dense", "--help", cwd=tmp_path)
    unknown = call(python, "-m", "trainers.dense", "--config", "bcc", cwd=tmp_path, code=2)
    assert "unknown configuration 'bcc'; known: FILE.toml, dense_bccd, dense_laptop" in unknown
    train = ["-m", "trainers.dense", "--config", "dense_laptop", "--shards", "shards", "--epochs", "1", "--name", "x"]
    call(python, *train, cwd=tmp_path)
    values = tomllib.loads((tmp_path / "runs/dense/x/args.toml").read_text("utf-8"))
    assert values["size"] == [64, 128] and values["epochs"] == 1 and values["device"] == "cpu"


def test_extras_that_messages_name_exist() -> None:
    known = set(PROJECT["optional-dependencies"])
    files = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    files += [file for part in ("dataforge", "trainers") for file in (ROOT / part).rglob("*.py")]
    named = [
        pair for file in files for pair in re.findall(r"pip install '(\w[\w-]*)\[(.+?)\]'", file.read_text("utf-8"))
    ]
    assert len(named) >= 6
    assert {name for name, _ in named} == {PROJECT["name"]}
    assert {extra for _, extra in named} - {"{form.EXTRA}"} <= known


WITHOUT_TORCH = """
import json, sys

sys.modules.update(dict.fromkeys(json.loads(sys.argv[1])))  # importing one of them raises ModuleNotFoundError
import dataforge.cli.annotate, dataforge.cli.view
from click.testing import CliRunner
from dataforge.cli.main import main

for module in (dataforge.cli.annotate, dataforge.cli.view):
    module.serve = lambda application, listening: listening.close()  # what is left is starlette's and uvicorn's
for line, code in json.loads(sys.argv[2]):
    result = CliRunner().invoke(main, line.split())
    assert result.exit_code == code, (line, result.output, result.exception)
    print(result.stderr, end="")
"""
LIST = [
    ("synth drawn --images 12 --size 64 96", 0),
    ("lint drawn", 0),
    ("ingest coco drawn --out shards", 0),
    ("ingest auto drawn --out zarr --store zarr", 0),
    ("info shards", 0),
    ("log shards", 0),
    ("verify shards", 0),
    ("verify shards --source coco:drawn", 0),
    ("lint shards --report lint.html", 0),
    ("stats shards --out stats", 0),
    ("show shards", 0),
    ("show shards --augment yolo", 0),
    ("split shards --out new --val 0.25", 0),
    ("merge new zarr --out both", 0),
    ("diff shards new --report diff.html", 1),
    *((f"export shards --format {name} --out {name}", 0) for name in ("voc", "yolo", "cvat", "createml")),
    *((f"ingest {name} {name} --out {name}.shards", 0) for name in ("voc", "yolo", "cvat", "createml")),
    ("annotate shards --no-browser", 0),
    ("overlay apply shards.overlay --out applied", 0),
    ("view shards --no-browser", 0),
    ("bake shards --out small --side 32", 0),
    ("bake shards --out raw --raw --size 32 32", 0),
    ("bench shards", 2),
]


def test_all_but_training_works_without_the_packages_of_the_extra_train(tmp_path: Path) -> None:
    words = [json.dumps(sorted(TRAIN)), json.dumps(LIST)]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    needed = "needs torch, which is not installed: pip install 'dataforge-detection[train]'"
    assert done.stdout.endswith(f"error: {needed}\n")
    code = "import sys; sys.modules['torch'] = None; from dataforge import Loader"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.endswith(f"ModuleNotFoundError: {needed}\n")

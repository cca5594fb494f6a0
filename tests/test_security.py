"""No pickle in a reading path: neither in the sources, nor when readers run."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BANNED_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
BANNED_CALLS = {"eval", "exec", "compile", "__import__"}
YAML = {"yaml.BaseLoader", "yaml.SafeLoader"}


@pytest.mark.parametrize("package", ["dataforge", "trainers"])
def test_no_source_unpickles_or_evaluates(package: str) -> None:
    wrong = []
    files = [file for file in sorted((ROOT / package).rglob("*.py")) if file.name != "testing.py"]
    trees = {file: list(ast.walk(ast.parse(file.read_text("utf-8")))) for file in files}
    classes = [node for nodes in trees.values() for node in nodes if isinstance(node, ast.ClassDef)]
    safe = {node.name for node in classes if node.bases and {*map(ast.unparse, node.bases)} <= YAML}
    loaders = YAML | safe - {node.name for node in classes if not {*map(ast.unparse, node.bases)} <= YAML}
    for file, nodes in trees.items():
        for node in nodes:
            names: set[str] = set()
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                names = {(node.module or "").partition(".")[0]} & BANNED_MODULES
            elif isinstance(node, ast.Call):
                if isinstance(node.func, ast.Name):
                    names = {node.func.id} & BANNED_CALLS
                elif isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
                    names = {node.func.value.id} & BANNED_MODULES
                keywords = {word.arg: word.value for word in node.keywords}
                called = ast.unparse(node.func)
                if called == "torch.load" and ast.unparse(keywords.get("weights_only", ast.Constant(0))) != "True":
                    names = {"torch.load without weights_only=True"}
                if called in ("np.load", "numpy.load") and ast.unparse(keywords.get("allow_pickle", node)) == "True":
                    names = {"np.load with allow_pickle"}
                plain = ast.unparse(keywords.get("Loader", ast.Constant(0))) in loaders
                if called in ("yaml.full_load", "yaml.unsafe_load") or (called == "yaml.load" and not plain):
                    names = {called}
            wrong += [f"{file.relative_to(ROOT)}:{node.lineno}: {name}" for name in names]  # type: ignore[attr-defined]
    assert not wrong


def test_no_reader_unpickles(tmp_path: Path) -> None:
    """`pickle.find_class` is an audited event: none comes while each store is read."""
    code = f"""
import sys
from pathlib import Path
events = []
sys.addaudithook(lambda event, _: events.append(event) if event in ("pickle.find_class", "marshal.loads") else None)
from tests.fuzz.readers import raw_cache, shards, use
roots = []
for store in ("lmdb", "memmap", "zarr"):
    Path({str(tmp_path)!r}, store).mkdir()
    roots.append(shards(Path({str(tmp_path)!r}, store), store))
Path({str(tmp_path)!r}, "rows").mkdir()
roots.append(raw_cache(Path({str(tmp_path)!r}, "rows")))
[use(root) for root in roots]  # imports what it needs, which loads compiled modules
events.clear()
[use(root) for root in roots]
assert not events, events
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

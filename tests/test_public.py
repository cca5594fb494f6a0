"""The public names are those that `dataforge/README.md` lists, and no others."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

import dataforge
import trainers

TEXT = (Path(__file__).resolve().parents[1] / "dataforge/README.md").read_text("utf-8")
SECTION = TEXT.partition("## Public modules")[2].partition("\n## ")[0]
PUBLIC = {
    module: set(re.findall(r"`(\w+)`", names))
    for module, names in re.findall(r"^\| `(dataforge[\w.]*)` \| (.*?) \|", SECTION, re.MULTILINE)
}


def test_the_list_is_there() -> None:
    assert {"dataforge", "dataforge.record", "dataforge.errors", "dataforge.testing"} <= PUBLIC.keys()


@pytest.mark.parametrize("name", PUBLIC)
def test_what_is_listed_is_what_the_module_exports(name: str) -> None:
    module = importlib.import_module(name)
    assert len(module.__all__) == len(set(module.__all__)) and set(module.__all__) == PUBLIC[name]
    assert module.__doc__
    for exported in (getattr(module, attribute) for attribute in module.__all__):
        if inspect.isclass(exported) or inspect.isfunction(exported):
            assert exported.__module__.startswith("dataforge.") and inspect.getdoc(exported)


def test_the_table_of_rooms_names_every_room() -> None:
    root = Path(__file__).resolve().parents[1] / "dataforge"
    rooms = {path.parent.name for path in root.glob("*/__init__.py")} | {path.stem for path in root.glob("*.py")}
    table = TEXT.partition("## Rooms")[2].partition("\n## ")[0]
    named = set(re.findall(r"[a-z_]+", " ".join(re.findall(r"^\| `(.*?)` \|", table, re.MULTILINE))))
    assert rooms - {"__init__", "__main__"} <= named


def test_editors_and_type_checkers_see_the_names() -> None:
    for package in (dataforge, trainers):
        assert package.__file__ and set(package.__all__) <= set(dir(package))
        assert Path(package.__file__).with_name("py.typed").is_file()
    tree = ast.parse(Path(str(dataforge.__file__)).read_text("utf-8"))
    froms = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    seen = {f"{node.module}.{alias.name}" for node in froms for alias in node.names}
    assert {f"{home}.{name}" for name, home in dataforge._HOMES.items()} <= seen

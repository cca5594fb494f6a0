"""The user's own reader: the documented one runs as it is printed, and mistakes in it are one line."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from dataforge.shards.reader import Shards
from dataforge.shards.verify import verify
from tests.cli.test_bad_input import kinds, refused, run
from tests.formats.sets import picture, put

TEXT = (Path(__file__).parents[2] / "dataforge/formats/own_reader.md").read_text("utf-8")
HEAD = "from dataforge.record import Finding, Record, Source\nimport numpy as np\n"


@pytest.fixture
def reader(tmp_path: Path) -> str:
    """The documented example as a file, as the command takes it."""
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.S)
    assert len([line for line in code.splitlines() if line.strip()]) <= 20
    return f"{put(tmp_path / 'my_reader.py', code)}:read"


def pcb(root: Path) -> Path:
    """The layout of DeepPCB, tiny: its lists leave out `_test`, its label files are separated by blanks."""
    for split, names in (("trainval", ("1", "2")), ("test", ("3",))):
        lines = []
        for name in names:
            put(root / f"PCBData/group0/0/{name}_test.jpg", picture(int(name)))
            put(root / f"PCBData/group0/0_not/{name}.txt", "1 2 30 40 1\n5 6 7 8 6\n" if name != "2" else "")
            lines.append(f"group0/0/{name}.jpg group0/0_not/{name}.txt\n")
        put(root / f"PCBData/{split}.txt", "".join(lines))
    return root


def test_the_documented_reader_on_its_layout(tmp_path: Path, reader: str) -> None:
    result = run(reader, pcb(tmp_path / "in"), "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    shards = Shards(tmp_path / "out")
    assert not list(verify(shards)) and not kinds(tmp_path / "out")
    assert [shards.table.key[i] for i in range(3)] == [f"group0/0/{name}_test.jpg" for name in "123"]
    assert shards.table.boxes.tolist() == [[1, 2, 30, 40], [5, 6, 7, 8]] * 2
    assert [shards.classes[label] for label in shards.table.labels] == ["open", "pin-hole"] * 2
    assert {name: len(rows) for name, rows in shards.splits.items()} == {"trainval": 2, "test": 1}


def test_the_documented_reader_on_the_real_set(tmp_path: Path, reader: str, shared_data: Path) -> None:
    root = shared_data / "deeppcb_200"
    result = run(reader, root, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    shards = Shards(tmp_path / "out")
    facts = shards.info()
    assert (facts["images"], facts["boxes"], len(facts["classes"])) == (200, 1347, 6)
    assert {name: len(rows) for name, rows in shards.splits.items()} == {"trainval": 150, "test": 50}
    for i in range(0, 200, 20):
        path = root / "PCBData" / shards.table.key[i]
        labels = path.parent.with_name(f"{path.parent.name}_not") / path.name.replace("_test.jpg", ".txt")
        rows = np.array([line.split() for line in labels.read_text().splitlines()], float)
        part = slice(shards.table.offsets[i], shards.table.offsets[i + 1])
        np.testing.assert_array_equal(shards.table.boxes[part], rows[:, :4])
        np.testing.assert_array_equal(shards.table.labels[part] + 1, rows[:, 4])
        assert bytes(shards.blob(i)) == path.read_bytes()


def test_files_and_functions_that_are_not_there(tmp_path: Path, reader: str) -> None:
    out, file = tmp_path / "out", reader.removesuffix(":read")
    assert "gone.py: no such file; expected a reader as path/to" in refused(out, tmp_path / "gone.py:read", tmp_path)
    text = refused(out, f"{file}:reed", tmp_path)
    assert f"unknown function in {file}: 'reed'; known: read" in text
    assert f"unknown function in {file}: ''; known: read" in refused(out, file, tmp_path)
    assert "known: none" in refused(out, f"{put(tmp_path / 'empty.py', HEAD)}:Path", tmp_path)


def test_options_go_to_a_reader_that_names_them(tmp_path: Path, reader: str) -> None:
    root, out = pcb(tmp_path / "in"), tmp_path / "out"
    assert "no image is left" in refused(out, reader, root, "--split", "val")
    assert "--images: format" in refused(out, reader, root, "--images", root)
    code = HEAD + "def read(root, split=None, images=None):\n    raise ValueError(f'{split} {images.name}')"
    own = f"{put(tmp_path / 'b.py', code)}:read"
    assert "ValueError: ('test',) in" in refused(out, own, root, "--split", "test", "--images", root)
    assert run(reader, root, "--split", "test", "--out", out).exit_code == 0
    assert Shards(out).table.key[0] == "group0/0/3_test.jpg" and len(Shards(out)) == 1


@pytest.mark.parametrize(
    ("code", "line", "said"),
    [
        ("x = (", 3, "SyntaxError: '(' was never closed"),
        ("import no_such_module", 3, "ModuleNotFoundError: No module named 'no_such_module'"),
        ("def read(root):\n    return {}['key']", 4, "KeyError: 'key'"),
        ("def read():\n    pass", 1, "TypeError: read() takes 0 positional arguments"),
        (
            "def read(root):\n    def records():\n        yield int(\n  'x')\n    return Source(('a',), records())",
            5,
            "ValueError: invalid literal",
        ),
        ("def read(root):\n    return Source(('a',), iter(open(root / 'gone')))", 4, "FileNotFoundError"),
        ("def read(root):\n    return Source(('a',), 3)", 1, "TypeError: 'int' object is not iterable"),
    ],
)
def test_what_it_raises_is_one_line_with_the_place(tmp_path: Path, code: str, line: int, said: str) -> None:
    file = put(tmp_path / "mine.py", HEAD + code)
    text = refused(tmp_path / "out", f"{file}:read", tmp_path)
    assert f"{file}:{line}: {said}" in text and text.count("\n") == 1


RECORD = "Record('a.jpg', 'train', b'', 0, 0, {boxes}, {labels}, {flags})"


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("None", "read() gave nothing; expected a Source"),
        ("[]", "read() gave a list; expected a Source"),
        ("Source('cat', iter(()))", "classes are 'cat'; expected a tuple of names"),
        ("Source((1, 2), iter(()))", "classes are (1, 2); expected a tuple of names"),
        ("Source(('a',), iter([3]))", "record 0 is a int; expected a Record"),
        ("Source(('a',), [Record(3, 'train', b'', 0, 0, [], [], [])])", "record 0 (3): key is a int; expected str"),
        ("Source(('a',), [Record('k', 'train', 'k', 0, 0, [], [], [])])", "image is a str; expected Path | bytes"),
        (RECORD.format(boxes="[1, 2, 3, 4]", labels="[0]", flags="[0]"), "boxes have the shape (4,); expected (n, 4)"),
        (RECORD.format(boxes="[[1, 2, 3, 4]]", labels="[]", flags="[0]"), "1 boxes, 0 labels, 1 flags, 1 areas"),
        (RECORD.format(boxes="[[1, 2, 3, 4]]", labels="[1]", flags="[0]"), "expected labels of 0 to 0"),
        (RECORD.format(boxes="[[1, 2, 3, 4]]", labels="[0.5]", flags="[0]"), "expected labels of 0 to 0"),
        (RECORD.format(boxes="[[1, 2, 3, 4]]", labels="[0]", flags="[8]"), "flags of 0 to 7"),
        (RECORD.format(boxes="[[1, 'x', 3, 4]]", labels="[0]", flags="[0]"), "could not convert string to float"),
        (RECORD.format(boxes="[[1, 2, 3, 4], [1]]", labels="[0]", flags="[0]"), "inhomogeneous"),
    ],
)
def test_what_it_gives_is_checked(tmp_path: Path, source: str, said: str) -> None:
    source = f"Source(('a',), iter([{source}]))" if source.startswith("Record") else source
    file = put(tmp_path / "mine.py", f"{HEAD}def read(root):\n    return {source}")
    text = refused(tmp_path / "out", f"{file}:read", tmp_path)
    assert said in text and text.startswith(f"error: {file}: read()")


def test_plain_lists_and_findings_are_fine(tmp_path: Path) -> None:
    put(tmp_path / "a.jpg", picture())
    code = (
        "def read(root):\n    return Source(['a'], [Finding('refused', 'mine', 'f', 'k', 'v', 'why'),\n"
        "        Record('a.jpg', 'train', root / 'a.jpg', 0, 0, [[1, 2, 3, 4]], [0], [1])])"
    )
    out = tmp_path / "out"
    assert run(f"{put(tmp_path / 'mine.py', HEAD + code)}:read", tmp_path, "--out", out).exit_code == 0
    assert kinds(out) == [("refused", "mine")] and Shards(out).table.flags.tolist() == [1]

"""What all commands share: ranges of numbers, exit codes, errors in one line and in JSON, help without torch."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from dataforge.cli.main import main
from dataforge.cli.options import progress_bar
from dataforge.command import Command, Number, columns, natural, real, width
from dataforge.errors import ConfigError, StoppedError, counted
from trainers.command import command
from trainers.config import _List
from trainers.registry import DETECTORS, config_class

PROGRAMS = ("adapters", "bench", "darknet", "evaluate", "export", "predict", "replay")


def all_commands(group: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    yield path, group
    for name, child in getattr(group, "commands", {}).items():
        yield from all_commands(child, f"{path} {name}")


COMMANDS = dict(all_commands(main, "dataforge"))
for name in PROGRAMS:
    COMMANDS |= all_commands(importlib.import_module(f"trainers.{name}").main, name)
COMMANDS |= {name: command(name, config_class(name)) for name in DETECTORS}


@pytest.mark.parametrize("path", COMMANDS)
def test_every_number_has_a_range_and_every_command_short_help(path: str) -> None:
    made = COMMANDS[path]
    for option in made.get_params(click.Context(made)):
        kind = option.type.item if isinstance(option.type, _List) else option.type
        kinds = kind.types if isinstance(kind, click.Tuple) else [kind]
        assert not any(isinstance(one, click.types.IntParamType | click.types.FloatParamType) for one in kinds), option
        assert all(one.bounds for one in kinds if isinstance(one, Number)), option
    assert isinstance(made, Command)
    text = CliRunner().invoke(made, ["-h"])
    assert text.exit_code == 0 and "..." not in text.output.partition("Commands:")[2]


@given(st.integers() | st.floats(), st.floats(0, 5), st.floats(5, 9))
def test_a_number_is_in_its_range_or_named_with_it(number: float, least: float, most: float) -> None:
    kind = real(least=least, most=most)
    try:
        assert kind(str(number)) == float(number) and least <= number <= most
    except click.BadParameter as error:
        assert not least <= number <= most
        assert error.message == f"'{number}' is not a number of at least {least} and at most {most}"


def test_integers_and_infinity() -> None:
    assert natural(0)("7") == 7 and real(least=0, infinite=True)("inf") == float("inf")
    for kind, text in ((natural(), "1.5"), (natural(), "0"), (natural(1, 9), "10"), (real(least=0), "inf")):
        with pytest.raises(click.BadParameter, match=f"'{text}' is not a"):
            kind(text)
    with pytest.raises(click.BadParameter, match="'nan'"):
        real(infinite=True)("nan")


@pytest.mark.parametrize(
    ("raised", "code", "stderr"),
    [
        (None, 0, ""),
        (ConfigError("x: is y"), 2, "error: x: is y\n"),
        (click.ClickException("x"), 2, "error: x\n"),
        (StoppedError("stopped after step 3"), 130, "stopped after step 3\n"),
        (KeyboardInterrupt(), 130, "\ninterrupted\n"),
        (SystemExit(1), 1, ""),
    ],
)
def test_exit_codes(raised: BaseException | None, code: int, stderr: str) -> None:
    @click.command(cls=Command)
    @click.option("--json", is_flag=True)
    def run(json: bool) -> None:
        if raised:
            raise raised

    for options in ([], ["--json"]):
        result = CliRunner().invoke(run, options)
        assert (result.exit_code, result.stderr) == (code, stderr)
        message = stderr.strip().removeprefix("error: ")
        assert result.stdout == (json.dumps({"error": message}) + "\n" if options and message else "")
    result = CliRunner().invoke(run, ["--jsn"])
    assert result.exit_code == 2 and "Did you mean '--json'? See `run --help`." in result.stderr


def test_a_bug_is_trouble_and_no_finding(tmp_path: Path) -> None:
    code = "from dataforge.command import command\n@command()\ndef run(): 1 / 0\nrun()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "ZeroDivisionError" in done.stderr


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252"])
def test_a_file_gets_each_line_at_once_and_letters_of_any_encoding(encoding: str) -> None:
    """Output that is no terminal's: Windows encodes it by the system's code page."""
    code = (
        "from dataforge.command import *\n@command()\ndef run():\n"
        "  print('first')\n"
        "  echo('\u732b'); echo('\u732b', err=True); echo_json({'a': '\u732b \U0001f600'})\n"
        "  print('last'); os._exit(0)\n"
    )
    words = [sys.executable, "-c", f"import os\n{code}run()"]
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    done = subprocess.run(words, capture_output=True, check=False, env=environment)
    first, cat, facts, last = done.stdout.decode(encoding).splitlines()
    assert (first, last, cat) == ("first", "last", "\u732b" if encoding == "utf-8" else r"\u732b")
    assert json.loads(facts) == {"a": "\u732b \U0001f600"}
    assert done.stderr.decode(encoding).strip() == cat


def test_columns_are_those_of_a_terminal() -> None:
    rows = [("", "train"), ("cat", 1), ("\u732b\u732b", 22), ("e\u0301", "\u72ac"), ("\U0001f600", "")]
    lines = columns(rows).split("\n")
    assert [width(line) for line in lines] == [11] * 5
    assert lines[2] == "\u732b\u732b     22" and lines[3] == "e\u0301        \u72ac"
    family, runner = "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f3c3\U0001f3fd\u200d\u2642\ufe0f"
    assert [width(text) for text in (family, runner, "\U0001f1e9\U0001f1ea", "\u0915\u094d\u200d\u0937")] == [2] * 4


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_a_full_disk_for_the_output_is_one_line(tiny_shards: Path, flags: list[str]) -> None:
    with open("/dev/full", "w") as full:
        words = [sys.executable, "-m", "dataforge", "info", str(tiny_shards), *flags]
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.stderr == "error: standard output: cannot be written: No space left on device\n"
    assert done.returncode == 2


def test_one_image_is_not_called_images(tmp_path: Path) -> None:
    assert [counted(n, noun) for n, noun in ((0, "box"), (1, "box"), (2, "class"), (3, "file"))] == [
        "0 boxes",
        "1 box",
        "2 classes",
        "3 files",
    ]
    drawn, one = str(tmp_path / "drawn"), str(tmp_path / "one")
    assert CliRunner().invoke(main, ["synth", drawn, "--images", "5"]).exit_code == 0
    said = CliRunner().invoke(main, ["ingest", "coco", drawn, "--split", "val", "--limit", "1", "--out", one]).output
    for words in ("info", "verify", "lint", f"diff {one}", f"stats --out {one}s", f"bake --side 32 --out {one}b"):
        name, *others = words.split()
        said += CliRunner().invoke(main, [name, one, *others]).output
    assert "1 image" in said and not re.search(r"\b1 (images|boxes|classes|faults|files)\b", said), said


@pytest.mark.skipif(os.name == "nt", reason="pipes of POSIX")
@pytest.mark.parametrize("program", ["dataforge", "trainers"])
def test_a_reader_that_ends_is_neither_trouble_nor_a_finding(tiny_shards: Path, program: str) -> None:
    ended, stdout = os.pipe()
    os.close(ended)
    words = [sys.executable, "-m", program, *(["info", str(tiny_shards)] if program == "dataforge" else [])]
    done = subprocess.run(words, stdout=stdout, stderr=subprocess.PIPE, text=True)
    os.close(stdout)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_name_that_is_not_utf8_is_one_line(tiny_shards: Path, tmp_path: Path) -> None:
    odd = tmp_path / "M\udcfcller"
    for words in (["merge", tiny_shards, "--out", odd], ["bake", tiny_shards, "--raw", "--size", 32, 32, "--out", odd]):
        done = CliRunner().invoke(main, [*map(str, words)])
        assert done.exit_code == 2 and "not UTF-8, as that of shards must be; choose another" in done.stderr
    assert not odd.exists()
    shutil.copytree(tiny_shards, odd)
    done = CliRunner().invoke(main, ["merge", str(odd), "--link", "--out", str(tmp_path / "out")])
    assert done.exit_code == 2 and "the name of a file is not UTF-8; rename it" in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize(
    ("program", "module", "code", "said"),
    [
        *(
            (name, "click", -signal.SIGINT, "")
            for name in ("dataforge", "trainers", "trainers.dense", "trainers.replay")
        ),
        ("trainers.dense", "torch", 130, "\ninterrupted\n"),
    ],
)
def test_ctrl_c_while_modules_are_imported_is_no_traceback(
    tiny_shards: Path, tmp_path: Path, program: str, module: str, code: int, said: str
) -> None:
    """The first module is imported before the command runs, the second by it."""
    (tmp_path / f"{module}.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)\n"
    )
    words = [sys.executable, "-m", program, "--shards", str(tiny_shards)]
    done = subprocess.run(words, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(tmp_path)})
    assert (done.returncode, done.stderr) == (code, said)


@pytest.mark.parametrize(
    "words",
    [
        ["lint", "none", "--report"],
        ["diff", "none", "none", "--report"],
        ["show", "none", "--out"],
        ["bench", "none", "--plot"],
        ["replay", "none", "--step", "1", "--out"],
        ["evaluate", "none", "--report"],
        ["evaluate", "none", "--save-json"],
        ["export", "none", "--shards", "none", "--out"],
    ],
    ids=" ".join,
)
def test_a_file_that_cannot_be_written_is_told_before_the_work(tmp_path: Path, words: list[str]) -> None:
    program, words = (COMMANDS[words[0]], words[1:]) if words[0] in ("evaluate", "export") else (main, words)
    for file, reason in ((tmp_path / "none/a.html", "No such file or directory"), (tmp_path, "Is a directory")):
        done = CliRunner().invoke(program, [*words, str(file)])
        assert (done.exit_code, done.stderr) == (2, f"error: {words[-1]} {file}: cannot be written: {reason}\n")


def test_a_file_in_place_of_the_folder_of_statistics_is_told_before_the_work(
    tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").touch()
    monkeypatch.setattr("dataforge.analysis.stats.statistics", lambda *_: 1 / 0)
    done = CliRunner().invoke(main, ["stats", str(tiny_shards), "--out", str(tmp_path / "a")])
    assert (done.exit_code, done.stderr) == (2, f"error: --out {tmp_path / 'a'}: is a file; expected a folder\n")


def test_the_list_of_trainers_is_whole() -> None:
    listing = importlib.import_module("trainers.__main__")
    assert listing.TRAINERS.keys() == DETECTORS.keys()
    lines = CliRunner().invoke(listing.main, []).stdout.splitlines()
    assert [line.split()[2] for line in lines[:-1]] == [f"trainers.{name}" for name in listing.TRAINERS]


@pytest.mark.parametrize("name", ["auto", "coco", "voc", "yolo", "labelme", "table"])
def test_photos_without_annotations_are_answered_with_the_annotator(tmp_path: Path, name: str) -> None:
    (tmp_path / "my photos").mkdir()
    (tmp_path / "my photos/a.JPG").write_bytes(b"x")
    line = ["ingest", name, str(tmp_path / "my photos"), "--out", str(tmp_path / "out")]
    text = CliRunner().invoke(main, line).stderr
    advice = f"to draw boxes on them: dataforge annotate '{tmp_path}/my photos' --classes NAME,NAME"
    if name == "auto":
        assert text == f"error: {tmp_path}/my photos: pictures without annotations; {advice}\n"
    else:  # what was expected stays
        assert text.startswith(f"error: {tmp_path}/my photos") and "xpected" in text
        assert text.endswith(f"; it holds pictures without annotations; {advice}\n")
    (tmp_path / "bad.json").write_text("{")
    text = CliRunner().invoke(main, [*line, "--annotations", str(tmp_path / "bad.json")]).stderr
    assert "annotate" not in text or name == "auto", text
    (tmp_path / "my photos/notes.txt").write_text("x")
    assert "annotate" not in CliRunner().invoke(main, line).stderr


@pytest.mark.parametrize("name", [*DETECTORS, *PROGRAMS])
@pytest.mark.parametrize("option", ["--help", "--no-such-option"])
def test_help_and_wrong_options_import_no_torch(name: str, option: str, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('torch was imported')")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    words = [sys.executable, "-m", f"trainers.{name}", option]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == (0 if option == "--help" else 2), done.stderr
    assert done.stdout.startswith("Usage: ") if option == "--help" else done.stderr.startswith("error: No such option")


@pytest.mark.parametrize("name", DETECTORS)
def test_a_folder_that_is_missing_is_told_without_torch(name: str, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('torch was imported')")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    words = [sys.executable, "-m", f"trainers.{name}", "--shards", str(tmp_path / "none")]
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 2 and done.stderr.startswith(f"error: {tmp_path}/none: does not exist"), done.stderr


def test_progress_lines_end_at_the_total(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = iter(range(100))
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    monkeypatch.setattr("dataforge.cli.options.INTERVAL", 0.5)
    with progress_bar(67, hidden=False) as progress:
        assert progress
        for done in range(0, 68):
            progress(done)
    assert capsys.readouterr().err.splitlines()[-1] == "67 of 67 images"

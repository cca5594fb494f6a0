"""The journal: what was confirmed stays, what was torn is cut, what is damaged is named."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataforge.overlay.journal import JOURNAL, Journal, NotWrittenError, OverlayError, encode, read

HEADER = {"path": "/photos", "format": "photos", "classes": []}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "overlay"


@pytest.fixture
def journal(folder: Path) -> Iterator[Journal]:
    journal = Journal(folder, HEADER)
    yield journal
    journal.close()


def test_lines_come_back(folder: Path, journal: Journal) -> None:
    facts = {"kind": "edit", "key": 'a "ü"\n\0\x1b.jpg', "box": [0.1, 1e-45, 3.4028234663852886e38, -0.0]}
    for n in range(3):
        journal.append({**facts, "version": n})
    lines, whole = read(folder)
    assert lines[0] == {"kind": "overlay", "format_version": 1, **HEADER}
    assert lines[1:] == [{**facts, "version": n} for n in range(3)]
    assert whole == (folder / JOURNAL).stat().st_size


def test_a_second_writer_is_refused(folder: Path, journal: Journal) -> None:
    with pytest.raises(OverlayError, match="is being edited by another"):
        Journal(folder, HEADER)
    code = (
        f"from pathlib import Path\nfrom dataforge.overlay.journal import Journal\nJournal(Path({str(folder)!r}), {{}})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "is being edited by another" in done.stderr
    assert len(read(folder)[0]) == 1, "readers may read"
    journal.append({"kind": "edit"})


def test_the_lock_ends_with_the_writer(folder: Path, journal: Journal) -> None:
    journal.close()
    other = Journal(folder, {"path": "other"})
    assert other.lines[0]["path"] == "/photos", "the header is that of the first"
    journal._file = os.dup(other._file)  # closed by the fixture
    other.close()


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_a_torn_last_line_is_cut(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("torn")
    journal = Journal(folder, HEADER)
    ends = [(folder / JOURNAL).stat().st_size]
    for n in range(3):
        journal.append({"kind": "edit", "n": n, "text": "x" * n})
        ends.append((folder / JOURNAL).stat().st_size)
    journal.close()
    whole = (folder / JOURNAL).read_bytes()
    cut = data.draw(st.integers(ends[0], len(whole) - 1))
    zeros = data.draw(st.sampled_from([0, 0, 1, 4096]))
    (folder / JOURNAL).write_bytes(whole[:cut] + b"\0" * zeros)
    kept = sum(end <= cut for end in ends)
    assert len(read(folder)[0]) == kept
    again = Journal(folder, HEADER)
    assert len(again.lines) == kept and (folder / JOURNAL).read_bytes() == whole[: ends[kept - 1]]
    again.append({"kind": "edit", "n": "after"})
    again.close()
    assert [line.get("n") for line in read(folder)[0]][1:] == [*range(kept - 1), "after"]


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_a_damaged_line_is_named(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    lines = [encode({"kind": "overlay", "format_version": 1, **HEADER})]
    lines += [encode({"kind": "edit", "n": n}) for n in range(3)]
    number = data.draw(st.integers(0, 3))
    at = data.draw(st.integers(0, len(lines[number]) - 2))
    changed = bytearray(lines[number])
    changed[at] = data.draw(st.integers(1, 255).filter(lambda byte: byte not in (changed[at], 10, 13)))
    lines[number] = bytes(changed)
    (folder / JOURNAL).write_bytes(b"".join(lines))
    for open_it in (lambda: read(folder), lambda: Journal(folder, HEADER)):
        with pytest.raises(OverlayError, match=rf"journal.jsonl: line {number + 1} is damaged"):
            open_it()
    assert (folder / JOURNAL).read_bytes() == b"".join(lines), "nothing is repaired"


def test_what_is_no_overlay(tmp_path: Path) -> None:
    with pytest.raises(OverlayError, match="nowhere: does not exist; expected a folder made by"):
        read(tmp_path / "nowhere")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/photo.jpg").write_bytes(b"x")
    with pytest.raises(OverlayError, match=r"full: is not empty, and holds no journal.jsonl"):
        Journal(tmp_path / "full", HEADER)
    with pytest.raises(OverlayError, match=r"photo.jpg: cannot be written"):
        Journal(tmp_path / "full/photo.jpg", HEADER)
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / JOURNAL).write_bytes(encode({"kind": "overlay", "format_version": 2}))
    with pytest.raises(OverlayError, match="format_version is 2; this dataforge reads 1"):
        read(tmp_path / "new")


def test_a_full_disk_leaves_the_journal_as_it_was(folder: Path, journal: Journal) -> None:
    journal.append({"kind": "edit", "n": 0})
    before = (folder / JOURNAL).read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 20, limits[1]))
        for _ in range(2):
            with pytest.raises(NotWrittenError, match=r"journal.jsonl: cannot be written: "):
                journal.append({"kind": "edit", "n": 1, "text": "x" * 100})
            assert (folder / JOURNAL).read_bytes() == before
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    journal.append({"kind": "edit", "n": 2})
    assert [line.get("n") for line in read(folder)[0]] == [None, 0, 2]


@pytest.mark.parametrize("at", range(1, 4))
def test_an_error_of_the_disk_while_a_journal_is_begun(folder: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """At the flush of the header, of the folder and of its parent."""
    calls, real = iter(range(1, 9)), os.fsync

    def failing(handle: int) -> None:
        if next(calls) == at:
            raise OSError(5, "Input/output error")
        real(handle)

    with monkeypatch.context() as patched:
        patched.setattr("dataforge.overlay.journal.os.fsync", failing)
        with pytest.raises(OverlayError, match=f"{folder}.*Input/output error"):
            Journal(folder, HEADER)
    Journal(folder, HEADER).close()
    assert len(read(folder)[0]) == 1


@pytest.mark.parametrize("fails", ["fsync", "ftruncate"])
def test_an_error_of_the_disk(folder: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch, fails: str) -> None:
    def failing(*arguments: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(f"dataforge.overlay.journal.os.{fails}", failing)
        if fails == "ftruncate":
            patched.setattr("dataforge.overlay.journal.os.fsync", failing)
        with pytest.raises(NotWrittenError, match="Input/output error"):
            journal.append({"kind": "edit", "n": 1})
        with pytest.raises(NotWrittenError, match="Input/output error"):
            journal.append({"kind": "edit", "n": 2})
    journal.append({"kind": "edit", "n": 3})
    assert [line.get("n") for line in read(folder)[0]] == [None, 3], "what was not confirmed is not there"

"""Archives are read as the folder that they hold: by every format, by `auto`, `lint`, `verify` and `--resume`."""

from __future__ import annotations

import gzip
import io
import shutil
import tarfile
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataforge.archives.gzip_stream import GzipStream
from dataforge.archives.path import ArchivePath, opened
from dataforge.errors import FormatError
from dataforge.formats import FORMATS, reader
from dataforge.ingest.run import ingest
from dataforge.record import Record, Source
from dataforge.shards.reader import Shards
from tests.formats.named import WRITE, run
from tests.formats.sets import coco, drain, picture, put
from tests.formats.test_damage import small

SUFFIXES = ("zip", "tar", "tgz", "tar.gz")


def pack(root: Path, suffix: str, *, stored: bool = False) -> Path:
    """Archive a folder as `shutil` does, or without compression."""
    kind = {"zip": "zip", "tar": "tar"}.get(suffix, "gztar")
    path = Path(shutil.make_archive(str(root), kind, root))
    if stored:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
            for inner in sorted(root.rglob("*")):
                file.write(inner, inner.relative_to(root))
    return path.rename(root.with_suffix(f".{suffix}"))


def facts(out: Path) -> tuple[object, ...]:
    shards = Shards(out)
    table = shards.table
    blobs = [bytes(shards.blob(i)) for i in range(len(shards))]
    return shards.classes, [*table.key], table.boxes.tolist(), table.labels.tolist(), blobs, list(shards.splits)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_reads_what_the_folder_holds(tmp_path: Path, name: str, suffix: str) -> None:
    root = small(tmp_path / "set", name)
    assert run("ingest", name, root, "--out", tmp_path / "plain").exit_code == 0
    archive = pack(root, suffix)
    for format_name in (name, "auto"):
        result = run("ingest", format_name, archive, "--out", tmp_path / format_name)
        assert result.exit_code == 0, result.stderr
        assert facts(tmp_path / format_name) == facts(tmp_path / "plain")
    linted = [run("lint", place, "--format", name).stdout.replace(str(place), "") for place in (root, archive)]
    assert linted[0] == linted[1]
    assert run("verify", tmp_path / "plain", "--source", f"{name}:{archive}").exit_code == 0


@pytest.mark.parametrize("name", WRITE)
def test_a_file_in_an_archive_and_a_folder_in_one(tmp_path: Path, name: str) -> None:
    put(tmp_path / "up/inner/a.jpg", picture())
    WRITE[name](tmp_path / "up/inner", ["a.jpg"])
    assert run("ingest", name, tmp_path / "up/inner", "--out", tmp_path / "plain").exit_code == 0
    archive = pack(tmp_path / "up", "zip", stored=True)
    assert run("ingest", name, archive / "inner", "--out", tmp_path / "packed").exit_code == 0
    assert facts(tmp_path / "packed") == facts(tmp_path / "plain")
    hint = run("ingest", "auto", archive, "--out", tmp_path / "hinted")
    assert hint.exit_code == 0 or f"{archive / 'inner'} looks like" in hint.stderr


def test_the_leftovers_of_an_archive_are_named(tmp_path: Path) -> None:
    root = coco(tmp_path / "set", {"a.jpg": picture()})
    put(root / "more/other.jpg", picture(1))
    result = run("ingest", "coco", pack(root, "tgz"), "--out", tmp_path / "out")
    assert result.exit_code == 0 and "noted picture-unread: 1" in result.stdout and "other.jpg" in result.stdout


@pytest.mark.parametrize("suffix", ["zip", "tgz"])
def test_resume(tmp_path: Path, suffix: str) -> None:
    root = coco(tmp_path / "set", {f"{n}.jpg": picture(n) for n in range(9)})
    archive = opened(pack(root, suffix))
    plain = reader("coco")(root)
    ingest(plain, tmp_path / "plain", source_name="coco")

    def cut(source: Source) -> Source:
        def records():  # type: ignore[no-untyped-def]
            for n, item in enumerate(source.records):
                if n == 6:
                    raise KeyboardInterrupt
                yield item

        return Source(source.classes, records(), source.class_ids, total=source.total)

    with pytest.raises(KeyboardInterrupt):
        ingest(cut(reader("coco")(archive)), tmp_path / "out", source_name="coco", shard_bytes=4000, jobs=1)
    ingest(reader("coco")(archive), tmp_path / "out", source_name="coco", shard_bytes=4000, resume=True)
    assert facts(tmp_path / "out") == facts(tmp_path / "plain")


def test_a_damaged_picture_is_one_refused_image(tmp_path: Path) -> None:
    root = coco(tmp_path / "set", {"a.jpg": picture(), "b.jpg": picture(1)})
    archive = pack(root, "zip", stored=True)
    data = archive.read_bytes()
    place = data.index(picture(1)) + 200
    archive.write_bytes(data[:place] + bytes([data[place] ^ 255]) + data[place + 1 :])
    result = run("ingest", "coco", archive, "--out", tmp_path / "out", "--max-bad", 1)
    assert result.exit_code == 0 and "CRC-32" in result.stdout and [*Shards(tmp_path / "out").table.key] == ["a.jpg"]


def tar_of(path: Path, *members: tarfile.TarInfo, mode: str = "w") -> Path:
    with tarfile.open(path, mode) as file:
        for member in members:
            file.addfile(member, io.BytesIO(bytes(member.size)))
    return path


def tar_member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    return member


def zip_of(path: Path, *names: str, mode: int = 0o100644) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name in names:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            file.writestr(info, b"x")
    return path


def overlapping(path: Path) -> Path:
    """Two entries of the directory point at the same data."""
    zip_of(path, "a.jpg", "b.jpg")
    data = bytearray(path.read_bytes())
    second = data.rindex(b"PK\1\2")
    data[second + 42 : second + 46] = bytes(4)
    path.write_bytes(data)
    return path


def large(path: Path) -> Path:
    """300 MB of zeros."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file, file.open("a.bin", "w") as member:
            for _ in range(300):
                member.write(bytes(1 << 20))
        return path
    member = tar_member("a.bin")
    member.size = 300 << 20
    return tar_of(path, member, mode="w:gz")


def understated(path: Path) -> Path:
    """The directory states 5 bytes, the data has 2000."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.jpg", bytes(2000))
    data = path.read_bytes()
    place = data.rindex(b"PK\1\2") + 24
    path.write_bytes(data[:place] + (5).to_bytes(4, "little") + data[place + 4 :])
    return path


HOSTILE: dict[str, tuple[Callable[[Path], Path], str, str]] = {
    "zip absolute": (lambda path: zip_of(path, "/etc/x"), "zip", "leads out"),
    "zip parent": (lambda path: zip_of(path, "a/../../x"), "zip", "leads out"),
    "zip backslashes": (lambda path: zip_of(path, "..\\x"), "zip", "leads out"),
    "zip drive": (lambda path: zip_of(path, "C:\\x"), "zip", "leads out"),
    "zip link": (lambda path: zip_of(path, "a", mode=0o120777), "zip", "link or a device"),
    "zip device": (lambda path: zip_of(path, "a", mode=0o020666), "zip", "link or a device"),
    "zip file and folder": (lambda path: zip_of(path, "a", "a/b"), "zip", "twice"),
    "zip overlap": (overlapping, "zip", "overlaps"),
    "zip bomb": (large, "zip", "at most 200 times"),
    "tgz bomb": (large, "tgz", "at most 200 times"),
    "tar absolute": (lambda path: tar_of(path, tar_member("/etc/x")), "tar", "leads out"),
    "tar parent": (lambda path: tar_of(path, tar_member("../x")), "tar", "leads out"),
    "tar link": (lambda path: tar_of(path, tar_member("a", tarfile.SYMTYPE, "/etc/passwd")), "tar", "is a link"),
    "tar hard link": (lambda path: tar_of(path, tar_member("a", tarfile.LNKTYPE, "b")), "tar", "is a link"),
    "tar device": (lambda path: tar_of(path, tar_member("a", tarfile.CHRTYPE)), "tar", "is a link, a device"),
    "tar pipe": (lambda path: tar_of(path, tar_member("a", tarfile.FIFOTYPE)), "tar", "is a link, a device"),
    "tar twice": (lambda path: tar_of(path, tar_member("a"), tar_member("./a")), "tar", "twice"),
    "not a zip": (lambda path: put(path, b"no"), "zip", "cannot be read as an archive"),
    "not a tar": (lambda path: put(path, b"no" * 999), "tar", "cannot be read as an archive"),
    "not a tgz": (lambda path: put(path, b"no" * 999), "tgz", "cannot be read as an archive"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_archives_are_refused(tmp_path: Path, case: str) -> None:
    make, suffix, expected = HOSTILE[case]
    path = make(tmp_path / f"set.{suffix}")
    result = run("ingest", "coco", path, "--out", tmp_path / "out")
    assert result.exit_code == 2 and result.stderr.startswith(f"error: {path}: ") and expected in result.stderr
    assert {entry.name for entry in tmp_path.iterdir()} == {path.name}


def test_more_members_than_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dataforge.archives.members.ENTRIES", 5)
    with pytest.raises(FormatError, match="more than 5 files and folders"):
        opened(zip_of(tmp_path / "set.zip", *map(str, range(9))))
    with pytest.raises(FormatError, match="more than 5 files and folders"):
        opened(zip_of(tmp_path / "deep.zip", "a/" * 9 + "b", "c"))


def test_data_larger_than_stated(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="larger or smaller than the 5 bytes"):
        (opened(understated(tmp_path / "set.zip")) / "a.jpg").read_bytes()


@pytest.mark.parametrize("suffix", ["tar", "tgz"])
def test_a_broken_header_in_the_middle_is_not_the_end(tmp_path: Path, suffix: str) -> None:
    path = tar_of(tmp_path / "set.tar", *map(tar_member, "abc"))
    data = bytearray(path.read_bytes())
    data[512 + 150] ^= 1  # the checksum of the second header
    path.write_bytes(data)
    if suffix == "tgz":
        path = put(tmp_path / "set.tgz", gzip.compress(bytes(data)))
    with pytest.raises(FormatError, match="is damaged at byte 512"):
        opened(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_archive_cut_short(tmp_path: Path, suffix: str) -> None:
    path = pack(coco(tmp_path / "set", {"a.jpg": picture(), "b.jpg": picture(1)}), suffix)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(FormatError, match=str(path)):
        opened(path)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 300_000), st.integers(1, 70_000)), max_size=12), st.booleans())
def test_any_part_of_a_gzip_stream(
    tmp_path_factory: pytest.TempPathFactory, parts: list[tuple[int, int]], two: bool
) -> None:
    data = np.random.default_rng(0).integers(0, 60, 300_000, np.uint8).tobytes()
    packed = gzip.compress(data[:100_000]) + gzip.compress(data[100_000:]) if two else gzip.compress(data)
    path = put(tmp_path_factory.mktemp("gzip") / "a.gz", packed)
    with pytest.MonkeyPatch.context() as patch, open(path, "rb") as file:
        patch.setattr("dataforge.archives.gzip_stream.SPAN", 10_000)
        patch.setattr("dataforge.archives.gzip_stream.CHUNK", 3000)
        patch.setattr("dataforge.archives.gzip_stream.STATES", 5)
        stream = GzipStream(file.fileno(), lambda size, packed: None)
        assert stream.rest(299_990, 100) == data[299_990:]
        for start, size in parts:
            size = min(size, len(data) - start)
            assert b"".join(stream.chunks(start, size)) == data[start : start + size]


def test_threads_read_one_archive(tmp_path: Path) -> None:
    root = coco(tmp_path / "set", {f"{n}.jpg": picture(n) for n in range(40)})
    folder = opened(pack(root, "tgz")) / "train"
    wrong: list[int] = []

    def work(first: int) -> None:
        wrong.extend(n for n in range(first, 40, 3) if (folder / f"{n}.jpg").read_bytes() != picture(n))

    threads = [threading.Thread(target=work, args=(first,)) for first in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_path_answers_as_one_of_the_file_system(tmp_path: Path, suffix: str) -> None:
    root = tmp_path / "set"
    put(root / "a/b.txt", "one\r\ntwo\n")
    put(root / "a/c/d.JPG", b"\0" * 3_000_000 + b"end")
    put(root / "ä x.json", "{}")
    path = opened(pack(root, suffix))
    for pattern in ("*", "*/*.txt", "**/*.JPG", "a/c/*", "x/*", "a/b.txt"):
        both = ({str(p.relative_to(base)) for p in base.glob(pattern)} for base in (root, path))
        assert next(both) == next(both), pattern
    assert sorted(str(p.relative_to(path)) for p in path.rglob("*")) == sorted(
        str(p.relative_to(root)) for p in root.rglob("*")
    )
    for name in ("a", "a/b.txt", "x", "a/b.txt/c", "a/../ä x.json", "a/c/d.JPG"):
        plain, packed = root / name, path / name
        assert (plain.exists(), plain.is_dir(), plain.is_file()) == (packed.exists(), packed.is_dir(), packed.is_file())
    large = path / "a/c/d.JPG"
    assert isinstance(large, ArchivePath) and large.stat().st_size == 3_000_003
    with large.open("rb") as file:
        assert (file.seek(-3, 2), file.read(), file.seek(5), len(file.read())) == (3_000_000, b"end", 5, 2_999_998)
    assert (path / "a/b.txt").read_text("utf-8") == (root / "a/b.txt").read_text("utf-8")
    with large.spooled() as file:
        assert file.seek(0, 2) == 3_000_003
    for wrong, error in (("x", FileNotFoundError), ("a", IsADirectoryError)):
        with pytest.raises(error):
            (path / wrong).read_bytes()
    with pytest.raises(OSError, match="only read"):
        (path / "new").open("w") if (path / "new").exists() else (path / "a/b.txt").open("w")
    assert not (path / "../outside.txt").exists()
    assert (path / put(tmp_path / "outside.txt", "x")).read_text() == "x"


def test_an_archive_of_one_picture_named_by_its_record(tmp_path: Path) -> None:
    records, _ = drain(reader("coco")(opened(pack(coco(tmp_path / "set", {"a.jpg": picture()}), "zip"))))
    assert isinstance(records[0], Record) and records[0].file == str(tmp_path / "set.zip/train/a.jpg")

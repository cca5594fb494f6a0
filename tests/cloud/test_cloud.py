"""Shards in a bucket: the same batches as from a disk, whatever the network, the store and the cache do."""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from itertools import count, islice
from pathlib import Path
from typing import Any

import obstore
import pytest
from click.testing import CliRunner

from dataforge.cli.main import main
from dataforge.cloud import chunks, requests, upload
from dataforge.cloud.path import RemotePath, located
from dataforge.cloud.upload import LOCK, staged
from dataforge.errors import ConfigError, DataError, DataforgeError, ShardError
from dataforge.images.synth import write
from dataforge.ingest.run import ingest
from dataforge.loading.batch import Batch
from dataforge.loading.loader import Loader
from dataforge.record import Source
from dataforge.shards.reader import Shards
from dataforge.shards.verify import verify
from dataforge.transform.bake import Form, bake
from tests import tiny
from tests.cloud.double import BUCKET, ENVIRONMENT, SECRET, Double
from trainers.config import Config

numbers = count()


def put(out: str | Path, store_name: str = "lmdb", shard_bytes: int = 30_000) -> str | Path:
    """Ingest the tiny set."""
    records = [record for split in ("train", "val") for record in tiny.records(split)]
    source = Source(tiny.CLASSES, iter(records), tiny.CLASS_IDS, {}, len(records))
    ingest(source, out, store_name=store_name, source_name="tiny", shard_bytes=shard_bytes, jobs=1)
    return out


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tiny set in each store."""
    folder = tmp_path_factory.mktemp("local")
    made = {name: Path(put(folder / name, name)) for name in ("lmdb", "memmap", "zarr")}
    bake(Shards(made["lmdb"]), folder / "rows", Form(shapes=((48, 64),), raw=True))
    return made | {"rows": folder / "rows"}


@pytest.fixture
def url() -> str:
    return f"s3://{BUCKET}/set{next(numbers)}"


def send(folder: Path, url: str) -> str:
    """Copy a folder of shards as it is."""
    out = located(url)
    for path in folder.rglob("*"):
        if path.is_file():
            with requests.requests(out) as obstore:
                obstore.put(out.bucket, f"{out.key}/{path.relative_to(folder).as_posix()}", path)
    return url


def loader(shards: str | Path, **how: object) -> Loader:
    return Loader(shards, "train", **{"batch_size": 4, "size": (64, 64), "seed": 5, "threads": 2, **how})


def assert_same(batches: Iterator[Batch], expected: Iterator[Batch]) -> None:
    for one, other in zip(batches, expected, strict=True):
        for name in ("images", "boxes", "labels", "flags", "affine", "index"):
            assert getattr(one, name).equal(getattr(other, name)), name


@pytest.mark.parametrize("name", ["lmdb", "memmap", "zarr", "rows"])
def test_batches_are_those_of_a_disk_cold_and_warm(s3: Double, local: dict[str, Path], url: str, name: str) -> None:
    if name == "rows":
        send(local[name], url)
        size: tuple[int, int] = (48, 64)
    else:
        put(url, name)
        size = (64, 64)
        for path in local[name].rglob("*"):
            if path.is_file() and path.name != "ingest.jsonl":
                assert (located(url) / path.relative_to(local[name]).as_posix()).read_bytes() == path.read_bytes()
    how = {"size": size, "augment": None if name == "rows" else "yolo"}
    how |= {"shuffle": "window:4"} if name == "memmap" else {}
    for _ in ("cold", "warm"):
        s3.requests.clear()
        one, other = loader(url, **how), loader(local[name], **how)
        for _ in range(2):
            assert_same(one, other)
        assert one._fingerprint() == other._fingerprint()
    fetched = [key for method, key in s3.requests if method == "GET" and "/blobs.zarr" not in key]
    assert {key.rpartition("/")[2] for key in fetched} <= {"index.json", "meta.json", ""}, "the rest was in the cache"


def test_resume_elsewhere(s3: Double, local: dict[str, Path], url: str) -> None:
    put(url)
    first = loader(local["lmdb"])
    [_] = islice(iter(first), 1)
    again = loader(url)
    again.load_state_dict(first.state_dict())
    assert_same(again, islice(iter(loader(local["lmdb"])), 1, None))


@pytest.mark.parametrize("kind", ["503", "cut", "wrong", "stall", "silent"])
def test_faults_that_pass(s3: Double, local: dict[str, Path], url: str, kind: str) -> None:
    put(url)
    turns = count()
    often = 12 if kind in ("stall", "silent") else 3

    def fault(method: str, key: str) -> str | None:
        hit = method == "GET" and (kind != "wrong" or key.endswith((".mdb", ".arrow")))
        return kind if hit and next(turns) % often == 0 else None

    s3.fault = fault
    assert_same(loader(url), loader(local["lmdb"]))


def test_faults_that_stay_are_errors_without_secrets(s3: Double, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    put(url)
    monkeypatch.setattr(requests, "DEADLINE", timedelta(seconds=2))
    requests.bucket_of.cache_clear()
    for kind, expected in (("503", "503 Service Unavailable"), ("expired", "400 Bad Request")):
        opened = loader(url, on_error="skip")
        s3.fault = lambda method, key, kind=kind: kind if "mdb" in key else None
        with pytest.raises(ShardError, match=f"{url}/train/0000./blobs.mdb: cannot be read: {expected}") as error:
            list(opened)
        s3.fault = lambda method, key, kind=kind: kind
        with pytest.raises(ShardError, match=f"{url}/index.json: cannot be read: {expected}") as closed:
            Shards(url)
        s3.fault = None
        for text in (str(error.value), str(closed.value)):
            assert SECRET not in text and "Credential" not in text and "http" not in text


def test_a_request_is_repeated_until_the_deadline(s3: Double, url: str) -> None:
    """However often that is."""
    left = {"GET": 40, "PUT": 40}

    def fault(method: str, key: str) -> str | None:
        left[method] = left.get(method, 0) - 1
        return "503" if left[method] >= 0 else None

    s3.fault = fault
    put(url)
    assert not list(verify(Shards(url))) and max(left.values()) < 0


@pytest.mark.parametrize("words", ["info {url}", "ingest coco {pictures} --out {url}"])
def test_ctrl_c_is_heard_while_the_store_is_silent(tmp_path: Path, url: str, words: str) -> None:
    write(tmp_path, images=5, seed=0, size=(64, 96))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        environment = {**os.environ, **ENVIRONMENT, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{silent.getsockname()[1]}"}
        command = words.format(url=url, pictures=tmp_path).split()
        process = subprocess.Popen(
            [sys.executable, "-m", "dataforge", *command], env=environment, stderr=subprocess.PIPE, text=True
        )
        silent.settimeout(60)
        try:
            with silent.accept()[0]:
                process.send_signal(signal.SIGINT)
                assert "interrupted" in process.communicate(timeout=60)[1] and process.returncode == 130
        finally:
            process.kill()
            process.communicate()


def test_missing_and_damaged(s3: Double, local: dict[str, Path], url: str) -> None:
    send(local["lmdb"], url)
    shards = Shards(url, "train")
    place = located(url) / shards._shards[0]["path"] / "blobs.mdb"
    whole = place.read_bytes()
    spot = whole.index(bytes(shards.blob(0)[-40:]))
    with requests.requests(place) as obstore:
        obstore.put(place.bucket, place.key, whole[:spot] + bytes(40) + whole[spot + 40 :])
    with pytest.raises(DataError, match=r"train/00000 record 0 \(a.jpg\): the image's bytes are not"):
        list(loader(url))
    faults = list(verify(Shards(url)))
    assert [fault.place for fault in faults] == [f"{place.parent} record 0 (a.jpg)"]
    with pytest.warns(match="a.jpg"):
        skipping = loader(url, on_error="skip")
        assert sum(len(batch.index) for batch in skipping) == 10 and list(skipping.skipped) == [0]
    with requests.requests(place) as obstore:
        obstore.delete(place.bucket, place.key)
    with pytest.raises(ShardError, match=f"{place}: cannot be read: does not exist"):
        list(loader(url, on_error="skip"))


def test_a_cache_that_is_small_removed_or_damaged(
    s3: Double, local: dict[str, Path], url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(url, "memmap")
    monkeypatch.setenv("DATAFORGE_CACHE_GB", "0.0001")
    cache = tmp_path / "cache"
    one, other = iter(loader(url)), iter(loader(local["memmap"]))
    for batch in other:
        assert_same(islice(one, 1), iter([batch]))
        for path in cache.glob("*/*"):
            path.unlink()
    assert_same(loader(url), loader(local["memmap"]))
    assert sum(path.stat().st_size for path in cache.glob("*/*")) < 200_000
    for path in cache.glob("*/*"):
        path.write_bytes(bytes(len(path.read_bytes())))
    chunks._cache.cache_clear()  # as another process would
    assert_same(loader(url), loader(local["memmap"]))
    monkeypatch.setenv("DATAFORGE_CACHE_GB", "none")
    with pytest.raises(ConfigError, match="DATAFORGE_CACHE_GB is 'none'; expected a number above 0"):
        Shards(url)


def test_shards_that_change_while_they_are_read(s3: Double, local: dict[str, Path], url: str) -> None:
    send(local["lmdb"], url)
    running = loader(url)
    list(running)
    index = json.loads((local["lmdb"] / "index.json").read_bytes())
    out = located(url)
    with requests.requests(out) as obstore:
        obstore.put(out.bucket, f"{out.key}/index.json", json.dumps(index).encode())
    with pytest.raises(ShardError, match=r"has changed since it was opened \(fingerprint \w+, expected \w+\)"):
        list(running)
    shards = Shards(url)
    [shards._blobs.store(n) for n in range(len(shards._shards))]
    first = out / shards._shards[0]["path"] / "blobs.mdb"
    with requests.requests(out) as obstore:
        obstore.put(out.bucket, first.key, first.read_bytes() + bytes(4096))
    shards._blobs._stores[0]._open().file.remote._cache.forget(shards._blobs._stores[0]._open().file.remote._name(0))
    with pytest.raises(ShardError, match=r"blobs.mdb: cannot be read: has changed since it was opened"):
        shards.blob(0)


def test_a_writer_whose_reply_is_lost_is_no_other_writer(s3: Double, url: str) -> None:
    """The request is sent again, and finds the object that it has written."""
    lost, names = set[str](), (LOCK, "index.json")

    def fault(method: str, key: str) -> str | None:
        if method != "PUT" or key in lost or not key.endswith(names):
            return None
        lost.add(key)
        return "lost"

    s3.fault = fault
    put(url)
    assert {key.rpartition("/")[2] for key in lost} == set(names)
    assert not list(verify(Shards(url))) and not (located(url) / LOCK).exists()


@pytest.mark.parametrize(("patience", "sent"), [(60, 1), (1, 2)])
def test_what_is_sent_may_take_longer_than_a_reply(
    s3: Double, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patience: int, sent: int
) -> None:
    """The store answers after 4 s, when 3 without a byte end what is read; an end is in sight all the same."""
    monkeypatch.setattr(requests, "SENDING", timedelta(seconds=patience))
    turns = count()
    s3.fault = lambda method, key: "silent" if method == "PUT" and next(turns) == 0 else None
    s3.requests.clear()
    (tmp_path / "a").write_bytes(b"content")
    upload._put(tmp_path / "a", located(url) / "a")
    assert [method for method, _ in s3.requests] == ["PUT"] * sent
    assert (located(url) / "a").read_bytes() == b"content"


def test_two_writers_and_one_that_fails(s3: Double, local: dict[str, Path], url: str) -> None:
    out = located(url)
    with pytest.raises(ShardError, match="meanwhile"), staged(out, "index.json", "ingest.jsonl") as (folder, send):
        with pytest.raises(ShardError, match=f"{url}: another process is writing to it: .*delete {url}/{LOCK}"):
            put(url)
        assert send is not None
        (folder / "ingest.jsonl").write_text("{}\n")
        (folder / "index.json").write_text("{}\n")
        with requests.requests(out) as obstore:  # someone takes the advice too early
            obstore.delete(out.bucket, f"{out.key}/{LOCK}")
        put(url)
    Shards(url)
    with pytest.raises(ShardError, match=f"{url}: already holds shards"):
        put(url)

    above = located(url).parent / f"above{next(numbers)}"
    with requests.requests(above) as obstore:  # an ingest has failed there, before another one below it was published
        obstore.put(above.bucket, f"{above.key}/ingest.jsonl", b"")
    put(str(above / "below"))
    with pytest.raises(ShardError, match=f"{above}: other shards are below it, in {above}/below; choose another --out"):
        put(str(above))
    assert not list(verify(Shards(above / "below")))

    failed = f"{url}-failed"
    s3.fault = lambda method, key: "expired" if key.endswith("val/00000/blobs.mdb") else None
    with pytest.raises(ShardError, match=r"val/00000/blobs.mdb: cannot be written: 400 Bad Request, ExpiredToken"):
        put(failed)
    s3.fault = None
    assert not (located(failed) / LOCK).exists() and (located(failed) / "ingest.jsonl").exists()
    with pytest.raises(ShardError, match=f"{failed}: holds no index.json"):
        Shards(failed)
    put(failed)
    assert not list(verify(Shards(failed)))


def test_commands(s3: Double, local: dict[str, Path], url: str, tmp_path: Path) -> None:
    def run(*arguments: object, code: int = 0) -> str:
        result = CliRunner().invoke(main, list(map(str, arguments)))
        assert result.exit_code == code, result.output
        return result.output

    run("synth", tmp_path / "pictures", "--images", 6)
    source = tmp_path / "pictures"
    facts = json.loads(run("ingest", "coco", source, "--out", url, "--json"))
    assert facts["out"] == url and facts["report"] == f"{url}/ingest.jsonl" and facts["images"] == 6
    run("ingest", "coco", source, "--out", tmp_path / "disk")
    assert "6 images checked, 0 faults" in run("verify", url)
    run("verify", url, "--source", f"coco:{source}")
    run("diff", url, tmp_path / "disk")
    assert json.loads(run("info", url, "--json"))["fingerprint"] == Shards(tmp_path / "disk").fingerprint
    assert json.loads(run("log", url, "--json"))["steps"][0]["given"]["out"] == url
    assert run("lint", url, "--json") == run("lint", tmp_path / "disk", "--json").replace(str(tmp_path / "disk"), url)
    run("stats", url, "--out", tmp_path / "stats")
    run("bake", url, "--out", tmp_path / "baked", "--side", 64)
    run("bake", url, "--out", f"{url}-baked", "--size", 32, 32, "--raw")
    assert Shards(tmp_path / "baked").index["baked"]["parent"] == url
    run("info", f"{url}-baked")
    run("export", url, "--format", "coco", "--out", tmp_path / "exported")
    run("ingest", "coco", tmp_path / "exported", "--out", tmp_path / "again")
    run("diff", tmp_path / "again", url)
    for arguments in (
        ["ingest", "coco", source, "--out", url],
        ["info", f"{url}x"],
        ["info", "ftp://host/set"],
        ["lint", f"{url}x"],
    ):
        assert run(*arguments, code=2).startswith("error: ")
    s3.fault = lambda method, key: "expired"
    assert "400 Bad Request, ExpiredToken" in run("info", url, code=2)  # which only a reply with a body tells


@pytest.mark.parametrize(
    "words",
    [
        "export shards --format coco --out {url}",
        "stats shards --out {url}",
        "show shards --out {url}.jpg",
        "diff shards shards --report {url}.html",
        "lint shards --report {url}.html",
        "synth {url} --images 5",
        "ingest coco {url} --out shards2",
        "ingest auto {url} --out shards2",
        "annotate {url} --no-browser",
        "trainers.evaluate best.pt --shards shards --save-json {url}",
        "trainers.predict best.pt shards --out {url}",
        "trainers.export best.pt --shards shards --out {url}",
    ],
)
def test_a_url_where_a_folder_is_needed(
    tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    """It is no local folder named `s3:`."""
    monkeypatch.chdir(tmp_path)
    Path("shards").symlink_to(tiny_shards)
    given = words.format(url="s3://bucket/x").split()
    command = main
    if given[0].startswith("trainers."):
        command = importlib.import_module(given.pop(0)).main
    result = CliRunner().invoke(command, given)
    assert result.exit_code == 2 and "is a URL" in result.output, result.output
    assert [path.name for path in tmp_path.iterdir()] == ["shards"]
    with pytest.raises(ConfigError, match="runs is 's3://b/runs', which is a URL; expected a folder"):
        Config(shards="shards", runs="s3://b/runs").check()


def test_addresses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert isinstance(located("s3://b/x"), RemotePath) and str(located(Path("s3://b/x")) / "y") == "s3://b/x/y"
    assert located(tmp_path.as_uri()) == tmp_path and located("C:x") == Path("C:x")
    assert located("file:///a%20b/c") == Path("/a b/c")
    for text in ("S3://b/x", "s3://b/x/../y", "s3://b/..", "s3://b/x\ny", "s3://b/\udc80"):
        with pytest.raises(ConfigError):
            located(text)
    for value in ("host:9000", "http://", "http://h:99999", f"http://user:{SECRET}@ho st", "ftp://host"):
        monkeypatch.setenv("AWS_ENDPOINT_URL", value)
        requests.bucket_of.cache_clear()
        with pytest.raises(ConfigError, match="AWS_ENDPOINT_URL is not an address such as https://host:9000") as wrong:
            Shards("s3://b/x")
        assert SECRET not in str(wrong.value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "wrong")
    with pytest.raises(ShardError, match="memory://other/x"):  # another store's
        Shards("memory://other/x")
    for text in ("s3://", "http://host/x", f"s3://user:{SECRET}@b/x", f"az://c/x?sig={SECRET}"):
        with pytest.raises(ConfigError) as error:
            located(text)
        assert SECRET not in str(error.value) and text.split(":")[0] in str(error.value)
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(DataforgeError, match=r"s3://b/x.*: needs obstore: pip install 'dataforge-detection\[cloud\]'"):
        Shards("s3://b/x")


def test_credentials_that_neither_environment_nor_role_has(
    s3: Double, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the address of roles answers is not the bucket's answer."""
    put(url)
    s3.fault = lambda method, key: "expired"
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", s3.endpoint)
    requests.bucket_of.cache_clear()
    with pytest.raises(
        ShardError, match=r"index.json: cannot be read: no credentials: .* its role gave none \(400 Bad"
    ):
        Shards(url)


def test_a_long_wait_is_told(s3: Double, url: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    put(url)
    monkeypatch.setattr(requests, "PATIENCE", 0.5)
    turns = count()
    s3.fault = lambda method, key: "silent" if next(turns) == 0 else None
    Shards(url)
    told = f"{url}/index.json: no answer for 0.5 s; requests are repeated for 30 s, Ctrl-C ends the wait\n"
    assert capsys.readouterr().err == told


def test_ctrl_c_waits_for_a_file_that_is_being_sent(
    s3: Double, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would else arrive after the lock is gone."""
    (tmp_path / "file").write_bytes(b"bytes")
    path, here, told = located(f"{url}/file"), threading.get_ident(), threading.Event()
    lines: list[str] = []

    def tell(line: str, **_: bool) -> None:
        lines.append(line)
        told.set()

    class Slow:
        def put(self, *given: Any, **how: Any) -> None:
            signal.pthread_kill(here, signal.SIGINT)
            told.wait(60)
            obstore.put(*given, **how)

    monkeypatch.setattr(requests, "echo", tell)
    with pytest.raises(KeyboardInterrupt):
        requests._Interruptible(Slow(), path).put(path.writer, path.key, tmp_path / "file")
    assert path.read_bytes() == b"bytes"
    assert len(lines) == 1 and "is being sent; waiting for its end" in lines[0]


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_process_does_not_wait_forever() -> None:
    path = located("memory://fork/file")
    assert not path.is_file()
    if not (child := os.fork()):
        try:
            path.read_bytes()
        except OSError as error:
            os._exit(7 if "start workers by spawn" in str(error) else 8)
        os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_obstore_is_imported_where_it_is_used(tiny_shards: Path) -> None:
    code = f"import sys, dataforge; dataforge.Shards({str(tiny_shards)!r}).blob(0); assert 'obstore' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)

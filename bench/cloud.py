"""Epochs from a bucket on this machine by dataforge and its peers, with an empty and with a full cache.

    python bench/cloud.py DIR [--images 1024] [--repeats 5] [--latency 0.02] [--python PYTHON] [--results FILE]

The bucket is a folder served by a process of its own, which answers GET and HEAD as S3 does, each request after a wait
(`--latency`, seconds), and counts them. Each peer decodes JPEGs to batches of 32 of 320 x 320 uint8, shuffled, with two
threads (dataforge) or two worker processes; simplejpeg and OpenCV in all. An epoch is a process; its time counts from
the first batch requested to the last received. Ratios are of epochs of one turn, since the speed of a machine drifts.
`--python` names an interpreter that has the peers. The peer "window:512" is dataforge with this `shuffle`.
DATAFORGE_CACHE_GB is the size of its cache.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cloud_peers import WRITERS, batches_of, images_of, write

BUCKET = "bucket"
PEERS = ("dataforge", *WRITERS)


class Bucket(BaseHTTPRequestHandler):
    """The part of S3 that readers use. `/count` returns the numbers of requests and of bytes since the last time."""

    protocol_version, disable_nagle_algorithm = "HTTP/1.1", True
    root, latency, lock, count = Path(), 0.0, threading.Lock(), [0, 0]

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, status: int, data: bytes, headers: dict[str, str], length: int | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data) if length is None else length), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def do_GET(self) -> None:
        if self.path == "/count":
            with self.lock:
                counted, self.count[:] = list(self.count), [0, 0]
            return self._answer(200, json.dumps(counted).encode(), {})
        time.sleep(self.latency)
        file = self.root / self.path.partition("?")[0].removeprefix(f"/{BUCKET}/")
        if not file.is_file():
            return self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>", {"Content-Type": "application/xml"})
        size, wanted = file.stat().st_size, re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        first, last = (int(wanted[1]), min(int(wanted[2] or size), size - 1)) if wanted else (0, size - 1)
        data = b""
        if self.command == "GET":
            with open(file, "rb") as opened:
                opened.seek(first)
                data = opened.read(last - first + 1)
        with self.lock:
            self.count[0] += 1
            self.count[1] += len(data)
        tag = hashlib.sha1(f"{file} {size}".encode()).hexdigest()
        headers = {"ETag": f'"{tag}"', "Accept-Ranges": "bytes", "Last-Modified": "Thu, 26 Nov 2026 00:00:00 GMT"}
        headers |= {"Content-Range": f"bytes {first}-{last}/{size}"} if wanted else {}
        self._answer(206 if wanted else 200, data, headers, last - first + 1)

    do_HEAD = do_GET  # noqa: N815


class Server(ThreadingHTTPServer):
    request_queue_size = 128  # with 5, the default, half of 32 clients that connect at once wait for a second


def store(out: Path, files: list[Path], count: int) -> None:
    """Write shards of `count` images, in an order that mixes the files."""
    import numpy as np

    from dataforge import ShardWriter
    from dataforge.images.header import probe
    from dataforge.record import Record

    none = np.zeros((0, 4), np.float32), np.zeros(0, np.int32), np.zeros(0, np.uint8)
    with ShardWriter(out, ["thing"]) as writer:
        for i in range(count):
            blob = files[i % len(files)].read_bytes()
            info = probe(blob)
            writer.add(Record(f"{i}.jpg", "train", blob, info.height, info.width, *none), blob, info)
        writer.publish()


def epoch(peer: str, root: Path, url: str, cache: Path) -> None:
    """Run an epoch and print its images, seconds, and seconds of processor time, that of its workers included."""
    batches = batches_of(peer, root, url, cache)
    start, before = time.perf_counter(), sum(os.times()[:4])
    images = sum(len(batch) for batch in batches)
    seconds = time.perf_counter() - start
    print(json.dumps({"images": images, "seconds": seconds, "cpu": sum(os.times()[:4]) - before}))


def run(python: str, *words: object) -> dict[str, Any]:
    done = subprocess.run([python, __file__, *map(str, words)], capture_output=True, text=True, timeout=900)
    if done.returncode:
        raise SystemExit(f"{words}: {done.stderr[-3000:]}")
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    return json.loads(lines[-1]) if lines else {}


def turns(
    python: str, root: Path, peers: list[str], states: list[str], repeats: int, endpoint: str
) -> Iterator[tuple[str, str, dict]]:
    """Yield peer, state of the cache and what was measured, the peers in turn."""
    for n in range(repeats):
        for peer in ("local", *peers):
            cache = root.parent / f"cache-{peer}"
            for state in states[1:] if peer == "local" else states:
                urllib.request.urlopen(f"{endpoint}/count").read()
                done = run(python, "epoch", peer, root, f"s3://{BUCKET}/{peer}", cache)
                requests, size = json.loads(urllib.request.urlopen(f"{endpoint}/count").read())
                yield peer, state, done | {"requests": requests, "bytes": size}
                print(n, peer, state, done, requests, size, flush=True)
            shutil.rmtree(cache, ignore_errors=True)


def rows(measured: dict[tuple[str, str], list[dict]], used: int, given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for (peer, state), runs in measured.items():
        rates = [one["images"] / one["seconds"] for one in runs]
        yield {
            "name": f"bucket, {state}: {peer}" if peer != "local" else "the same shards on a disk: dataforge",
            "value": round(statistics.median(rates), 1),
            "unit": "img/s",
            "low": round(min(rates), 1),
            "high": round(max(rates), 1),
            "repeats": len(runs),
            "images": runs[0]["images"],
            "requests_per_image": round(statistics.median(one["requests"] / one["images"] for one in runs), 3),
            "bytes_per_byte_used": round(statistics.median(one["bytes"] for one in runs) / used, 3),
            "cpu_ms_per_image": round(statistics.median(one["cpu"] * 1000 / one["images"] for one in runs), 2),
            "latency_s": given.latency,
            "cache_gb": float(os.environ.get("DATAFORGE_CACHE_GB", 20)),
            "note": given.note,
        }
    for (peer, state), runs in measured.items():
        if peer != "dataforge" and ("dataforge", state) in measured:
            pairs = list(zip(runs, measured["dataforge", state], strict=True))  # of one turn each
            ratios = {key: [theirs[key] / ours[key] for theirs, ours in pairs] for key in ("seconds", "cpu")}
            yield {
                "name": f"bucket, {state}: dataforge / {'the same shards on a disk' if peer == 'local' else peer}",
                "value": round(statistics.median(ratios["seconds"]), 3),
                "unit": "x img/s, turn by turn",
                "low": round(min(ratios["seconds"]), 3),
                "high": round(max(ratios["seconds"]), 3),
                "processor": round(statistics.median(ratios["cpu"]), 3),
                "repeats": len(runs),
                "images": runs[0]["images"],
                "latency_s": given.latency,
                "note": given.note,
            }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a folder with JPEGs below it, which are repeated")
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--latency", type=float, default=0.02)
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--cold", action="store_true", help="only with an empty cache, and not from a disk")
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--note", help="added to each row")
    parser.add_argument("--results", type=Path)
    given = parser.parse_args()
    from dataforge.bench.measure import record_rows

    with tempfile.TemporaryDirectory(prefix="dataforge-bench-") as folder:
        root = Path(folder, "bucket")
        store(root / "dataforge", sorted(given.data.rglob("*.jpg")), given.images)
        peers, states = given.peers.split(","), ["cold"] if given.cold else ["cold", "warm"]
        for peer in peers:
            if peer in WRITERS:
                run(given.python, "write", root, peer)
        Bucket.root, Bucket.latency = root, given.latency
        serve: Callable[[], int] = os.fork
        with Server(("127.0.0.1", 0), Bucket) as server:
            child = serve()
            if not child:
                server.serve_forever()
            endpoint = f"http://127.0.0.1:{server.server_port}"
            keys = {"AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none", "AWS_DEFAULT_REGION": "us-east-1"}
            os.environ.update(
                {**keys, "AWS_REGION": "us-east-1", "AWS_ENDPOINT_URL": endpoint, "AWS_ALLOW_HTTP": "true"}
            )
            measured: dict[tuple[str, str], list[dict]] = {}
            try:
                for peer, state, done in turns(given.python, root, peers, states, given.repeats, endpoint):
                    measured.setdefault((peer, state), []).append(done)
            finally:
                os.kill(child, 15)
                os.waitpid(child, 0)
        used = sum(map(len, images_of(root)))
        found = list(rows(measured, used, given))
    record_rows(found, given.results)
    for row in found:
        print(json.dumps(row))


if __name__ == "__main__":
    if sys.argv[1:2] == ["epoch"]:
        epoch(sys.argv[2], Path(sys.argv[3]), sys.argv[4], Path(sys.argv[5]))
    elif sys.argv[1:2] == ["write"]:
        write(Path(sys.argv[2]), sys.argv[3])
    else:
        main()

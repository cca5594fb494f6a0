"""All peers side by side: `python bench/peers/run.py` makes the corpus, runs them in turn, writes rows and a plot."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import cv2
from corpus import BATCH, SIDE, Corpus, make

from dataforge.bench.measure import machine, record_rows

HERE = Path(__file__).parent
PEERS = {  # module: what it is called, and the packages whose versions a row names
    "limits": ("bare limit", ("simplejpeg", "opencv-python-headless")),
    "dataforge_loader": ("dataforge", ("simplejpeg", "opencv-python-headless")),
    "spdl_loader": ("SPDL", ("spdl", "simplejpeg", "albumentations")),
    "grain_loader": ("Grain", ("grain", "simplejpeg", "albumentations")),
    "ffcv_loader": ("FFCV", ("ffcv",)),
    "dali_loader": ("DALI", ("nvidia-dali-cuda130",)),
    "torchvision_loader": ("torchvision + DataLoader", ("torchvision",)),
    "webdataset_loader": ("WebDataset", ("webdataset", "simplejpeg", "albumentations")),
    "litdata_loader": ("LitData", ("litdata", "simplejpeg", "albumentations")),
    "tensordict_loader": ("tensordict", ("tensordict",)),
}
WORKLOADS = {
    "decode": "decode only",
    "resize": f"decode and resize to {SIDE} x {SIDE}, uint8",
    "augment": "crop, flip, jitter, normalise, float32",
    "cache": f"decoded {SIDE} x {SIDE} cache",
}
LIMITS = {"resize": ("decode", "resize"), "augment": ("decode",), "cache": ("cache",)}
LEAST = 0.5  # seconds that one measurement lasts, so that a fast peer runs several epochs in it
WAIT = 180  # seconds after which a silent peer is given up


class Peer:
    """A worker process. A peer that fails says why, and is left out."""

    def __init__(self, module: str, corpus: Corpus, log: Path) -> None:
        self.module, self.name = module, PEERS[module][0]
        words = [sys.executable, str(HERE / "worker.py"), module, str(corpus.path)]
        with open(log, "w") as errors:
            self.process = subprocess.Popen(
                words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=HERE
            )
        self.log = log
        hello = self._answer()
        self.workloads = hello.get("workloads", [])
        self.stores: dict[str, str] = hello.get("stores", {})
        self.reasons: dict[str, str] = hello.get("without", {})
        if "wrong" in hello:
            self.reasons = dict.fromkeys(WORKLOADS, hello["wrong"])

    def ask(self, *words: object) -> dict[str, Any]:
        if self.process.poll() is not None:
            return {"wrong": "its process has ended"}
        assert self.process.stdin
        self.process.stdin.write("\t".join(map(str, words)) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        import select

        assert self.process.stdout
        ready, _, _ = select.select([self.process.stdout], [], [], WAIT)
        line = self.process.stdout.readline() if ready else ""
        if line:
            return dict(json.loads(line))
        self.process.kill()
        last = self.log.read_text("utf-8", "replace").strip().splitlines()
        return {"wrong": last[-1] if ready and last else f"no answer in {WAIT} s"}

    def end(self) -> None:
        if self.process.stdin:
            self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()


def measure(corpus: Corpus, modules: list[str], workloads: list[str], rounds: int) -> tuple[list[dict], list[str]]:
    """Check each peer once and time it `rounds` times, the peers in turn.

    Returns:
        Rows for `bench/results`, and what was left out, with reasons.
    """
    print(f"{corpus.count} JPEGs ({corpus.origin}); {corpus.path}", flush=True)
    peers = [Peer(module, corpus, corpus.path / f"{module}.log") for module in modules]
    rows: list[dict[str, Any]] = []
    out = [f"{name}: {peer.name}: {why}" for name in workloads for peer in peers if (why := peer.reasons.get(name))]
    for workload in workloads:
        running: list[tuple[Peer, str, int]] = []
        rates: dict[tuple[Peer, str], list[float]] = {}
        for peer in peers:
            for task in peer.workloads:
                if task.partition("@")[0] == workload:
                    wrong = peer.ask("check", task).get("wrong", "no answer")
                    once = {"wrong": wrong} if wrong else peer.ask("time", task, 1)
                    if "wrong" in once:
                        out.append(f"{task}: {peer.name}: {once['wrong']}")
                    else:
                        running.append((peer, task, max(1, round(LEAST / once["seconds"]))))
        for _ in range(rounds):
            for peer, task, epochs in running:
                done = peer.ask("time", task, epochs)
                if "wrong" in done:
                    out.append(f"{task}: {peer.name}: {done['wrong']}")
                else:
                    rates.setdefault((peer, task), []).append(done["images"] / done["seconds"])
        for (peer, task), found in rates.items():
            if len(found) < rounds:
                continue
            rows.append(_row(corpus, workload, ", ".join(filter(None, [peer.name, task.partition("@")[2]])), found))
            if task in peer.stores:
                files = corpus.store(peer.stores[task]).rglob("*")
                rows[-1]["store_mb"] = round(sum(file.stat().st_size for file in files) / 1e6, 1)
            print(f"{workload:<8} {rows[-1]['peer']:<28} {rows[-1]['value']:>9.0f} img/s", flush=True)
    for peer in peers:
        peer.end()
    return rows, out


def _row(corpus: Corpus, workload: str, name: str, found: list[float]) -> dict[str, Any]:
    row = {"name": f"{name}: {WORKLOADS[workload]}", "value": round(statistics.median(found), 1), "unit": "img/s"}
    row |= {"low": round(min(found), 1), "high": round(max(found), 1), "repeats": len(found), "cache": "warm"}
    row["rounds"] = [round(value, 1) for value in found]
    row |= {"workload": workload, "peer": name, "batch_size": BATCH, "size": [SIDE, SIDE], "threads": 2}
    row |= {"images": corpus.count, "data": corpus.origin}
    facts = machine()
    for package in next(packages for called, packages in PEERS.values() if name.startswith(called)):
        try:
            facts["versions"][package] = cv2.__version__ if package.startswith("opencv") else version(package)
        except PackageNotFoundError:
            continue
    return row | facts


def ratios(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What dataforge gives in terms of the best peer and of the bare limits, a row each.

    A value is the median of the ratios in each round, since the speed of a machine drifts.
    """
    found = []
    for workload in ("resize", "augment", "cache"):
        ours = [row for row in rows if row["workload"] == workload and row["peer"].startswith("dataforge")]
        known = ("dataforge", "bare limit")
        peers = [row for row in rows if row["workload"] == workload and not row["peer"].startswith(known)]
        others = [max(peers, key=lambda row: row["value"])] if peers else []
        others += [row for row in rows if row["peer"].startswith("bare limit") and row["workload"] in LIMITS[workload]]
        for row in ours:
            for other in others:
                name = f"{row['peer']} / {other['peer']}: {WORKLOADS[workload]}"
                if other["workload"] != workload:
                    name += f" / {WORKLOADS[other['workload']]}"
                each = [round(mine / theirs, 3) for mine, theirs in zip(row["rounds"], other["rounds"], strict=True)]
                facts = {
                    "value": round(statistics.median(each), 3),
                    "low": min(each),
                    "high": max(each),
                    "rounds": each,
                }
                found.append({**row, "name": name, "unit": "x", **facts})
    return found


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """A panel a workload: img/s of each peer, the spread as a line."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = [name for name in ("resize", "augment", "cache") if any(row["workload"] == name for row in rows)]
    counts = [sum(row["workload"] == name for row in rows) for name in names]
    figure, axes = plt.subplots(
        len(names), 1, figsize=(8, 1.5 + 0.32 * sum(counts)), height_ratios=counts, squeeze=False, layout="constrained"
    )
    for axis, name in zip(axes[:, 0], names, strict=True):
        shown = sorted((row for row in rows if row["workload"] == name), key=lambda row: row["value"])
        values = [row["value"] for row in shown]
        spread = [[v - row["low"] for v, row in zip(values, shown, strict=True)]]
        spread.append([row["high"] - v for v, row in zip(values, shown, strict=True)])
        colours = ["#c44e52" if row["peer"].startswith("dataforge") else "#8c8c8c" for row in shown]
        colours = ["#d9d9d9" if row["peer"] == "bare limit" else c for c, row in zip(colours, shown, strict=True)]
        bars = axis.barh([row["peer"] for row in shown], values, xerr=spread, color=colours)
        axis.bar_label(bars, [f"{value:,.0f}" for value in values], padding=6, fontsize=8)
        axis.set(
            title=f"{WORKLOADS[name]} (img/s, higher is better)", xlim=(0, 1.15 * max(row["high"] for row in shown))
        )
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "dataforge-peers")
    parser.add_argument("--data", type=Path, default=HERE.parents[2] / "shared/data", help="photographs; else drawn")
    parser.add_argument("--images", type=int, default=1600, help="JPEGs, a multiple of 32")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--peers", default=",".join(PEERS), help="modules, with commas")
    parser.add_argument("--workloads", default=",".join(WORKLOADS))
    parser.add_argument("--out", type=Path, default=HERE.parent / "results", help="folder of the rows")
    parser.add_argument("--plot", type=Path, default=HERE.parent / "peers.png")
    given = parser.parse_args()
    started = time.monotonic()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: given.cores])
    data = given.data if (given.data / "coco_mini").is_dir() else None
    corpus = make(given.work, given.images - given.images % BATCH, data)
    rows, out = measure(corpus, given.peers.split(","), given.workloads.split(","), given.rounds)
    compared = ratios(rows)
    for row in compared:
        print(f"{row['value']:>6.2f} x  {row['name']}")
    file = given.out / f"{machine()['date']}.jsonl"
    record_rows([*rows, *compared], file)
    for line in out:
        print(f"left out: {line}")
    if rows:
        plot(rows, given.plot)
    print(f"{len(rows) + len(compared)} rows added to {file}; {given.plot}; {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()

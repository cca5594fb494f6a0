"""`dataforge ingest coco` of archives against that of the folder with the same files, on a warm page cache.

    python bench/archives.py [--data DIR] [--images 10000] [--repeats 5] [--results FILE]

The set is that of `bench/ingest.py`. The folder and the archives are ingested in turn, each as a command from start to
end, with two jobs; the peak memory is that of the process.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

from ingest import make, pictures, run

from dataforge.bench.measure import record_rows


def pack(root: Path) -> dict[str, Path]:
    """Pack a folder in all ways; its pictures are in the order of their names."""
    places = {"folder": root}
    files = sorted(path for path in root.rglob("*") if path.is_file())
    for name, method in (("zip, stored", zipfile.ZIP_STORED), ("zip, deflated", zipfile.ZIP_DEFLATED)):
        places[name] = root.with_name(f"{name[5:]}.zip")
        with zipfile.ZipFile(places[name], "w", method, compresslevel=6) as archive:
            for path in files:
                archive.write(path, path.relative_to(root))
    for name, mode in (("tar", "w"), ("tgz", "w:gz")):
        places[name] = root.with_name(f"set.{name}")
        with tarfile.open(places[name], mode) as tar:
            tar.add(root, ".")
    return places


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a folder with bccd and fod_a_2k")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--note", help="added to each row")
    parser.add_argument("--results", type=Path)
    given = parser.parse_args()
    runs: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory(prefix="dataforge-bench-") as folder:
        root, out, cache = Path(folder, "set"), Path(folder, "out"), Path(folder, "bytecode")
        weight = make(root, given.images, pictures(given.data))
        places = pack(root)
        for turn in range(given.repeats + 1):
            for name, place in places.items():
                os.sync()
                command = [sys.executable, "-m", "dataforge", "ingest", "coco", str(place), "--out", str(out), "--json"]
                measured = run([*command, "--jobs", "2"], cache)
                shutil.rmtree(out)
                if turn:  # the first fills the caches
                    runs.setdefault(name, []).append(measured)
    rows = []
    setting = {"images": given.images, "bytes": weight, "repeats": given.repeats, "cache": "warm", "jobs": 2}
    for name, each in runs.items():
        rates = sorted(given.images / measured["time"] for measured in each)
        ratio = statistics.median(run["time"] / own["time"] for run, own in zip(runs["folder"], each, strict=True))
        row = {"name": f"ingest_archive, {name}", "value": round(statistics.median(rates)), "unit": "img/s"}
        row |= {"low": round(rates[0]), "high": round(rates[-1]), "ratio_to_folder": round(ratio, 2)}
        row |= {key: round(statistics.median(run[key] for run in each), 2) for key in ("cpu", "memory")}
        rows.append(row | setting | ({"note": given.note} if given.note else {}))
        print(row)
    record_rows(rows, given.results)


if __name__ == "__main__":
    main()

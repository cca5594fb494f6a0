"""Memory: flat over epochs and restarts, and bounded for a picture whatever its header says. Each in a new process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
HEAD = """
import os, sys, threading, zlib
from pathlib import Path
from dataforge import Loader
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)
def state():
    return len(os.listdir("/proc/self/fd")), threading.active_count()
root = Path(sys.argv[1])
"""
EPOCHS = """
from dataforge import Shards
from dataforge.transform.bake import Form, bake
bake(Shards(root), root.parent / "raw", Form(shapes=((64, 64),), raw=True))
for path, augment in ((root.parent / "raw", None), (root, [{"op": "mosaic", "p": 1.0}])):
    loader = Loader(path, batch_size=4, size=(64, 64), augment=augment, threads=2)
    before = 0.0
    for epoch in range(20):
        for batch in loader:
            pass
        before = before or (resident() if epoch == 4 else 0.0)
    assert resident() - before < 6, (path, before, resident())
"""
RESTARTS = """
loader = Loader(root, batch_size=1, size=(64, 64), threads=2)
for turn in range(1000):
    batch = next(iter(loader))
    if turn == 200:
        before, was = resident(), state()
assert resident() - before < 6 and state() == was, (before, resident(), was, state())
"""
HEADERS = """
import io
import numpy as np, PIL.Image
from dataforge.errors import ImageError
from dataforge.images.decode import decode
from tests import tiny
jpeg, png = (tiny.encode(tiny.pixels(48, 64), kind) for kind in ("JPEG", "PNG"))
at = jpeg.index(bytes([0xFF, 0xC0])) + 5
head = b"IHDR" + bytes([0, 0, 0xFF, 0xFF] * 2) + png[24:29]
png_head = png[:12] + head + zlib.crc32(head).to_bytes(4, "big")
huge = [jpeg[:at] + bytes([0xFF, 0xDC] * 2) + jpeg[at + 4 :], png_head + png[33:]]
decode(jpeg), decode(png)
def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
before = peak()
for data in huge:
    try:
        decode(data)
    except ImageError as error:
        print(error)
    else:
        raise AssertionError
assert peak() - before < 2, peak() - before
side = 2000
modes = (("JPEG", "RGB", 1), ("PNG", "RGB", 2.7), ("JPEG", "CMYK", 2.7), ("PNG", "RGBA", 2.7), ("TIFF", "F", 4.5))
for kind, mode, times in modes:
    image = PIL.Image.new(mode, (side, side))
    image.save(buffer := io.BytesIO(), kind)
    data = buffer.getvalue()
    del image
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = resident()
    decode(data)
    taken = (peak() - before) * (1 << 20) / (3 * side * side)
    print(kind, mode, round(taken, 2))
    assert taken < times + 0.3, (kind, mode, taken)
"""


@pytest.mark.parametrize("code", [EPOCHS, RESTARTS, HEADERS], ids=["epochs", "restarts", "headers"])
def test_memory(tiny_shards: Path, tmp_path: Path, code: str) -> None:
    (tmp_path / "set").symlink_to(tiny_shards)
    command = [sys.executable, "-c", HEAD + code, str(tmp_path / "set")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stderr

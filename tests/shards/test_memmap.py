from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataforge.errors import ShardError
from dataforge.shards.stores.memmap import MAGIC, MemmapStore
from dataforge.testing import BlobStoreSuite, blob


class TestMemmap(BlobStoreSuite):
    store = MemmapStore

    def test_it_is_read_by_the_documented_layout(self, made: Path) -> None:
        data = (made / "blobs.bin").read_bytes()
        count, _, magic = struct.unpack("<QQ16s", data[-32:])
        assert (count, magic) == (self.COUNT, MAGIC)
        ends = np.frombuffer(data, "<u8", count, len(data) - 32 - 8 * count).tolist()
        assert [data[a:b] for a, b in zip([0, *ends], ends, strict=False)] == [blob(i) for i in range(count)]

    @pytest.mark.parametrize("cut", [1, 8, 31, 32, 33, 40, 400])
    def test_every_cut_at_the_end_is_seen(self, made: Path, cut: int) -> None:
        file = made / "blobs.bin"
        file.write_bytes(file.read_bytes()[:-cut])
        with pytest.raises(ShardError, match=r"blobs.bin: is cut short"):
            self.open(made)[0]

    def test_bytes_taken_out_of_the_middle_are_seen(self, made: Path) -> None:
        file = made / "blobs.bin"
        data = file.read_bytes()
        file.write_bytes(data[:100] + data[200:])
        with pytest.raises(ShardError, match=r"blobs.bin: is damaged"):
            self.open(made)[0]

    @given(blobs=st.lists(st.binary(max_size=40), max_size=6), cut=st.integers(0, 200))
    def test_no_cut_gives_other_blobs(
        self, tmp_path_factory: pytest.TempPathFactory, blobs: list[bytes], cut: int
    ) -> None:
        path = tmp_path_factory.mktemp("cut")
        written = MemmapStore.create(path)
        for one in [*blobs, MAGIC]:  # a blob may hold the end mark itself
            written.append(one)
        written.close()
        file = path / "blobs.bin"
        whole = file.read_bytes()
        file.write_bytes(whole[: max(len(whole) - cut, 0)])
        opened = MemmapStore.open(path)
        if cut == 0:
            assert [bytes(opened[i]) for i in range(len(opened))] == [*blobs, MAGIC]
        else:
            with pytest.raises(ShardError):
                len(opened)

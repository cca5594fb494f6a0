from __future__ import annotations

from pathlib import Path

import pytest
import zarr

from dataforge.errors import ShardError
from dataforge.shards.stores.zarr import ZarrStore
from dataforge.testing import BlobStoreSuite, blob


class TestZarr(BlobStoreSuite):
    store = ZarrStore

    def test_zarr_alone_reads_it_by_the_documented_names(self, made: Path) -> None:
        group = zarr.open_group(str(made / "blobs.zarr"), mode="r", zarr_format=3)
        data, ends = group["bytes"], group["ends"][:].tolist()
        assert data.shards is not None and data.metadata.zarr_format == 3
        found = [data[a:b].tobytes() for a, b in zip([0, *ends], ends, strict=False)]
        assert found == [blob(i) for i in range(self.COUNT)]

    def test_blobs_over_several_files(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import dataforge.shards.stores.zarr as module

        monkeypatch.setattr(module, "CHUNK", 1 << 10)
        monkeypatch.setattr(module, "SHARD", 1 << 14)
        made = self.make(tmp_path / "shard")
        files = sorted((made / "blobs.zarr/bytes/c").iterdir())
        assert len(files) > 10
        blobs = self.open(made)
        assert [bytes(blobs[i]) for i in range(self.COUNT)] == [blob(i) for i in range(self.COUNT)]
        files[3].unlink()  # Zarr itself would give zeros
        with pytest.raises(ShardError, match="is missing"):
            self.open(made)[0]

    def test_zeros_are_stored_too(self, tmp_path: Path) -> None:
        module = type(self.open(tmp_path))
        blobs = module.create(tmp_path)
        blobs.append(bytes(1 << 20))
        blobs.close()
        assert bytes(self.open(tmp_path)[0]) == bytes(1 << 20)

    def test_a_flipped_bit_is_an_error(self, made: Path) -> None:
        file = made / "blobs.zarr/bytes/c/0"
        data = bytearray(file.read_bytes())
        data[data.index(blob(20)) + 5] ^= 1
        file.write_bytes(data)
        with pytest.raises(ShardError, match=r"blob 20 cannot be read: .*checksum"):
            self.open(made)[20]

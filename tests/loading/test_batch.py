"""A batch is indexed, joined, parted and mapped as a tensor is, whatever its boxes are."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict
from torch.utils import _pytree as pytree
from torch.utils.data import DataLoader

from dataforge import Batch, Loader
from dataforge.adapters import Records

FIELDS = ("images", "boxes", "labels", "flags", "affine", "index")


def make(count: int, places: int = 8, seed: int = 0, dropped: float = 0.5) -> Batch:
    """Random tensors of a batch's shapes; the padding lies anywhere, as augmentation leaves it."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 5, (count, places), generator=draw)
    labels[torch.rand((count, places), generator=draw) < dropped] = -1
    there = labels >= 0
    return Batch(
        images=torch.randint(0, 256, (count, 3, 4, 6), generator=draw, dtype=torch.uint8),
        boxes=torch.rand((count, places, 4), generator=draw) * there[..., None],
        labels=labels,
        flags=torch.randint(0, 8, (count, places), generator=draw).byte() * there,
        affine=torch.rand((count, 3, 3), generator=draw),
        index=torch.randperm(100, generator=draw)[:count],
    )


def same(a: Batch, b: Batch) -> bool:
    pairs = [(getattr(a, name), getattr(b, name)) for name in FIELDS]
    return all(one.dtype == other.dtype and torch.equal(one, other) for one, other in pairs)


counts = st.lists(st.integers(0, 5), min_size=1, max_size=4)


@settings(deadline=None)
@given(counts, st.randoms())
def test_cat_then_split_gives_each_batch_back(sizes, random) -> None:  # type: ignore[no-untyped-def]
    batches = [make(n, random.choice([8, 16, 32]), seed) for seed, n in enumerate(sizes)]
    whole = torch.cat(batches)
    assert isinstance(whole, Batch) and len(whole) == sum(sizes)
    assert whole.labels.shape[1] == max(batch.labels.shape[1] for batch in batches)
    for batch, part in zip(batches, torch.split(whole, sizes), strict=True):
        places = batch.labels.shape[1]
        assert (part.labels[:, places:] == -1).all() and not part.boxes[:, places:].any()
        assert same(torch.cat([batch, part])[: len(batch)], part)  # padded alike
        for a, b in zip(batch.flat(), part.flat(), strict=True):
            assert torch.equal(a, b)
        assert torch.equal(batch.images, part.images) and torch.equal(batch.index, part.index)


@pytest.mark.parametrize(
    "parts",
    [
        lambda batch: torch.split(batch, 2),
        lambda batch: torch.split(batch, [2, 2, 1], dim=0),
        lambda batch: torch.chunk(batch, 3),
        lambda batch: torch.tensor_split(batch, 3),
        lambda batch: torch.tensor_split(batch, 3, 0),
    ],
)
def test_parts_share_memory_and_are_the_whole(parts: Callable[[Batch], tuple[Batch, ...]]) -> None:
    batch = make(5)
    found = parts(batch)
    assert [len(part) for part in found] == [2, 2, 1] and same(torch.cat(found), batch)
    assert found[0].images.data_ptr() == batch.images.data_ptr()


def test_stack_and_unbind_and_indexing() -> None:
    batch, wide = make(4), make(4, 16, seed=1)
    both = torch.stack([batch, wide])
    assert both.images.shape == (2, 4, 3, 4, 6) and both.labels.shape == (2, 4, 16)
    assert same(both[1], wide) and same(torch.unbind(both)[1], wide)
    assert torch.equal(both[0].flat()[0], batch.flat()[0])
    assert same(torch.stack(list(batch)), batch) and same(torch.stack(torch.unbind(batch)), batch)
    index = torch.tensor([3, 0, 0])
    assert same(batch[index], torch.cat([batch[3:], batch[:1], batch[:1]]))
    assert same(batch[torch.tensor([True, False, False, True])], torch.cat([batch[:1], batch[3:]]))
    assert same(batch.clone(), batch) and batch.clone().boxes.data_ptr() != batch.boxes.data_ptr()


@pytest.mark.parametrize("dim", [1, -1])
def test_another_dimension_is_refused(dim: int) -> None:
    batch = make(2)
    for call in (
        lambda: torch.cat([batch, batch], dim),
        lambda: torch.stack([batch, batch], dim=dim),
        lambda: torch.split(batch, 1, dim),
        lambda: torch.unbind(batch, dim),
    ):
        with pytest.raises(ValueError, match=rf"of batches along dimension {dim}; expected 0, the images"):
            call()


def test_other_functions_and_mixed_sizes_are_refused() -> None:
    batch = make(2)
    with pytest.raises(TypeError, match=r"torch\.add'"):
        torch.add(batch, 1)
    larger = Batch(**vars(batch) | {"images": torch.zeros((2, 3, 8, 6), dtype=torch.uint8)})
    with pytest.raises(RuntimeError, match="Sizes of tensors must match"):
        torch.cat([batch, larger])


@settings(deadline=None)
@given(st.integers(0, 6), st.sampled_from([8, 16]), st.sampled_from([0.0, 0.5, 1.0]))
def test_flat_and_jagged_hold_the_same_boxes(count: int, places: int, dropped: float) -> None:
    batch = make(count, places, dropped=dropped)
    boxes, labels, image = batch.flat()
    assert (labels >= 0).all() and len(labels) == (batch.labels >= 0).sum()
    nested_boxes, nested_labels = batch.jagged()
    assert nested_boxes.shape[0] == nested_labels.shape[0] == count
    for i, (own, its) in enumerate(zip(nested_boxes.unbind(), nested_labels.unbind(), strict=True)):
        assert torch.equal(own, boxes[image == i]) and torch.equal(its, labels[image == i])


def test_a_tensordict_has_the_same_memory_and_comes_back(tmp_path: Path) -> None:
    batch = make(5)
    as_dict = batch.to_tensordict()
    assert isinstance(as_dict, TensorDict) and as_dict.batch_size == (5,) and set(as_dict.keys()) == set(FIELDS)
    assert as_dict["images"].data_ptr() == batch.images.data_ptr()
    assert same(Batch(**as_dict), batch) and same(Batch(**as_dict[1:3]), batch[1:3])
    assert same(Batch(**torch.cat([as_dict, as_dict])), torch.cat([batch, batch]))
    assert torch.stack([batch, batch]).to_tensordict().batch_size == (2, 5)
    as_dict.memmap(tmp_path)
    assert same(Batch(**TensorDict.load_memmap(tmp_path)), batch)


def test_a_pytree_map_reaches_each_tensor() -> None:
    batch = make(3)
    found = pytree.tree_map(lambda tensor: tensor[:1], {"a": batch})["a"]
    assert isinstance(found, Batch) and same(found, batch[:1])
    leaves, structure = pytree.tree_flatten(batch)
    assert len(leaves) == len(FIELDS) and same(structure.unflatten(leaves), batch)


def test_a_batch_of_a_loader_travels(tiny_shards: Path) -> None:
    batches = list(Loader(tiny_shards, batch_size=4, size=(32, 32)))
    whole = torch.cat(batches)
    assert same(pickle.loads(pickle.dumps(whole)), whole) and same(whole.to("cpu"), whole)
    records = Records(Loader(tiny_shards, size=(32, 32)))
    out = DataLoader(records, batch_size=4, num_workers=1, collate_fn=Records.collate)
    joined = torch.cat(list(out))
    assert joined.index.tolist() == list(range(len(records)))
    order = whole.index.argsort()
    assert torch.equal(joined.images, whole.images[order])


def test_a_loader_does_not_import_tensordict(tiny_shards: Path) -> None:
    code = "import sys, torch\nfrom dataforge import Loader\nbatches = list(Loader(sys.argv[1], batch_size=4))\n"
    code += "torch.cat(batches)[:3].flat()\n"
    code += "loaded = {'tensordict', 'torchvision', 'torch._dynamo', 'kornia', 'zarr'} & sys.modules.keys()\n"
    code += "assert not loaded, loaded"
    done = subprocess.run([sys.executable, "-c", code, tiny_shards], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
